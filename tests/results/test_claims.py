"""Verdicts on runs made up so that the answer is known."""

import pandas as pd
import pytest
from constructed import MadeUpRun

from lpft_utils.common.errors import ParameterError
from lpft_utils.metrics.intervals import Interval
from lpft_utils.results import claims
from lpft_utils.results.claims import Verdict, claim_2, claim_3, claim_8, ledger


@pytest.mark.parametrize(
    ("mean", "half_width", "n", "outcome"),
    [
        (1.0, 0.5, 3, "holds"),
        (-1.0, 0.5, 3, "fails"),
        (0.4, 0.5, 3, "undecided"),
        (-0.4, 0.5, 3, "undecided"),
        (0.5, 0.5, 3, "undecided"),  # touches zero
        (1.0, float("nan"), 1, "one seed"),
    ],
)
def test_outcome_follows_from_the_whole_interval(mean, half_width, n, outcome):
    assert Verdict(1, "x", Interval(mean, half_width, n)).outcome == outcome


def norms(starts, ends):
    return [MadeUpRun(head_norm=e, head_norm_init=s) for s, e in zip(starts, ends, strict=True)]


def test_lp_raises_the_norm():
    assert claims.lp_raises_norm(norms([1.0, 1.1, 0.9], [20.0, 21.0, 22.0])).outcome == "holds"
    assert claims.lp_raises_norm(norms([20.0, 21.0, 22.0], [1.0, 1.1, 0.9])).outcome == "fails"
    assert claims.lp_raises_norm(norms([1.0, 1.0, 1.0], [0.5, 1.0, 1.6])).outcome == "undecided"
    assert claims.lp_raises_norm(norms([1.0], [2.0])).outcome == "one seed"
    assert claims.lp_raises_norm(norms([1.0, 1.0, 1.0], [0.0, 0.0, 0.0])).outcome == "fails"  # the strongest penalty


def test_tuning_keeps_the_norm_that_lp_moves_in_either_direction():
    lp, still = norms([1.0] * 3, [10.0, 10**1.2, 10**1.4]), norms([1.0] * 3, [10**0.1, 10**-0.1, 10**0.2])
    verdict = claims.tuning_keeps_norm(lp, still, "FT")
    assert verdict.outcome == "holds" and "FT" in verdict.statement
    assert verdict.difference.mean == pytest.approx(((1 - 0.1) + (1.2 - 0.1) + (1.4 - 0.2)) / 3)
    shrunk = norms([50.0] * 3, [1.0, 2.0, 1.5])
    assert claims.tuning_keeps_norm(still, shrunk, "FT").outcome == "fails"


def test_norm_still_grows_after_a_tenth_of_the_steps():
    def descents(ends):
        steps = [0, 1, 10, 100, 1000]
        return [
            MadeUpRun(history=pd.DataFrame({"step": steps, "head_norm": [0.0, 1.0, 2.0, 3.0, end]})) for end in ends
        ]

    verdict = claims.norm_grows(descents([5.0, 5.1, 4.9]))
    assert verdict.outcome == "holds" and verdict.difference.mean == pytest.approx(2.0)
    assert claims.norm_grows(descents([2.0, 2.1, 1.9])).outcome == "fails"
    assert claims.norm_grows(descents([3.0, 3.1, 2.9])).outcome == "undecided"


def changed(rows, split="train"):
    return [MadeUpRun(change={split: dict(zip(("Diff", "CS", "FDR"), row, strict=True))}) for row in rows]


def test_smaller_change_of_features_is_small_diff_large_cs_small_fdr():
    ft = changed([(5.0, 0.30, 4.0), (5.1, 0.31, 4.1), (4.9, 0.29, 3.9)])
    lp_ft = changed([(1.0, 0.90, 1.0), (1.1, 0.91, 1.1), (0.9, 0.89, 0.9)])
    verdicts = claim_2(ft, lp_ft, ("FT", "LP-FT"))
    assert [v.outcome for v in verdicts] == ["holds"] * 3
    assert [v.difference.mean for v in verdicts] == pytest.approx([4.0, 0.6, 3.0])
    assert [v.outcome for v in claim_2(lp_ft, ft, ("FT", "LP-FT"))] == ["fails"] * 3
    assert all("of LP-FT" in v.statement for v in verdicts)


