"""Intervals against SciPy."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lpft_utils.common.table import Table
from lpft_utils.metrics.intervals import Interval, interval, paired_difference

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


@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_paired_difference_holds_zero_exactly_when_the_paired_t_test_is_not_significant(shift):
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = rng.normal(size=5) + shift, rng.normal(size=5)
        got = paired_difference(list(a), list(b))
        test = stats.ttest_rel(a, b)
        assert (got.low <= 0 <= got.high) == (test.pvalue >= 0.05)
        low, high = test.confidence_interval(0.95)
        assert (got.low, got.high) == pytest.approx((low, high))


def test_pairing_removes_what_the_seeds_share():
    a, b = [1.0, 11.0, 21.0], [0.0, 10.0, 20.0]
    assert paired_difference(a, b) == Interval(1.0, 0.0, 3)
    assert interval(a).half_width > 10


def test_one_value_has_a_mean_and_no_interval():
    one = interval([0.5])
    assert one.mean == 0.5 and math.isnan(one.half_width) and one.n == 1
    assert one.format(1, scale=100) == "50.0"
    assert str(one) == "0.50"


def test_text_shows_mean_and_half_width():
    assert Interval(0.8617, 0.0131, 3).format(1, scale=100) == "86.2 ± 1.3"
    assert str(Interval(0.5, 0.25, 3)) == "0.50 ± 0.25"


def test_nothing_and_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match="at least one value"):
        interval([])
    with pytest.raises(ValueError, match="got 2 and 3"):
        paired_difference([1, 2], [1, 2, 3])


@pytest.mark.parametrize("cell", ["0.25, -1.1, 3", "28 → 4", "(0.333, 0.400]"])
def test_numbers_of_a_cell_stay_on_one_line(cell):
    html = Table(pd.DataFrame({"norm": [cell], "statement": ["larger, by 3 points, than FT"]}))._repr_html_()
    shown = cell.replace(" ", "&nbsp;")
    assert f"<td>{shown}</td>" in html and "<td>larger, by 3 points, than FT</td>" in html


def test_an_interval_of_a_cell_may_break_after_its_sign_only():
    assert "<td>0.7&nbsp;± 0.1</td>" in Table(pd.DataFrame({"norm": ["0.7 ± 0.1"]}))._repr_html_()
