"""Metrics of calibration against torchmetrics, scikit-learn and closed forms; recalibration against optimality."""

import numpy as np
import pytest
import torch
from constructed import drawn
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import brier_score_loss, log_loss
from torchmetrics.functional.classification import multiclass_calibration_error

from lpft_utils.common.errors import ParameterError
from lpft_utils.metrics import calibration as cal
from lpft_utils.metrics import sampling

CASES = st.tuples(st.integers(0, 10_000), st.integers(1, 80), st.integers(2, 6))

# ---- metrics ----


@given(CASES)
@settings(deadline=None, max_examples=60)
def test_ece_and_mce_are_those_of_torchmetrics_away_from_edges(case):
    f, y = drawn(*case)
    p = cal.softmax(f)
    to = {"num_classes": p.shape[1], "n_bins": 15}
    tensors = torch.tensor(p), torch.tensor(y)
    diagram = cal.reliability(p, y)
    assert diagram.ece == pytest.approx(multiclass_calibration_error(*tensors, **to).item(), abs=1e-6)
    expected = multiclass_calibration_error(*tensors, **to, norm="max").item()
    assert diagram.mce == pytest.approx(expected, abs=1e-6)


@given(CASES)
@settings(deadline=None, max_examples=60)
def test_metrics_without_bins_are_those_of_scikit_learn(case):
    f, y = drawn(*case)
    p = cal.softmax(f)
    C = p.shape[1]
    expected = brier_score_loss(y, p, labels=range(C), scale_by_half=False)
    found = cal.calibration_metrics(p, y)
    assert cal.brier(p, y) == found["Brier"] == pytest.approx(expected)
    assert cal.cross_entropy(f, y) == pytest.approx(found["NLL"]) == pytest.approx(log_loss(y, p, labels=range(C)))
    assert found["confidence"] == pytest.approx(p.max(1).mean())
    assert found["accuracy"] == np.mean(p.argmax(1) == y)
    assert (found["ECE"], found["MCE"]) == (cal.ece(p, y), cal.reliability(p, y).mce)


def test_cross_entropy_is_finite_where_a_probability_underflows():
    assert cal.cross_entropy([[800.0, 0.0], [800.0, 0.0]], [0, 1]) == 400
    assert cal.calibration_metrics(cal.softmax([[800.0, 0.0]]), [1])["NLL"] == np.inf


def test_closed_forms_of_the_binned_metrics():
    # 10 examples at 0.9, 7 right; 5 at 0.6, all right: gaps −0.2 and +0.4
    p = np.array([[0.9, 0.1]] * 10 + [[0.6, 0.4]] * 5)
    y = np.array([0] * 7 + [1] * 3 + [0] * 5)
    diagram = cal.reliability(p, y)
    assert diagram.counts[[8, 13]].tolist() == [5, 10] and diagram.counts.sum() == 15
    np.testing.assert_allclose(diagram.gap[[8, 13]], [0.4, -0.2])
    assert np.isnan(np.delete(diagram.gap, [8, 13])).all()
    assert cal.ece(p, y) == pytest.approx((10 * 0.2 + 5 * 0.4) / 15)
    assert diagram.mce == pytest.approx(0.4)
    assert cal.brier(p, y) == pytest.approx((7 * 0.02 + 3 * 1.62 + 5 * 0.32) / 15)


def test_bins_are_open_below_and_closed_above():
    edges = np.arange(16) / 15
    assert cal.equal_width(edges).tolist() == [0, *range(15)]
    assert cal.equal_width(np.nextafter(edges[:-1], 2)).tolist() == list(range(15))
    assert cal.equal_width(np.array([0.2, 0.6, 0.8])).tolist() == [2, 8, 11]  # typed edges 3/15, 9/15, 12/15
    assert cal.equal_width(np.array([0.0, 1.0, 1 + 1e-9])).tolist() == [0, 14, 14]


