"""Intervals against SciPy."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lpft_utils.common.table import Table
from lpft_utils.metrics.intervals import Interval, holm, interval, two_way_interval

VALUES = st.lists(st.floats(-100, 100), min_size=2, max_size=8)


@given(VALUES)
def test_interval_is_scipys_student_interval(values):
    got = interval(values)
    error = stats.sem(values)
    if error == 0:
        assert got.half_width == 0
        return
    low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=error)
    assert got.low == pytest.approx(low, rel=1e-9, abs=1e-9) and got.high == pytest.approx(high, rel=1e-9, abs=1e-9)
    assert got.n == len(values)


def test_one_value_has_a_mean_and_no_interval():
    one = interval([0.5])
    assert one.mean == 0.5 and math.isnan(one.half_width) and one.n == 1
    assert one.format(1, scale=100) == "50.0"
    assert str(one) == "0.50"


def test_text_shows_mean_and_half_width():
    assert Interval(0.8617, 0.0131, 3).format(1, scale=100) == "86.2 ± 1.3"
    assert str(Interval(0.5, 0.25, 3)) == "0.50 ± 0.25"


def test_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one value"):
        interval([])


@pytest.mark.parametrize("cell", ["0.25, -1.1, 3", "28 → 4", "(0.333, 0.400]"])
def test_numbers_of_a_cell_stay_on_one_line(cell):
    html = Table(pd.DataFrame({"norm": [cell], "statement": ["larger, by 3 points, than FT"]}))._repr_html_()
    shown = cell.replace(" ", "&nbsp;")
    assert f"<td>{shown}</td>" in html and "<td>larger, by 3 points, than FT</td>" in html


def test_an_interval_of_a_cell_may_break_after_its_sign_only():
    assert "<td>0.7&nbsp;± 0.1</td>" in Table(pd.DataFrame({"norm": ["0.7 ± 0.1"]}))._repr_html_()


@given(VALUES, st.floats(-50, 50))
def test_p_value_is_that_of_scipys_t_test(values, threshold):
    found = interval(values)
    if found.half_width > 1e-6:
        expected = stats.ttest_1samp(values, threshold).pvalue
        assert found.p_value(found.mean - threshold) == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_p_value_without_spread_or_without_an_interval():
    same = interval([2.0, 2.0, 2.0])
    assert (same.p_value(2.0), same.p_value(0.0)) == (0.0, 1.0)
    assert math.isnan(interval([2.0]).p_value(2.0)) and math.isnan(interval([2.0]).detectable)


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_detectable_effect_is_detected_in_four_of_five_studies(n):
    draws = np.random.default_rng(0).normal(size=(20_000, n))
    effect = Interval(0.0, stats.t.ppf(0.975, n - 1) * 1.0 / np.sqrt(n), n).detectable  # of a standard deviation of 1
    p = stats.ttest_1samp(draws + effect, 0.0, axis=1).pvalue
    assert np.mean(p < 0.05) == pytest.approx(0.8, abs=0.01)


def test_holm_by_hand():
    # Ordered: 0.01 · 4, 0.02 · 3, 0.03 · 2, 0.04 · 1; no value below the one before it.
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2] and holm([]) == []


def test_holm_keeps_the_risk_of_any_false_one_at_five_percent():
    p = np.random.default_rng(0).random((4000, 5))
    assert np.mean([min(holm(row)) < 0.05 for row in p]) == pytest.approx(0.05, abs=0.01)


def test_two_way_interval_covers_what_other_seeds_and_texts_would_give_and_that_over_seeds_does_not():
    rng = np.random.default_rng(0)
    n_seeds, n_texts, studies = 6, 40, 150
    covered = {"both": 0, "seeds": 0}
    for study in range(studies):  # true mean 0; seeds and texts both matter
        seeds, texts = rng.normal(size=(n_seeds, 1)) / 4, 1.5 * rng.normal(size=n_texts)
        x = seeds + texts + rng.normal(size=(n_seeds, n_texts))
        both = two_way_interval(lambda s, i, x=x: x[s, i[0]].mean(), n_seeds, [n_texts], n_draws=120, seed=study)
        seeds_alone = interval(x.mean(1).tolist())
        assert both.mean == pytest.approx(seeds_alone.mean) and both.n == n_seeds
        covered["both"] += both.low < 0 < both.high
        covered["seeds"] += seeds_alone.low < 0 < seeds_alone.high
    assert 0.93 <= covered["both"] / studies and covered["seeds"] / studies < 0.85


def test_two_way_interval_without_texts_that_matter_is_that_over_seeds():
    values = [0.1, 0.5, 0.2, 0.9, 0.4]
    found = two_way_interval(lambda s, _: values[s], 5, [30, 20], n_draws=4000)
    assert found.half_width == pytest.approx(interval(values).half_width, rel=0.05)
