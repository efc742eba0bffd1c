"""The tables of the calibration chapter.

ECE and MCE are the paper's: 15 equal-width bins (lo, hi] of the top label's confidence.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lpft_utils.common.names import split_label
from lpft_utils.common.table import Table
from lpft_utils.metrics import calibration, recalibration
from lpft_utils.metrics.sampling import ece_interval, ece_under_calibration
from lpft_utils.results.frame import evaluated_splits, per_run, results
from lpft_utils.results.tables import column, each, mean, table
from lpft_utils.runs.store import Run, converged
from lpft_utils.studies.calibration import (
    CALIBRATORS,
    against_people,
    diagrams,
    evaluation_splits,
    fit_calibrators,
    temperature_scaled,
)
from lpft_utils.training.methods import METHODS


def error_table(runs: Mapping[str, Sequence[Run]]) -> Table:
    """The paper's table: ECE and MCE by method, without and with temperature scaling (TS).

    Args:
        runs: Runs by method, one per seed.

    Returns:
        One row per method; cells "mean ± half width" over seeds.
    """
    metrics = [f"{key}{suffix}" for key in ("confidence", "ECE", "MCE") for suffix in ("", ", TS")]
    columns = {"accuracy": column("accuracy", mean(3), split="test")} | {m: column(m, split="test") for m in metrics}
    return table(results(runs), "method", columns)


def chance_table(runs: Mapping[str, Sequence[Run]], n_draws: int = 1000) -> Table:
    """How much of every ECE is chance: the ECE of a perfectly calibrated model with the same confidences, at this N.

    Args:
        runs: Runs by method, one per seed.
        n_draws: Draws of the bootstrap and of the calibrated model.

    Returns:
        Two rows per method, without and with temperature scaling (TS): the ECE of the first seed that did not diverge,
        with its bootstrap interval; over all seeds the ECE of chance and what is left; and in how many of them the
        ECE is above the 95th percentile of chance.
    """
    first = [kept[0] for group in runs.values() if (kept := converged(group))]

    def rows(run: Run) -> Iterator[tuple[str, str, str, float]]:
        scaled, label = temperature_scaled(run), METHODS[run.spec.method].label
        for name, p in ((label, scaled.before), (f"{label}, TS", scaled.after)):
            error, chance = calibration.ece(p, scaled.labels), ece_under_calibration(p, n_draws)
            yield name, "test", "chance", chance.mean()
            yield name, "test", "left", error - chance.mean()
            yield name, "test", "above", error > np.quantile(chance, 0.95)
            if run in first:
                for value in (error, *ece_interval(p, scaled.labels, n_draws)):
                    yield name, "test", "first", value

    labels = {method: METHODS[method].label for method in runs}
    frames = [per_run(group, (labels[m], f"{labels[m]}, TS"), rows) for m, group in runs.items()]
    columns = {
        "ECE, first seed [bootstrap]": column("first", lambda v: "{:.3f} [{:.3f}, {:.3f}]".format(*v), split="test"),
        "ECE of chance": column("chance", mean(3), split="test"),
        "ECE − chance": column("left", mean(3), split="test"),
        "seeds above chance": column("above", lambda v: f"{sum(v):.0f} of {len(v)}", split="test"),
    }
    return table(pd.concat(frames), {"row": "method"}, columns)


def people_table(runs: Mapping[str, Sequence[Run]]) -> Table:
    """Confidence against the label and against the people behind it, on the task `snippets`.

    Args:
        runs: Runs by method, one per seed.

    Returns:
        One row per method; on any other task no row, and a note that says why.
    """
    if any(run.spec.task != "snippets" for group in runs.values() for run in group):
        empty = Table()
        empty.attrs["note"] = "The ratings behind the labels of this task are not known."
        return empty

    def rows(run: Run) -> Iterator[tuple[str, str, str, float]]:
        for metric, value in against_people(run).items():
            yield METHODS[run.spec.method].label, "test", metric, value

    frames = [per_run(group, [METHODS[method].label], rows) for method, group in runs.items()]
    shown = ("confidence", "accuracy", "agreement", "ECE", "ECE, people", "SE", "SE, people")
    return table(pd.concat(frames), {"row": "method"}, {m: column(m, mean(3), split="test") for m in shown})


def count_table(runs: Mapping[str, Sequence[Run]]) -> Table:
    """Examples in each bin of the confidence, before → after temperature scaling; bins that are always empty left out.

    Args:
        runs: Runs by method, one per seed; the first that did not diverge is shown.

    Returns:
        One row per bin, one column per method; "diverged" where every run did.
    """
    found = diagrams({method: converged(group)[:1] for method, group in runs.items()})
    intervals = [f"({low:.3f}, {high:.3f}]" for low, high in itertools.pairwise(calibration.EDGES)]
    cells: dict[str, Any] = {METHODS[method].label: "diverged" for method in runs}
    for method, (before, after) in found.items():
        cells[METHODS[method].label] = [f"{b} → {a}" for b, a in zip(before.counts, after.counts, strict=True)]
    some = np.any([diagram.counts > 0 for pair in found.values() for diagram in pair], axis=0)
    return Table(pd.DataFrame(cells, pd.Index(intervals, name="confidence"))[some])


def comparison_table(groups: Mapping[str, Sequence[Run]], name: str) -> Table:
    """Head norm, temperature and calibration of any groups of runs.

    Args:
        groups: Runs by row, one per seed.
        name: What the rows are.

    Returns:
        One row per group; ‖V‖ and T of every seed, the rest "mean ± half width".
    """
    metrics = ("confidence", "ECE", "ECE, TS", "NLL", "NLL, TS")
    columns = {"‖V‖": column("head_norm"), "T": column("T"), "accuracy": column("accuracy", mean(3), split="test")}
    return table(results(groups), {"group": name}, columns | {m: column(m, split="test") for m in metrics})


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

    def rows(run: Run) -> Iterator[tuple[str, str, str, float]]:
        fitted = fit_calibrators(run)
        for split in evaluation_splits(run):
            f, y = run.predictions[split]
            for name, apply in (fitted | {cheat: recalibration.fit_temperature(f, y).apply}).items():
                yield name, split, metric, calibration.calibration_metrics(apply(f), y)[metric]

    frame = per_run(runs, (*CALIBRATORS, cheat), rows)
    columns = {split_label(s): column(metric, mean(3), split=s) for s in evaluated_splits(frame)}
    return table(frame, {"row": metric}, columns)


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

    def rows(run: Run) -> Iterator[tuple[str, str, str, float]]:
        for split in ("validation", *evaluation_splits(run)):
            s = temperature_scaled(run, split)
            f = (s.logits - s.logits.mean(axis=1, keepdims=True)) / s.fit.T  # a shift has no meaning
            yield "", split, "accuracy", s.metrics[0]["accuracy"]
            yield "", split, "E_p[f] / T", float((s.after * f).sum(axis=1).mean())
            yield "", split, "f_y / T", float(f[np.arange(len(f)), s.labels].mean())
            yield "", split, "T, validation", s.fit.T
            yield "", split, "T needed here", recalibration.fit_temperature(s.logits, s.labels).T

    frame: Any = per_run(runs, [""], rows)
    columns = {m: column(m, mean(3)) for m in ("accuracy", "E_p[f] / T", "f_y / T")}
    columns |= {m: column(m, each()) for m in ("T, validation", "T needed here")}
    return table(frame[frame["split"] != "train"], "split", columns)  # which a diverged run has as well
