"""The numbers that the paper prints in its tables (Tomihari & Sato, NeurIPS 2024), and what they establish.

They are facts to compare with, always under the words of `LABEL`. Their frame has "mean" and "sd" in place of "value"
and "seed", so that no function of measured results takes them for results.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from lpft_utils.common.errors import RunError
from lpft_utils.data.catalog import PAPER_TASKS, TASKS
from lpft_utils.training.methods import METHODS

LABEL = "published, RoBERTa-base"
FILE = "table,dataset,method,kernel,metric,split,value,std".split(",")
COLUMNS = ["table", "dataset", "task", "method", "kernel", "metric", "split", "mean", "sd", "n_seeds", "source"]
# In the units of measured results: shares, where the paper prints per cent.
PER_CENT = {"accuracy": "accuracy", "mcc": "MCC", "ECE": "ECE", "MCE": "MCE"} | {
    f"{key}_temperature_scaled": f"{key}, TS" for key in ("ECE", "MCE")
}
METRICS = (*PER_CENT, "CS", "Diff", "FDR", "head_norm", "rank", "frobenius", "ft_ratio", "classes", "size")
TABLES = (1, 2, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16)
# Sizes have none. The accuracies of kernels are whole numbers of pairs (text, class), of 56 · 3 on CB: one seed.
SEEDS = {7: 0, 2: 1, 9: 1}


def load_published(path: Path | str = "reference/published.csv") -> pd.DataFrame:
    """Read and check the published numbers.

    Args:
        path: The committed file, a number in each row.

    Returns:
        Columns `COLUMNS`. "dataset" is the paper's name, "task" what a run is trained on: "amazon" for the sets out of
        distribution, whose split is then "ood_dynasent", …; otherwise the split is "" where the paper does not say it.
        "kernel" is "P", "F" or "P+F" in the kernel tables, otherwise "". Accuracies, ECE and MCE are shares; "MCC" is
        Matthews correlation, which stands for accuracy on CoLA. "sd" is NaN where the paper prints none, "n_seeds" 5,
        but 1 for kernels, whose accuracies are those of one seed. "source" is `LABEL`.

    Raises:
        RunError: If the file is missing or damaged; the message names the line.
    """
    try:
        read = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: {error}: expected the published numbers; `git checkout` brings them back.") from error
    if list(read) != FILE:
        raise RunError(f"{path}: expected the columns {', '.join(FILE)}, got {', '.join(read)}.")
    if problem := next(_problems(read), None):
        raise RunError(f"{path}, {problem}.")
    scale = 1 - 0.99 * read["metric"].isin(PER_CENT)
    outside = read["dataset"].map(lambda name: TASKS[name].rule == "test")
    found: Any = read.assign(
        table=read["table"].astype(int),
        task=read["dataset"].mask(outside, "amazon"),
        split=read["split"].mask(outside, "ood_" + read["dataset"]),
        metric=read["metric"].replace(PER_CENT),
        mean=read["value"].astype(float) * scale,
        sd=pd.to_numeric(read["std"]) * scale,
        source=LABEL,
    )
    return found.assign(n_seeds=found["table"].map(lambda number: SEEDS.get(number, 5)))[COLUMNS]


def sizes(numbers: pd.DataFrame) -> dict[tuple[str, str], int]:
    """Table 7: numbers of texts.

    Args:
        numbers: Result of `load_published`.

    Returns:
        Numbers by data set and split; "test" for sets out of distribution as well.
    """
    found: Any = numbers[numbers["metric"] == "size"]
    splits = found["split"].where(~found["split"].str.startswith("ood_"), "test")
    return {key: int(n) for key, n in zip(zip(found["dataset"], splits, strict=True), found["mean"], strict=True)}


def _problems(read: Any) -> Iterator[str]:
    """What is wrong, in words."""
    known = {
        "table": tuple(map(str, TABLES)),
        "dataset": PAPER_TASKS,
        "method": ("", "pretrained", *METHODS),
        "kernel": ("", "P", "F", "P+F"),
        "metric": METRICS,
        "split": ("", "train", "validation", "test"),
    }
    checks = {name: (f"one of {', '.join(values)}", read[name].isin(values)) for name, values in known.items()}
    for name, missing in (("value", False), ("std", read["std"] == "")):
        numbers: Any = pd.to_numeric(read[name], errors="coerce")
        checks[name] = "a number ≥ 0", numbers.between(0, math.inf, "left") | missing
    for name, (expected, fits) in checks.items():
        for i, found in read.loc[~fits, name].items():
            yield f"line {i + 2}: {name}: expected {expected}, got {found!r}"
    for i, row in read[read.duplicated(FILE[:6])].iterrows():
        yield f"line {i + 2}: this number is there twice: {', '.join(row)}"
    for number in map(str, TABLES):
        if number not in set(read["table"]):
            yield f"expected Tables {', '.join(map(str, TABLES))}; {number} is missing"
