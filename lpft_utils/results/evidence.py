"""The evidence: committed results of the grid's runs, each in the place that the grid has for it, and the ledger.

In `book/reference/`: the plan, the grid, `runs.parquet` of `lpft sweep` and `kernels.parquet` of `planned_kernels.py`.
Tuning runs choose learning rates and are in no mean. What the files hold beyond the grid is left out, and said.
"""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from lpft_utils.common.errors import ParameterError, RunError
from lpft_utils.common.paths import book_root
from lpft_utils.common.table import Table
from lpft_utils.metrics.intervals import Interval
from lpft_utils.results.claims import Verdict, adjusted, evaluate, verdict_of
from lpft_utils.results.collected import read_collected, scores
from lpft_utils.results.frame import COLUMNS, select
from lpft_utils.results.ledger import STATES, Row
from lpft_utils.results.plan import SAME, TUNED, Plan, load_plan
from lpft_utils.results.statements import CLAIMS, PAIRS
from lpft_utils.runs.grid import Planned, load_grid
from lpft_utils.training.spec import RunSpec

KERNELS, ON_KERNELS = "kernels", (4, 5, 6)  # the group of what is measured at initialisation, and claims about it
ROLES = ("primary", "replication", "secondary")
AFTER = [b for _, b in PAIRS]  # methods that are trained at another's rate as well


@dataclass(frozen=True)
class Place:
    """A run that the grid asks for.

    Attributes:
        spec: The run, at the first of its rates where none is chosen yet.
        group: "" at the tuned rate, "same" at that of the other method, the factor on the head in a sweep, or "kernels"
            for what is measured at the initialisations that the run's head makes.
        name: Its name in the file; "" if it is not there.
        n_kernel: Texts of the kernels.
    """

    spec: RunSpec
    group: str
    name: str
    n_kernel: int = 0

    def fits(self, task: str, backbone: str, methods: Iterable[str], rate: str, claim: int) -> bool:
        """Whether a claim on these methods rests on the run."""
        here, kernels = (self.spec.task, self.spec.backbone) == (task, backbone), claim in ON_KERNELS
        if not here or kernels or self.group == KERNELS:
            return here and kernels and self.group == KERNELS
        if claim == 3:
            return self.spec.method in methods and self.spec.head_factor is not None
        other = rate == SAME and self.spec.method in AFTER
        return self.spec.method in methods and self.group == (SAME if other else "")


