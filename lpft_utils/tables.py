"""Tables of the book: means over seeds with 95 % intervals, as data frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pandas as pd

from lpft_utils.plots import LABELS, split_label
from lpft_utils.statistics import interval
from lpft_utils.store import Run


def accuracy_table(runs: Mapping[str, Sequence[Run]]) -> pd.DataFrame:
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


def change_table(runs: Mapping[str, Sequence[Run]], split: str = "train") -> pd.DataFrame:
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


def _table(
    runs: Mapping[str, Sequence[Run]], columns: Mapping[str, tuple[Callable[[Run], float], int]]
) -> pd.DataFrame:
    rows = {
        LABELS[method]: {t: interval([value(run) for run in group]).format(d) for t, (value, d) in columns.items()}
        for method, group in runs.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")
