"""Tables of the book: means over seeds with 95 % intervals, as data frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pandas as pd

from lpft_utils.common.names import split_label
from lpft_utils.common.table import Table
from lpft_utils.metrics.intervals import format_interval
from lpft_utils.runs.store import Run
from lpft_utils.training.methods import METHODS


def accuracy_table(runs: Mapping[str, Sequence[Run]]) -> Table:
    """Accuracy in percent by method, on the test set and every out-of-distribution set.

    Args:
        runs: Runs by method, one a seed.

    Returns:
        One row a method, one column a split, each cell "mean ± half width".
    """
    first = next(iter(runs.values()))[0]
    splits = [name for name in first.metrics["accuracy"] if name == "test" or name.startswith("ood_")]
    columns = {split_label(s): (lambda run, s=s: 100 * run.accuracy(s), 1) for s in splits}
    return _table(runs, columns)


def change_table(runs: Mapping[str, Sequence[Run]], split: str = "train") -> Table:
    """Feature and head change by method: CS(F), Diff(F), FDR(F), Norm(F) and Norm(C), as in the paper's tables.

    Args:
        runs: Runs by method, one a seed.
        split: Split on which features are compared.

    Returns:
        One row a method, one column a measure, each cell "mean ± half width".
    """
    keys = {"CS(F)": ("CS", 3), "Diff(F)": ("Diff", 2), "FDR(F)": ("FDR", 2), "Norm(F)": ("NormF", 2)}
    columns: dict[str, tuple[Callable[[Run], float], int]] = {
        title: (lambda run, key=key: run.metrics["change"][split][key], digits) for title, (key, digits) in keys.items()
    }
    columns["Norm(C)"] = (lambda run: run.metrics["head_norm"], 2)
    return _table(runs, columns)


def change(runs: Sequence[Run], key: str, split: str) -> list[float]:
    """One measure of feature change, one value a seed.

    Args:
        runs: Runs of one method.
        key: "CS", "Diff", "FDR", "FDR_0", "NormF" or "NormF_0".
        split: Split on which features are compared.

    Returns:
        Values in the order of the runs.
    """
    return [run.metrics["change"][split][key] for run in runs]


def fdr_table(runs: Sequence[Run]) -> Table:
    """Fisher's discriminant ratio before and after tuning, by split.

    Args:
        runs: Runs of one method, one a seed.

    Returns:
        One row a split, columns "before" and "after", each cell "mean ± half width".
    """
    splits = [name for name in runs[0].metrics["change"] if name != "validation"]
    rows = {
        split_label(s): {
            "before": format_interval(change(runs, "FDR_0", s), 3),
            "after": format_interval(change(runs, "FDR", s), 2),
        }
        for s in splits
    }
    return Table(pd.DataFrame.from_dict(rows, orient="index").rename_axis("split"))


def _table(runs: Mapping[str, Sequence[Run]], columns: Mapping[str, tuple[Callable[[Run], float], int]]) -> Table:
    rows = {
        METHODS[method].label: {
            t: format_interval([value(run) for run in group], d) for t, (value, d) in columns.items()
        }
        for method, group in runs.items()
    }
    return Table(pd.DataFrame.from_dict(rows, orient="index").rename_axis("method"))
