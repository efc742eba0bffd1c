"""Recalibration against optimality, closed forms and scikit-learn."""

import numpy as np
import pytest
import torch
from constructed import drawn
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, special
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.naive_bayes import GaussianNB

from lpft_utils.common.errors import ParameterError
from lpft_utils.metrics import calibration as cal
from lpft_utils.metrics import recalibration as recal

CASES = st.tuples(st.integers(0, 10_000), st.integers(1, 80), st.integers(2, 6))


def loss(f, y) -> float:
    return float(np.mean(special.logsumexp(f, axis=1) - f[np.arange(len(y)), y]))


@given(CASES, st.floats(0.05, 50))
@settings(deadline=None, max_examples=60)
def test_temperature_is_the_optimum_and_changes_no_prediction(case, stretch):
    f, y = drawn(*case)
    f = stretch * f
    got = recal.fit_temperature(f, y)
    nll = loss(f / got.T, y)
    assert loss(f, y) + 1e-12 >= nll
    assert (got.apply(f).argmax(1) == f.argmax(1)).all()
    if got.limit == "":
        found = optimize.minimize_scalar(
            lambda u: loss(f * np.exp(u), y), bracket=(-np.log(got.T) - 1, -np.log(got.T) + 0.7), tol=1e-12
        )
        assert nll <= found.fun + 1e-12
        p = got.apply(f)
        slope = np.mean((p * f).sum(1) - f[np.arange(len(y)), y])
        curvature = np.mean((p * f**2).sum(1) - (p * f).sum(1) ** 2)
        assert abs(slope / max(curvature, 1e-300)) * got.T < 1e-6  # Newton's step in log T


def test_temperature_of_two_logits_has_a_closed_form():
    # margin m on every example, a share q right: σ(m / T) = q
    f, y = np.tile([8.0, 0.0], (10, 1)), np.repeat([0, 1], [9, 1])
    assert recal.fit_temperature(f, y).T == pytest.approx(8 / special.logit(0.9), rel=1e-9)
    stretched = recal.fit_temperature(7 * f, y)
    assert stretched.T == pytest.approx(7 * 8 / special.logit(0.9), rel=1e-9)  # T follows the norm of the logits
    assert cal.ece(stretched.apply(7 * f), y) == pytest.approx(0, abs=1e-9)


def test_temperature_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(200, 4)), rng.integers(0, 3, 200)
    model = LogisticRegression(C=100).fit(X[:60], y[:60])
    fitted = CalibratedClassifierCV(FrozenEstimator(model), method="temperature").fit(X[60:], y[60:])
    expected = 1 / fitted.calibrated_classifiers_[0].calibrators[0].beta_
    assert recal.fit_temperature(model.decision_function(X[60:]), y[60:]).T == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("f", "y", "limit", "T"),
    [
        ([[3.0, 0.0], [0.0, 1.0]], [0, 1], "separable", 1e-3),
        ([[900.0, 0.0], [0.0, 1e5]], [0, 1], "separable", 1e-3),
        ([[3.0, 0.0], [0.0, 1.0]], [1, 0], "bound", 1e3),  # the logits point away from the labels
        ([[0.0, 0.0], [2.0, 2.0]], [1, 0], "flat", 1.0),
        ([[5e4, 0.0]] * 3, [0, 0, 1], "bound", 1e3),
        ([[1e-5, 0.0]] * 3, [0, 0, 1], "bound", 1e-3),
        ([[1e6, -1e6], [-1e6, 1e6]], [0, 1], "separable", 1e-3),
        ([[1e6, -1e6], [-1e6, 1e6], [1.0, 0.0]], [0, 0, 1], "bound", 1e3),
    ],
)
@pytest.mark.filterwarnings("error")
def test_degenerate_logits_end_at_the_documented_bound_and_say_why(f, y, limit, T):
    got = recal.fit_temperature(f, y)
    assert got.limit == limit and got.T == pytest.approx(T)
    f = np.array(f)
    assert loss(f / got.T, y) <= loss(f, y) and np.isfinite(got.apply(f)).all()
    vector, scale = recal.fit_vector_scaling(f, y), recal.fit_head_scale(f, y, [0, 0])
    assert np.isfinite(vector.apply(f)).all() and np.isfinite([vector.w, vector.a]).all()
    assert loss(f * vector.w + vector.a, y) <= loss(f / got.T, y) + 1e-9
    assert 1 / scale.w == pytest.approx(T) and np.isfinite(scale.apply(f)).all()


