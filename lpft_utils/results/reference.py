"""Reference results: numbers of larger runs that are committed with the book, and where they are from.

Two files: `name.csv`, the frame of results, and `name.json`, what is known about each task's runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from lpft_utils.common.errors import RunError
from lpft_utils.common.table import Table
from lpft_utils.metrics.intervals import Interval
from lpft_utils.results.claims import TEXTS, Verdict, adjusted, evaluate, verdict_of
from lpft_utils.results.evidence import Evidence
from lpft_utils.results.frame import COLUMNS, evaluated_splits, results, select, validation_note
from lpft_utils.results.plan import load_plan
from lpft_utils.results.statements import CLAIMS
from lpft_utils.results.tables import column, table
from lpft_utils.runs.store import Run
from lpft_utils.training.methods import METHODS

if TYPE_CHECKING:
    from lpft_utils.studies.initialisation import Initialisation

# What tells claims 4 and 6 with a head that has seen no more labels than P apart.
OWN_HEAD = ", head fitted on the same texts"


@dataclass(frozen=True)
class Reference:
    """Reference results of one or several tasks.

    Attributes:
        about: By task, in the frame's order: "name", "task", "spec" by method, "seeds", "environment", "seconds",
            "n_kernel" where there are kernels, "plan" (its hash), and "claims": intervals of claims of which no values
            per seed were kept, or which are over texts as well ("id", "where", "difference", "half_width", "over").
        frame: The results, with a column "group": "", the head norm of a sweep, or `OWN_HEAD`.
    """

    about: list[dict[str, Any]]
    frame: pd.DataFrame

    def by_task(self) -> dict[str, list[Verdict]]:
        """The claims by task, adjusted for those on all tasks here: tested on the frame, or as they are kept."""
        everywhere = [(entry["name"], v) for entry in self.about for v in self._tested(entry)]
        found = adjusted([v for _, v in everywhere])
        verdicts: dict[str, list[Verdict]] = {}
        for (name, _), v in zip(everywhere, found, strict=True):
            verdicts.setdefault(name, []).append(v)
        return verdicts

    def _tested(self, about: Mapping[str, Any]) -> list[Verdict]:
        frame = select(self.frame, task=about["name"])
        notes = [note for note in ("", OWN_HEAD) if frame["group"].eq(note).any()]
        found = [v for note in notes or [""] for v in evaluate(frame, note=note) if note in v.statement]
        by_place = {(v.record.id, *v.where, OWN_HEAD in v.statement): v for v in found}
        for kept in about["claims"]:
            claim, where = CLAIMS[kept["id"]], (*kept["where"],)
            measured = Interval(kept["difference"], kept["half_width"], len(about["seeds"]))
            before = by_place.get((claim.id, *where, False))
            more = {"over": kept["over"], "reason": before.reason if before else ""}
            by_place[(claim.id, *where, False)] = verdict_of(claim, measured, where, frame, load_plan(), **more)
        return sorted(by_place.values(), key=lambda verdict: verdict.claim)


def summarise(
    runs: Mapping[str, Sequence[Run]],
    by_seed: Sequence[Mapping[str, Initialisation]] = (),
    own: Sequence[Mapping[str, Initialisation]] = (),
) -> Reference:
    """What is kept of runs on one task, and of kernels at their initialisations.

    Args:
        runs: Runs by group, one per seed: "" for one run per method and seed, or a sweep by norm.
        by_seed: Results of `initialisations`, one per seed.
        own: The same with heads fitted on the kernels' own examples.

    Returns:
        The results on evaluation splits, with settings and environment.
    """
    everything = [run for group in runs.values() for run in group]
    first, specs = everything[0], {}
    for run in everything:
        specs.setdefault(run.spec.method, run.spec.to_dict())
    frame = results({str(name): group for name, group in runs.items()})
    frame = frame.loc[frame["split"].isin(["", *evaluated_splits(frame)])]
    about = {
        "task": first.metrics["task"],
        "name": first.spec.task,
        "spec": specs,
        "seeds": sorted({run.spec.seed for run in everything}),
        "environment": first.metrics["environment"],
        "seconds": sum(run.metrics["seconds"] for run in everything),
        "plan": load_plan().hash,
        "claims": [_kept(v) for v in evaluate(runs.get("", ())) if v.over == TEXTS],
    }
    if by_seed:
        from lpft_utils.results.kernel_tables import kernel_results  # here, because it brings the engine

        kernels = pd.concat([kernel_results(by_seed), kernel_results(own, group=OWN_HEAD)])
        frame = pd.concat([frame, kernels.assign(task=first.spec.task, backbone=first.spec.backbone)])
        about["n_kernel"] = len(next(iter(by_seed[0].values())).labels)
    return Reference([about], frame.reset_index(drop=True))


def write_reference(path: Path, found: Sequence[Reference]) -> None:
    """Write the two files of reference results.

    Args:
        path: The JSON file; the CSV file is beside it.
        found: Results of `summarise`, one per task.
    """
    frame = pd.concat([one.frame for one in found])[["group", *COLUMNS]]
    frame.to_csv(path.with_suffix(".csv"), index=False, na_rep="nan")
    path.write_text(json.dumps([entry for one in found for entry in one.about], indent=1) + "\n", encoding="utf-8")


def load_reference(path: Path | str) -> Reference:
    """Read committed reference results.

    Args:
        path: The JSON file; the CSV file is beside it.

    Returns:
        The results.

    Raises:
        RunError: If a file is missing or damaged.
    """
    try:
        return _read(Path(path))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        restore = "expected committed reference results; `git checkout` brings them back."
        raise RunError(f"{path}: {error}: {restore}") from error


def reference_table(found: Reference) -> Table:
    """Reference results as a table: accuracy in percent by split, and Diff, "mean ± half width".

    Args:
        found: The results.

    Returns:
        One row per task and split, one column per method for accuracy, and Diff of FT and LP-FT on the test rows.
    """
    columns = {METHODS[m].label: column("accuracy", method=m) for m in found.frame["method"].unique()}
    columns |= {f"Diff, {METHODS[m].label}": column("Diff", method=m, split="test") for m in ("ft", "lp_ft")}
    return table(found.frame, {"task": "task", "split": "set"}, columns)


def methods_table(found: Reference, *metrics: str) -> Table:
    """Methods side by side on the test sets: ‖V‖ of every seed, the rest "mean ± half width".

    Args:
        found: The results.
        *metrics: What is shown between the accuracy (in percent) and ‖V‖, among `tables.FORMATS`.

    Returns:
        One row per task and method.
    """
    columns = {metric: column(metric, split="test") for metric in ("accuracy", *metrics)}
    rows = {"task": "task", "method": "method"}
    return table(select(found.frame, group=""), rows, columns | {"‖V‖": column("head_norm")})


def norm_table(found: Reference) -> Table:
    """Feature change and accuracy of LP-FT by head norm on the test sets, "mean ± half width".

    Args:
        found: The results, of a sweep.

    Returns:
        One row per task and norm.
    """
    sweep: Any = found.frame[~found.frame["group"].isin(["", OWN_HEAD])]
    columns = {metric: column(metric, split="test") for metric in ("Diff", "accuracy")}
    return table(sweep, {"task": "task", "group": "‖V0‖"}, columns)


def claims_table(found: Reference | Evidence, only: Sequence[int] = ()) -> Table:
    """Outcomes of the claims by task.

    Args:
        found: The results.
        only: Numbers of the claims to show; all if empty.

    Returns:
        One row per statement, one column per task; "" where a task lacks the split.
    """
    outcomes: dict[tuple[int, str], dict[str, str]] = {}
    for task, verdicts in found.by_task().items():
        for v in verdicts:
            if not only or v.claim in only:
                outcomes.setdefault((v.claim, v.statement), {})[task] = v.shown
    rows = [{"claim": claim, "statement": text, **by_task} for (claim, text), by_task in outcomes.items()]
    shown = Table(pd.DataFrame(rows).fillna("").sort_values("claim", kind="stable", ignore_index=True))
    shown.attrs["note"] = validation_note(found.frame)
    return shown


def provenance(found: Reference) -> str:
    """Where the results come from, as one line of text.

    Args:
        found: The results.

    Returns:
        Size of the kernels if there are any, backbone, training examples, seeds, device, software, date and time.
    """
    first = found.about[0]
    e, specs = first["environment"], {m: spec for m, spec in first["spec"].items() if m != "lp"}
    spec = next(iter(specs.values()))
    minutes = sum(entry["seconds"] for entry in found.about) / 60
    rates: dict[str, list[str]] = {}
    for method, settings in specs.items():
        rates.setdefault(f"{settings['learning_rate']:g}", []).append(METHODS[method].label)
    rate = " and ".join(f"{value} ({', '.join(methods)})" for value, methods in rates.items())
    kernels = f"kernels of {first['n_kernel']} texts; " if "n_kernel" in first else ""
    return (
        f"{kernels}backbone {spec['backbone']}, at most {spec['n_train']} training texts, {spec['epochs']:g} epochs, "
        f"learning rate {rate}, seeds {', '.join(map(str, first['seeds']))}; {e['device']}, "
        f"torch {e['torch']}, transformers {e['transformers']}, {e['date']}, {minutes:.0f} minutes of training"
    )


def _kept(v: Verdict) -> dict[str, Any]:
    interval = {"difference": v.difference.mean, "half_width": v.difference.half_width}
    return {"id": v.record.id, "where": v.where, **interval, "over": v.over}


def _read(path: Path) -> Reference:
    about = json.loads(path.read_text(encoding="utf-8"))
    tasks = {entry["name"] for entry in about if {"spec", "environment", "claims"} <= entry.keys()}
    # Without `na_filter` an empty split stays "", and "nan" and "inf" are read as numbers all the same.
    frame = pd.read_csv(path.with_suffix(".csv"), na_filter=False, dtype={"group": str})
    if list(frame) != ["group", *COLUMNS]:
        raise ValueError(f"its CSV file has the columns {', '.join(frame)}")
    if not tasks or tasks != set(frame["task"]):
        raise ValueError(f"its tasks are {', '.join(tasks) or 'none'}, those of its CSV file are others")
    return Reference(about, frame.astype({"value": float}))
