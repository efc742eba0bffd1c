"""The tables of the paper, on any runs: the published numbers beside measured ones.

Every source becomes one tidy frame of means and standard deviations, and is formatted last. A number that the paper
has and a source lacks is shown as `MISSING`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from lpft_utils.common.errors import ParameterError
from lpft_utils.common.names import split_label
from lpft_utils.common.table import Table
from lpft_utils.data.catalog import PAPER_TASKS, TASKS
from lpft_utils.results.frame import check_measured, results, select, validation_note
from lpft_utils.results.published import LABEL
from lpft_utils.results.published_claims import improvements
from lpft_utils.studies.paper import Experiments
from lpft_utils.training.methods import METHODS

MISSING = "missing"
INSIDE = ("train", "validation")
KEYS = ["dataset", "method", "kernel", "metric"]
PER_CENT = ("accuracy", "ECE", "MCE")
TITLES = {"": "every method", "pretrained": "pre-trained", **{name: method.label for name, method in METHODS.items()}}
_WORDS: dict[str, Any] = yaml.safe_load(Path(__file__).with_suffix(".yml").read_text(encoding="utf-8"))
TABLES: dict[int, Any] = _WORDS["tables"]
MEASURED = pd.DataFrame.from_dict(_WORDS["measured"], orient="index").fillna({"kernel": ""})


def measured(found: Sequence[Experiments]) -> pd.DataFrame:
    """The results of experiments as one frame.

    Args:
        found: Experiments, one per task.

    Returns:
        A frame of results of the runs and of the kernels.
    """
    from lpft_utils.results.kernel_tables import kernel_results  # here, because it brings the engine

    frames = [results(run for e in found for group in e.runs.values() for run in group)]
    for e in found:
        if e.kernels:
            at = kernel_results(e.kernels).assign(task=e.setting.task, backbone=e.setting.backbone)
            frames.append(at.drop(columns="group"))
    return pd.concat(frames, ignore_index=True)


def paper_table(number: int, published: pd.DataFrame, measured: Mapping[str, pd.DataFrame]) -> Table:
    """A table of the paper with measured results beside it.

    Args:
        number: Its number, among `TABLES`.
        published: Result of `load_published`.
        measured: Frames of results, or of kernels with a column "task", by what they are, such as "this run".

    Returns:
        One row per data set, method, part of the kernel (in tables of kernels) and metric (in tables of several); a
        column for each source, cells "mean ± standard deviation over seeds". Data sets that the paper does not have
        come last.

    Raises:
        ParameterError: If there is no such table of results.
    """
    frame = paper_frame(number, published, measured)
    caption, metrics = TABLES[number].values()
    keys = ["dataset", "method", *["kernel"] * ("rank" in metrics), *["metric"] * (len(metrics) > 1)]
    cells: Any = frame[frame["metric"].isin(metrics)]
    cells = cells.assign(text=[_cell(row) for row in cells.to_dict("records")])
    rows = cells[keys].drop_duplicates()
    place = {name: i for i, name in enumerate([*rows["dataset"].unique(), *TITLES])}
    rows = rows.sort_values(["dataset", "method"], kind="stable", key=lambda column: column.map(place))
    shown = cells.set_index([*keys, "source"])["text"].unstack("source")
    shown = shown.reindex(index=pd.MultiIndex.from_frame(rows), columns=[LABEL, *measured]).fillna("").reset_index()
    shown = Table(shown.assign(method=shown["method"].map(TITLES)).replace({"metric": _WORDS["titles"]}))
    shown.columns.name = None
    notes = [text for metric, text in _WORDS["notes"].items() if metric in metrics]
    about = [f"Table {number}: {caption}; mean ± standard deviation over seeds.", *notes]
    shown.attrs["note"] = " ".join(filter(None, [*about, *map(validation_note, measured.values())]))
    return shown


def paper_frame(number: int, published: pd.DataFrame, measured: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """`paper_table` as numbers.

    Args:
        number: Its number, among `TABLES`.
        published: Result of `load_published`.
        measured: As in `paper_table`.

    Returns:
        Columns "dataset", "method", "kernel", "metric", "source", "mean", "sd", "n_seeds" and "diverged" (seeds left
        out); of a number that a source lacks "mean" is NaN and "n_seeds" 0. Accuracies, ECE and MCE are shares.

    Raises:
        ParameterError: If there is no such table of results.
    """
    if number not in TABLES:
        raise ParameterError(
            f"table: expected one of {', '.join(map(str, TABLES))}, got {number}. (Table 3 is part of 14; 4 to 7 hold "
            "words, symbols, settings and sizes.)"
        )
    theirs = _published(select(published, table=number))
    ours = {source: _named(frame) for source, frame in measured.items()}
    keys = _keys(theirs, [name for frame in ours.values() for name in frame["dataset"]])
    found = [_summary(keys, frame).assign(source=source) for source, frame in ours.items()]
    columns = [*KEYS, "source", "mean", "sd", "n_seeds", "diverged"]
    everything: Any = pd.concat([theirs, *found])
    return everything.reindex(columns=columns).fillna({"n_seeds": 0, "diverged": 0})


def _published(numbers: pd.DataFrame) -> pd.DataFrame:
    found: Any = pd.concat([numbers, improvements(numbers).assign(sd=float("nan"))])
    by_split = found["metric"].eq("accuracy") & found["kernel"].ne("")
    metric = found["metric"].mask(by_split, found["metric"] + ", " + found["split"]).replace({"MCC": "accuracy"})
    return found.assign(metric=metric, kernel=found["kernel"].mask(metric == "ft_ratio", "P+F"))


def _keys(theirs: pd.DataFrame, datasets: Sequence[str]) -> pd.DataFrame:
    """What a table has: the paper's numbers, and for each further data set those of the paper's of its kind."""
    template: Any = theirs.assign(outside=theirs["dataset"].map(_is_outside))
    rows: list[Any] = [theirs[KEYS]]
    for name in dict.fromkeys(name for name in datasets if name not in PAPER_TASKS):
        like: Any = template[template["outside"] == _is_outside(name)]
        rows.append(like[KEYS].assign(dataset=name).drop_duplicates())
    return pd.concat(rows, ignore_index=True)


def _named(frame: pd.DataFrame) -> pd.DataFrame:
    """One measured value per row under the paper's names; "diverged" is a metric."""
    check_measured(frame)
    frame = select(frame, group="") if "group" in frame else frame
    frame = pd.concat([frame, *(_improvement(frame, key) for key in ("ECE", "MCE"))])
    found: Any = frame.merge(MEASURED, left_on="metric", right_index=True)
    found = found[found["whose"].isna() | found["method"].eq("ft")]
    found = found[~found["split"].isin(INSIDE) | found["kernel"].ne("")]
    found = found[found["metric"].ne("diverged") | found["split"].ne("test")]  # split "" has counted the run
    by_split = found["kernel"].ne("") & found["split"].ne("")
    named: Any = pd.DataFrame({
        "dataset": [_dataset(task, split) for task, split in zip(found["task"], found["split"], strict=True)],
        "method": found["whose"].fillna(found["method"]),
        "kernel": found["kernel"],
        "metric": found["name"].mask(by_split, found["name"] + ", " + found["split"]),
        "value": found["value"],
    })  # fmt: skip
    matthews = named["dataset"].map(lambda name: name in TASKS and TASKS[name].metric == "MCC")
    named = named[named["metric"].ne("accuracy") & matthews | named["metric"].ne("MCC") & ~matthews]
    return named.replace({"metric": {"MCC": "accuracy"}})


