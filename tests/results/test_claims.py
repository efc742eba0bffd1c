"""Verdicts on runs made up so that the answer is known."""

import math
import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import sklearn.metrics
from constructed import MadeUpRun

from lpft_utils.common.errors import ParameterError
from lpft_utils.metrics.intervals import Interval, holm
from lpft_utils.results.claims import adjusted, evaluate, ledger, verdict_of
from lpft_utils.results.frame import results
from lpft_utils.results.statements import CLAIMS

PLAN = SimpleNamespace(tasks={}, role=lambda *_: "secondary", smallest=lambda *_: None)


def planned(**roles):
    """A plan with one endpoint, 2.Diff, on tasks of these roles."""
    return SimpleNamespace(
        tasks={task: {"role": role} for task, role in roles.items()},
        role=lambda task, statistic, rate: roles[task] if statistic == "2.Diff" and task in roles else "secondary",
        smallest=lambda task, statistic, rate: 0.5 if statistic == "2.Diff" and task in roles else None,
    )


def judged(claim, mean, half_width, n=3, **more):
    frame = results([])
    where = (*CLAIMS[claim].pairs[0], "")
    return adjusted([verdict_of(CLAIMS[claim], Interval(mean, half_width, n), where, frame, PLAN, **more)])[0]


@pytest.mark.parametrize(
    ("claim", "mean", "half_width", "outcome"),
    [
        ("2.Diff", 1.0, 0.5, "holds"),
        ("2.Diff", -1.0, 0.5, "fails"),
        ("2.Diff", 0.4, 0.5, "undecided"),
        ("2.Diff", -0.4, 0.5, "undecided"),
        ("8.test", 0.0, 0.9, "holds"),  # at least as good, with a margin of one point: the interval is above -1
        ("8.test", 0.0, 1.1, "undecided"),
        ("8.test", -0.5, 0.4, "holds"),  # worse, by less than the margin
        ("8.test", -2.0, 0.9, "fails"),
        ("8.test", -2.0, 1.1, "undecided"),
        ("8.shift", 0.0, 0.9, "undecided"),  # better, not at least as good
        ("5.rank", 0.02, 0.07, "holds"),  # within 0.1
        ("5.rank", -0.02, 0.09, "undecided"),
        ("5.rank", -0.3, 0.1, "fails"),
        ("5.rank", 0.3, 0.25, "undecided"),
    ],
)
def test_outcome_follows_from_the_whole_interval_and_the_threshold(claim, mean, half_width, outcome):
    assert judged(claim, mean, half_width).outcome == outcome


def test_one_seed_is_no_verdict_and_a_reason_is_one():
    assert judged("2.Diff", 1.0, math.nan, 1).outcome == "one seed"
    told = judged("2.Diff", 1.0, 0.5, reason="no method above chance")
    assert (told.outcome, told.shown) == ("not testable", "not testable: no method above chance")


def test_an_undecided_effect_below_what_is_of_interest_is_said_to_be():
    small = judged("2.Diff", 0.1, 0.3, smallest=0.5)
    assert small.bounded and small.shown == "undecided: below the smallest effect of interest"
    assert judged("2.Diff", 0.1, 0.5, smallest=0.5).shown == "undecided"
    assert judged("2.Diff", 0.3, 0.1, smallest=0.5).shown == "holds"


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


def ends(method, initial, ends):
    return norms(method, initial, [10**x for x in ends])


def test_lp_ends_above_fine_tuning_and_what_follows_it_stays_there():
    runs = [*ends("lp", [1.0] * 3, [1.0, 1.2, 1.4]), *ends("ft", [1.0] * 3, [0.1, -0.1, 0.2])]
    above, _, stays = evaluate([*runs, *ends("lp_ft", [1.0] * 3, [1.01, 1.21, 1.41])], "1")
    assert [v.record.id for v in (above, stays)] == ["1.lp", "1.stays"] and outcomes([above, stays]) == ["holds"] * 2
    assert above.statement.startswith("LP ends with a larger ‖V‖ than FT")
    assert above.difference.mean == pytest.approx((0.9 + 1.3 + 1.2) / 3)
    moved = ends("lp_ft", [1.0] * 3, [0.5, 0.7, 0.95])
    assert outcomes(evaluate([*runs, *moved], "1.stays")) == ["fails"]


def test_a_head_that_lp_shortened_does_not_show_that_tuning_keeps_a_long_one():
    """CoLA: the strongest penalty shrinks the head, and fine-tuning leaves it where it is."""
    runs = [*ends("lp", [1.0] * 3, [-2.0, -2.1, -1.9]), *ends("ft", [1.0] * 3, [0.0, 0.01, 0.0])]
    (stays,) = evaluate([*runs, *ends("lp_ft", [1.0] * 3, [-2.0, -2.1, -1.9])], "1.stays")
    assert stays.shown == "not testable: LP is not seen to lengthen the head"
    assert outcomes(evaluate(runs, "1.lp", "1.random")) == ["fails", "fails"]


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


