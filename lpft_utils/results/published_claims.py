"""What the published numbers establish: the paper's own means and standard deviations, tested.

Means over n seeds with standard deviations are all that Welch's t-test needs (Welch 1947). Each statement is one family
of tests, one for each data set, under Holm's correction. Where the paper prints no standard deviation there is no test,
and the directions alone are counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from scipy.stats import ttest_ind_from_stats

from lpft_utils.common.table import Table
from lpft_utils.metrics.intervals import LEVEL, holm
from lpft_utils.results.claims import Verdict
from lpft_utils.results.evidence import Evidence
from lpft_utils.results.frame import select
from lpft_utils.results.published import LABEL, load_published
from lpft_utils.results.reference import OWN_HEAD, Reference
from lpft_utils.training.methods import METHODS

SETS = ("table", "dataset", "split")
NO_SD = "no SD printed"
FIGURES = {3: "Figures 3, 10, 11", 6: "Figures 8, 9", 9: "Figures 5, 6"}


@dataclass(frozen=True, eq=False)
class Comparison:
    """A statement of the paper as a comparison of its own numbers (`published_claims.yml`).

    Attributes:
        id: Id of the claim (`statements.CLAIMS`) that says the same of measured results, if there is one.
        statement: The statement, with {a} and {b} for the methods.
        tables: The tables that it is read from.
        metrics: The metrics compared; "MCC" stands beside "accuracy" because the paper prints it for CoLA.
        pair: The methods (a, b).
        sign: 1 if b is claimed to have the larger value, −1 if a.
        margin: By how much b may be on the other side all the same.
        weak: Whether equal values agree with the statement.
        within: None, or the largest |log10(b / a)| that agrees with the statement: then there is no side.
        parts: Parts of the kernel compared, of a and of b.
        outside: None for all data sets, otherwise whether those out of distribution are meant.
    """

    id: str
    statement: str
    tables: Sequence[int]
    metrics: Sequence[str]
    pair: tuple[str, str]
    sign: int = 1
    margin: float = 0.0
    weak: bool = False
    within: float | None = None
    parts: Sequence[str] = ("", "")
    outside: bool | None = None

    @property
    def words(self) -> str:
        """The statement with the labels of the methods."""
        a, b = (METHODS[method].label for method in self.pair)
        return self.statement.format(a=a, b=b, within=self.within)


def established(numbers: pd.DataFrame) -> pd.DataFrame:
    """Every statement on every data set of the paper's tables.

    Args:
        numbers: Result of `load_published`.

    Returns:
        Columns "comparison", "dataset", "difference" (≥ 0 where the means agree with the statement), "agrees", "t", "p"
        (two-sided), "p_holm" (over the statement's data sets; NaN without a standard deviation) and "outcome": "holds",
        "fails", "undecided" or "not testable".
    """
    numbers = pd.concat([numbers, improvements(numbers)])
    return pd.concat([_test(numbers, comparison) for comparison in COMPARISONS], ignore_index=True)


def established_table(numbers: pd.DataFrame) -> Table:
    """`established` by statement: on how many data sets the paper's tables agree with it, and on how many decide it.

    Args:
        numbers: Result of `load_published`.

    Returns:
        One row per statement.
    """
    rows = []
    everything = established(numbers)
    for comparison in COMPARISONS:
        found = select(everything, comparison=comparison)
        agree, decided = _counts(found)
        rows.append(
            {
                "claim": comparison.id.split(".")[0],
                "statement": comparison.words,
                "tables": ", ".join(map(str, comparison.tables)),
                "means agree": agree,
                "decided": decided,
                "exceptions": ", ".join(found.loc[~found["agrees"], "dataset"]),
            }
        )
    shown = Table(pd.DataFrame(rows).set_index("claim"))
    shown.attrs["note"] = (
        f"All numbers: {LABEL}. Decided: Welch’s test of the printed means and standard deviations (SD), two-sided, "
        f"Holm over the data sets of a row, p < {1 - LEVEL:.2f}. The SD of an improvement is that of a difference of "
        f"independent means. Figures only: {'; '.join(f'claim {n} ({what})' for n, what in FIGURES.items())}."
    )
    return shown


def beside(
    verdicts: Sequence[Verdict], reference: Reference | Evidence, published: Path | str = "reference/published.csv"
) -> Table:
    """What the paper's tables, the reference runs and this run say of the same statements.

    Args:
        verdicts: Verdicts of this run.
        reference: The reference runs.
        published: The file of published numbers.

    Returns:
        One row per verdict. Published: on how many data sets the means agree, and on how many the paper's standard
        deviations decide; reference runs: the outcome on each task; this run: the difference and the outcome.
    """
    theirs = established(load_published(published))
    ours: dict[Any, list[str]] = {}
    for task, found in reference.by_task().items():
        for v in found:
            ours.setdefault(_key(v), []).append(f"{task}: {v.outcome}")
    rows = []
    for v in verdicts:
        name = v.record.id.replace("8.shift", "8.each")  # the mean over the sets is not in the tables
        same = [c for c in COMPARISONS if (c.id, c.pair) == (name, v.where[:2]) and OWN_HEAD not in v.statement]
        counts = [_counts(select(theirs, comparison=c)) for c in same]
        shown = [f"{agree} ({NO_SD if decided == NO_SD else f'decided: {decided}'})" for agree, decided in counts]
        row = {"claim": v.claim, "statement": v.statement, LABEL: "; ".join(shown)}
        row[LABEL] = row[LABEL] or FIGURES.get(v.claim, "no such number")
        row["reference runs"] = "; ".join(ours.get(_key(v), ["missing"]))
        rows.append(row | {"this run": f"{v.difference.format(v.record.digits)}, {v.shown}"})
    return Table(pd.DataFrame(rows).set_index("claim"))


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


def _key(v: Verdict) -> tuple[Any, ...]:
    split = "ood_" if v.where[2].startswith("ood_") else v.where[2]
    return v.record.id, *v.where[:2], split, OWN_HEAD in v.statement, v.rate


def _counts(found: Any) -> tuple[str, str]:
    """On how many data sets the means agree, and how many are decided."""
    holds, fails, untested = ((found["outcome"] == name).sum() for name in ("holds", "fails", "not testable"))
    decided = f"{holds} of {len(found) - untested}" + (f", {fails} against" if fails else "")
    return f"{found['agrees'].sum()} of {len(found)}", decided if untested < len(found) else NO_SD


def _test(numbers: pd.DataFrame, comparison: Comparison) -> pd.DataFrame:
    chosen: Any = numbers[numbers["table"].isin(comparison.tables) & numbers["metric"].isin(comparison.metrics)]
    chosen = chosen[chosen["split"] != "train"]
    if comparison.outside is not None:
        chosen = chosen[chosen["split"].str.startswith("ood_") == comparison.outside]
    sides = []
    for method, part in zip(comparison.pair, comparison.parts, strict=True):
        sides.append(chosen[(chosen["method"] == ("" if part == "P" else method)) & (chosen["kernel"] == part)])
    both = sides[0].merge(sides[1], on=[*SETS, "metric"], suffixes=("_a", "_b"))
    if comparison.within is None:
        difference = comparison.sign * (both["mean_b"] - both["mean_a"]) + comparison.margin
    else:
        difference = comparison.within - np.log10(both["mean_b"] / both["mean_a"]).abs()
    sd_a, n_a, sd_b, n_b = (both[name].to_numpy() for name in ("sd_a", "n_seeds_a", "sd_b", "n_seeds_b"))
    with np.errstate(invalid="ignore", divide="ignore"):
        found = ttest_ind_from_stats(difference.to_numpy(), sd_b, n_b, 0.0, sd_a, n_a, equal_var=False)
    p = pd.Series(found.pvalue).mask((difference == 0) & ~np.isnan(sd_a), 1.0)  # 0 / 0 where nothing varies
    tested = p.dropna()
    p_holm = pd.Series(holm(tested.tolist()), tested.index).reindex(p.index)
    outcome = np.where(difference > 0, "holds", "fails")
    return pd.DataFrame(
        {
            "comparison": [comparison] * len(both),
            "dataset": both["dataset"],
            "difference": difference,
            "agrees": (difference >= 0) if comparison.weak else (difference > 0),
            "t": found.statistic,
            "p": p,
            "p_holm": p_holm,
            "outcome": np.select([p_holm.isna(), p_holm < 1 - LEVEL], ["not testable", outcome], "undecided"),
        }
    )


_STATEMENTS: list[dict[str, Any]] = yaml.safe_load(Path(__file__).with_suffix(".yml").read_text(encoding="utf-8"))
COMPARISONS = tuple(
    Comparison(pair=(a, b), **statement) for statement in _STATEMENTS for a, b in statement.pop("pairs")
)
