"""The registry of the paper's claims: what each states, and which statistic of a frame of results speaks to it.

Numbering as in the book's ledger. Which of a claim's statistics is its primary endpoint on a task is not decided here
but in the plan (`plan.load_plan`), which was written down before the runs. Claim 9 (t-SNE) is described, not tested.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from lpft_utils.common.errors import ParameterError
from lpft_utils.data.catalog import TASKS
from lpft_utils.metrics.intervals import SMALLEST, interval
from lpft_utils.results.frame import select

# From a frame, two methods and a split to one value per seed, larger where the claim is more right.
Statistic = Callable[[pd.DataFrame, str, str, str], Any]
# From predicted classes, labels and the task's measure of success to a score of any of these texts, by their indices.
Score = Callable[[np.ndarray, np.ndarray, str], Callable[[np.ndarray], float]]
PAIRS = (("ft", "lp_ft"), ("lora", "lp_lora"))
SHIFT = "ood"  # stands for the mean over the out-of-distribution sets


@dataclass(frozen=True)
class Claim:
    """One statement of a claim, and how it is tested.

    Attributes:
        id: Number of the claim in the ledger, a point and a name.
        statement: The statement, with {a} and {b} for the methods, {split}, {score} for the task's measure of success,
            {margin} and {note}.
        place: Where the paper says so.
        statistic: From a frame, the two methods and the split to one value per seed; empty where the frame lacks what
            it needs.
        pairs: The methods (a, b) that it is about; a primary endpoint is about the first.
        on: "" for what has no split, "test", "each ood", or `SHIFT` for the mean over out-of-distribution sets.
        digits: Decimals to show.
        test: "larger": the mean is above 0; "at least" (non-inferiority): above −margin; "within" (equivalence):
            between −margin and margin; "trend": Page's test that values fall along a sweep.
        margin: In the unit of the statistic.
        untestable: From what the statistic gets to why these results cannot speak to the claim; "" if they can.
        score: Where the statistic is a difference of means over texts: the score whose difference, b − a, it is.
    """

    id: str
    statement: str
    place: str
    statistic: Statistic
    pairs: tuple[tuple[str, str], ...] = PAIRS
    on: str = "test"
    digits: int = 3
    test: Literal["larger", "at least", "within", "trend"] = "larger"
    margin: float = 0.0
    untestable: Callable[[pd.DataFrame, str, str, str], str] = lambda *_: ""
    score: Score | None = None

    @property
    def number(self) -> int:
        """Number of the claim in the ledger."""
        return int(self.id.split(".")[0])


def success(frame: pd.DataFrame) -> str:
    """The measure of success on a frame's task: "MCC" for CoLA, where it was measured, otherwise "accuracy"."""
    wanted = {TASKS[name].metric for name in set(frame["task"] if "task" in frame else ()) & set(TASKS)}
    return "MCC" if wanted == {"MCC"} and "MCC" in set(frame["metric"]) else "accuracy"


def sweep(frame: pd.DataFrame, method: str, split: str, metric: str = "Diff") -> pd.DataFrame:
    """A metric by seed (rows) and norm or factor of the head (columns, ascending); incomplete seeds are left out."""
    found = select(frame, metric=metric, method=method, split=split)
    found = found.assign(group=pd.to_numeric(found.get("group", ""), errors="coerce")).dropna(subset="group")
    if found["group"].nunique() < 3:  # two have no trend
        return pd.DataFrame()
    return found.pivot(index="seed", columns="group", values="value").sort_index(axis=1).dropna()


def _values(frame: pd.DataFrame, metric: str, method: str, split: str = "", **more: str) -> Any:
    """One value per seed; indexed by seed, so that differences pair by seed."""
    if not set(more) <= set(frame):
        return pd.Series(dtype=float)
    if split == SHIFT:
        rows = select(frame, metric=metric, method=method)
        return rows[rows["split"].str.startswith("ood_")].groupby("seed")["value"].mean()
    found = select(frame, metric=metric, method=method, split=split, **more).set_index("seed")["value"]
    if found.index.has_duplicates:
        raise ParameterError(
            f"expected one {metric} per seed of {method}, got seeds {', '.join(map(str, found.index))}"
        )
    return found


def _larger(metric: str, scale: float = 1.0) -> Statistic:
    """By how much the metric of b is larger than that of a."""
    return lambda frame, a, b, split: scale * (_values(frame, metric, b, split) - _values(frame, metric, a, split))


