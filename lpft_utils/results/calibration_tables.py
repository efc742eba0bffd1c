"""The tables of the calibration chapter.

ECE and MCE are the paper's: 15 equal-width bins (lo, hi] of the top label's confidence.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lpft_utils.common.names import split_label
from lpft_utils.common.table import Table
from lpft_utils.metrics import calibration, recalibration
from lpft_utils.metrics.sampling import debiased_ece, ece_interval
from lpft_utils.results.frame import evaluated_splits, marks, results
from lpft_utils.results.tables import column, each, mean, table
from lpft_utils.runs.store import Run, converged
from lpft_utils.studies.calibration import CALIBRATORS, diagrams, evaluation_splits, fit_calibrators, temperature_scaled
from lpft_utils.training.methods import METHODS


def error_table(runs: Mapping[str, Sequence[Run]], split: str = "test") -> Table:
    """The paper's table: ECE and MCE by method, without and with temperature scaling (TS).

    Args:
        runs: Runs by method, one per seed.
        split: Name of the split.

    Returns:
        One row per method; cells "mean ± half width" over seeds.
    """
    metrics = [f"{key}{suffix}" for key in ("confidence", "ECE", "MCE") for suffix in ("", ", TS")]
    columns = {"accuracy": column("accuracy", mean(3), split=split)} | {m: column(m, split=split) for m in metrics}
    return table(results(runs), "method", columns)


def chance_table(runs: Mapping[str, Sequence[Run]], split: str = "test", n_draws: int = 1000) -> Table:
    """How much of every ECE is chance: the ECE of a perfectly calibrated model with the same confidences, at this N.

    Args:
        runs: Runs by method, one per seed.
        split: Name of the split.
        n_draws: Draws of the bootstrap and of the calibrated model.

    Returns:
        Two rows per method, without and with temperature scaling (TS): the ECE of the first seed that did not diverge,
        with its bootstrap interval; over all seeds the ECE of chance and what is left; and in how many of them the
        ECE is above the 95th percentile of chance.
    """
    rows: list[tuple[str, str, str, float]] = []
    for method, group in runs.items():
        names = {"before": METHODS[method].label, "after": f"{METHODS[method].label}, TS"}
        rows += [(name, *mark) for stored in group for mark in marks(stored) for name in names.values()]
        for i, stored in enumerate(converged(group)):
            scaled = temperature_scaled(stored, split)
            for when, name in names.items():
                p = getattr(scaled, when)
                error = debiased_ece(p, scaled.labels, n_draws)
                found = {"chance": error.chance, "left": error.corrected, "above": error.ece > error.chance_high}
                rows += [(name, split, metric, value) for metric, value in found.items()]
                if i == 0:
                    first = (error.ece, *ece_interval(p, scaled.labels, n_draws))
                    rows += [(name, split, "first", value) for value in first]
    columns = {
        "ECE, first seed [bootstrap]": column("first", lambda v: "{:.3f} [{:.3f}, {:.3f}]".format(*v), split=split),
        "ECE of chance": column("chance", mean(3), split=split),
        "ECE − chance": column("left", mean(3), split=split),
        "seeds above chance": column("above", lambda v: f"{sum(v):.0f} of {len(v)}", split=split),
    }
    return table(pd.DataFrame(rows, columns=["row", "split", "metric", "value"]), {"row": "method"}, columns)


def count_table(runs: Mapping[str, Sequence[Run]], split: str = "test") -> Table:
    """Examples in each bin of the confidence, before → after temperature scaling; bins that are always empty left out.

    Args:
        runs: Runs by method, one per seed; the first that did not diverge is shown.
        split: Name of the split.

    Returns:
        One row per bin, one column per method; "diverged" where every run did.
    """
    found = diagrams({method: converged(group)[:1] for method, group in runs.items()}, split)
    edges = np.arange(calibration.BINS + 1) / calibration.BINS
    intervals = [f"({low:.3f}, {high:.3f}]" for low, high in itertools.pairwise(edges)]
    cells: dict[str, Any] = {METHODS[method].label: "diverged" for method in runs}
    for method, (before, after) in found.items():
        cells[METHODS[method].label] = [f"{b} → {a}" for b, a in zip(before.counts, after.counts, strict=True)]
    some = np.any([diagram.counts > 0 for pair in found.values() for diagram in pair], axis=0)
    return Table(pd.DataFrame(cells, pd.Index(intervals, name="confidence"))[some])


def comparison_table(groups: Mapping[str, Sequence[Run]], name: str, split: str = "test") -> Table:
    """Head norm, temperature and calibration of any groups of runs.

    Args:
        groups: Runs by row, one per seed.
        name: What the rows are.
        split: Name of the split.

    Returns:
        One row per group; ‖V‖ and T of every seed, the rest "mean ± half width".
    """
    metrics = ("confidence", "ECE", "ECE, TS", "NLL", "NLL, TS")
    columns = {"‖V‖": column("head_norm"), "T": column("T"), "accuracy": column("accuracy", mean(3), split=split)}
    return table(results(groups), {"group": name}, columns | {m: column(m, split=split) for m in metrics})


def recalibration_table(runs: Sequence[Run], metric: str = "ECE") -> Table:
    """One metric after every recalibration, on the test set and on every out-of-distribution set.

    The last row breaks the rule on purpose: its temperature is fitted on the very split that it is judged on, which
    gives the lowest NLL of any temperature there (not always the lowest ECE).

    Args:
        runs: Runs of one method, one per seed.
        metric: A key of `calibration.calibration_metrics`.

    Returns:
        One row per recalibration, one column per split; an infinite NLL (a class was given probability 0) is "∞".
    """
    cheat = "temperature fitted on the column"
    rows: list[tuple[str, str, str, float]] = []
    for stored in runs:
        rows += [(name, *mark) for name in (*CALIBRATORS, cheat) for mark in marks(stored)]
        fitted = {} if stored.diverged else fit_calibrators(stored)
        for split in evaluation_splits(stored) if fitted else ():
            f, y = stored.predictions[split]
            here = fitted | {cheat: recalibration.fit_temperature(f, y).apply}
            rows += [
                (name, split, metric, calibration.calibration_metrics(apply(f), y)[metric])
                for name, apply in here.items()
            ]
    frame = pd.DataFrame(rows, columns=["recalibration", "split", "metric", "value"])
    columns = {split_label(s): column(metric, mean(3), split=s) for s in evaluated_splits(frame)}
    return table(frame, {"recalibration": metric}, columns)


def moment_table(runs: Sequence[Run]) -> Table:
    """Where the fitted temperature stops being right: the two sides of its equation on every split.

    At the fitted T the mean of E_p[f] equals the mean of f_y on the data that T was fitted on. Where E_p[f] is larger
    the model is over-confident still, and the split would need a higher T.

    Args:
        runs: Runs of one method, one per seed.

    Returns:
        One row per split: accuracy, both sides for the logits over T with mean 0 over classes (so that heads can be
        compared), T as fitted and as needed here.
    """
    rows: list[tuple[str, str, float]] = []
    for stored in runs:
        splits = ("validation", *evaluation_splits(stored))
        rows += [mark for mark in marks(stored) if mark[0] in ("", *splits)]
        for split in () if stored.diverged else splits:
            s = temperature_scaled(stored, split)
            f = (s.logits - s.logits.mean(axis=1, keepdims=True)) / s.fit.T  # a shift has no meaning
            found = {
                "accuracy": s.metrics[0]["accuracy"],
                "E_p[f] / T": float((s.after * f).sum(axis=1).mean()),
                "f_y / T": float(f[np.arange(len(f)), s.labels].mean()),
                "T, validation": s.fit.T,
                "T needed here": recalibration.fit_temperature(s.logits, s.labels).T,
            }
            rows += [(split, *item) for item in found.items()]
    frame = pd.DataFrame(rows, columns=["split", "metric", "value"])
    columns = {m: column(m, mean(3)) for m in ("accuracy", "E_p[f] / T", "f_y / T")}
    return table(frame, "split", columns | {m: column(m, each()) for m in ("T, validation", "T needed here")})
