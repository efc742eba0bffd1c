"""What every chapter has: its profile, the values that its text quotes, and the stamp at its end."""

from __future__ import annotations

import html
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from IPython.core.getipython import get_ipython
from myst_nb import glue

from lpft_utils.common.environment import environment
from lpft_utils.common.errors import TaskWarning
from lpft_utils.runs.profiles import get_profile
from lpft_utils.runs.store import Run
from lpft_utils.training.methods import METHODS

PARAMETERS = ("task", "backbone", "seeds", "ood", "n_train", "learning_rate", "epochs")  # after the profile


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


class Chapter:
    """One run of a chapter, made in its first cell from the chapter's parameters.

    Attributes:
        profile: The profile, with the parameters that are not None in place of its own choices.
    """

    def __init__(self, profile: str, *changes: Any) -> None:
        """Start the chapter's clock, show figures as SVG and read its parameters.

        Args:
            profile: "smoke", "laptop" or "gpu".
            *changes: Task, backbone, seeds, out-of-distribution sets, number of training examples, learning rate and
                epochs, as `get_profile` takes them; None means the profile's choice.
        """
        if shell := get_ipython():
            shell.run_line_magic("matplotlib", "inline")
            shell.run_line_magic("config", 'InlineBackend.figure_formats = ["svg"]')
        self._started, self._notes = time.perf_counter(), []
        self._show, warnings.showwarning = warnings.showwarning, self._note
        self.profile = get_profile(profile, **dict(zip(PARAMETERS, changes, strict=False)))

    def _note(self, message: Any, category: type[Warning], *place: Any, **more: Any) -> None:
        """Keep what is said about the data for the stamp, where readers see it; show any other warning."""
        if issubclass(category, TaskWarning):
            self._notes.append(str(message))
        else:
            self._show(message, category, *place, **more)

    def put(self, name: str, value: object) -> None:
        """Keep a value for the chapter's text, which quotes it by name; nothing is displayed.

        Args:
            name: The name in the text's `{glue:}` role.
            value: What the text shows.
        """
        glue(name, value, display=False)

    def task(self, run: Run) -> str:
        """The task's name for a sentence, and what is tested on where its test labels are not public.

        Args:
            run: One of the chapter's runs.

        Returns:
            For example "rte, tested on its published validation set".
        """
        validation = run.metrics["task"]["test_is_validation"]
        return self.profile.task + (", tested on its published validation set" if validation else "")

    def stamp(self, runs: Sequence[Run] = ()) -> Stamp:
        """On what data, with what model, where and when the chapter's numbers were computed.

        Args:
            runs: The runs that the chapter used; without any, what depends on them is left out.

        Returns:
            Profile, task, backbone, seeds, device, software, date, and times.
        """
        here, profile = environment(), self.profile
        rows = {"profile": profile.name}
        if runs:
            task = runs[0].metrics["task"]
            kind = "synthetic" if task["synthetic"] else "real"
            trained = {run.folder.name: run for run in runs}.values()
            seconds = sum(run.metrics["seconds"] for run in trained)
            hardware = sorted({run.metrics["environment"]["device"] for run in trained})
            rows |= {
                "task": f"{profile.task} ({kind}): {task['source']}",
                "examples": ", ".join(f"{name} {n}" for name, n in task["sizes"].items())
                + ("; test is the published validation set" if task.get("test_is_validation") else ""),
                "backbone": profile.backbone,
                "seeds": ", ".join(map(str, profile.seeds)),
                "trained on": "; ".join(hardware),
                "training of its runs": f"{seconds:.0f} s in {len(trained)} runs",
            }
            if lost := [f"{METHODS[r.spec.method].label} of seed {r.spec.seed}" for r in trained if r.diverged]:
                rows["diverged"] = f"{len(lost)} of {len(trained)} runs ({', '.join(lost)}); left out of every mean"
        if self._notes:
            rows["about the data"] = " ".join(dict.fromkeys(self._notes))
        rows |= {
            "device": here["device"],
            "software": ", ".join(f"{n} {here[n]}" for n in ("python", "torch", "transformers", "lpft-utils")),
            "date": here["date"],
            "this chapter": f"{time.perf_counter() - self._started:.0f} s with {torch.get_num_threads()} threads",
        }
        if get_ipython():  # for the page "How this copy was made"
            self.put("stamp", rows | {"runs": sorted({run.folder.name for run in runs})})
        return Stamp(rows)