def swept(rows, method="lp_ft", factor=1.0):
    """Runs by norm; one value of Diff per seed."""
    return {
        norm: [
            MadeUpRun(method, seed, change={"test": {"Diff": d}}, head_norm_0=factor * norm)
            for seed, d in enumerate(diffs)
        ]
        for norm, diffs in rows.items()
    }


FALLING = {100.0: [0.1, 0.2, 0.1], 1.0: [3.0, 3.1, 2.9], 10.0: [1.0, 1.2, 0.8], 5.0: [2.0, 2.2, 1.8]}  # in any order


def test_features_change_less_from_a_larger_head_by_pages_test():
    (trend,) = evaluate(swept(FALLING), "3")
    assert (trend.claim, trend.record.id, trend.outcome, trend.difference.mean) == (3, "3.trend", "holds", 1.0)
    # By hand: one order of 4! in each of three seeds; both sides.
    assert trend.p == pytest.approx(2 * (1 / 24) ** 3)
    rising = {norm: [10 - d for d in diffs] for norm, diffs in FALLING.items()}
    assert outcomes(evaluate(swept(rising), "3")) == ["fails"]
    random = {norm: np.random.default_rng(int(norm)).normal(size=3) for norm in FALLING}
    assert outcomes(evaluate(swept(random), "3")) == ["undecided"]
    (constant,) = evaluate(swept({1.0: [1.0, 1.0], 10.0: [1.0, 1.0], 100.0: [1.0, 1.0]}), "3")
    assert (constant.outcome, constant.difference.mean) == ("undecided", 0.0)


def test_the_trend_that_would_be_detected_is_infinite_where_even_a_perfect_one_would_not():
    few = evaluate(swept({1.0: [2.0, 2.0], 10.0: [1.0, 1.0], 100.0: [0.5, 0.1]}), "3")[0]
    assert (few.p, few.detectable, few.outcome) == (pytest.approx(2 / 36), math.inf, "undecided")
    eight = {2.0**k: list(np.random.default_rng(k).normal(size=3)) for k in range(8)}
    found = evaluate(swept(eight), "3")[0].detectable
    rng = np.random.default_rng(0)
    order = np.arange(8)
    detected = []
    slope = 0.33  # so that the mean of Spearman's coefficient is what is said to be detectable
    for _ in range(300):
        data = slope * order + rng.normal(size=(3, 8))
        rho = np.mean([scipy.stats.spearmanr(order, row).statistic for row in data])
        detected.append((rho, 2 * scipy.stats.page_trend_test(data).pvalue < 0.05))
    rho, share = np.mean(detected, axis=0)
    assert rho == pytest.approx(found, abs=0.03) and 0.8 <= share <= 0.95


def test_both_curves_are_compared_at_the_largest_norm_that_both_reach():
    """FT's random head is shorter: its factor of 100 is a norm that LP's head has at a factor of 10."""
    lp_ft = swept({1.0: [2.0, 2.2], 10.0: [1.0, 1.1], 100.0: [0.5, 0.5]}, factor=10.0)
    ft = swept({1.0: [4.0, 4.1], 10.0: [3.0, 3.3], 100.0: [2.0, 2.3]}, "ft")
    both = {norm: lp_ft[norm] + ft[norm] for norm in lp_ft}
    (below,) = evaluate(both, "3.below")
    assert below.difference.mean == pytest.approx(((2.0 - 1.0) + (2.3 - 1.1)) / 2)
    assert [v.statement for v in evaluate(both, "3.trend")] == [
        f"the larger ‖V0‖, the smaller Diff(F) of {m} (−ρ of Spearman; Page's test)" for m in ("LP-FT", "FT")
    ]
    apart = swept({norm: [2.0, 2.2] for norm in ft}, factor=1e6)
    with pytest.raises(ParameterError, match=r"claim 3\.below"):
        evaluate({norm: apart[norm] + ft[norm] for norm in apart}, "3.below")


def test_a_sweep_of_two_norms_is_refused():
    with pytest.raises(ParameterError, match="claim 3: expected results with its metrics"):
        evaluate(swept({1.0: [1.0, 2.0], 2.0: [1.0, 2.0]}), "3")


def accurate(method, *rows, seeds=(0, 1, 2)):
    pairs = zip(seeds, rows, strict=False)
    return [MadeUpRun(method, s, accuracy={"train": 1.0, "test": t, "ood_b": o}) for s, (t, o) in pairs]


LP = accurate("lp", (0.70, 0.60), (0.71, 0.61), (0.69, 0.59))
FT = accurate("ft", (0.80, 0.50), (0.82, 0.51), (0.78, 0.49))


