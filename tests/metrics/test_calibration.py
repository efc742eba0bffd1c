"""Metrics of calibration against torchmetrics, scikit-learn and closed forms; recalibration against optimality."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import optimize, special, stats
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, log_loss
from sklearn.naive_bayes import GaussianNB
from torchmetrics.functional.classification import multiclass_calibration_error

from lpft_utils.common.errors import ParameterError
from lpft_utils.metrics import calibration as cal
from lpft_utils.metrics import recalibration as recal
from lpft_utils.metrics import sampling


def drawn(seed: int, N: int, C: int, scale: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels that follow softmax(logits): calibrated at T = 1."""
    rng = np.random.default_rng(seed)
    f = scale * rng.normal(size=(N, C))
    return f, (f + rng.gumbel(size=(N, C))).argmax(1)


CASES = st.tuples(st.integers(0, 10_000), st.integers(1, 80), st.integers(2, 6))

# ---- metrics ----


@given(CASES, st.integers(1, 25))
@settings(deadline=None, max_examples=60)
def test_ece_and_mce_are_those_of_torchmetrics_away_from_edges(case, bins):
    f, y = drawn(*case)
    p = cal.softmax(f)
    to = {"num_classes": p.shape[1], "n_bins": bins}
    tensors = torch.tensor(p), torch.tensor(y)
    diagram = cal.reliability(p, y, bins)
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


@given(
    arrays(np.float64, st.tuples(st.integers(1, 30), st.integers(1, 5)), elements=st.floats(-30, 30)),
    st.integers(1, 20),
)
@settings(deadline=None, max_examples=60)
def test_metrics_stay_in_range_and_ignore_the_order_of_examples(f, bins):
    p = cal.softmax(f)
    y = np.arange(len(p)) % p.shape[1]
    diagram, got = cal.reliability(p, y, bins), cal.calibration_metrics(p, y)
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
        (np.array([[0.7, 0.3]], np.float16), [0], "sum 1.00024; rounded in half precision. .*softmax in float32"),
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
        sampling.debiased_ece,
    ):
        with pytest.raises(ParameterError, match=message):
            function(p, y)


@pytest.mark.parametrize("bins", [0, -3, 2.5, True])
def test_bad_numbers_of_bins_are_refused(bins):
    with pytest.raises(ParameterError, match="bins must be a positive integer"):
        cal.reliability([[0.5, 0.5]], [0], bins)


# ---- what chance does ----


def test_bootstrap_interval_is_that_of_the_binomial_distribution_where_there_is_one_bin():
    # confidence 0.8 everywhere, k of 400 right: ECE = |k / 400 − 0.8|, and k of a resample is Binomial(400, 0.6)
    p, y = np.tile([0.8, 0.2], (400, 1)), np.repeat([0, 1], [240, 160])
    ends = 0.8 - stats.binom.ppf([0.975, 0.025], 400, 0.6) / 400
    assert sampling.ece_interval(p, y, 4000) == pytest.approx(ends, abs=0.004)


def test_bootstrap_draws_confidences_and_labels_together():
    p, y = np.repeat([[0.9, 0.1], [0.6, 0.4]], 50, axis=0), np.repeat([0, 1], 50)  # gaps 0.1 and −0.6 always
    low, high = sampling.ece_interval(p, y, 2000)
    k = stats.binom.ppf([0.025, 0.975], 100, 0.5) / 100
    assert (low, high) == pytest.approx(0.1 + 0.5 * k, abs=0.011)
    assert sampling.ece_interval(p, y) == sampling.ece_interval(p, y) != sampling.ece_interval(p, y, seed=1)


def test_perfect_ece_has_the_closed_form_mean_in_one_bin():
    # one bin, confidence q: ECE = |k/N − q|, and E|k/N − 1/2| for N = 4 is 3/16
    draws = sampling.ece_under_calibration(np.full((4, 2), 0.5), 20_000)
    assert draws.mean() == pytest.approx(3 / 16, abs=0.004)
    large = sampling.ece_under_calibration(np.tile([0.9, 0.1], (2000, 1)), 4000)
    assert large.mean() == pytest.approx(np.sqrt(2 / np.pi * 0.09 / 2000), rel=0.05)


def test_perfect_ece_is_the_error_of_labels_drawn_from_the_probabilities():
    p = cal.softmax(drawn(1, 60, 4)[0])
    rng = np.random.default_rng(0)
    direct = [cal.ece(p, [rng.choice(4, p=row) for row in p]) for _ in range(400)]
    draws = sampling.ece_under_calibration(p, 4000)
    assert np.mean(direct) == pytest.approx(draws.mean(), abs=4 * np.std(direct) / 20)
    assert np.std(direct) == pytest.approx(draws.std(), rel=0.2)


def test_chance_explains_the_ece_of_a_calibrated_model_and_not_that_of_an_overconfident_one():
    results = [sampling.debiased_ece(cal.softmax(f), y, 300) for f, y in (drawn(s, 100, 3) for s in range(60))]
    assert all(r.ece > 0 for r in results) and np.mean([r.ece for r in results]) > 0.08
    assert abs(np.mean([r.corrected for r in results])) < 0.01
    assert np.mean([r.ece > r.chance_high for r in results]) < 0.15
    f, y = drawn(0, 100, 3)
    sharp = sampling.debiased_ece(cal.softmax(5 * f), y, 300)
    assert sharp.ece == pytest.approx(cal.ece(cal.softmax(5 * f), y))
    assert sharp.corrected > 0.05 and sharp.ece > sharp.chance_high


@pytest.mark.parametrize("n_draws", [0, 1.5, "3", None, True])
@pytest.mark.parametrize("call", [sampling.ece_interval, sampling.debiased_ece])
def test_bad_numbers_of_draws_are_refused(call, n_draws):
    with pytest.raises(ParameterError, match=f"n_draws must be a positive integer, got {n_draws!r}"):
        call([[0.5, 0.5]] * 2, [0, 1], n_draws)


# ---- recalibration ----


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
    assert 1 / scale.s == pytest.approx(T) and np.isfinite(scale.apply(f)).all()


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
    assert scale.s == pytest.approx(1 / temperature.T, rel=1e-9)
    np.testing.assert_allclose(scale.apply(f), temperature.apply(f), atol=1e-12)
    b = np.array([3.0, 0.0, -2.0])
    moved = recal.fit_head_scale(f + b, y, torch.tensor(b))
    assert moved.s != pytest.approx(1 / recal.fit_temperature(f + b, y).T, rel=1e-2)
    np.testing.assert_allclose(moved.apply(f + b), cal.softmax(moved.s * f + b))
    around = [loss(s * f + b, y) for s in (0.99 * moved.s, moved.s, 1.01 * moved.s)]
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