def _log_ratio(a: tuple[str, str], b: tuple[str, str]) -> Statistic:
    """log10 of one metric over another, each of the method "a" or "b": norms and ranks span orders of magnitude."""

    def statistic(frame: pd.DataFrame, *methods_and_split: str) -> Any:
        methods = dict(zip("ab", methods_and_split, strict=False))
        below, above = (_values(frame, metric, methods[m]).clip(lower=SMALLEST) for m, metric in (a, b))
        return (above / below).map(np.log10)

    return statistic


_lengthened = _log_ratio(("b", "head_norm_init"), ("b", "head_norm"))


def _not_longer(frame: pd.DataFrame, a: str, b: str, split: str) -> str:
    return "" if _above(_lengthened(frame, "lp", "lp", "").dropna()) else "LP is not seen to lengthen the head"


def _below(frame: pd.DataFrame, a: str, b: str, split: str) -> Any:
    """Diff of a minus that of b at the largest ‖V0‖ that both sweeps reach, interpolated in log ‖V0‖."""
    found = {}
    curves = {m: (sweep(frame, m, "", "head_norm_0"), sweep(frame, m, split)) for m in (a, b)}
    for seed in set.intersection(*(set(part.index) for pair in curves.values() for part in pair)):
        points = [[part.loc[seed].to_numpy() for part in curves[m]] for m in (a, b)]
        top = min(norms.max() for norms, _ in points)
        if top >= max(norms.min() for norms, _ in points):
            at = [np.interp(np.log(top), np.log(norms[o := norms.argsort()]), diffs[o]) for norms, diffs in points]
            found[seed] = at[0] - at[1]
    return pd.Series(found, dtype=float)


def _falls(frame: pd.DataFrame, _: str, b: str, split: str) -> pd.Series:
    """−ρ of Spearman for norm and Diff, 0 where Diff is constant and so has no order."""
    ranks = sweep(frame, b, split).rank(axis=1)
    order = pd.Series(range(ranks.shape[1]), index=ranks.columns, dtype=float)
    return -ranks.apply(lambda row: row.corr(order) if row.nunique() > 1 else 0.0, axis=1)  # pyright: ignore


def _ridge(part: str, split: str) -> Statistic:
    return lambda frame, _, b, __: 100 * _values(frame, f"ridge, {part}", b, split)


def _between(*where: Any) -> Any:
    """By how much P + F is inside the interval from P to F, negative outside."""
    P, F, K = (_ridge(part, "test")(*where) for part in ("P", "F", "P+F"))
    ends = pd.concat([P, F], axis=1)
    return pd.concat([K - ends.min(axis=1), ends.max(axis=1) - K], axis=1).min(axis=1, skipna=False)


def _above(values: Any) -> bool:
    """Whether values per seed are above 0, by their interval where they have one."""
    found = interval(values.tolist()) if len(values) else None
    return found is not None and (found.low if found.n > 1 else found.mean) > 0


def _kernels_at_chance(frame: pd.DataFrame, _: str, b: str, split: str) -> str:
    chance = 100 * _values(frame, "majority, kernel", b, "test")
    margins = [(_ridge(part, "test")(frame, "", b, "") - chance).dropna() for part in ("P", "F")]
    return "" if any(map(_above, margins)) or not any(map(len, margins)) else "neither kernel above chance"


def _success(frame: pd.DataFrame, a: str, b: str, split: str) -> Any:
    return _larger(success(frame), 100)(frame, a, b, split)


def _at_chance(frame: pd.DataFrame, a: str, b: str, split: str) -> str:
    """Chance is the most frequent class; where its share was not measured nothing is said."""
    metric, margins = success(frame), []
    for m in (a, b):
        chance = 0.0 if metric == "MCC" else _values(frame, "majority", m, split)
        margins.append((_values(frame, metric, m, split) - chance).dropna())
    return "" if any(map(_above, margins)) or not any(map(len, margins)) else "no method above chance"


def _score(predicted: np.ndarray, labels: np.ndarray, metric: str) -> Callable[[np.ndarray], float]:
    if metric == "MCC":  # from counts: thousands of draws of texts take seconds, with scikit-learn minutes
        n_classes = int(max(predicted.max(), labels.max())) + 1
        cells = n_classes * labels.astype(int) + predicted
        return lambda texts: 100 * _mcc(np.bincount(cells[texts], minlength=n_classes**2).reshape(n_classes, -1))
    right = 100.0 * (predicted == labels)
    return lambda texts: float(right[texts].mean())


