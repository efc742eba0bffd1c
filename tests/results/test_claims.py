"""Verdicts on runs made up so that the answer is known."""

import re

import pandas as pd
import pytest
from constructed import MadeUpRun

from lpft_utils.common.errors import ParameterError
from lpft_utils.metrics.intervals import Interval
from lpft_utils.results.claims import CLAIMS, Verdict, evaluate, ledger


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


def outcomes(verdicts):
    return [v.outcome for v in verdicts]


def norms(method, initial, ends):
    pairs = zip(initial, ends, strict=True)
    return [MadeUpRun(method, seed, head_norm=e, head_norm_init=s) for seed, (s, e) in enumerate(pairs)]


@pytest.mark.parametrize(
    ("initial", "ends", "outcome"),
    [
        ([1.0, 1.1, 0.9], [20.0, 21.0, 22.0], "holds"),
        ([20.0, 21.0, 22.0], [1.0, 1.1, 0.9], "fails"),
        ([1.0, 1.0, 1.0], [0.5, 1.0, 1.6], "undecided"),
        ([1.0], [2.0], "one seed"),
        ([1.0, 1.0, 1.0], [0.0, 0.0, 0.0], "fails"),  # the strongest penalty
    ],
)
def test_lp_raises_the_norm(initial, ends, outcome):
    assert outcomes(evaluate(norms("lp", initial, ends), "1")) == [outcome]


def test_tuning_keeps_the_norm_that_lp_moves_in_either_direction():
    lp = norms("lp", [1.0] * 3, [10.0, 10**1.2, 10**1.4])
    still = norms("ft", [1.0] * 3, [10**0.1, 10**-0.1, 10**0.2])
    (verdict,) = evaluate([*lp, *still], "1.tuning")
    assert verdict.outcome == "holds" and "than FT does" in verdict.statement
    assert verdict.difference.mean == pytest.approx(((1 - 0.1) + (1.2 - 0.1) + (1.4 - 0.2)) / 3)
    shrunk = norms("lora", [50.0] * 3, [1.0, 2.0, 1.5])
    assert outcomes(evaluate([*norms("lp", [1.0] * 3, [1.1] * 3), *shrunk], "1.tuning")) == ["fails"]


def test_norm_still_grows_after_a_tenth_of_the_steps():
    def descents(ends):
        steps = [0, 1, 10, 100, 1000]
        histories = [pd.DataFrame({"step": steps, "head_norm": [0.0, 1.0, 2.0, 3.0, end]}) for end in ends]
        return [MadeUpRun("lp", i, lp="gd", history=h, head_norm=ends[i]) for i, h in enumerate(histories)]

    (verdict,) = evaluate(descents([5.0, 5.1, 4.9]), "1.growth")
    assert verdict.outcome == "holds" and verdict.difference.mean == pytest.approx(2.0)
    assert outcomes(evaluate(descents([2.0, 2.1, 1.9]), "1.growth")) == ["fails"]
    assert outcomes(evaluate(descents([3.0, 3.1, 2.9]), "1.growth")) == ["undecided"]


def changed(method, rows):
    changes = [dict(zip(("Diff", "CS", "FDR"), row, strict=True)) for row in rows]
    return [MadeUpRun(method, seed, change={"test": change}) for seed, change in enumerate(changes)]


def test_smaller_change_of_features_is_small_diff_large_cs_small_fdr():
    large, small = [(5.0, 0.30, 4.0), (5.1, 0.31, 4.1), (4.9, 0.29, 3.9)], [(1.0, 0.9, 1.0), (1.1, 0.91, 1.1)]
    small.append((0.9, 0.89, 0.9))
    verdicts = evaluate([*changed("ft", large), *changed("lp_ft", small)], "2")
    assert outcomes(verdicts) == ["holds"] * 3
    assert [v.difference.mean for v in verdicts] == pytest.approx([4.0, 0.6, 3.0])
    assert all("of LP-FT" in v.statement and v.statement.endswith("of FT") for v in verdicts)
    verdicts = evaluate([*changed("lora", small), *changed("lp_lora", large)], "2")
    assert outcomes(verdicts) == ["fails"] * 3 and all("of LP-LoRA" in v.statement for v in verdicts)