def test_each_measure_has_its_own_verdict():
    ft = changed([(5.0, 0.5, 1.0), (5.1, 0.6, 1.1), (4.9, 0.4, 0.9)], split="test")
    lp_ft = changed([(1.0, 0.6, 4.0), (1.1, 0.4, 4.1), (0.9, 0.5, 3.9)], split="test")
    outcomes = [v.outcome for v in claim_2(ft, lp_ft, ("FT", "LP-FT"), split="test")]
    assert outcomes == ["holds", "undecided", "fails"]


def swept(rows, split="train"):
    """Runs by norm; one value of Diff a seed."""
    return {norm: [MadeUpRun(change={split: {"Diff": d}}) for d in diffs] for norm, diffs in rows.items()}


def test_features_change_less_from_a_larger_head():
    falling = {100.0: [0.1, 0.2, 0.1], 1.0: [3.0, 3.1, 2.9], 10.0: [1.0, 1.2, 0.8]}  # in any order of norms
    order, ends = claim_3(swept(falling))
    assert (order.outcome, order.difference.mean) == ("holds", 1.0)
    assert ends.outcome == "holds" and ends.difference.mean == pytest.approx((2.9 + 2.9 + 2.8) / 3)
    assert ends.claim == 3 and "1 than at 100" in ends.statement
    rising = {norm: [10 - d for d in diffs] for norm, diffs in falling.items()}
    assert [v.outcome for v in claim_3(swept(rising))] == ["fails", "fails"]


def test_order_over_all_norms_and_difference_of_the_ends_are_two_verdicts():
    dented = {1.0: [3.0, 3.1, 3.2], 10.0: [0.5, 5.0, 0.5], 100.0: [1.0, 1.1, 1.2]}
    order, ends = claim_3(swept(dented, split="test"), split="test")
    # By hand: ranks (3, 1, 2), (2, 3, 1), (3, 1, 2) against (1, 2, 3), so ρ = -1/2 each time.
    assert order.difference.mean == pytest.approx(0.5) and ends.difference.mean == pytest.approx(2.0)
    mixed = claim_3(swept({1.0: [1.0, 3.0], 10.0: [2.0, 2.0], 100.0: [3.0, 1.0]}))
    assert [v.outcome for v in mixed] == ["undecided", "undecided"]
    constant = claim_3(swept({1.0: [1.0, 1.0], 10.0: [1.0, 1.0]}))
    assert [v.difference.mean for v in constant] == [0.0, 0.0]


@pytest.mark.parametrize("rows", [{}, {1.0: [1.0, 2.0]}, {1.0: [1.0, 2.0], 2.0: [1.0]}])
def test_sweep_without_two_norms_of_equal_seeds_is_refused(rows):
    with pytest.raises(ParameterError, match="at least two norms with the same seeds"):
        claim_3(swept(rows))


def accurate(*rows):
    return [MadeUpRun(accuracy={"train": 1.0, "test": t, "ood_b": o}) for t, o in rows]


def test_accuracy_is_compared_on_test_and_every_shifted_set_in_points():
    lp = accurate((0.70, 0.60), (0.71, 0.61), (0.69, 0.59))
    ft = accurate((0.80, 0.50), (0.82, 0.51), (0.78, 0.49))
    lp_ft = accurate((0.80, 0.65), (0.79, 0.66), (0.81, 0.64))
    verdicts = {v.statement: v for v in claim_8(lp, ft, lp_ft)}
    assert len(verdicts) == 4 and not any("train" in s for s in verdicts)
    got = [(v.outcome, round(v.difference.mean, 6)) for v in verdicts.values()]
    assert got == [("holds", 10.0), ("undecided", 0.0), ("holds", 5.0), ("holds", 15.0)]


def test_unequal_numbers_of_seeds_are_refused():
    with pytest.raises(ValueError):
        claim_8(accurate((0.7, 0.6)), accurate((0.7, 0.6)), accurate((0.7, 0.6), (0.8, 0.7)))


def test_ledger_is_a_table_of_the_verdicts():
    table = ledger([Verdict(8, "a", Interval(1.26, 0.51, 3), 1), Verdict(1, "b", Interval(2.0, float("nan"), 1), 2)])
    table = table.reset_index()[["claim", "statement", "difference (95 % interval)", "seeds", "outcome"]]
    assert list(table.iloc[0]) == [8, "a", "1.3 ± 0.5", 3, "holds"]
    assert list(table.iloc[1]) == [1, "b", "2.00", 1, "one seed"]