@dataclass(frozen=True)
class Evidence:
    """Committed results, matched with the grid that asked for them.

    Attributes:
        plan: The plan.
        frame: Final values: "run", "group" (of `Place`), `COLUMNS`, "predicted" and "labels".
        places: All that the grid asks for, without tuning runs.
        about: One row per run that is used, tuning runs among them: "run", "environment", "command", "plan", "seconds".
        notes: What has to be said of the files.
    """

    plan: Plan
    frame: pd.DataFrame
    places: tuple[Place, ...]
    about: pd.DataFrame
    notes: tuple[str, ...]

    @cached_property
    def rows(self) -> list[Row]:
        """The ledger: every endpoint of the plan, with or without runs, then all else; adjusted over tasks by Holm."""
        rows = {row.id: row for row in self._endpoints()}
        by_task: Any = self.frame.groupby(["task", "backbone"], sort=False)
        for (task, backbone), frame in by_task:
            for part, rate in _parts(frame):
                for v in evaluate(part, plan=self.plan, rate=rate):
                    other = {"role": "secondary", "smallest": None} if backbone != self._first(task) else {}
                    row = self._row(task, backbone, replace(v, **other))
                    rows[row.id] = row
        listed = sorted(rows.values(), key=lambda row: ROLES.index(row.verdict.role))
        final = adjusted([row.verdict for row in listed])
        return [replace(row, verdict=v) for row, v in zip(listed, final, strict=True)]

    def by_task(self) -> dict[str, list[Verdict]]:
        """Verdicts by task, "task (backbone)" where that is not its first: what chapters show beside their own."""
        found: dict[str, list[Verdict]] = {}
        for row in self.rows:
            name = row.task if row.backbone == self._first(row.task) else f"{row.task} ({row.backbone})"
            found.setdefault(name, []).append(row.verdict)
        return found

    def primary(self) -> list[Row]:
        """The primary endpoints."""
        return [row for row in self.rows if row.verdict.role == "primary"]

    def summary(self) -> dict[str, int]:
        """How many primary endpoints are in each of the `STATES`."""
        counts = Counter(row.state for row in self.primary())
        return {state: counts[state] for state in STATES}

    def missing(self) -> dict[str, int]:
        """How many runs are not there yet, by task and backbone; kernels count as runs."""
        return dict(Counter(f"{p.spec.task}, {p.spec.backbone}" for p in self.places if not p.name))

    def _first(self, task: str) -> str:
        return self.plan.tasks.get(task, {}).get("backbones", ["minilm"])[0]

    def _row(self, task: str, backbone: str, v: Verdict) -> Row:
        claim, (a, b, split) = v.record, v.where
        parts = [claim.id.replace(" ", "-"), task, v.rate]
        parts += [",".join(dict.fromkeys((a, b)))] if (a, b) != claim.pairs[0] else []
        parts += [split.removeprefix("ood_")] if split.startswith("ood_") else []
        parts += [backbone] if backbone != self._first(task) else []
        places = tuple(p for p in self.places if p.fits(task, backbone, (a, b), v.rate, claim.number))
        row = Row("/".join(parts), task, backbone, v, places)
        used, notes = v.difference.n + v.diverged, [v.note]
        if used < len(row.seeds):
            there = sum(bool(place.name) for place in places)
            notes.append(f"{used} of {len(row.seeds)} planned seeds so far ({there} of {len(places)} runs).")
        return replace(row, note=" ".join(filter(None, notes)))

    def _endpoints(self) -> Iterable[Row]:
        """All endpoints of the plan, as rows without runs."""
        for entry in self.plan.endpoints:
            claim, rates = CLAIMS[entry["statistic"]], entry.get("rates", (TUNED,))
            for task, rate in itertools.product(entry["tasks"], rates):
                about = pd.DataFrame([{"task": task, "metric": "MCC", "value": math.nan, "method": "", "seed": 0}])
                nothing = Interval(math.nan, math.nan, 0)
                verdict = verdict_of(claim, nothing, (*claim.pairs[0], claim.on), about, self.plan, rate=rate)
                row = self._row(task, self._first(task), verdict)
                planned = set(entry.get("seeds", self.plan.seeds))
                if row.places and row.seeds != planned:
                    raise ParameterError(f"{row.id}: expected the plan's seeds {planned} in the grid, got {row.seeds}.")
                yield row if row.places else replace(row, note="The grid has no runs for it.")


def load_evidence(folder: Path | None = None) -> Evidence:
    """Read the committed results and find the place of each run.

    Args:
        folder: Where plan, grid and results are; default: `book/reference`.

    Returns:
        The evidence; files of results may be missing, runs as well.

    Raises:
        ParameterError: If plan or grid cannot be used.
        RunError: If a file is damaged, or says two things of one run.
    """
    folder = folder or book_root() / "book" / "reference"
    plan, planned = load_plan(folder / "plan.yml"), load_grid(folder / "grid.yml", usable=False)
    runs, kernels = (read_collected(folder / name) for name in ("runs.parquet", "kernels.parquet"))
    names, of_kernels = _names(runs, "runs.parquet"), _names(kernels, "kernels.parquet")
    known, notes = scores(runs), []
    tuning = {spec.key("") for one in planned for spec in one.tuning}
    places = []
    for one in planned:
        if one.spec.key("") in tuning:
            continue
        try:
            settled = one.settled(lambda spec: known.get(names.get((spec.key(""), None), "")))
        except RunError as error:
            settled = None
            notes.append(f"{one.spec.method} on {one.spec.task}: {error}.")
        name = names.get((settled.key(""), None), "") if settled else ""
        places.append(Place(settled or one.spec, _group(one), name))
        task: Any = plan.tasks.get(one.spec.task, {})
        n_kernel = task.get("n_kernel") if one.spec.backbone == task.get("backbones", [""])[0] else None
        if one.spec.method == "lp" and n_kernel:
            places.append(Place(one.spec, KERNELS, of_kernels.get((one.spec.key(""), n_kernel), ""), n_kernel))
            if places[-1].name and not name:
                notes.append(f"{places[-1].name}: the results lack the LP run whose head its kernels have.")
    used = {p.name for p in places} | {names[key, None] for key in tuning if (key, None) in names}
    everything: Any = pd.concat([runs, kernels.assign(step=math.nan)], ignore_index=True)
    everything = everything.astype({name: object for name in everything.select_dtypes("category")})
    if extra := sorted(set(everything["run"]) - used):
        notes.append(f"{len(extra)} runs are left out, since the grid does not ask for them: {', '.join(extra)}.")
    everything = everything[everything["run"].isin(used) & everything["step"].isna()]
    groups = pd.DataFrame([(p.name, p.group) for p in places if p.name], columns=["run", "group"])
    frame = everything.merge(groups, on="run")[["run", "group", *COLUMNS, "predicted", "labels"]]
    frame = frame.astype(dict.fromkeys(("method", "split", "metric"), "category"))  # which are compared often, and fast
    about = everything.drop_duplicates("run")[["run", "environment", "command", "plan"]]
    seconds = everything[everything["metric"] == "seconds"].set_index("run")["value"]
    about = about.assign(seconds=about["run"].map(seconds), environment=about["environment"].map(json.loads))
    return Evidence(plan, frame, tuple(places), about, (*dict.fromkeys(notes), *_said(plan, about, frame)))