def test_each_measure_has_its_own_verdict():
    ft = changed("ft", [(5.0, 0.5, 1.0), (5.1, 0.6, 1.1), (4.9, 0.4, 0.9)])
    lp_ft = changed("lp_ft", [(1.0, 0.6, 4.0), (1.1, 0.4, 4.1), (0.9, 0.5, 3.9)])
    assert outcomes(evaluate([*ft, *lp_ft], "2")) == ["holds", "undecided", "fails"]


def swept(rows):
    """Runs by norm; one value of Diff per seed."""
    return {
        norm: [MadeUpRun("lp_ft", seed, change={"test": {"Diff": d}}) for seed, d in enumerate(diffs)]
        for norm, diffs in rows.items()
    }


def test_features_change_less_from_a_larger_head():
    falling = {100.0: [0.1, 0.2, 0.1], 1.0: [3.0, 3.1, 2.9], 10.0: [1.0, 1.2, 0.8]}  # in any order of norms
    order, ends = evaluate(swept(falling), "3")
    assert (order.outcome, order.difference.mean) == ("holds", 1.0)
    assert ends.outcome == "holds" and ends.difference.mean == pytest.approx((2.9 + 2.9 + 2.8) / 3)
    assert ends.claim == 3 and "1 than at 100" in ends.statement
    rising = {norm: [10 - d for d in diffs] for norm, diffs in falling.items()}
    assert outcomes(evaluate(swept(rising))) == ["fails", "fails"]


def test_order_over_all_norms_and_difference_of_the_ends_are_two_verdicts():
    dented = {1.0: [3.0, 3.1, 3.2], 10.0: [0.5, 5.0, 0.5], 100.0: [1.0, 1.1, 1.2]}
    order, ends = evaluate(swept(dented), "3")
    # By hand: ranks (3, 1, 2), (2, 3, 1), (3, 1, 2) against (1, 2, 3), so ρ = -1/2 each time.
    assert order.difference.mean == pytest.approx(0.5) and ends.difference.mean == pytest.approx(2.0)
    mixed = evaluate(swept({1.0: [1.0, 3.0], 10.0: [2.0, 2.0], 100.0: [3.0, 1.0]}), "3")
    assert outcomes(mixed) == ["undecided", "undecided"]
    constant = evaluate(swept({1.0: [1.0, 1.0], 10.0: [1.0, 1.0]}), "3")
    assert [v.difference.mean for v in constant] == [0.0, 0.0]


def test_a_sweep_of_one_norm_is_refused():
    with pytest.raises(ParameterError, match="claim 3: expected results with its metrics"):
        evaluate(swept({1.0: [1.0, 2.0]}), "3")


def accurate(method, *rows, seeds=(0, 1, 2)):
    pairs = zip(seeds, rows, strict=False)
    return [MadeUpRun(method, s, accuracy={"train": 1.0, "test": t, "ood_b": o}) for s, (t, o) in pairs]


LP = accurate("lp", (0.70, 0.60), (0.71, 0.61), (0.69, 0.59))
FT = accurate("ft", (0.80, 0.50), (0.82, 0.51), (0.78, 0.49))


def test_accuracy_is_compared_on_test_and_every_shifted_set_in_points():
    lp_ft = accurate("lp_ft", (0.80, 0.65), (0.79, 0.66), (0.81, 0.64))
    verdicts = {v.statement: v for v in evaluate([*LP, *FT, *lp_ft], "8")}
    assert list(verdicts) == [
        f"LP-FT is more accurate than {m} on {s}" for s in ("test", "b (OOD)") for m in ("LP", "FT")
    ]
    got = [(v.outcome, round(v.difference.mean, 6)) for v in verdicts.values()]
    assert got == [("holds", 10.0), ("undecided", 0.0), ("holds", 5.0), ("holds", 15.0)]


