"""Results by set out of distribution: pairs of accuracies, what LP-FT gains by size of shift, and tables by set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from lpft_utils.common.names import split_label
from lpft_utils.common.table import Table
from lpft_utils.metrics.intervals import format_interval, interval
from lpft_utils.metrics.shift import effective_robustness, fitted_line
from lpft_utils.results.frame import check_measured, select
from lpft_utils.results.published import LABEL
from lpft_utils.results.statements import success
from lpft_utils.results.tables import FORMATS
from lpft_utils.training.methods import METHODS

SHOWN = ("lp", "ft", "lp_ft")
PUBLISHED_IN = {"accuracy": 10, "FDR": 11, "Diff": 11}  # tables with the sets out of distribution
_RUN = ["task", "backbone", "method", "seed"]


def pairs(frame: pd.DataFrame) -> pd.DataFrame:
    """Accuracy in and out of distribution of the same model.

    Args:
        frame: A frame of results.

    Returns:
        One row per run and set out of distribution: "task", "backbone", "method", "seed", "split", "inside" and
        "outside". Accuracies of 0 and 1, which have no logit, are left out.
    """
    check_measured(frame)
    rows = select(frame, metric="accuracy").astype({"method": str, "split": str})
    inside = select(rows, split="test")[[*_RUN, "value"]].rename(columns={"value": "inside"})
    outside = rows[rows["split"].str.startswith("ood_")][[*_RUN, "split", "value"]]
    both = outside.rename(columns={"value": "outside"}).merge(inside, on=_RUN)
    return both[both[["inside", "outside"]].apply(lambda p: p.between(0, 1, inclusive="neither")).all(axis=1)]


def gains(frame: pd.DataFrame) -> pd.DataFrame:
    """The size of each shift and what LP-FT gains over FT there, from runs that share seeds.

    Args:
        frame: A frame of results.

    Returns:
        One row per task, backbone and set: "drop" of FT from the test set to the set, and "gain" of LP-FT over FT with
        "half", the half width of its 95 % interval over seeds (NaN for one seed). All in points of the task's measure
        of success.
    """
    check_measured(frame)
    rows: list[dict[str, Any]] = []
    by_task: Any = frame.groupby(["task", "backbone"], observed=True, sort=False)
    for (task, backbone), here in by_task:
        scores = select(here, metric=success(here)).astype({"method": str, "split": str})
        wide = 100 * scores.pivot(index="seed", columns=["method", "split"], values="value")
        for split in dict.fromkeys(s for m, s in wide if s.startswith("ood_") and {("ft", s), ("lp_ft", s)} <= {*wide}):
            paired = wide[[("ft", "test"), ("ft", split), ("lp_ft", split)]].dropna().to_numpy()
            if len(paired):
                gain = interval((paired[:, 2] - paired[:, 1]).tolist())
                row = {"task": task, "backbone": backbone, "split": split, "drop": (paired[:, 0] - paired[:, 1]).mean()}
                rows.append(row | {"gain": gain.mean, "half": gain.half_width})
    return pd.DataFrame(rows, columns=["task", "backbone", "split", "drop", "gain", "half"])


def published_gains(numbers: pd.DataFrame) -> pd.DataFrame:
    """The same from the paper's Table 10, of which only means can be compared.

    Args:
        numbers: Result of `load_published`.

    Returns:
        Columns as of `gains`; "half" is NaN.
    """
    wide = 100 * select(numbers, table=10).pivot(index="split", columns="method", values="mean")
    outside = wide[wide.index.str.startswith("ood_")]
    gain = {"drop": wide.loc["test", "ft"] - outside["ft"], "gain": outside["lp_ft"] - outside["ft"]}
    return outside.assign(task="amazon", backbone="", half=float("nan"), **gain).reset_index()[
        ["task", "backbone", "split", "drop", "gain", "half"]
    ]


def robustness_table(points: pd.DataFrame, judged: str = "lp_ft") -> Table:
    """Effective robustness of a method on every set: its distance from the line of all other runs.

    Args:
        points: Rows of `pairs`, with a column "source".
        judged: The method.

    Returns:
        One row per set: the slope of its line, and per source the mean distance over seeds in points.
    """
    rows = []
    for split, here in points.groupby("split", sort=False):
        mine = here["method"] == judged
        line = fitted_line(here.loc[~mine, "inside"], here.loc[~mine, "outside"])
        row = {"set": split_label(str(split)), "slope": f"{line[0]:.2f}", "runs on the line": str((~mine).sum())}
        for source, dots in here[mine].groupby("source", sort=False):
            above = effective_robustness(line, dots["inside"], dots["outside"])
            row[f"{METHODS[judged].label} above it, {source}"] = format_interval(above.tolist(), 1, 100)
        rows.append(row)
    shown = Table(pd.DataFrame(rows, columns=None if rows else ["set"]).fillna("").set_index("set"))
    shown.attrs["note"] = "Intervals are over seeds; the line is taken as it is."
    return shown


def set_table(metric: str, numbers: pd.DataFrame, measured: Mapping[str, pd.DataFrame]) -> Table:
    """A metric on the test set and on every set out of distribution, by source of the numbers.

    Args:
        metric: "accuracy", "FDR" or "Diff".
        numbers: Result of `load_published`.
        measured: Frames of results by what they are called, such as "this run"; they may be empty.

    Returns:
        Indexed by source, task and backbone, one row per set: "set", "pre-trained" (of FDR), "LP", "FT" and "LP-FT".
        Tasks without a shifted set are left out.
    """
    form, rows = FORMATS[metric], []
    columns = {"pretrained": "pre-trained"} | {m: METHODS[m].label for m in SHOWN if metric == "accuracy" or m != "lp"}
    printed = select(numbers, table=PUBLISHED_IN[metric], metric=metric).replace({"split": {"": "test"}})
    by_source: dict[str, Any] = {LABEL: printed.assign(backbone="", value=printed["mean"])}
    for source, frame in measured.items():
        before = select(frame, metric=f"{metric}_0", method="ft").astype({"method": str}).assign(method="pretrained")
        by_source[source] = pd.concat([before, select(frame, metric=metric).astype({"method": str})])
    for source, found in by_source.items():
        for (task, backbone), here in found.groupby(["task", "backbone"], observed=True, sort=False):
            sets = [s for s in here["split"].unique() if s == "test" or s.startswith("ood_")]
            for split in sets if len(sets) > 1 else ():
                row = {"numbers": ", ".join(filter(None, (f"{source}: {task}", backbone))), "set": split_label(split)}
                for method, title in columns.items():
                    values = select(here, split=split, method=method)["value"].tolist()
                    row[title] = form(values) if values else ""
                rows.append(row)
    shown = pd.DataFrame(rows)
    return Table(shown.loc[:, (shown != "").any()].set_index("numbers"))