def test_temperature_learnt_on_validation_repairs_an_overconfident_model_on_test():
    f, y = drawn(0, 20_000, 4)
    validation, test = slice(0, 10_000), slice(10_000, 20_000)
    got = recal.fit_temperature(5 * f[validation], y[validation])
    assert got.T == pytest.approx(5, rel=0.1)
    assert cal.ece(got.apply(5 * f[test]), y[test]) < 0.03 < 0.2 < cal.ece(cal.softmax(5 * f[test]), y[test])


def test_head_scale_is_temperature_when_the_bias_is_zero_or_scaled_too():
    f, y = drawn(2, 300, 3)
    f = 4 * f
    temperature, scale = recal.fit_temperature(f, y), recal.fit_head_scale(f, y, np.zeros(3))
    assert scale.w == pytest.approx(1 / temperature.T, rel=1e-9)
    np.testing.assert_allclose(scale.apply(f), temperature.apply(f), atol=1e-12)
    b = np.array([3.0, 0.0, -2.0])
    moved = recal.fit_head_scale(f + b, y, torch.tensor(b))
    s = moved.w[0]
    assert s != pytest.approx(1 / recal.fit_temperature(f + b, y).T, rel=1e-2)
    np.testing.assert_allclose(moved.apply(f + b), cal.softmax(s * f + b))
    around = [loss(k * s * f + b, y) for k in (0.99, 1, 1.01)]
    assert around[1] < min(around[0], around[2])


def test_vector_scaling_is_optimal_and_no_worse_than_temperature():
    f, y = drawn(4, 400, 3)
    f = f * [3.0, 1.0, 0.5] + [1.0, 0.0, -2.0]
    got = recal.fit_vector_scaling(f, y)
    assert loss(f * got.w + got.a, y) < loss(f / recal.fit_temperature(f, y).T, y) < loss(f, y)
    w, a = torch.tensor(got.w, requires_grad=True), torch.tensor(got.a, requires_grad=True)
    value = torch.nn.functional.cross_entropy(torch.tensor(f) * w + a, torch.tensor(y))
    value.backward()
    assert w.grad.abs().max() < 1e-5 and a.grad.abs().max() < 1e-5
    np.testing.assert_allclose(got.w * [3.0, 1.0, 0.5], 1, atol=0.35)
    np.testing.assert_allclose(got.apply(f), torch.softmax(torch.tensor(f * got.w + got.a), 1))


def least_vector_nll(u: np.ndarray, y: np.ndarray) -> float:
    """Damped Newton on softmax(w ∘ u + a), with second derivatives: for standardised u, whose optimum is finite."""
    rows, C = np.arange(len(y)), u.shape[1]
    design = np.concatenate([u[:, :, None] * np.eye(C), np.tile(np.eye(C), (len(y), 1, 1))], axis=2)  # (N, C, 2C)
    x = np.zeros(2 * C)
    for _ in range(100):
        p = special.softmax(design @ x, axis=1)
        slope = np.einsum("nc,nck->k", p - np.eye(C)[y], design)
        curvature = np.einsum("nc,nck,ncl->kl", p, design, design)
        seen = np.einsum("nc,nck->nk", p, design)
        step = np.linalg.lstsq(curvature - seen.T @ seen, slope, rcond=1e-12)[0]
        value = loss(design @ x, y)
        x = next((x - t * step for t in 0.5 ** np.arange(40) if loss(design @ (x - t * step), y) <= value), x)
    assert np.abs(slope).max() < 1e-8 * len(rows)
    return loss(design @ x, y)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("scale", "shift"),
    [
        (1, 0),
        (1e-4, [3, -2, 1]),
        (1e-4, 5),
        (1, 1e6),
        (1e5, 0),
        ([1e-3, 1, 1e5], [10, -1e4, 0]),
        (-1, 0),
    ],
)
def test_vector_scaling_reaches_the_optimum_wherever_the_columns_lie(seed, scale, shift):
    u, y = drawn(seed, 250, 3, 1.0)
    u = u * [3.0, 1.0, 0.5]
    expected = least_vector_nll(u, y)  # w and a undo any scale and shift of a column
    f = u * scale + np.asarray(shift)
    got = recal.fit_vector_scaling(f, y)
    assert log_loss(y, got.apply(f)) == pytest.approx(expected, abs=1e-7)


