"""The tables of the kernel chapters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from lpft_utils.common.table import Table
from lpft_utils.kernel_methods.statistics import alignment, effective_rank, frobenius, ft_ratio
from lpft_utils.studies.initialisation import Initialisation, as_published
from lpft_utils.training.methods import METHODS


def statistics_table(by_seed: Sequence[Mapping[str, Initialisation]]) -> Table:
    """Means over seeds of what characterises the kernels.

    Args:
        by_seed: Results of `initialisations`, one a seed.

    Returns:
        Indexed by start: norms of P and F, the FT ratio, effective ranks, and the alignment of F with FT's.
    """
    rows = []
    for method in by_seed[0]:
        here = [found[method] for found in by_seed]
        mean = pd.DataFrame(
            [
                {
                    "‖P‖": frobenius(s.train.P),
                    "‖F‖": frobenius(s.train.F),
                    "‖F‖/‖P+F‖": ft_ratio(s.train.P, s.train.F),
                    "rank of P": effective_rank(s.train.P),
                    "rank of F": effective_rank(s.train.F),
                    "alignment with F of FT": alignment(s.train.F, found["ft"].train.F),
                }
                for s, found in zip(here, by_seed, strict=True)
            ]
        ).mean()
        rows.append({"start": METHODS[method].label, **mean.map("{:.3g}".format)})
    return Table(pd.DataFrame(rows).set_index("start"))


def regression_table(by_seed: Sequence[Mapping[str, Initialisation]]) -> Table:
    """Accuracy of kernel regression, in percent, means over seeds.

    Args:
        by_seed: Results of `initialisations`, one a seed.

    Returns:
        Indexed by start: train and test accuracy with P and with P + F for ridge and logistic regression, and the
        published code's measure with P + F, first seed only.
    """
    rows = []
    for method in by_seed[0]:
        here = [found[method] for found in by_seed]
        row: dict[str, str] = {"start": METHODS[method].label}
        for kind in ("ridge", "logistic"):
            for part, label in (("P", "P"), ("K", "P+F")):
                fits = [(s.regression(part, kind), s) for s in here]
                inside = [f.accuracy(s.labels, "train") for f, s in fits]
                outside = [f.accuracy(s.test_labels, "test") for f, s in fits]
                row[f"{kind}, {label}"] = f"{100 * _mean(inside):.1f} / {100 * _mean(outside):.1f}"
        theirs = as_published(here[0])  # slow, and a look at it is enough
        row["as published"] = f"{100 * theirs.train_accuracy:.1f} / {100 * theirs.test_accuracy:.1f}"
        rows.append(row)
    return Table(pd.DataFrame(rows).set_index("start"))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
