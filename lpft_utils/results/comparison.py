"""Methods side by side, and what they differ by at the same seed: the table of `lpft compare`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from lpft_utils.common.names import split_label
from lpft_utils.common.table import Table
from lpft_utils.results.frame import evaluated_splits, results, validation_note
from lpft_utils.results.tables import FORMATS, Format, mean, over_seeds
from lpft_utils.runs.store import Run
from lpft_utils.training.methods import METHODS

BY_SPLIT = {"accuracy (%)": "accuracy", "Diff(F)": "Diff", "ECE": "ECE", "ECE, TS": "ECE, TS"}
NOTE = "Diff(F): mean distance that features move. TS: temperature fitted on validation. Differences: seed by seed. "


def comparison(runs: Mapping[str, Sequence[Run]]) -> Table:
    """Accuracy, feature change and calibration on every evaluation split, and ‖V‖, by method.

    Args:
        runs: Runs by method, one per seed, with the seeds in the same order; the others are compared with the first.

    Returns:
        One row per metric and split; a column for each method and, after them, for the difference of each from the
        first; cells "mean ± half width" over seeds, with diverged runs left out and counted.
    """
    frame = results(run for group in runs.values() for run in group)
    values: Any = frame.set_index(["method", "seed", "split", "metric"])["value"]

    def cell(metric: str, split: str, form: Format, *methods: str) -> str:
        def value(*found: Run) -> float:
            *first, last = (values[r.spec.method, r.spec.seed, split, metric] for r in found)
            return last - sum(first)  # there is a first one in a difference alone

        return over_seeds(value, form, *(runs[method] for method in methods))

    label, first = {method: METHODS[method].label for method in runs}, next(iter(runs))
    columns = {label[method]: (method,) for method in runs}
    columns |= {f"{label[method]} − {label[first]}": (first, method) for method in runs if method != first}
    rows = {
        f"{title}, {split_label(split)}": (metric, split, FORMATS[metric])
        for title, metric in BY_SPLIT.items()
        for split in evaluated_splits(frame)
    } | {"‖V‖": ("head_norm", "", mean(2))}
    cells = {row: {title: cell(*of, *methods) for title, methods in columns.items()} for row, of in rows.items()}
    table = Table(pd.DataFrame.from_dict(cells, orient="index").rename_axis("metric"))
    interval = f"±: half width of the 95 % Student interval over {len(runs[first])} seeds."
    seeds = interval if len(runs[first]) > 1 else "One seed: there is no interval; give several with --seed."
    table.attrs["note"] = " ".join(filter(None, [NOTE + seeds, validation_note(frame)]))
    return table