def test_runs_are_paired_by_seed_in_any_order():
    lp_ft = accurate("lp_ft", (0.9, 0.7), (0.8, 0.6), (0.85, 0.65), seeds=(2, 0, 7))
    verdict = evaluate([*LP, *lp_ft], "8")[0]
    assert verdict.difference.n == 2
    assert verdict.difference.mean == pytest.approx(100 * ((0.9 - 0.69) + (0.8 - 0.70)) / 2)


def test_a_seed_of_which_a_run_diverged_is_left_out_and_counted():
    lp_ft = accurate("lp_ft", (0.80, 0.65), (0.79, 0.66))
    lost = MadeUpRun("lp_ft", 2, diverged=True, accuracy={"test": float("nan"), "ood_b": 0.3})
    verdict = evaluate([*LP, *lp_ft, lost], "8")[0]
    assert (verdict.difference.n, verdict.diverged) == (2, 1)
    assert verdict.difference.mean == pytest.approx((10 + 8) / 2)
    assert ledger([verdict]).iloc[0]["seeds"] == "2 (1 diverged)"


def test_a_ledger_says_that_test_is_the_published_validation_set():
    lp, lp_ft = (
        [MadeUpRun(m, s, accuracy={"test": a + s, "ood_b": a}, task={"test_is_validation": True}) for s in (0, 1)]
        for m, a in (("lp", 0.7), ("lp_ft", 0.8))
    )
    on_test, shifted = evaluate([*lp, *lp_ft], "8")
    assert "“test”: the published validation set" in repr(ledger([on_test])) and not shifted.note
    assert "validation" not in repr(ledger([shifted]))


def test_a_claim_on_a_method_of_which_every_run_diverged_does_not_vanish():
    lost = [MadeUpRun("lp_ft", seed, diverged=True, accuracy={"test": 0.3, "ood_b": 0.3}) for seed in (0, 1)]
    verdicts = evaluate([*LP, *lost], "8")
    assert verdicts and {v.outcome for v in verdicts} == {"diverged"}
    assert ledger(verdicts).iloc[0]["seeds"] == "0 (2 diverged)"


@pytest.mark.parametrize(("runs", "wanted"), [([*LP, *FT], "2"), ([], "8"), ([*LP, *FT], "9")])
def test_a_claim_that_the_results_do_not_allow_is_named(runs, wanted):
    with pytest.raises(ParameterError, match=f"claim {wanted}: .*Known claims: 1.lp"):
        evaluate(runs, wanted)


def test_a_seed_that_is_there_twice_is_refused():
    lp_ft = accurate("lp_ft", (0.9, 0.7), (0.8, 0.6), seeds=(1, 1))
    with pytest.raises(ParameterError, match="one accuracy per seed of lp_ft, got seeds 1, 1"):
        evaluate([*LP, *lp_ft], "8")


def test_every_claim_says_where_the_paper_makes_it():
    for name, claim in CLAIMS.items():
        assert name.startswith(f"{claim.number}.") and claim.place
        assert not re.search(r"\{(?!a|b|split|low|high|note)", claim.statement)


def test_ledger_is_a_table_of_the_verdicts():
    table = ledger([Verdict(8, "a", Interval(1.26, 0.51, 3), 1), Verdict(1, "b", Interval(2.0, float("nan"), 1), 2)])
    table = table.reset_index()[["claim", "statement", "difference (95 % interval)", "seeds", "outcome"]]
    assert list(table.iloc[0]) == [8, "a", "1.3 ± 0.5", 3, "holds"]
    assert list(table.iloc[1]) == [1, "b", "2.00", 1, "one seed"]