def provenance(evidence: Evidence) -> Table:
    """Where the evidence comes from.

    Args:
        evidence: The evidence.

    Returns:
        One row: devices, software, dates, core-hours and commands of its runs, tuning runs among them, and how many of
        the grid's are there.
    """
    about, there = evidence.about, sum(bool(place.name) for place in evidence.places)
    dates = [e["date"] for e in about["environment"]]
    rows = {
        "plan": f"{evidence.plan.hash}, written {evidence.plan.written}",
        "runs": f"{there} of {len(evidence.places)} of the grid, and {len(about) - there} to choose learning rates",
        "made": f"from {min(dates)} to {max(dates)}" if dates else "not yet",
        "on": "; ".join(dict.fromkeys(map(_machine, about["environment"]))),
        "core-hours": f"{about['seconds'].sum() / 3600:.3g}",
        "with": "; ".join(about["command"].unique()),
    }
    return Table(pd.DataFrame.from_dict(rows, orient="index", columns=["evidence"]).rename_axis("what"))


def _names(frame: Any, file: str) -> dict[tuple[str, int | None], str]:
    """Names of runs by the key of their spec, and the number of texts of a kernel."""
    about = frame[["run", "task", "backbone", "seed", "spec", "plan", "environment"]].drop_duplicates()
    values = frame[frame["step"].isna()] if len(frame) else frame
    twice = [*about.loc[about["run"].duplicated(), "run"]]
    twice += [*values.loc[values.duplicated(["run", "method", "split", "metric"]), "run"]]
    found: dict[tuple[str, int | None], str] = {}
    for row in about.drop_duplicates("run").itertuples():
        fields = json.loads(str(row.spec))
        n_kernel = fields.pop("n_kernel", None)
        spec = RunSpec.from_dict(fields)
        if (spec.task, spec.backbone, spec.seed) != (row.task, row.backbone, row.seed):
            twice.append(row.run)
        if (other := found.setdefault((spec.key(""), n_kernel), str(row.run))) != row.run:
            raise RunError(f"{file}: {other} and {row.run} have equal settings: made on different data or weights?")
    if twice:
        raise RunError(f"{file}: expected one set of settings and one value per metric of a run; not so: {twice[0]}.")
    return found


def _group(one: Planned) -> str:
    if one.spec.head_factor is not None:
        return f"{one.spec.head_factor:g}"
    return SAME if any(spec.method != one.spec.method for spec in one.tuning) else ""


def _parts(frame: Any) -> Iterable[tuple[pd.DataFrame, str]]:
    """The parts of one task's frame that are tested by themselves, and their rate; a sweep has groups, by factor."""
    yield select(frame, group="").drop(columns="group"), TUNED
    same = frame[frame["group"].eq(SAME) | (frame["group"].eq("") & ~frame["method"].isin(AFTER))]
    yield same.drop(columns="group"), SAME
    yield frame[~frame["group"].isin(["", SAME, KERNELS])], TUNED
    yield select(frame, group=KERNELS).drop(columns="group"), TUNED


def _said(plan: Plan, about: pd.DataFrame, frame: Any) -> Iterable[str]:
    """What has to be said of the runs that are used."""
    for other, n in about["plan"].value_counts().items():
        if other != plan.hash:
            yield f"{n} runs were made under another plan ({other or 'none'}; this one is {plan.hash})."
    kinds: Mapping[str, int] = Counter(_machine(e) for e in about["environment"])
    if len(kinds) > 1:
        yield "Made in different environments: " + "; ".join(f"{n} runs on {kind}" for kind, n in kinds.items()) + "."
    lost = frame[frame["metric"].eq("diverged") & frame["split"].eq("") & frame["value"].eq(1)]
    if len(lost):
        yield f"{lost['run'].nunique()} runs diverged and are left out of every mean."


def _machine(environment: Mapping[str, str]) -> str:
    return ", ".join(v if k in ("device", "platform") else f"{k} {v}" for k, v in environment.items() if k != "date")