def _mcc(counts: np.ndarray) -> float:
    """Matthews correlation from counts by label and prediction (Gorodkin 2004), 0 where one of them is constant."""
    n, of_labels, of_predictions = counts.sum(), counts.sum(1), counts.sum(0)
    variances = (n**2 - of_labels @ of_labels) * (n**2 - of_predictions @ of_predictions)
    return float((np.trace(counts) * n - of_labels @ of_predictions) / variances**0.5) if variances else 0.0


def _improvement(metric: str) -> Mapping[str, Any]:
    """How much temperature scaling takes off the metric: its statistic, and when there is nothing to take off."""

    def improved(frame: pd.DataFrame, method: str, split: str) -> Any:
        return _values(frame, metric, method, split) - _values(frame, f"{metric}, TS", method, split)

    def nothing(frame: pd.DataFrame, a: str, b: str, split: str) -> str:
        means = [improved(frame, m, split).mean() for m in (a, b)]
        return "no miscalibration that a temperature takes away" if max(means) <= 0 else ""

    return {"statistic": lambda f, a, b, s: improved(f, b, s) - improved(f, a, s), "untestable": nothing}


def _closer(reference: str) -> Statistic:
    """By how much LoRA's kernel is closer in shape to FT's than the reference."""
    metric = "adapted, centred" if reference == "adapted" else "all, centred"
    other = "features and head" if reference == "adapted" else reference
    return lambda frame, a, *_: _values(frame, metric, a, kernel="LoRA") - _values(frame, metric, a, kernel=other)