def test_certainty_one_class_and_fewer_examples_than_bins_are_fine():
    sure = np.eye(3)[[0, 1, 2, 0]]
    assert cal.calibration_metrics(sure, [0, 1, 2, 0]) == pytest.approx(
        {"accuracy": 1, "confidence": 1, "Brier": 0, "NLL": 0, "ECE": 0, "MCE": 0}
    )
    wrong = cal.calibration_metrics(sure, [1, 2, 0, 1])
    assert (wrong["ECE"], wrong["MCE"], wrong["Brier"], wrong["NLL"]) == (1, 1, 2, np.inf)
    assert cal.ece(np.ones((4, 1)), [0] * 4) == 0  # one class alone
    assert cal.ece(np.full((2, 2), 0.5), [0, 0]) == pytest.approx(0.5)  # one class among the labels


@given(arrays(np.float64, st.tuples(st.integers(1, 30), st.integers(1, 5)), elements=st.floats(-30, 30)))
@settings(deadline=None, max_examples=60)
def test_metrics_stay_in_range_and_ignore_the_order_of_examples(f):
    p = cal.softmax(f)
    y = np.arange(len(p)) % p.shape[1]
    diagram, got = cal.reliability(p, y), cal.calibration_metrics(p, y)
    assert 0 <= diagram.ece <= diagram.mce + 1e-12 <= 1 + 2e-12
    assert abs(got["accuracy"] - got["confidence"]) <= diagram.ece + 1e-12  # the triangle inequality
    assert cal.calibration_metrics(p[::-1], y[::-1]) == pytest.approx(got)


def test_torch_tensors_with_gradient_and_half_precision_are_accepted():
    f, y = drawn(0, 50, 3)
    p = torch.tensor(f, requires_grad=True).softmax(1)
    assert cal.calibration_metrics(p, torch.tensor(y)) == pytest.approx(cal.calibration_metrics(cal.softmax(f), y))
    assert cal.ece(p.float(), y) == pytest.approx(cal.ece(p, y), abs=1e-5)
    assert cal.softmax(torch.tensor(f).bfloat16()).sum() == pytest.approx(50)


@pytest.mark.parametrize(
    ("p", "y", "message"),
    [
        ([[0.5, 0.5], [np.nan, 1.0]], [0, 0], "NaN or infinite in 1 of 2 examples .first: row 1."),
        ([[0.5, 0.5], [2.0, -1.0]], [0, 0], "row 1"),
        ([[3.0, 1.0]], [0], "calibration.softmax"),
        ([[0.5, 0.4]], [0], "sum 0.9"),
        ([[0.5, 0.5]], [2], r"0 … 1, got 2 … 2"),
        ([[0.5, 0.5]], [-1], "got -1"),
        ([[0.5, 0.5]], [0.0], "integers, got float64"),
        ([[0.5, 0.5]], [0, 1], r"got shape \(2,\)"),
        ([0.5, 0.5], [0, 1], r"2 dimensions.*got shape \(2,\)"),
        (np.zeros((0, 2)), [], r"2 dimensions, not empty"),
        ([["0.5", "0.5"]], [0], "real numbers, got <U3"),
        ([[None, 0.5]], [0], "real numbers, got object"),
        ([[0.5, 0.5], [1.0]], [0, 0], "lists of equal lengths"),
        (np.array([[0.5 + 1j, 0.5]]), [0], "real numbers, got complex128"),
        (torch.tensor([[0.5 + 1j, 0.5]]), [0], "real numbers, got complex64"),
        ([[0.5, 0.5]], np.array([0], "timedelta64[s]"), "integers, got timedelta64"),
        ([[0.5, 0.5], [0.5, 0.5]], [0, [1]], "labels as an array or as lists of equal lengths"),
        (np.array([[0.7, 0.3]], np.float16), [0], "sum 1.00024; .*rounded in half precision. .*softmax in float32"),
        (torch.tensor([[0.7, 0.3]]).half(), [0], "softmax in float32"),
        ([[1.004, -0.004]], [0], "for logits"),
    ],
)
def test_bad_input_is_refused_with_the_reason(p, y, message):
    for function in (
        cal.ece,
        cal.calibration_metrics,
        cal.brier,
        cal.reliability,
        sampling.ece_interval,
    ):
        with pytest.raises(ParameterError, match=message):
            function(p, y)
