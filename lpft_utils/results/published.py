"""The numbers that the paper prints in its tables (Tomihari & Sato, NeurIPS 2024), and what they establish.

They are facts to compare with, always under the words of `LABEL`. Their frame has "mean" and "sd" in place of "value"
and "seed", so that no function of measured results takes them for results.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from lpft_utils.common.errors import RunError
from lpft_utils.data.catalog import TASKS

LABEL = "published, RoBERTa-base"
COLUMNS = ["table", "dataset", "task", "method", "kernel", "metric", "split", "mean", "sd", "n_seeds", "source"]
PER_CENT = ("accuracy", "MCC", "ECE", "ECE, TS", "MCE", "MCE, TS")  # shares in measured results
# Sizes have none. The accuracies of kernels are whole numbers of pairs (text, class), of 56 · 3 on CB: one seed.
SEEDS = {7: 0, 2: 1, 9: 1}


def load_published(path: Path | str = "reference/published.csv") -> pd.DataFrame:
    """Read the published numbers; the tests check the file.

    Args:
        path: The committed file, a number in each row.

    Returns:
        Columns `COLUMNS`. "dataset" is the paper's name, "task" what a run is trained on: "amazon" for the sets out of
        distribution, whose split is then "ood_dynasent", …; otherwise the split is "" where the paper does not say it.
        "kernel" is "P", "F" or "P+F" in the kernel tables, otherwise "". Accuracies, ECE and MCE are shares; "MCC" is
        Matthews correlation, which stands for accuracy on CoLA. "sd" is NaN where the paper prints none, "n_seeds" 5,
        but 1 for kernels, whose accuracies are those of one seed. "source" is `LABEL`.

    Raises:
        RunError: If the file is missing or damaged.
    """
    try:
        read = pd.read_csv(path, keep_default_na=False, na_values={"std": [""]})
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: {error}: expected the published numbers; `git checkout` brings them back.") from error
    scale = 1 - 0.99 * read["metric"].isin(PER_CENT)
    outside = read["dataset"].map(lambda name: TASKS[name].rule == "test")
    found: Any = read.assign(
        task=read["dataset"].mask(outside, "amazon"),
        split=read["split"].mask(outside, "ood_" + read["dataset"]),
        mean=read["value"] * scale,
        sd=read["std"] * scale,
        source=LABEL,
    )
    return found.assign(n_seeds=found["table"].map(lambda number: SEEDS.get(number, 5)))[COLUMNS]