def test_vector_scaling_with_a_constant_column_is_logistic_regression():
    rng = np.random.default_rng(0)
    f = np.c_[np.full(200, 5.0), 2 * rng.normal(size=200)]
    y = (rng.random(200) < special.expit(f[:, 1])).astype(int)
    oracle = LogisticRegression(C=np.inf, tol=1e-10).fit(f[:, 1:], y)
    got = recal.fit_vector_scaling(f, y)
    assert log_loss(y, got.apply(f)) == pytest.approx(log_loss(y, oracle.predict_proba(f[:, 1:])), abs=1e-8)
    assert got.w[1] == pytest.approx(oracle.coef_[0, 0], rel=1e-4)


def test_isotonic_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(300, 4)), rng.integers(0, 3, 300)
    model = GaussianNB().fit(X[:30], y[:30])  # without a decision function scikit-learn, too, maps probabilities
    fitted = CalibratedClassifierCV(FrozenEstimator(model), method="isotonic", ensemble=False).fit(X[30:], y[30:])
    got = recal.fit_isotonic(model.predict_log_proba(X[30:]), y[30:])
    X_new = rng.normal(size=(100, 4))
    np.testing.assert_allclose(got.apply(model.predict_log_proba(X_new)), fitted.predict_proba(X_new), atol=1e-9)


def test_isotonic_row_of_zeros_becomes_uniform():
    p = np.array([[0.6, 0.38, 0.02], [0.02, 0.6, 0.38], [0.38, 0.02, 0.6]])
    got = recal.fit_isotonic(np.log(p), [0, 1, 2])
    np.testing.assert_allclose(got.apply(np.log(p)), np.eye(3), atol=1e-12)
    np.testing.assert_allclose(got.apply(np.log([[0.36, 0.33, 0.31]])), np.full((1, 3), 1 / 3), atol=1e-12)


@pytest.mark.parametrize(
    "fit",
    [
        recal.fit_temperature,
        recal.fit_vector_scaling,
        recal.fit_isotonic,
        lambda f, y: recal.fit_head_scale(f, y, [0, 0]),
    ],
)
def test_recalibration_refuses_bad_input(fit):
    with pytest.raises(ParameterError, match="logits are NaN"):
        fit([[np.inf, 0.0]], [0])
    with pytest.raises(ParameterError, match="0 … 1"):
        fit([[1.0, 0.0]], [2])
    with pytest.raises(ParameterError, match="2 dimensions, not empty"):
        fit(np.zeros((0, 2)), [])


def test_wrong_biases_and_numbers_of_classes_are_refused():
    f, y = drawn(0, 30, 3)
    with pytest.raises(ParameterError, match="expected logits of 2 classes, got 3"):
        recal.fit_head_scale(f, y, [0.0, 0.0])
    with pytest.raises(ParameterError, match="the bias are NaN or infinite"):
        recal.fit_head_scale(f, y, [0.0, np.nan, 0.0])
    fits = recal.fit_vector_scaling(f, y), recal.fit_isotonic(f, y), recal.fit_head_scale(f, y, [0.0, 1.0, 2.0])
    for fitted in fits:
        with pytest.raises(ParameterError, match="expected logits of 3 classes, got 2"):
            fitted.apply([[0.0, 1.0]])
