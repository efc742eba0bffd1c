"""The tables of the calibration chapter.

ECE and MCE are the paper's: 15 equal-width bins (lo, hi] of the top label's confidence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from lpft_utils.common.names import split_label
from lpft_utils.common.table import Table
from lpft_utils.metrics import calibration, recalibration
from lpft_utils.metrics.intervals import format_interval
from lpft_utils.metrics.sampling import debiased_ece, ece_interval
from lpft_utils.results.frame import evaluated_splits, results
from lpft_utils.results.tables import column, each, mean, table
from lpft_utils.runs.store import Run, converged
from lpft_utils.studies.calibration import diagrams, evaluation_splits, fit_calibrators, temperature_scaled
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
        Two rows per method, without and with temperature scaling (TS): the first seed's ECE with its bootstrap
        interval; over all seeds that did not diverge the ECE of chance and what is left; and in how many of them the
        ECE is above the 95th percentile of chance.
    """
    rows = []
    for method, group in runs.items():
        found = [temperature_scaled(stored, split) for stored in converged(group)]
        for when, name in (("before", METHODS[method].label), ("after", f"{METHODS[method].label}, TS")):
            p = [getattr(s, when) for s in found]
            errors = [debiased_ece(q, s.labels, n_draws) for q, s in zip(p, found, strict=True)]
            low, high = ece_interval(p[0], found[0].labels, n_draws)
            above = sum(e.ece > e.chance_high for e in errors)
            rows.append(
                {
                    "method": name,
                    "ECE, first seed [bootstrap]": f"{errors[0].ece:.3f} [{low:.3f}, {high:.3f}]",
                    "ECE of chance": format_interval([e.chance for e in errors], 3),
                    "ECE − chance": format_interval([e.corrected for e in errors], 3),
                    "seeds above chance": f"{above} of {len(errors)}",
                }
            )
    return Table(pd.DataFrame(rows).set_index("method"))


def count_table(runs: Mapping[str, Run], split: str = "test") -> Table:
    """Examples in each bin of the confidence, before → after temperature scaling; bins that are always empty left out.

    Args:
        runs: One run by method.
        split: Name of the split.

    Returns:
        One row per bin, one column per method.
    """
    found = {METHODS[method].label: diagrams([stored], split) for method, stored in runs.items()}
    edges = next(iter(found.values()))[0].edges
    rows = {
        f"({low:.3f}, {high:.3f}]": {
            name: f"{before.counts[b]} → {after.counts[b]}" for name, (before, after) in found.items()
        }
        for b, (low, high) in enumerate(zip(edges[:-1], edges[1:], strict=True))
        if any(diagram.counts[b] for pair in found.values() for diagram in pair)
    }
    return Table(pd.DataFrame.from_dict(rows, orient="index").rename_axis("confidence"))


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
    rows = []
    for stored in converged(runs):
        fitted = fit_calibrators(stored)
        for split in evaluation_splits(stored):
            f, y = stored.predictions[split]
            here = fitted | {"temperature fitted on the column": recalibration.fit_temperature(f, y).apply}
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
    rows = []
    for stored in converged(runs):
        for split in ("validation", *evaluation_splits(stored)):
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
    forms = {m: each() if m.startswith("T") else mean(3) for m in frame["metric"].unique()}
    return table(frame, "split", {metric: column(metric, form) for metric, form in forms.items()})
