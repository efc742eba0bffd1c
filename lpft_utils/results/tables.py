"""The one way from results to a page, `table` for tables and `over_seeds` for sentences, and the tables of runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from operator import getitem
from typing import Any

import numpy as np
import pandas as pd

from lpft_utils.common.errors import ParameterError
from lpft_utils.common.names import split_label
from lpft_utils.common.table import Table
from lpft_utils.metrics.intervals import format_geometric, format_interval
from lpft_utils.results.frame import check_measured, evaluated_splits, results, select, validation_note
from lpft_utils.runs.store import Run, converged
from lpft_utils.training.methods import METHODS

Format = Callable[[Sequence[float]], str]
Column = tuple[Mapping[str, Any], Format]
LABELS: dict[str, Callable[[Any], str]] = {"method": lambda name: METHODS[name].label, "split": split_label}


def mean(digits: int, scale: float = 1.0) -> Format:
    """Format: "mean ± half width" over seeds; "∞" where a value is infinite."""
    return lambda values: "∞" if np.isinf(values).any() else format_interval(values, digits, scale)


def each(form: str = ".3g") -> Format:
    """Format: the value of every seed."""
    return lambda values: ", ".join(format(value, form) for value in values)


FORMATS: dict[str, Format] = {
    "accuracy": mean(1, 100),
    **dict.fromkeys(("Diff", "FDR", "NormF"), mean(2)),
    **dict.fromkeys(("CS", "FDR_0"), mean(3)),
    **{f"{key}{suffix}": mean(3) for key in ("confidence", "ECE", "MCE", "NLL") for suffix in ("", ", TS")},
    **dict.fromkeys(("head_norm", "T"), each()),
}


def column(metric: str, form: Format | None = None, **where: Any) -> Column:
    """A column of `table`.

    Args:
        metric: The metric that it shows.
        form: From the values of a cell, one per seed, to its text; default: the metric's in `FORMATS`.
        **where: What else chooses its values, such as `split="test"`.

    Returns:
        The column.
    """
    return {"metric": metric, **where}, form or FORMATS[metric]


def table(frame: pd.DataFrame, rows: str | Mapping[str, str], columns: Mapping[str, Column]) -> Table:
    """A frame of results as a table: values are gathered over seeds, and formatted last.

    Args:
        frame: A frame of results.
        rows: The column of the frame that tells the rows apart, or several with their titles.
        columns: Columns by title.

    Returns:
        The table, indexed by its row titles if they are one column. Where runs diverged, cells count them:
        "81.2 ± 3.4 (1 diverged)". Where the test set is the published validation set, a note says so.
    """
    check_measured(frame)
    titles = {rows: rows} if isinstance(rows, str) else dict(rows)
    keys: Any = (frame[frame["split"] != ""] if "split" in titles else frame)[list(titles)]
    lines = []
    for key in keys.drop_duplicates().itertuples(index=False, name=None):
        where = dict(zip(titles, key, strict=True))
        line = {title: LABELS.get(k, str)(where[k]) for k, title in titles.items()}
        lines.append(line | {t: _cell(frame, where, chosen, form) for t, (chosen, form) in columns.items()})
    made = pd.DataFrame(lines, columns=[*titles.values(), *columns])
    shown = Table(made if len(titles) > 1 else made.set_index(*titles.values()))
    if "test" in [*keys.get("split", ()), *(chosen.get("split") for chosen, _ in columns.values())]:
        shown.attrs["note"] = validation_note(frame)
    return shown


def metric(*keys: str) -> Callable[[Run], Any]:
    """What the `metrics` of a run hold under these keys, such as "change", "test", "CS", as a function of the run."""
    return lambda run: reduce(getitem, keys, run.metrics)


def over_seeds(value: Callable[..., float], form: Format, *groups: Sequence[Run]) -> str:
    """A mean over seeds as text, for a sentence.

    Args:
        value: From the runs of one seed, one per group, to a number.
        form: From these numbers, one per seed, to their text.
        *groups: Runs of one method each, one per seed, with the seeds in the same order.

    Returns:
        As in a cell of `table`: a seed of which a run diverged is left out, and counted.

    Raises:
        ParameterError: If the groups are of different seeds.
    """
    by_seed = list(zip(*groups, strict=True))
    if any(len({run.spec.seed for run in runs}) > 1 for runs in by_seed):
        raise ParameterError(f"expected runs of the same seeds, got {[[run.spec.seed for run in g] for g in groups]}.")
    kept = [value(*runs) for runs in by_seed if len(converged(runs)) == len(runs)]
    return _text(kept, len(by_seed) - len(kept), form)


def accuracy_table(runs: Mapping[str, Sequence[Run]]) -> Table:
    """Accuracy in percent by method, on the test set and every out-of-distribution set.

    Args:
        runs: Runs by method, one per seed.

    Returns:
        One row per method, one column per split, each cell "mean ± half width".
    """
    frame = results(runs)
    return table(frame, "method", {split_label(s): column("accuracy", split=s) for s in evaluated_splits(frame)})


def change_table(runs: Mapping[str, Sequence[Run]], split: str = "train") -> Table:
    """Feature and head change by method: CS(F), Diff(F), FDR(F), Norm(F) and Norm(C), as in the paper's tables.

    Args:
        runs: Runs by method, one per seed.
        split: Split on which features are compared.

    Returns:
        One row per method; cells "mean ± half width", for Norm(C), which spans orders of magnitude, the geometric mean
        with its interval.
    """
    titles = {"CS(F)": "CS", "Diff(F)": "Diff", "FDR(F)": "FDR", "Norm(F)": "NormF"}
    columns = {title: column(metric, split=split) for title, metric in titles.items()}
    norm = column("head_norm", format_geometric)
    return table(results(runs), "method", columns | {"Norm(C), geometric mean": norm})


def fdr_table(runs: Sequence[Run]) -> Table:
    """Fisher's discriminant ratio before and after tuning, by split.

    Args:
        runs: Runs of one method, one per seed.

    Returns:
        One row per split, columns "before" and "after", each cell "mean ± half width".
    """
    frame: Any = results(runs)
    return table(frame[frame["split"] != "validation"], "split", {"before": column("FDR_0"), "after": column("FDR")})


def cost_table(runs: Mapping[str, Sequence[Run]]) -> Table:
    """What each method costs.

    Args:
        runs: Runs by method, one per seed; with "ft", whose trained parameters are all there are.

    Returns:
        One row per method: trained parameters and their share; MB of their gradients and Adam's two moments (float32);
        MB of what a run stores of the weights; seconds of training; peak memory where a GPU measured it.
    """
    everything, rows = runs["ft"][0].metrics["trainable_parameters"], {}
    for method, (stored, *_) in runs.items():
        n, record = stored.metrics["trainable_parameters"], METHODS[method]
        tuned = "epochs" in record.fields
        rows[record.label] = {
            "parameters": f"{n:,}" + (" (after LP)" if tuned and record.head == "lp" else ""),
            "share": f"{n / everything:.3%}",
            "gradients and Adam (MB)": f"{3 * 4 * n / 1e6:.3g}" if tuned else "none",
            "stored weights (MB)": f"{(stored.folder / 'model.safetensors').stat().st_size / 1e6:.3g}",
        }
    peak = column("peak_memory", lambda values: f"{max(values) / 1e6:.0f}")
    measured = table(results(runs), "method", {"seconds": column("train_seconds", mean(0)), "peak memory (MB)": peak})
    measured = measured.replace({"seconds": {"": "none"}, "peak memory (MB)": {"": "not measured on a CPU"}})
    return Table(pd.DataFrame.from_dict(rows, orient="index").join(measured).rename_axis("method"))


def results_table(runs: Mapping[str, Sequence[Run]]) -> Table:
    """Accuracy, feature change and calibration on the test set.

    Args:
        runs: Runs by method, one per seed.

    Returns:
        One row per method, each cell "mean ± half width", ‖V‖ of every seed; ECE without and with temperature scaling
        (TS).
    """
    titles = {"accuracy (%)": "accuracy", "CS(F)": "CS", "Diff(F)": "Diff", "FDR(F)": "FDR"}
    columns = {title: column(metric, split="test") for title, metric in titles.items()}
    columns |= {"‖V‖": column("head_norm")} | {metric: column(metric, split="test") for metric in ("ECE", "ECE, TS")}
    return table(results(runs), "method", columns)


def _cell(frame: pd.DataFrame, where: Mapping[str, Any], chosen: Mapping[str, Any], form: Format) -> str:
    values = select(select(frame, **where), **chosen)["value"].tolist()
    diverged = select(frame, **{"split": "", **where, **chosen, "metric": "diverged"})["value"]
    return _text(values, int(diverged.sum()), form)


def _text(values: Sequence[float], diverged: int, form: Format) -> str:
    parts = (form(values) if values else "", f"({diverged} diverged)" if diverged else "")
    return " ".join(filter(None, parts))
