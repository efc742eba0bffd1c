"""Intervals against SciPy."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lpft_utils.common.table import Table
from lpft_utils.metrics.intervals import Interval, interval

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