def _improvement(frame: pd.DataFrame, key: str) -> pd.DataFrame:
    """By how much temperature scaling lowers an error, by seed."""
    index = [name for name in frame if name not in ("metric", "value")]
    before, after = (select(frame, metric=name).set_index(index)["value"] for name in (key, f"{key}, TS"))
    return (before - after).reset_index().assign(metric=f"{key}, improvement")


def _summary(keys: pd.DataFrame, named: pd.DataFrame) -> pd.DataFrame:
    """Mean, standard deviation and number of values for each key, and how many runs diverged."""
    values = named.groupby(KEYS)["value"].agg(mean="mean", sd="std", n_seeds="count").reset_index()
    lost: Any = select(named, metric="diverged").groupby(["dataset", "method"])["value"].sum()
    return keys.merge(values, how="left", on=KEYS).merge(lost.rename("diverged").reset_index(), how="left")


def _cell(row: Mapping[str, Any]) -> str:
    scale, form = (100, ".2f") if row["metric"].startswith(PER_CENT) else (1, ".3g")
    lost = f" ({row['diverged']:.0f} diverged)" if row["diverged"] else ""
    if pd.isna(row["mean"]):
        return lost.strip() or MISSING
    spread = "" if pd.isna(row["sd"]) else f" ± {scale * row['sd']:{form}}"
    return f"{scale * row['mean']:{form}}{spread}{lost}"


def _dataset(task: str, split: str) -> str:
    if not split.startswith("ood_"):
        return task
    return split.removeprefix("ood_") if task == "amazon" else f"{task}, {split_label(split)}"


def _is_outside(dataset: str) -> bool:
    return TASKS[dataset].rule == "test" if dataset in TASKS else dataset.endswith("(OOD)")