def test_accuracy_is_compared_on_test_and_every_shifted_set_in_points():
    lp_ft = accurate("lp_ft", (0.80, 0.65), (0.79, 0.66), (0.81, 0.64))
    verdicts = {(v.record.id, v.where[0]): v for v in evaluate([*LP, *FT, *lp_ft], "8")}
    got = {k: (v.outcome, round(v.difference.mean, 6)) for k, v in verdicts.items()}
    assert got == {
        ("8.test", "ft"): ("undecided", 0.0), ("8.test", "lp"): ("holds", 10.0),
        ("8.each", "ft"): ("holds", 15.0), ("8.each", "lp"): ("holds", 5.0),
    }  # fmt: skip
    assert verdicts["8.each", "ft"].statement == "LP-FT is better than FT on b (OOD) (accuracy, points)"


def shifted(method, *rows, **more):
    names = ("test", "ood_b", "ood_c")
    return [MadeUpRun(method, s, accuracy=dict(zip(names, row, strict=True)), **more) for s, row in enumerate(rows)]


def test_the_mean_over_shifted_sets_is_an_endpoint_of_its_own():
    ft = shifted("ft", (0.8, 0.5, 0.6), (0.8, 0.5, 0.7))
    lp_ft = shifted("lp_ft", (0.8, 0.6, 0.8), (0.8, 0.5, 0.9))
    (verdict,) = evaluate([*ft, *lp_ft], "8.shift")
    assert verdict.difference.mean == pytest.approx(100 * (0.15 + 0.1) / 2) and verdict.where[2] == "ood"


@pytest.mark.parametrize(("majority", "outcome"), [(0.5, "holds"), (0.85, "not testable")])
def test_accuracies_that_the_most_frequent_class_reaches_are_not_compared(majority, outcome):
    share = {"majority": {"test": majority, "ood_b": 0.1, "ood_c": 0.1}}
    ft = shifted("ft", (0.80, 0.5, 0.6), (0.81, 0.5, 0.7), (0.79, 0.5, 0.6), **share)
    lp_ft = shifted("lp_ft", (0.80, 0.6, 0.8), (0.81, 0.5, 0.9), (0.79, 0.5, 0.9), **share)
    assert outcomes(evaluate([*ft, *lp_ft], "8.test")) == [outcome]


def test_cola_is_judged_by_matthews_correlation():
    def runs(method, *values):
        made = [MadeUpRun(method, s, accuracy={"test": 0.7}, MCC={"test": m}) for s, m in enumerate(values)]
        for run in made:
            run.spec.task = "cola"
        return made

    (verdict,) = evaluate([*runs("ft", 0.3, 0.31, 0.32), *runs("lp_ft", 0.4, 0.41, 0.42)], "8", plan=PLAN)
    assert verdict.outcome == "holds" and verdict.difference.mean == pytest.approx(10)
    assert "(MCC, points, margin 1)" in verdict.statement
    nothing = [*runs("ft", 0.0, 0.0, 0.0), *runs("lp_ft", 0.0, 0.01, -0.01)]
    assert evaluate(nothing, "8", plan=PLAN)[0].shown == "not testable: no method above chance"


def guessed(method, seed, right, synthetic=False):
    """A run that is right on these of the texts, all of class 1."""
    logits = np.stack([np.zeros(len(right)), np.where(right, 1.0, -1.0)], axis=1)
    predictions = {"test": (logits, np.ones(len(right), dtype=int))}
    return MadeUpRun(method, seed, predictions=predictions, task={"synthetic": synthetic})


def test_texts_that_every_seed_shares_widen_the_interval():
    rng = np.random.default_rng(0)
    easier = rng.random(60) < 0.5  # on these texts alone LP-FT is right and FT is not, with every seed
    pairs = [(easier & (rng.random(60) < 0.9), np.zeros(60, dtype=bool)) for _ in range(4)]
    runs = [guessed(m, s, pair[m == "ft"]) for s, pair in enumerate(pairs) for m in ("ft", "lp_ft")]
    (both,) = evaluate(runs, "8.test")
    (seeds,) = evaluate(results(runs), "8.test")
    assert (both.over, seeds.over) == ("seeds × texts", "seeds")
    assert both.difference.mean == pytest.approx(seeds.difference.mean)
    assert both.difference.half_width > 2 * seeds.difference.half_width
    generated = [guessed(m, s, pair[m == "ft"], True) for s, pair in enumerate(pairs) for m in ("ft", "lp_ft")]
    (own,) = evaluate(generated, "8.test")
    assert own.over == "seeds, each with its own texts" and own.difference == seeds.difference


