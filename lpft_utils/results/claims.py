"""The paper's claims as tests on a frame of results.

A claim is a direction ("smaller", "larger"), tested on the difference paired by seed: it *holds* if the whole interval
lies on the claimed side, *fails* if the whole interval lies on the other side, and is *undecided* otherwise. Numbering
as in the ledger of the book's appendix. With three seeds an interval is wide; "undecided" is an honest and frequent
outcome. A seed of which a run diverged is left out, and counted.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from lpft_utils.common.errors import ParameterError
from lpft_utils.common.names import split_label
from lpft_utils.common.table import Table
from lpft_utils.metrics.intervals import SMALLEST, Interval, interval
from lpft_utils.results.frame import check_measured, evaluated_splits, results, select, validation_note
from lpft_utils.runs.store import Run
from lpft_utils.training.methods import METHODS

# From a frame, two methods and a split to one value per seed, positive where the claim is right.
Statistic = Callable[[pd.DataFrame, str, str, str], Any]
PAIRS = (("ft", "lp_ft"), ("lora", "lp_lora"))


@dataclass(frozen=True)
class Claim:
    """One statement of a claim, and how it is tested.

    Attributes:
        id: Number of the claim in the ledger, a point and a name.
        statement: The statement, with {a} and {b} for the methods, {split}, {low} and {high} for the ends of a sweep,
            and {note}.
        place: Where the paper says so.
        statistic: From a frame, the two methods and the split to one value per seed, positive where the claim is
            right; empty where the frame lacks what it needs.
        pairs: The methods (a, b) that it is about.
        on: "" for what has no split, "test", or "all" for every evaluation split.
        digits: Decimals to show.
    """

    id: str
    statement: str
    place: str
    statistic: Statistic
    pairs: tuple[tuple[str, str], ...] = PAIRS
    on: str = "test"
    digits: int = 3

    @property
    def number(self) -> int:
        """Number of the claim in the ledger."""
        return int(self.id.split(".")[0])


@dataclass(frozen=True)
class Verdict:
    """What results say about one statement of a claim.

    Attributes:
        claim: Number of the claim in the ledger.
        statement: The statement, as a sentence.
        difference: Interval of the quantity that the statement says is positive.
        digits: Decimals to show.
        diverged: Seeds left out because a run diverged.
        note: What the split is, where its name does not say it.
    """

    claim: int
    statement: str
    difference: Interval
    digits: int = 3
    diverged: int = 0
    note: str = ""

    @property
    def outcome(self) -> str:
        """What the interval says: "holds", "fails", "undecided"; "one seed" or "diverged" where none can be given."""
        if self.difference.n < 2:
            return "one seed" if self.difference.n else "diverged"
        if self.difference.low > 0:
            return "holds"
        return "fails" if self.difference.high < 0 else "undecided"


def evaluate(
    source: pd.DataFrame | Iterable[Run] | Mapping[Any, Iterable[Run]],
    *wanted: str,
    split: str = "test",
    note: str = "",
) -> list[Verdict]:
    """Test claims on results.

    Args:
        source: A frame of results, or runs: of a sweep as groups by ‖V0‖.
        *wanted: Numbers or ids of claims, such as "2" or "2.Diff"; default: all that the results allow.
        split: Split of the claims that are about one.
        note: Added to the statements; of a frame with groups, also the group that claims other than 3 are tested on.

    Returns:
        The verdicts, by number, split and pair of methods.

    Raises:
        ParameterError: If a wanted claim cannot be tested on these results, or a seed occurs twice.
    """
    frame = source if isinstance(source, pd.DataFrame) else results(source)
    check_measured(frame)
    found = []
    for claim in CLAIMS.values():
        if wanted and not any(_is(claim, name) for name in wanted):
            continue
        here = frame if claim.number == 3 or "group" not in frame else select(frame, group=note)
        splits = {"": [""], "test": [split], "all": evaluated_splits(frame)}[claim.on]
        for (s, on), (p, pair) in itertools.product(enumerate(splits), enumerate(claim.pairs)):
            values = claim.statistic(here, *pair, on).dropna()
            if len(values) or _all_diverged(here, *pair):
                found.append(((claim.number, s, p), claim, _verdict(claim, here, values, (*pair, on), note)))
    if missing := [name for name in wanted if not any(_is(claim, name) for _, claim, _ in found)]:
        raise ParameterError(
            f"claim {missing[0]}: expected results with its metrics, of the same seeds for each of its methods, got "
            f"methods {', '.join(frame['method'].unique()) or 'none'}. Known claims: {', '.join(CLAIMS)}."
        )
    return [verdict for *_, verdict in sorted(found, key=lambda item: item[0])]


def ledger(verdicts: Sequence[Verdict]) -> Table:
    """Verdicts as a table for the page.

    Args:
        verdicts: Verdicts of any claims.

    Returns:
        Indexed by claim: columns "statement", "difference (95 % interval)", "seeds", "outcome".
    """
    rows = [
        {
            "claim": v.claim,
            "statement": v.statement,
            "difference (95 % interval)": v.difference.format(v.digits),
            "seeds": f"{v.difference.n} ({v.diverged} diverged)" if v.diverged else v.difference.n,
            "outcome": v.outcome,
        }
        for v in verdicts
    ]
    shown = Table(pd.DataFrame(rows).set_index("claim"))
    shown.attrs["note"] = " ".join({v.note: None for v in verdicts if v.note})
    return shown


def _is(claim: Claim, name: str) -> bool:
    return name in (claim.id, str(claim.number))


def _all_diverged(frame: pd.DataFrame, a: str, b: str) -> bool:
    """Whether both methods were run and one of them has nothing but diverged runs: a claim on them must not vanish."""
    kept = frame[frame["metric"] != "diverged"]
    runs, usable = (set(rows["method"]) & {a, b} for rows in (frame, kept))
    return runs == {a, b} and usable < runs


def _verdict(claim: Claim, frame: pd.DataFrame, values: pd.Series, where: tuple[str, str, str], note: str) -> Verdict:
    a, b, split = where
    names = {"a": METHODS[a].label, "b": METHODS[b].label, "split": split_label(split), "note": note}
    if claim.number == 3:
        norms = sorted(map(float, frame.loc[frame["metric"].eq("Diff"), "group"].unique()))
        names |= {"low": f"{norms[0]:.3g}", "high": f"{norms[-1]:.3g}"}
    lost = select(frame, metric="diverged", value=1.0)
    n_lost = lost.loc[lost["method"].isin((a, b)), "seed"].nunique()
    difference = interval(values.tolist()) if len(values) else Interval(math.nan, math.nan, 0)
    about = validation_note(frame) if split == "test" else ""
    return Verdict(claim.number, claim.statement.format(**names), difference, claim.digits, n_lost, about)


def _values(frame: pd.DataFrame, metric: str, method: str, split: str = "", **more: str) -> Any:
    """One value per seed; indexed by seed, so that differences pair by seed."""
    if not set(more) <= set(frame):
        return pd.Series(dtype=float)
    found = select(frame, metric=metric, method=method, split=split, **more).set_index("seed")["value"]
    if found.index.has_duplicates:
        raise ParameterError(
            f"expected one {metric} per seed of {method}, got seeds {', '.join(map(str, found.index))}"
        )
    return found


def _larger(metric: str, scale: float = 1.0) -> Statistic:
    """By how much the metric of b is larger than that of a."""
    return lambda frame, a, b, split: scale * (_values(frame, metric, b, split) - _values(frame, metric, a, split))


def _log_ratio(frame: pd.DataFrame, method: str) -> pd.Series:
    """log10(‖V‖ / ‖V_random‖): norms span orders of magnitude."""
    norm, initial = (_values(frame, metric, method) for metric in ("head_norm", "head_norm_init"))
    return (norm.clip(lower=SMALLEST) / initial).map(np.log10)


def _closes(metric: str) -> Statistic:
    """More than half: |difference before| / 2 − |difference after|. Without a difference there is nothing to close."""
    before, after = _larger(metric), _larger(f"{metric}, TS")
    return lambda *where: before(*where).abs() / 2 - after(*where).abs()


def _sweep(frame: pd.DataFrame, method: str, split: str) -> pd.DataFrame:
    """Diff by seed (rows) and norm (columns, ascending); seeds that lack a norm are left out."""
    found = select(frame, metric="Diff", method=method, split=split)
    if "group" not in found or found["group"].nunique() < 2:
        return pd.DataFrame()
    by_norm = found.assign(group=found["group"].map(float)).pivot(index="seed", columns="group", values="value")
    return by_norm.sort_index(axis=1).dropna()


def _falls(frame: pd.DataFrame, _: str, b: str, split: str) -> pd.Series:
    """−ρ of Spearman for norm and Diff, 0 where Diff is constant and so has no order."""

    def minus_rho(diffs: Any) -> float:
        return -float(stats.spearmanr(diffs.index, diffs).statistic) if diffs.nunique() > 1 else 0.0  # pyright: ignore

    return pd.Series({seed: minus_rho(diffs) for seed, diffs in _sweep(frame, b, split).iterrows()}, dtype=float)


def _ends(frame: pd.DataFrame, _: str, b: str, split: str) -> Any:
    by_norm = _sweep(frame, b, split)
    return by_norm.iloc[:, 0] - by_norm.iloc[:, -1] if len(by_norm) else pd.Series(dtype=float)


def _p_and_f(metric: str, split: str, scale: float) -> Statistic:
    """By how much the metric of the kernel P + F is larger than that of P."""
    return lambda frame, _, b, __: (
        scale * (_values(frame, f"{metric}, P+F", b, split) - _values(frame, f"{metric}, P", b, split))
    )


def _closer(metric: str, reference: str) -> Statistic:
    """By how much LoRA's kernel is closer in shape to FT's than the reference."""
    return lambda frame, a, _, __: (
        _values(frame, metric, a, kernel="LoRA") - _values(frame, metric, a, kernel=reference)
    )


_LP_FT = (("lp_ft", "lp_ft"),)
_ADAPTED = (("ft", "lora"), ("lp_ft", "lp_lora"))
_TESTED = (
    Claim(
        "1.lp", "LP ends with a larger ‖V‖ than the random head of FT (log10 of the ratio)", "Figure 1, Table 13",
        lambda frame, _, b, __: _log_ratio(frame, b), (("lp", "lp"),), "", 2,
    ),
    Claim(
        "1.tuning", "LP changes ‖V‖ by a larger factor than {b} does (difference of log10)", "Figure 1, Table 13",
        lambda frame, a, b, _: _log_ratio(frame, a).abs() - _log_ratio(frame, b).abs(),
        (("lp", "ft"), ("lp", "lora")), "", 2,
    ),
    Claim(
        "1.growth", "without a penalty ‖V‖ still grows in the last 90 % of the steps", "Section 4.4",
        lambda frame, _, b, __: _values(frame, "head_norm", b) - _values(frame, "head_norm_tenth", b),
        (("lp", "lp"),), "", 2,
    ),
    Claim("2.Diff", "Diff(F) of {b} is smaller than of {a}", "Tables 1, 11, 12", _larger("Diff", -1), digits=2),
    Claim("2.CS", "CS(F) of {b} is larger than of {a}", "Tables 1, 11, 12", _larger("CS")),
    Claim("2.FDR", "FDR(F) of {b} is smaller than of {a}", "Tables 1, 11, 12", _larger("FDR", -1)),
    Claim(
        "3.order", "the larger ‖V0‖, the smaller Diff(F) (−ρ of Spearman over the norms)", "Figures 3, 10, 11",
        _falls, _LP_FT, digits=2,
    ),
    Claim("3.ends", "Diff(F) is larger at ‖V0‖ = {low} than at {high}", "Figures 3, 10, 11", _ends, _LP_FT, digits=2),
    Claim(
        "4.ratio", "‖F‖/‖P+F‖ is larger at the initialisation of {b} than of {a}", "Tables 2, 9",
        _larger("‖F‖/‖P+F‖"), on="",
    ),
    Claim(
        "5.train", "P+F fits the training labels better than P at the initialisation of {b}{note} (points)",
        "Tables 2, 9", _p_and_f("ridge", "train", 100), _LP_FT, "", 1,
    ),
    Claim(
        "5.loo", "P+F has the smaller leave-one-out error at the initialisation of {b}{note} (log10 of the ratio)",
        "Tables 2, 9", _p_and_f("log10 of the leave-one-out error", "train", -1), _LP_FT, "",
    ),
    Claim(
        "5.test", "P+F is more accurate than P on test texts at the initialisation of {b}{note} (points)",
        "Tables 2, 9", _p_and_f("ridge", "test", 100), _LP_FT, "", 1,
    ),
    *(
        claim
        for metric in ("ECE", "MCE")
        for claim in (
            Claim(
                f"6.{metric}", f"{metric} of {{b}} is larger than of {{a}}, without temperature scaling",
                "Tables 3, 14, 15", _larger(metric),
            ),
            Claim(
                f"6.{metric}, TS",
                f"temperature scaling closes most of the difference in {metric} between {{a}} and {{b}}",
                "Tables 3, 14, 15", _closes(metric),
            ),
        )
    ),
    Claim(
        "7.shuffled", "F of {b} is closer in shape to F of {a} than its own with the texts shuffled is (alignment)",
        "Proposition 4.4", _closer("all, centred", "LoRA, texts shuffled"), _ADAPTED, "",
    ),
    Claim(
        "7.features", "F of {b} is closer in shape to F of {a} than ⟨φ, φ'⟩ V Vᵀ is (alignment)", "Proposition 4.4",
        _closer("all, centred", "features and head"), _ADAPTED, "",
    ),
    Claim(
        "7.adapted",
        "F of {b} is closer in shape to F of {a} by the adapted weights than ⟨φ, φ'⟩ V Vᵀ is (alignment)",
        "Proposition 4.4", _closer("adapted, centred", "features and head"), _ADAPTED, "",
    ),
    Claim(
        "8.accuracy", "{b} is more accurate than {a} on {split}", "Tables 8, 10, 16", _larger("accuracy", 100),
        (("lp", "lp_ft"), ("ft", "lp_ft")), "all", 1,
    ),
)  # fmt: skip
CLAIMS = {claim.id: claim for claim in _TESTED}
