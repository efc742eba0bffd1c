"""The paper's claims as tests on measured runs.

A claim is a direction ("smaller", "larger"), tested on the difference paired by seed: it *holds* if the whole interval
lies on the claimed side, *fails* if the whole interval lies on the other side, and is *undecided* else. Numbering as in
the paper's ledger (see the appendix of the book). With three seeds an interval is wide; "undecided" is an honest and
frequent outcome.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
from scipy import stats

from lpft_utils.common.errors import ParameterError
from lpft_utils.common.names import split_label
from lpft_utils.common.table import Table
from lpft_utils.metrics.intervals import Interval, interval, paired_difference
from lpft_utils.runs.store import Run
from lpft_utils.studies.calibration import temperature_scaled
from lpft_utils.training.methods import METHODS

if TYPE_CHECKING:  # who has no kernels need not load the engine
    from lpft_utils.studies.initialisation import Initialisation


@dataclass(frozen=True)
class Verdict:
    """What the runs say about one statement of a claim.

    Attributes:
        claim: Number of the claim in the ledger.
        statement: The statement, as a sentence.
        difference: Interval of the quantity that the statement says is positive.
        digits: Decimals to show.
    """

    claim: int
    statement: str
    difference: Interval
    digits: int = 3

    @property
    def outcome(self) -> str:
        """What the interval says: "holds", "fails", "undecided", or "one seed" where no interval can be given."""
        if self.difference.n < 2:
            return "one seed"
        if self.difference.low > 0:
            return "holds"
        return "fails" if self.difference.high < 0 else "undecided"


def lp_raises_norm(lp: Sequence[Run]) -> Verdict:
    """Claim 1, first half: LP ends with a larger ‖V‖ than the random head that FT starts from.

    Norms span orders of magnitude, so they are compared by the logarithm of their ratio.

    Args:
        lp: LP runs, one a seed.

    Returns:
        The verdict on log10(‖V‖ / ‖V_random‖).
    """
    statement = "LP ends with a larger ‖V‖ than the random head of FT (log10 of the ratio)"
    return Verdict(1, statement, interval(_log_ratios(lp)), 2)


def tuning_keeps_norm(lp: Sequence[Run], tuned: Sequence[Run], name: str) -> Verdict:
    """Claim 1, second half: fine-tuning from the random head moves ‖V‖ by a smaller factor than LP does.

    Args:
        lp: LP runs, one a seed.
        tuned: Tuned runs of the same seeds.
        name: Name of the tuned method for the statement.

    Returns:
        The verdict on the difference of |log10(‖V‖ / ‖V_random‖)|.
    """
    statement = f"LP changes ‖V‖ by a larger factor than {name} does (difference of log10)"
    probed, moved = ([abs(x) for x in _log_ratios(runs)] for runs in (lp, tuned))
    return Verdict(1, statement, paired_difference(probed, moved), 2)


def norm_grows(descents: Sequence[Run]) -> Verdict:
    """Claim 1, its reason: without a penalty ‖V‖ still grows in the last nine tenths of the steps.

    Args:
        descents: LP runs by gradient descent (`lp="gd"`), one a seed.

    Returns:
        Whether the norm at the end is above the norm at a tenth of the steps.
    """
    end, tenth = [], []
    for run in descents:
        step, norm = run.history["step"].to_numpy(), run.history["head_norm"].to_numpy()
        end.append(float(norm[-1]))
        tenth.append(float(norm[step <= step[-1] // 10][-1]))
    statement = "without a penalty ‖V‖ still grows in the last 90 % of the steps"
    return Verdict(1, statement, paired_difference(end, tenth), 2)


def claim_2(plain: Sequence[Run], probed: Sequence[Run], names: tuple[str, str], split: str = "train") -> list[Verdict]:
    """Claim 2: after LP, fine-tuning changes the features less: smaller Diff, larger CS, smaller FDR.

    Args:
        plain: FT or LoRA runs, one a seed.
        probed: LP-FT or LP-LoRA runs of the same seeds.
        names: Names of the two methods for the statements, such as ("LoRA", "LP-LoRA").
        split: Split on which features are compared.

    Returns:
        One verdict for each of Diff, CS and FDR.
    """

    def values(runs: Sequence[Run], key: str) -> list[float]:
        return [run.metrics["change"][split][key] for run in runs]

    a, b = names
    return [
        Verdict(2, f"Diff(F) of {b} is smaller than of {a}", _more(plain, probed, values, "Diff"), 2),
        Verdict(2, f"CS(F) of {b} is larger than of {a}", _more(probed, plain, values, "CS"), 3),
        Verdict(2, f"FDR(F) of {b} is smaller than of {a}", _more(plain, probed, values, "FDR"), 3),
    ]


def claim_3(sweep: Mapping[float, Sequence[Run]], split: str = "train") -> list[Verdict]:
    """Claim 3: the larger ‖V0‖ is at the start of fine-tuning, the less the features change.

    Args:
        sweep: Runs by the norm that LP's head was scaled to (`sweeps.head_norm_sweep`): at least two norms, the same
            seeds in the same order at each.
        split: Split on which features are compared.

    Returns:
        Two verdicts: on −ρ, with ρ Spearman's rank correlation of norm and Diff over the norms of one seed (0 where
        Diff is constant), and on Diff at the smallest norm minus Diff at the largest.

    Raises:
        ParameterError: If there are fewer than two norms, or their numbers of runs differ.
    """
    norms = sorted(sweep)
    if len(norms) < 2 or len({len(sweep[norm]) for norm in norms}) != 1:
        counts = {norm: len(sweep[norm]) for norm in norms}
        raise ParameterError(f"claim_3: expected at least two norms with the same seeds at each, got {counts} runs.")
    diffs = [[run.metrics["change"][split]["Diff"] for run in sweep[norm]] for norm in norms]
    order = [-_rank_correlation(norms, by_norm) for by_norm in zip(*diffs, strict=True)]
    span = f"{norms[0]:.3g} than at {norms[-1]:.3g}"
    return [
        Verdict(3, "the larger ‖V0‖, the smaller Diff(F) (−ρ of Spearman over the norms)", interval(order), 2),
        Verdict(3, f"Diff(F) is larger at ‖V0‖ = {span}", paired_difference(diffs[0], diffs[-1]), 2),
    ]


def claim_4(by_seed: Sequence[Mapping[str, Initialisation]]) -> list[Verdict]:
    """Claim 4: after LP the share of F in the kernel (the FT ratio) rises.

    That P keeps its spectrum needs no test at the start: P depends on φ_0 alone, which all starts share.

    Args:
        by_seed: Results of `kernels.initialisations`, one a seed.

    Returns:
        One verdict for each pair of starts that is there: FT and LP-FT, LoRA and LP-LoRA.
    """
    from lpft_utils.kernel_methods.statistics import ft_ratio  # here, because it brings the engine

    verdicts = []
    for plain, probed in (("ft", "lp_ft"), ("lora", "lp_lora")):
        if plain in by_seed[0] and probed in by_seed[0]:
            a, b = ([ft_ratio(s[m].train.P, s[m].train.F) for s in by_seed] for m in (plain, probed))
            statement = f"‖F‖/‖P+F‖ is larger at the start of {METHODS[probed].label} than of {METHODS[plain].label}"
            verdicts.append(Verdict(4, statement, paired_difference(b, a), 3))
    return verdicts


def claim_5(by_seed: Sequence[Mapping[str, Initialisation]], method: str = "lp_ft", note: str = "") -> list[Verdict]:
    """Claim 5: after LP, kernel regression with P + F fits better than with P alone.

    Ridge regression, its penalty chosen for each kernel by leave-one-out.

    Args:
        by_seed: Results of `kernels.initialisations`, one a seed.
        method: The start.
        note: Added to the statements, to tell kernels of different heads apart.

    Returns:
        Training accuracy, leave-one-out error and test accuracy, P + F against P.
    """
    starts = [found[method] for found in by_seed]
    fits = [(start.regression("K"), start.regression("P")) for start in starts]
    accuracy = {}
    for part in ("train", "test"):
        labels = [start.labels if part == "train" else start.test_labels for start in starts]
        whole, alone = ([100 * f[i].accuracy(y, part) for f, y in zip(fits, labels, strict=True)] for i in (0, 1))
        accuracy[part] = paired_difference(whole, alone)
    ratio = interval([math.log10(float(p.errors.min()) / float(k.errors.min())) for k, p in fits])
    where = f"at the start of {METHODS[method].label}{note}"
    return [
        Verdict(5, f"P+F fits the training labels better than P {where} (points)", accuracy["train"], 1),
        Verdict(5, f"P+F has the smaller leave-one-out error {where} (log10 of the ratio)", ratio, 3),
        Verdict(5, f"P+F is more accurate than P on test texts {where} (points)", accuracy["test"], 1),
    ]


def claim_6(plain: Sequence[Run], probed: Sequence[Run], names: tuple[str, str], split: str = "test") -> list[Verdict]:
    """Claim 6: after LP, tuned models are less calibrated, and temperature scaling closes most of the difference.

    "Most" is more than half: |difference before| / 2 − |difference after|, seed by seed, is positive. Where there is no
    difference before, there is nothing to close, and the second verdict of a measure says nothing.

    Args:
        plain: FT or LoRA runs, one a seed.
        probed: LP-FT or LP-LoRA runs of the same seeds.
        names: Names of the two methods for the statements, such as ("LoRA", "LP-LoRA").
        split: Split on which calibration is measured; temperatures are fitted on validation.

    Returns:
        Two verdicts for ECE and two for MCE.
    """
    a, b = names
    measured = [[temperature_scaled(run, split).metrics for run in runs] for runs in (plain, probed)]
    verdicts = []
    for key in ("ECE", "MCE"):
        before, after = (
            [q[i][key] - p[i][key] for p, q in zip(*measured, strict=True)] for i in (0, 1)
        )  # without and with temperature scaling, one value a seed
        closed = [abs(x) / 2 - abs(y) for x, y in zip(before, after, strict=True)]
        verdicts += [
            Verdict(6, f"{key} of {b} is larger than of {a}, without temperature scaling", interval(before)),
            Verdict(
                6, f"temperature scaling closes most of the difference in {key} between {a} and {b}", interval(closed)
            ),
        ]
    return verdicts


def claim_7(by_seed: Sequence[pd.DataFrame], method: str = "ft") -> list[Verdict]:
    """Claim 7: the kernel of LoRA is close in shape to the kernel of FT.

    "Close" needs something to be closer than. Two references: LoRA's own kernel with its texts in random order, which
    shares everything but what it says about single texts; and ⟨φ, φ'⟩ V Vᵀ, which knows features and head but no
    gradient, and costs nothing. Alignments are of kernels centred among the texts.

    Args:
        by_seed: Results of `lora_study.alignment_to_ft`, one a seed.
        method: The start that they are of, "ft" or "lp_ft".

    Returns:
        Three verdicts on differences of alignment: with F of all weights against both references, and with F of the
        adapted weights against the second.
    """
    name = {"ft": "LoRA", "lp_ft": "LP-LoRA"}[method]
    cases = (
        ("all", METHODS[method].label, "LoRA, texts shuffled", "its own with the texts shuffled"),
        ("all", METHODS[method].label, "features and head", "⟨φ, φ'⟩ V Vᵀ"),
        ("adapted", f"{METHODS[method].label} by the adapted weights", "features and head", "⟨φ, φ'⟩ V Vᵀ"),
    )
    verdicts = []
    for key, whole, reference, what in cases:
        a, b = ([float(found.loc[row, f"{key}, centred"]) for found in by_seed] for row in ("LoRA", reference))
        statement = f"F of {name} is closer in shape to F of {whole} than {what} is (alignment)"
        verdicts.append(Verdict(7, statement, paired_difference(a, b), 3))
    return verdicts


def claim_8(lp: Sequence[Run], ft: Sequence[Run], lp_ft: Sequence[Run]) -> list[Verdict]:
    """Claim 8: LP-FT is at least as accurate as LP and FT in distribution, and better out of distribution.

    Args:
        lp: LP runs, one a seed.
        ft: FT runs of the same seeds.
        lp_ft: LP-FT runs of the same seeds.

    Returns:
        LP-FT minus LP and LP-FT minus FT on the test set and on every out-of-distribution set (accuracy in points).
    """
    splits = ["test", *(name for name in lp_ft[0].metrics["accuracy"] if name.startswith("ood_"))]
    verdicts = []
    for split in splits:
        for runs, name in ((lp, "LP"), (ft, "FT")):
            gain = paired_difference(
                [100 * run.accuracy(split) for run in lp_ft], [100 * run.accuracy(split) for run in runs]
            )
            verdicts.append(Verdict(8, f"LP-FT is more accurate than {name} on {split_label(split)}", gain, 1))
    return verdicts


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
            "seeds": v.difference.n,
            "outcome": v.outcome,
        }
        for v in verdicts
    ]
    return Table(pd.DataFrame(rows).set_index("claim"))


def _rank_correlation(x: Sequence[float], y: Sequence[float]) -> float:
    """Spearman's ρ, and 0 where y is constant and so has no order."""
    if len(set(y)) == 1:
        return 0.0
    result: Any = stats.spearmanr(x, y)
    return float(result.statistic)


def _log_ratios(runs: Sequence[Run]) -> list[float]:
    """log10(‖V‖ / ‖V_random‖); a head that a strong penalty has made zero counts as ‖V‖ = 1e-6."""
    return [math.log10(max(run.metrics["head_norm"], 1e-6) / run.metrics["head_norm_init"]) for run in runs]


def _more(larger: Sequence[Run], smaller: Sequence[Run], values, key: str) -> Interval:  # noqa: ANN001
    return paired_difference(values(larger, key), values(smaller, key))
