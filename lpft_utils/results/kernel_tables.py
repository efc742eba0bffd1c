"""The frame of results of kernels, and the tables of the kernel chapters."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from lpft_utils.common.table import Table
from lpft_utils.kernel_methods.statistics import alignment, effective_rank, frobenius, ft_ratio
from lpft_utils.results.tables import column, table
from lpft_utils.studies.initialisation import Initialisation, as_published

PARTS = {"P": "P", "K": "P+F"}


def kernel_results(
    by_seed: Sequence[Mapping[str, Initialisation]], kinds: Sequence[str] = ("ridge",), group: str = ""
) -> pd.DataFrame:
    """What characterises the kernels at initialisation, and how well they fit, one value per row.

    Args:
        by_seed: Results of `initialisations`, one per seed.
        kinds: Kernel regressions to fit: "ridge", "logistic".
        group: Name of these kernels, to tell them from others in the same frame.

    Returns:
        Columns "group", "method", "seed" (the place in `by_seed`), "split", "metric", "value". Metrics: norms of P and
        F, FT ratio, effective ranks, alignment of F with FT's where FT is there (split ""); accuracy of each regression
        with P and P + F ("ridge, P", …; train and test), and log10 of ridge regression's leave-one-out error.
    """
    rows = [
        (group, method, seed, *row)
        for seed, found in enumerate(by_seed)
        for method, start in found.items()
        for row in (*_statistics(start, found.get("ft")), *_fits(start, kinds))
    ]
    return pd.DataFrame(rows, columns=["group", "method", "seed", "split", "metric", "value"])


def statistics_table(by_seed: Sequence[Mapping[str, Initialisation]]) -> Table:
    """Means over seeds of what characterises the kernels.

    Args:
        by_seed: Results of `initialisations`, one per seed, with "ft".

    Returns:
        Indexed by start: norms of P and F, the FT ratio, effective ranks, and the alignment of F with FT's.
    """
    frame = kernel_results(by_seed, ())
    metrics = frame["metric"].unique()
    return table(frame, {"method": "start"}, {m: column(m, lambda v: f"{np.mean(v):.3g}") for m in metrics})


def regression_table(by_seed: Sequence[Mapping[str, Initialisation]]) -> Table:
    """Accuracy of kernel regression, in percent, means over seeds.

    Args:
        by_seed: Results of `initialisations`, one per seed.

    Returns:
        Indexed by start: train and test accuracy with P and with P + F for ridge and logistic regression, and the
        published code's measure with P + F, first seed only.
    """
    kinds = ("ridge", "logistic")
    frame = kernel_results(by_seed, kinds)
    names = [f"{kind}, {part}" for kind in kinds for part in PARTS.values()]
    train, test = (
        table(
            frame, {"method": "start"}, {n: column(n, lambda v: f"{100 * np.mean(v):.1f}", split=split) for n in names}
        )
        for split in ("train", "test")
    )
    shown = train + " / " + test
    published = [as_published(start) for start in by_seed[0].values()]  # slow, and a look at it is enough
    shown["as published"] = [f"{100 * p.train_accuracy:.1f} / {100 * p.test_accuracy:.1f}" for p in published]
    return shown


def _statistics(start: Initialisation, ft: Initialisation | None) -> Iterator[tuple[str, str, float]]:
    P, F = start.train.P, start.train.F
    yield "", "‖P‖", frobenius(P)
    yield "", "‖F‖", frobenius(F)
    yield "", "‖F‖/‖P+F‖", ft_ratio(P, F)
    yield "", "rank of P", effective_rank(P)
    yield "", "rank of F", effective_rank(F)
    if ft is not None:
        yield "", "alignment with F of FT", alignment(F, ft.train.F)


def _fits(start: Initialisation, kinds: Sequence[str]) -> Iterator[tuple[str, str, float]]:
    for kind in kinds:
        for part, name in PARTS.items():
            fit = start.regression(part, kind)
            yield "train", f"{kind}, {name}", fit.accuracy(start.labels, "train")
            yield "test", f"{kind}, {name}", fit.accuracy(start.test_labels, "test")
            if kind == "ridge":
                yield "train", f"log10 of the leave-one-out error, {name}", math.log10(float(fit.errors.min()))