def test_cola_over_texts_is_the_correlation_of_scikit_learn():
    rng = np.random.default_rng(0)
    y = rng.integers(3, size=80)
    for predicted in (np.where(rng.random(80) < 0.5, y, rng.integers(3, size=80)), np.zeros(80, dtype=int)):
        score = CLAIMS["8.test"].score(predicted, y, "MCC")
        for texts in (np.arange(80), rng.integers(80, size=79), np.flatnonzero(y == 1)):
            expected = 100 * sklearn.metrics.matthews_corrcoef(y[texts], predicted[texts])
            assert score(texts) == pytest.approx(expected, abs=1e-9)


def calibrated(method, rows):
    """ECE before and after temperature scaling, one pair per seed."""
    names = ("task", "backbone", "method", "seed", "split", "metric", "value")
    made = []
    for seed, (before, after) in enumerate(rows):
        for metric, value in (("ECE", before), ("ECE, TS", after)):
            made.append(("made up", "none", method, seed, "test", metric, value))
    return pd.DataFrame(made, columns=names)


def test_calibration_is_about_how_much_temperature_scaling_takes_off():
    ft = calibrated("ft", [(0.10, 0.05), (0.11, 0.05), (0.10, 0.06)])
    lp_ft = calibrated("lp_ft", [(0.25, 0.05), (0.26, 0.05), (0.24, 0.06)])
    (verdict,) = evaluate(pd.concat([ft, lp_ft]), "7.ECE")
    assert verdict.outcome == "holds" and verdict.difference.mean == pytest.approx((0.15 + 0.15 + 0.14) / 3)
    fine = [calibrated(m, [(0.05, 0.05), (0.05, 0.06), (0.05, 0.05)]) for m in ("ft", "lp_ft")]
    assert "no miscalibration that a temperature takes away" in evaluate(pd.concat(fine), "7.ECE")[0].shown


def test_statements_of_a_claim_share_the_risk_and_primary_endpoints_are_a_family_of_their_own():
    rng = np.random.default_rng(0)
    names = ("Diff", "CS", "FDR")
    draws = {m: rng.normal(size=(4, 3)) + (0 if m == "ft" else 1.5) * np.array([-1, 1, -1]) for m in ("ft", "lp_ft")}
    frame = results([r for m, rows in draws.items() for r in changed(m, rows)])
    alone = {v.record.id: v for v in evaluate(frame, "2", plan=planned(**{"made up": "primary"}))}
    together = {v.record.id: v for v in evaluate(frame, "2", plan=PLAN)}
    assert [v.role for v in alone.values()] == ["primary", "secondary", "secondary"] and len(names) == len(together)
    p = [v.p for v in together.values()]
    assert [v.p_holm for v in together.values()] == pytest.approx(holm(p)) != pytest.approx(p)
    assert alone["2.Diff"].p_holm == pytest.approx(p[0]) and alone["2.Diff"].smallest == 0.5
    assert [alone[k].p_holm for k in ("2.CS", "2.FDR")] == pytest.approx(holm(p[1:]))


def test_a_task_that_the_plan_shows_without_a_verdict_has_none():
    runs = [*changed("ft", [(5.0, 0, 0), (5.1, 0, 0)]), *changed("lp_ft", [(1.0, 0, 0), (1.1, 0, 0)])]
    (verdict,) = evaluate(runs, "2.Diff", plan=planned(**{"made up": "shown"}))
    assert verdict.shown == "not testable: shown without a verdict, by the plan"


def test_runs_are_paired_by_seed_in_any_order():
    lp_ft = accurate("lp_ft", (0.9, 0.7), (0.8, 0.6), (0.85, 0.65), seeds=(2, 0, 7))
    verdict = evaluate([*LP, *lp_ft], "8")[0]
    assert verdict.difference.n == 2 and verdict.where == ("lp", "lp_ft", "test")
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
        assert not re.search(r"\{(?!a|b|split|score|margin|note)", claim.statement)


def test_ledger_is_a_table_of_the_verdicts():
    table = ledger([judged("8.test", 1.26, 0.51), judged("1.lp", 2.0, float("nan"), 1)]).reset_index()
    assert list(table.iloc[0])[::8] == [8, "holds"] and list(table.columns)[-1] == "outcome"
    shown = table[["endpoint", "difference (95 % interval)", "over", "seeds", "detectable", "p (Holm)"]]
    p = 2 * scipy.stats.t.sf((1.26 + 1) / (0.51 / scipy.stats.t.ppf(0.975, 2)), 2)
    detectable = f"{5.6535 * 0.51 / scipy.stats.t.ppf(0.975, 2):.1f}"
    assert list(shown.iloc[0]) == ["secondary", "1.3 ± 0.5", "seeds", 3, detectable, f"{p:.2g}"]
    assert list(shown.iloc[1]) == ["secondary", "2.00", "seeds", 1, "", ""]
    assert list(table["outcome"]) == ["holds", "one seed"]
