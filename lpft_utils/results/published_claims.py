"""What the published numbers establish: the paper's own means and standard deviations, tested.

Means over n seeds with standard deviations are all that Welch's t-test needs (Welch 1947). A claim is one family of
tests, one for each data set, under Holm's correction (Holm 1979). Where the paper prints no standard deviation there
is no test, and directions alone are counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import ttest_ind_from_stats

from lpft_utils.common.table import Table
from lpft_utils.metrics.intervals import LEVEL, holm
from lpft_utils.training.methods import METHODS

SETS = ("table", "dataset", "split")
FIGURES = {3: "the head-norm sweep: Figures 3, 10, 11", 6: "heat maps: Figures 8, 9", 9: "t-SNE: Figures 5, 6"}


@dataclass(frozen=True)
class Comparison:
    """A claim of the paper as a comparison of its own numbers.

    Attributes:
        claim: Number of the claim.
        statement: The claim in words, with {a} and {b} for the methods.
        tables: The tables that it is read from.
        metrics: The metrics compared; "accuracy" is Matthews correlation where the paper prints that in its place.
        a: What is claimed to have the larger value: a method, or columns of the numbers by name.
        b: What is claimed to have the smaller one.
        weak: Whether equal values agree with the claim.
        margin: By how much a may be smaller than b all the same.
        outside: None for all data sets, otherwise whether those out of distribution are meant.
    """

    claim: int
    statement: str
    tables: tuple[int, ...]
    metrics: tuple[str, ...]
    a: str | Mapping[str, Any]
    b: str | Mapping[str, Any]
    weak: bool = False
    outside: bool | None = None
    margin: float = 0.0

    @property
    def words(self) -> str:
        """The statement with the labels of the methods."""
        names = {"a": self.a, "b": self.b}
        return self.statement.format(**{k: METHODS[m].label for k, m in names.items() if isinstance(m, str)})


def established(numbers: pd.DataFrame) -> pd.DataFrame:
    """Every claim on every data set of the paper's tables.

    Args:
        numbers: Result of `load_published`.

    Returns:
        Columns "claim", "statement", "tables", "dataset", "difference" (positive where the means agree with the
        claim), "t", "p" (two-sided), "p_holm" (over the data sets of the statement; NaN without a standard deviation),
        "agrees" and "outcome": "holds", "fails", "undecided" or "not testable".
    """
    numbers = pd.concat([numbers, improvements(numbers)])
    return pd.concat([_test(numbers, comparison) for comparison in COMPARISONS], ignore_index=True)


def established_table(numbers: pd.DataFrame) -> Table:
    """`established` by statement: on how many data sets the paper's tables agree with it, and decide it.

    Args:
        numbers: Result of `load_published`.

    Returns:
        One row per statement.
    """
    rows = []
    for (claim, statement, tables), found in established(numbers).groupby(["claim", "statement", "tables"], sort=False):
        holds, fails, untested = ((found["outcome"] == name).sum() for name in ("holds", "fails", "not testable"))
        decided = f"{holds} of {len(found) - untested}" + (f", {fails} against" if fails else "")
        rows.append(
            {
                "claim": claim,
                "statement": statement,
                "tables": tables,
                "means agree": f"{found['agrees'].sum()} of {len(found)}",
                "decided": decided if untested < len(found) else "no SD printed",
                "exceptions": ", ".join(found.loc[~found["agrees"], "dataset"]),
            }
        )
    shown = Table(pd.DataFrame(rows).set_index("claim"))
    shown.attrs["note"] = (
        "Decided: Welch’s test of the printed means and standard deviations, two-sided, Holm over the data sets of a "
        f"row, p < {1 - LEVEL:.2f}. "
        "The standard deviation of an improvement is that of a difference of independent means. "
        + "; ".join(f"claim {number} has figures only ({what})" for number, what in FIGURES.items())
        + "."
    )
    return shown


def improvements(numbers: pd.DataFrame) -> pd.DataFrame:
    """By how much temperature scaling lowers ECE and MCE, as the paper's "Imp." columns.

    Args:
        numbers: Result of `load_published`, or rows of it.

    Returns:
        Rows like those of `numbers`, metrics "ECE, improvement" and "MCE, improvement"; "sd" is that of a difference of
        independent means, because the paper prints none.
    """
    keys = [*SETS, "task", "method", "kernel", "n_seeds", "source"]
    rows = []
    for metric in ("ECE", "MCE"):
        sides = (numbers[numbers["metric"] == name] for name in (metric, f"{metric}, TS"))
        both: Any = next(sides).merge(next(sides), on=keys, suffixes=("", "_scaled"))
        mean, sd = both["mean"] - both["mean_scaled"], np.hypot(both["sd"], both["sd_scaled"])
        rows.append(both.assign(metric=f"{metric}, improvement", mean=mean, sd=sd)[list(numbers)])
    return pd.concat(rows)


def _test(numbers: pd.DataFrame, comparison: Comparison) -> pd.DataFrame:
    chosen: Any = numbers[numbers["table"].isin(comparison.tables) & numbers["metric"].isin(comparison.metrics)]
    chosen = chosen[chosen["split"] != "train"]
    if comparison.outside is not None:
        chosen = chosen[chosen["split"].str.startswith("ood_") == comparison.outside]
    keys = [*SETS, "metric"] if len(comparison.metrics) > 1 else list(SETS)
    sides = [_side(chosen, side) for side in (comparison.a, comparison.b)]
    both = sides[0].merge(sides[1], on=keys, suffixes=("_a", "_b"))
    both["mean_a"] += comparison.margin
    difference = both["mean_a"] - both["mean_b"]
    with np.errstate(invalid="ignore", divide="ignore"):
        found = ttest_ind_from_stats(
            *(both[f"{column}_{side}"].to_numpy() for side in "ab" for column in ("mean", "sd", "n_seeds")),
            equal_var=False,
        )
    testable = both[["sd_a", "sd_b"]].notna().all(axis=1)
    p = pd.Series(found.pvalue).mask(testable & (difference == 0), 1.0)  # 0 / 0 where nothing varies
    tested = p.dropna()
    p_holm = pd.Series(holm(tested.tolist()), tested.index).reindex(p.index)
    decided = np.where(difference > 0, "holds", "fails")
    outcome = np.select([p_holm.isna(), p_holm < 1 - LEVEL], ["not testable", decided], "undecided")
    return pd.DataFrame(
        {
            "claim": comparison.claim,
            "statement": comparison.words,
            "tables": ", ".join(map(str, comparison.tables)),
            "dataset": both["dataset"],
            "difference": difference,
            "t": found.statistic,
            "p": p,
            "p_holm": p_holm,
            "agrees": (difference >= 0) if comparison.weak else (difference > 0),
            "outcome": outcome,
        }
    )


def _side(chosen: pd.DataFrame, side: str | Mapping[str, Any]) -> Any:
    where = {"method": side, "kernel": ""} if isinstance(side, str) else side
    mask = np.logical_and.reduce([chosen[column] == value for column, value in where.items()])
    return chosen[mask]


def _kernel(method: str, part: str) -> dict[str, str]:
    return {"method": method, "kernel": part}


_P, _F, _SUM = _kernel("", "P"), _kernel("lp_ft", "F"), _kernel("lp_ft", "P+F")
_ACCURACY = ("accuracy", "MCC")
_TUNED = (("lp_ft", "ft"), ("lp_lora", "lora"))
COMPARISONS = (
    *(
        Comparison(1, "‖V‖ is larger after {a} than after {b}", (13,), ("head_norm",), a, b)
        for a, b in (("lp", "ft"), ("lp", "lora"), *_TUNED)
    ),
    *(Comparison(2, "Diff(F) is smaller for {b} than for {a}", (12,), ("Diff",), a, b) for b, a in _TUNED),
    *(Comparison(2, "CS(F) is larger for {a} than for {b}", (1, 11), ("CS",), a, b) for a, b in _TUNED),
    Comparison(
        2, "FDR(F) is smaller for {b} than for {a}, in distribution", (1, 11), ("FDR",), "ft", "lp_ft", outside=False
    ),
    Comparison(
        2, "FDR(F) is larger for {a} than for {b}, out of distribution", (11,), ("FDR",), "lp_ft", "ft", outside=True
    ),
    Comparison(4, "F of LP-FT has at least the rank of P", (2, 9), ("rank",), _F, _P, True),
    Comparison(4, "F of LP-FT is at least as accurate as P on test texts", (2, 9), ("accuracy",), _F, _P, True),
    Comparison(4, "F of LP-FT is at least as accurate as P + F on test texts", (2, 9), ("accuracy",), _F, _SUM, True),
    Comparison(4, "P + F of LP-FT is at least as accurate as P on test texts", (2, 9), ("accuracy",), _SUM, _P, True),
    *(Comparison(4, "the FT ratio is larger for {a} than for {b}", (2, 9), ("ft_ratio",), a, b) for a, b in _TUNED),
    *(
        Comparison(
            7, f"{key} improves more by temperature scaling for {{a}} than for {{b}}", (14, 15),
            (f"{key}, improvement",), "lp_ft", rival,
        )
        for key in ("ECE", "MCE")
        for rival in ("ft", "lora", "lp_lora")
    ),
    Comparison(
        8, "{a} is at least as accurate as {b}, in distribution", (8, 10, 16), _ACCURACY, "lp_ft", "ft", True,
        outside=False,
    ),
    Comparison(
        8, "{a} loses less than one point of accuracy to {b}, in distribution", (8, 10, 16), _ACCURACY, "lp_ft", "ft",
        outside=False, margin=0.01,
    ),
    Comparison(8, "{a} is more accurate than {b}, out of distribution", (10,), _ACCURACY, "lp_ft", "ft", outside=True),
)  # fmt: skip