_NORMS, _CHANGE, _SWEEP, _KERNELS = "Figure 1, Table 13", "Tables 1, 11, 12", "Figures 3, 10, 11", "Tables 2, 9"
_CALIBRATION, _ACCURACY = "Tables 3, 14, 15", "Tables 8, 10, 16"
_BEFORE = (("lp_ft", "lp_ft"), ("lp_lora", "lp_lora"))
_ADAPTED = (("ft", "lora"), ("lp_ft", "lp_lora"))
_ACCURATE: dict[str, Any] = {
    "place": _ACCURACY, "statistic": _success, "pairs": (*PAIRS, ("lp", "lp_ft")), "digits": 1,
    "untestable": _at_chance, "score": _score,
}  # fmt: skip
_MOST = (("ft", "lp_ft"), ("lora", "lp_ft"), ("lp_lora", "lp_ft"))
_REGRESSED: dict[str, Any] = {
    "place": _KERNELS, "pairs": _BEFORE, "on": "", "digits": 1, "test": "at least", "margin": 1.0,
}  # fmt: skip
_TESTED = (
    Claim(
        "1.lp", "LP ends with a larger ‖V‖ than {a} (log10 of the ratio)", _NORMS,
        _log_ratio(("a", "head_norm"), ("b", "head_norm")), (("ft", "lp"), ("lora", "lp")), "", 2,
    ),
    Claim(
        "1.random", "LP ends with a larger ‖V‖ than the random head of FT (log10 of the ratio)", _NORMS,
        _lengthened, (("lp", "lp"),), "", 2,
    ),
    Claim(
        "1.stays", "{b} keeps the ‖V‖ of LP (log10 of the ratio, within ±{margin:g})", _NORMS,
        _log_ratio(("a", "head_norm"), ("b", "head_norm")), (("lp", "lp_ft"), ("lp", "lp_lora")), "", 2,
        "within", 0.1, _not_longer,
    ),
    Claim(
        "1.growth", "without a penalty ‖V‖ still grows in the last 90 % of the steps", "Section 4.4",
        lambda frame, _, b, __: _values(frame, "head_norm", b) - _values(frame, "head_norm_tenth", b),
        (("lp", "lp"),), "", 2,
    ),
    Claim("2.Diff", "Diff(F) of {b} is smaller than of {a}", _CHANGE, _larger("Diff", -1), digits=2),
    Claim("2.among", "CS(F) among texts of {b} is larger than of {a}", _CHANGE, _larger("CS among texts")),
    Claim("2.CS", "CS(F) before and after of {b} is larger than of {a}", _CHANGE, _larger("CS")),
    Claim("2.FDR", "FDR(F) of {b} is smaller than of {a}", _CHANGE, _larger("FDR", -1)),
    Claim("2.FDR shifted", "FDR(F) of {b} is larger than of {a} on {split}", _CHANGE, _larger("FDR"), on="each ood"),
    Claim(
        "3.trend", "the larger ‖V0‖, the smaller Diff(F) of {b} (−ρ of Spearman; Page's test)", _SWEEP,
        _falls, (("lp_ft", "lp_ft"), ("ft", "ft"), ("lp_lora", "lp_lora"), ("lora", "lora")), digits=2, test="trend",
    ),
    Claim("3.below", "Diff(F) of {b} is below that of {a} at the largest ‖V0‖ of both", _SWEEP, _below, digits=2),
    Claim(
        "4.F", "F is at least as accurate as P on test texts at the initialisation of {b}{note} "
        "(points, margin {margin:g})",
        statistic=lambda *where: _ridge("F", "test")(*where) - _ridge("P", "test")(*where),
        untestable=_kernels_at_chance, **_REGRESSED,
    ),
    Claim(
        "4.between", "the test accuracy of P+F is weakly between those of P and F at the initialisation of {b}{note} "
        "(points, margin {margin:g})", statistic=_between, untestable=_kernels_at_chance, **_REGRESSED,
    ),
    Claim(
        "4.rank", "F has the higher rank than P at the initialisation of {b}{note} (log10 of the ratio)", _KERNELS,
        _log_ratio(("b", "rank of P"), ("b", "rank of F")), _BEFORE, "",
    ),
    Claim("4.ratio", "the FT ratio is larger for {b} than for {a}", _KERNELS, _larger("FT ratio"), on=""),
    Claim("4.norms", "‖F‖/‖P+F‖ is larger for {b} than for {a}", _KERNELS, _larger("‖F‖/‖P+F‖"), on=""),
    Claim(
        "5.rank", "F of {b} and of {a} have nearly the same rank (log10 of the ratio, within ±{margin:g})", _KERNELS,
        _log_ratio(("a", "rank of F"), ("b", "rank of F")), _ADAPTED, "", test="within", margin=0.1,
    ),
    Claim(
        "5.spectrum", "F of {b} and of {a} have nearly the same singular values, each over their sum (distance, within "
        "{margin:g})", "Figures 2, 7", lambda frame, _, b, __: _values(frame, "distance of spectra", b), _ADAPTED, "",
        test="within", margin=0.1,
    ),
    *(
        Claim(
            f"5.{name}", f"F of {{b}} is closer in shape to F of {{a}}{than} is (alignment)", "Proposition 4.4",
            _closer(reference), _ADAPTED, "",
        )
        for name, reference, than in (
            ("shuffled", "LoRA, texts shuffled", " than its own with the texts shuffled"),
            ("features", "features and head", " than ⟨φ, φ'⟩ V Vᵀ"),
            ("adapted", "adapted", " by the adapted weights than ⟨φ, φ'⟩ V Vᵀ"),
        )
    ),
    Claim(
        "6.classes", "blocks of one class stand out more in F than in P at the initialisation of {b}{note} "
        "(log10 of trace norms within over between classes)", "Figures 8, 9",
        lambda frame, _, b, __: _values(frame, "classes in F", b) - _values(frame, "classes in P", b),
        (("lp_ft", "lp_ft"), ("ft", "ft"), ("lp_lora", "lp_lora"), ("lora", "lora")), "",
    ),
    *(
        Claim(
            f"7.{metric}", f"temperature scaling takes more off the {metric} of {{b}} than of {{a}}", _CALIBRATION,
            pairs=_MOST, **_improvement(metric),
        )
        for metric in ("ECE", "MCE")
    ),
    Claim(
        "8.test", "{b} is at least as good as {a} on test ({score}, points, margin {margin:g})", test="at least",
        margin=1.0, **_ACCURATE,
    ),
    Claim("8.shift", "{b} is better than {a} out of distribution ({score}, mean of all sets)", on=SHIFT, **_ACCURATE),
    Claim("8.each", "{b} is better than {a} on {split} ({score}, points)", on="each ood", **_ACCURATE),
)  # fmt: skip
CLAIMS = {claim.id: claim for claim in _TESTED}
