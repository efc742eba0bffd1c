"""The stamp at the end of a chapter: on what data, with what model, where and when its numbers were computed."""

from __future__ import annotations

import html
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lpft_utils.common.environment import environment
from lpft_utils.runs.profiles import Profile
from lpft_utils.runs.store import Run


@dataclass(frozen=True)
class Stamp:
    """Rows of a stamp; shown as a table in a notebook and as lines elsewhere."""

    rows: dict[str, str]

    def __str__(self) -> str:
        return "\n".join(f"{name}: {value}" for name, value in self.rows.items())

    def _repr_html_(self) -> str:
        cells = (
            f'<tr><th scope="row">{html.escape(name)}</th><td>{html.escape(value)}</td></tr>'
            for name, value in self.rows.items()
        )
        return f'<table class="stamp"><tbody>{"".join(cells)}</tbody></table>'


def stamp(profile: Profile, runs: Sequence[Run], started: float) -> Stamp:
    """What a chapter ran on.

    Args:
        profile: The chapter's profile, with its overrides.
        runs: The runs that the chapter used; without any, what depends on them is left out.
        started: `time.perf_counter()` at the chapter's beginning.

    Returns:
        Profile, task, backbone, seeds, device, software, date, and times.
    """
    here = environment()
    rows = {"profile": profile.name}
    if runs:
        task = runs[0].metrics["task"]
        kind = "synthetic" if task["synthetic"] else "real"
        trained = {run.folder.name: run for run in runs}.values()
        hardware = sorted({run.metrics["environment"]["device"] for run in trained})
        rows |= {
            "task": f"{profile.task} ({kind}): {task['source']}",
            "examples": ", ".join(f"{name} {n}" for name, n in task["sizes"].items()),
            "backbone": profile.backbone,
            "seeds": ", ".join(map(str, profile.seeds)),
            "trained on": "; ".join(hardware),
            "training of its runs": f"{sum(run.metrics['seconds'] for run in trained):.0f} s in {len(trained)} runs",
        }
    rows |= {
        "device": here["device"],
        "software": ", ".join(f"{n} {here[n]}" for n in ("python", "torch", "transformers", "lpft-utils")),
        "date": here["date"],
        "this chapter": f"{time.perf_counter() - started:.0f} s with {torch.get_num_threads()} threads",
    }
    return Stamp(rows)
