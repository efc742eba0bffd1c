"""A row of the ledger once more: its runs are done again, and every number is compared with the committed one."""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lpft_utils.common.errors import ParameterError, RunError
from lpft_utils.common.names import nearest
from lpft_utils.results.collected import collect_run
from lpft_utils.results.evidence import KERNELS, Evidence, Row
from lpft_utils.results.kernel_tables import collect_kernels
from lpft_utils.runs import engines, schedule
from lpft_utils.runs.grid import Planned
from lpft_utils.training.spec import RunSpec

TIMES = ("seconds", "train_seconds", "peak_memory")  # what a machine is expected to change
# A number may differ by a hundredth of itself, or by its standard deviation over seeds where that is more. Rounding
# differs between machines and grows while a network is trained, so that no digit is sure to stay; but a machine that
# changes a number by as much as another seed does is not repeating the run, and could change the verdict.
RELATIVE, DEVIATIONS = 0.01, 1.0
_NUMBER = ["run", "method", "split", "metric"]


def find_row(evidence: Evidence, name: str) -> Row:
    """The row of an id, with runs to repeat.

    Args:
        evidence: The evidence.
        name: The id.

    Returns:
        The row.

    Raises:
        ParameterError: If there is no such row, or it has no runs.
    """
    rows = {row.id: row for row in evidence.rows}
    if name not in rows:
        raise ParameterError(f"{name!r} is no row of the ledger; {nearest(name, rows)}")
    if not any(place.name for place in rows[name].places):
        raise ParameterError(f"{name}: none of its runs is there yet, so there is nothing to compare with.")
    return rows[name]


def forecast(evidence: Evidence, row: Row) -> str:
    """What reproducing a row will take.

    Args:
        evidence: The evidence.
        row: One of its rows.

    Returns:
        A text: how many runs, and how long they took where they were made.
    """
    about: Any = evidence.about[evidence.about["run"].isin([place.name for place in row.places if place.name])]
    hours, timed = about["seconds"].sum() / 3600, about["seconds"].notna().all()
    devices = sorted({e["device"] for e in about["environment"]})
    return (
        f"{row.id}: {len(about)} runs at the committed learning rates; they took {hours:.2g} core-hours"
        f"{'' if timed else ' or more'} on {'; '.join(devices)}. Compared: every number but times, within "
        f"{RELATIVE:.0%} of itself or {DEVIATIONS:g} standard deviation over seeds."
    )


def reproduce(row: Row, store: Path, jobs: int = 1, *, progress: bool = False) -> pd.DataFrame:
    """Do the runs of a row that a store lacks.

    Args:
        row: The row.
        store: The store; what is in it is not done again.
        jobs: Runs at the same time; kernels come one after another.
        progress: Whether to show progress.

    Returns:
        Their final values: "run", `frame.COLUMNS`.

    Raises:
        RunError: If a run failed.
    """
    found, specs = [], [place.spec for place in row.places if place.name and place.group != KERNELS]
    if specs:
        planned, costs = [Planned(spec) for spec in specs], schedule.Costs("predictions")
        costs.check(planned)
        work = functools.partial(collect_run, store=store, keep="predictions")
        with contextlib.closing(engines.Local(work, jobs)) as engine:
            report = schedule.sweep(planned, engine, costs, {}, found.append, progress=progress)
        if report.failed:
            raise RunError("; ".join(f"{s.method} on {s.task}, seed {s.seed}: {why}" for s, why in report.failed))
    found += [collect_kernels(spec, n, name, store) for spec, n, name in _kernels(row)]
    frame: Any = pd.concat(found, ignore_index=True)
    return frame[frame["step"].isna()] if "step" in frame else frame


def compare(evidence: Evidence, row: Row, again: pd.DataFrame) -> pd.DataFrame:
    """Committed numbers of a row's runs beside new ones.

    Args:
        evidence: The evidence.
        row: The row.
        again: Result of `reproduce`.

    Returns:
        One row per number: "run", "method", "split", "metric", "committed", "again", "tolerance" and "within". A number
        that only one side has is not within; nor is a run of another name, which was made on other data or weights.
    """
    names = {place.name: place.group for place in row.places if place.name}
    frame: Any = evidence.frame[evidence.frame["run"].isin(names) & ~evidence.frame["metric"].isin(TIMES)]
    frame = frame[frame["group"] == frame["run"].map(names)]
    spread = frame.groupby(["group", "method", "split", "metric"])["value"].transform("std").fillna(0)
    tolerance = np.maximum(RELATIVE * frame["value"].abs(), DEVIATIONS * spread)
    committed = frame[[*_NUMBER, "value"]].rename(columns={"value": "committed"}).assign(tolerance=tolerance)
    new: Any = again.loc[~again["metric"].isin(TIMES), [*_NUMBER, "value"]].rename(columns={"value": "again"})
    text = dict.fromkeys(_NUMBER, str)
    both = committed.astype(text).merge(new.astype(text), "outer", _NUMBER)
    equal = both["committed"].eq(both["again"])  # infinite ones among them
    return both.assign(within=equal | both["again"].sub(both["committed"]).abs().le(both["tolerance"]))


def _kernels(row: Row) -> list[tuple[RunSpec, int, str]]:
    return [(place.spec, place.n_kernel, place.name) for place in row.places if place.name and place.group == KERNELS]
