"""The frame of results of kernels, and the tables of the kernel chapters."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lpft_utils.common.table import Table
from lpft_utils.kernel_methods.statistics import alignment, effective_rank, frobenius, ft_ratio
from lpft_utils.results.tables import column, table
from lpft_utils.studies.initialisation import Initialisation, as_published

PARTS = {"P": "P", "K": "P+F"}
ROWS = {"method": "initialisation"}


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
        for method, at in found.items()
        for row in (*_statistics(at, found.get("ft")), *_fits(at, kinds))
    ]
    return pd.DataFrame(rows, columns=["group", "method", "seed", "split", "metric", "value"])


def statistics_table(by_seed: Sequence[Mapping[str, Initialisation]]) -> Table:
    """Means over seeds of what characterises the kernels.

    Args:
        by_seed: Results of `initialisations`, one per seed, with "ft".

    Returns:
        Indexed by initialisation: norms of P and F, the FT ratio, effective ranks, and the alignment of F with FT's.
    """
    frame = kernel_results(by_seed, ())
    return table(frame, ROWS, {m: column(m, lambda v: f"{np.mean(v):.3g}") for m in frame["metric"].unique()})


def regression_table(by_seed: Sequence[Mapping[str, Initialisation]], *, store: Path | None = None) -> Table:
    """Accuracy of kernel regression, in percent, means over seeds.

    Args:
        by_seed: Results of `initialisations`, one per seed.
        store: The run store; default: `paths.run_store()`.

    Returns:
        Indexed by initialisation: train and test accuracy with P and with P + F for ridge and logistic regression, and
        the published code's measure with P + F, first seed only.
    """
    kinds = ("ridge", "logistic")
    frame = kernel_results(by_seed, kinds)
    names = [f"{kind}, {part}" for kind in kinds for part in PARTS.values()]

    def accuracies(split: str) -> Table:
        return table(frame, ROWS, {n: column(n, lambda v: f"{100 * np.mean(v):.1f}", split=split) for n in names})

    shown = accuracies("train") + " / " + accuracies("test")
    published = [as_published(at, store=store) for at in by_seed[0].values()]  # slow, and a look at it is enough
    shown["as published"] = [
        f"{100 * p.train_accuracy:.1f} / {100 * p.test_accuracy:.1f}" + ("" if p.converged else " (not converged)")
        for p in published
    ]
    return shown


def _statistics(at: Initialisation, ft: Initialisation | None) -> Iterator[tuple[str, str, float]]:
    P, F = at.train.P, at.train.F
    yield "", "‖P‖", frobenius(P)
    yield "", "‖F‖", frobenius(F)
    yield "", "‖F‖/‖P+F‖", ft_ratio(P, F)
    yield "", "rank of P", effective_rank(P)
    yield "", "rank of F", effective_rank(F)
    if ft is not None:
        yield "", "alignment with F of FT", alignment(F, ft.train.F)


def _fits(at: Initialisation, kinds: Sequence[str]) -> Iterator[tuple[str, str, float]]:
    for kind in kinds:
        for part, name in PARTS.items():
            fit = at.regression(part, kind)
            yield "train", f"{kind}, {name}", fit.accuracy(at.labels, "train")
            yield "test", f"{kind}, {name}", fit.accuracy(at.test_labels, "test")
            if kind == "ridge":
                yield "train", f"log10 of the leave-one-out error, {name}", math.log10(float(fit.errors.min()))
