"""Kernel regressions against scikit-learn, dense solves and literal refits."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.metrics import accuracy_score, log_loss
from sklearn.model_selection import StratifiedKFold

from lpft_utils.common.errors import KernelError
from lpft_utils.kernel_methods import newton
from lpft_utils.kernel_methods.regression import logistic, ridge
from lpft_utils.studies.published_code import published


def problem(N=24, C=3, M=7, rank=40, seed=0):
    """Kernels of random Jacobians whose mean depends on the class: train, test, labels, test labels."""
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(C), rng.integers(0, C, N + M - C)])
    J = rng.normal(size=(N + M, C, rank))
    J[np.arange(N + M), y] += 0.6 * rng.normal(size=rank)
    K = torch.tensor(np.einsum("ncp,mdp->ncmd", J, J[:N]))
    labels = torch.tensor(y)
    return K[:N], labels[:N], K[N:], labels[N:]


def linear_problem(N=40, C=3, M=15, H=6, seed=0):
    """Features and K = (Φ Φᵀ) ⊗ I_C."""
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(C), rng.integers(0, C, N + M - C)])
    phi = rng.normal(size=(N + M, H)) + rng.normal(size=(C, H))[y]
    gram = torch.tensor(phi @ phi[:N].T)
    K = gram[:, None, :, None] * torch.eye(C, dtype=torch.float64)[None, :, None, :]
    return phi[:N], phi[N:], y[:N], y[N:], K[:N], K[N:]


# ---- ridge ----


def dense_ridge(K, y, penalty, K_test):
    """(K + λI)⁻¹ by a plain solve; predictions for the rows of K_test."""
    N, C = K.shape[:2]
    Y = torch.nn.functional.one_hot(y, C).double() - 1 / C
    alpha = torch.linalg.solve(K.reshape(N * C, N * C) + penalty * torch.eye(N * C, dtype=torch.float64), Y.flatten())
    return (K_test.reshape(-1, N * C) @ alpha).view(-1, C) + 1 / C


@settings(max_examples=15, deadline=None)
@given(st.integers(4, 9), st.integers(2, 4), st.integers(1, 60), st.floats(1e-3, 1e3), st.integers(0, 1000))
def test_ridge_leave_one_out_is_that_of_literal_refits(N, C, rank, penalty, seed):
    K, y, _, _ = problem(N, C, 1, rank, seed)
    fit = ridge(K, y, penalties=[penalty])
    refits = torch.empty(N, C, dtype=torch.float64)
    for i in range(N):
        rest = [j for j in range(N) if j != i]
        refits[i] = dense_ridge(K[rest][:, :, rest], y[rest], penalty, K[i : i + 1][:, :, rest])
    torch.testing.assert_close(fit.held_out, refits, atol=1e-8, rtol=1e-8)
    Y = torch.nn.functional.one_hot(y, C)
    assert fit.errors[0].item() == pytest.approx((Y - refits).square().sum(1).mean().item(), rel=1e-8)


def test_ridge_predictions_are_those_of_a_dense_solve():
    K, y, K_test, y_test = problem()
    fit = ridge(K, y, K_test)
    torch.testing.assert_close(fit.train, dense_ridge(K, y, fit.penalty, K), atol=1e-7, rtol=0)
    assert fit.test is not None
    torch.testing.assert_close(fit.test, dense_ridge(K, y, fit.penalty, K_test), atol=1e-7, rtol=0)
    assert fit.accuracy(y_test) == accuracy_score(y_test, fit.test.argmax(1))
    assert fit.accuracy(y, "train") == accuracy_score(y, fit.train.argmax(1))


def test_ridge_on_a_diagonal_kernel_is_scikit_learns():
    phi, phi_test, y, _, K, K_test = linear_problem()
    fit = ridge(K, torch.tensor(y), K_test, penalties=[3.7])
    oracle = KernelRidge(alpha=3.7).fit(phi, np.eye(3)[y] - 1 / 3)
    np.testing.assert_allclose(fit.test, oracle.predict(phi_test) + 1 / 3, atol=1e-10)
    np.testing.assert_allclose(fit.alpha, oracle.dual_coef_, atol=1e-10)


def test_ridge_takes_the_penalty_of_the_smallest_error_from_the_grid():
    K, y, _, _ = problem(N=30, rank=200)
    fit = ridge(K, y)
    each = [ridge(K, y, penalties=[p]).errors[0].item() for p in fit.penalties.tolist()]
    np.testing.assert_allclose(fit.errors, each, rtol=1e-12)
    assert fit.penalty == fit.penalties[int(np.argmin(each))]
    scale = K.reshape(90, 90).diagonal().mean()
    assert fit.penalties[0] == pytest.approx(1e-6 * scale) and fit.penalties[-1] == pytest.approx(1e3 * scale)


def test_scaling_the_kernel_changes_no_prediction():
    K, y, K_test, _ = problem()
    for fit in (ridge, logistic):
        a, b = fit(K, y, K_test), fit(1000 * K, y, 1000 * K_test)
        assert b.penalty == pytest.approx(1000 * a.penalty)
        torch.testing.assert_close(a.test, b.test, atol=1e-6, rtol=0)


def test_float32_rounding_of_the_kernel_is_harmless():
    K, y, K_test, _ = problem(rank=10)  # singular: rounding makes eigenvalues negative
    assert torch.linalg.eigvalsh(K.float().double().reshape(72, 72))[0] < 0
    for fit in (ridge, logistic):
        penalty = [1e-2 * K.reshape(72, 72).diagonal().mean().item()]
        exact, rounded = fit(K, y, K_test, penalty), fit(K.float(), y, K_test.float(), penalty)
        torch.testing.assert_close(exact.test, rounded.test, atol=1e-4, rtol=0)


# ---- logistic ----


@pytest.mark.parametrize("C", [3, 4])
@pytest.mark.parametrize("strength", [1e-3, 1.0, 1e3])
def test_logistic_on_a_diagonal_kernel_is_scikit_learns(C, strength):
    phi, phi_test, y, _, K, K_test = linear_problem(C=C)
    fit = logistic(K, torch.tensor(y), K_test, penalties=[1 / (strength * len(y))])
    oracle = LogisticRegression(C=strength, fit_intercept=False, tol=1e-12, max_iter=100_000, solver="newton-cg")
    oracle.fit(phi, y)
    np.testing.assert_allclose(fit.alpha.numpy().T @ phi, oracle.coef_, atol=1e-6 * np.abs(oracle.coef_).max())
    np.testing.assert_allclose(fit.test.softmax(1), oracle.predict_proba(phi_test), atol=1e-6)
    assert fit.accuracy(torch.tensor(oracle.predict(phi_test))) == 1


def test_logistic_with_two_classes_is_the_binary_fit_at_twice_the_strength():
    """scikit-learn fits one vector w; the head [−w/2, w/2] has half its squared norm."""
    phi, phi_test, y, _, K, K_test = linear_problem(C=2)
    fit = logistic(K, torch.tensor(y), K_test, penalties=[1 / (0.5 * len(y))])
    oracle = LogisticRegression(C=1.0, fit_intercept=False, tol=1e-12).fit(phi, y)
    np.testing.assert_allclose(fit.test.softmax(1), oracle.predict_proba(phi_test), atol=1e-6)


@pytest.mark.parametrize("C", [2, 3])
def test_logistic_on_a_full_kernel_finds_the_minimum_over_parameters(C):
    """The primal over the parameters of the Jacobians, by scipy's BFGS; the kernel mixes classes."""
    rng = np.random.default_rng(5)
    N, rank, penalty = 12, 6, 0.02
    J, y = rng.normal(size=(N, C, rank)), np.concatenate([np.arange(C), rng.integers(0, C, N - C)])

    def objective(theta):
        f = J @ theta
        log_p = f - np.log(np.exp(f).sum(1, keepdims=True))
        residual = np.exp(log_p) - np.eye(C)[y]
        value = -log_p[np.arange(N), y].mean() + penalty / 2 * theta @ theta
        return value, np.einsum("nc,ncp->p", residual, J) / N + penalty * theta

    theta = minimize(objective, np.zeros(rank), jac=True, options={"gtol": 1e-12}).x
    K = torch.tensor(np.einsum("ncp,mdp->ncmd", J, J))
    fit = logistic(K, torch.tensor(y), penalties=[penalty], folds=2)
    np.testing.assert_allclose(np.einsum("nc,ncp->p", fit.alpha, J), theta, atol=1e-6)
    np.testing.assert_allclose(fit.train, J @ theta, atol=1e-6)


@settings(max_examples=10, deadline=None)
@example(3, 24, -6.0, 83)  # needed steps below the rounding of the objective
@given(st.integers(2, 4), st.integers(2, 40), st.floats(-6, 1), st.integers(0, 1000))
def test_logistic_meets_its_optimality_condition(C, rank, exponent, seed):
    K, y, _, _ = problem(16, C, 1, rank, seed)
    fit = logistic(K, y, penalties=[10**exponent], folds=2)
    residual = torch.nn.functional.one_hot(y, C) - fit.train.softmax(1)
    gradient = (residual / 16 / fit.penalty - fit.alpha).flatten()
    A = K.reshape(16 * C, 16 * C)
    loss = (
        torch.nn.functional.cross_entropy(fit.train, y)
        + fit.penalty / 2 * fit.alpha.flatten() @ A @ fit.alpha.flatten()
    )
    assert fit.penalty / 2 * gradient @ A @ gradient <= 1e-10 * loss
    assert fit.alpha.sum(1).abs().max() <= 1e-9 * fit.alpha.abs().max()


def test_logistic_chooses_by_held_out_cross_entropy_of_scikit_learns_folds():
    phi, _, y, _, K, _ = linear_problem(N=60)
    penalties = [1e-4, 1e-2, 1.0]
    fit = logistic(K, torch.tensor(y), penalties=penalties)
    expected = []
    for penalty in penalties:
        p = np.empty((60, 3))
        for inside, outside in StratifiedKFold(5).split(phi, y):
            oracle = LogisticRegression(C=1 / (penalty * len(inside)), fit_intercept=False, tol=1e-10, max_iter=10_000)
            p[outside] = oracle.fit(phi[inside], y[inside]).predict_proba(phi[outside])
        expected.append(log_loss(y, p))
        if penalty == fit.penalty:
            np.testing.assert_allclose(fit.held_out.softmax(1), p, atol=1e-5)
    np.testing.assert_allclose(fit.errors, expected, atol=1e-6)
    assert fit.penalty == penalties[int(np.argmin(expected))]


def test_fits_are_the_same_whatever_else_is_on_the_grid():
    K, y, K_test, _ = problem()
    on_grid = logistic(K, y, K_test)
    alone = logistic(K, y, K_test, penalties=[on_grid.penalty])
    torch.testing.assert_close(on_grid.alpha, alone.alpha, rtol=1e-7, atol=1e-12)


def test_a_class_seen_once_is_fitted():
    K, y, _, _ = problem(C=2)
    y = torch.zeros_like(y)
    y[3] = 1
    assert torch.isfinite(logistic(K, y).errors).all()


def test_not_converging_is_an_error(monkeypatch):
    K, y, _, _ = problem()
    monkeypatch.setattr(newton, "MAX_STEPS", 1)
    with pytest.raises(KernelError, match="did not converge in 1 Newton steps at λ = "):
        logistic(K, y)


# ---- published ----


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_published_variant_is_a_binary_regression_on_rows():
    K, y, K_test, y_test = problem(N=20, C=3, M=10)
    fit = published(K, y, K_test, y_test)
    rows, answers = K.reshape(60, 60).numpy(), np.eye(3, dtype=int)[y].ravel()
    oracle = LogisticRegressionCV(Cs=np.logspace(-4, 4, 10), cv=5, scoring="accuracy", max_iter=10_000).fit(
        rows, answers
    )
    assert fit.train_accuracy == oracle.score(rows, answers)
    assert fit.test_accuracy == oracle.score(K_test.reshape(30, 60).numpy(), np.eye(3, dtype=int)[y_test].ravel())
    assert fit.converged


def test_published_variant_scores_above_one_half_where_nothing_can_be_learned():
    """Its level of chance is 1 − 1/C: with labels drawn at random a regression over classes stays near 1/C."""
    K, _, K_test, _ = problem(N=40, C=4, M=200, rank=300)
    generator = torch.Generator().manual_seed(0)
    y, y_test = (torch.randint(0, 4, (n,), generator=generator) for n in (40, 200))
    fit = published(K, y, K_test, y_test)
    assert fit.test_accuracy == pytest.approx(0.75, abs=0.05)
    assert ridge(K, y, K_test).accuracy(y_test) == pytest.approx(0.25, abs=0.1)


def test_published_variant_says_when_scikit_learn_stopped_early(monkeypatch):
    monkeypatch.setattr("lpft_utils.studies.published_code.MAX_ITER", 2)
    K, y, K_test, y_test = problem(N=20, C=3, M=10)
    assert not published(K, y, K_test, y_test).converged


# ---- what is refused ----


@pytest.mark.parametrize("fit", [ridge, logistic])
def test_bad_arguments_are_refused(fit):
    K, y, K_test, _ = problem()
    cases = [
        ((K[:5], y), {}, r"expected train × train"),
        ((K[:, :, :, :2], y), {}, r"\(N, C, M, C\)"),
        ((0 * K, y), {}, "every value is zero"),
        ((torch.full_like(K, float("nan")), y), {}, "infinite or NaN"),
        ((K[:, :1, :, :1], 0 * y), {}, "C ≥ 2"),
        ((K + torch.rand(K.shape) * K.max(), y), {}, "symmetric"),
        ((-K, y), {}, "semi-definite"),
        ((K, y[:-1]), {}, r"expected labels of shape \(24,\).*got shape \(23,\)"),
        ((K, y + 1), {}, r"0 … 2, got 1 … 3"),
        ((K, y.double()), {}, "integers"),
        ((K, y, K_test[:, :, :5]), {}, r"\(M, 3, 24, 3\), test × train"),
        ((K, y), {"penalties": []}, "penalties"),
        ((K, y), {"penalties": [1.0, 0.0]}, "positive"),
    ]
    for arguments, options, message in cases:
        with pytest.raises(KernelError, match=message):
            fit(*arguments, **options)


def test_folds_must_be_possible():
    K, y, _, _ = problem()
    for folds in (1, 25):
        with pytest.raises(KernelError, match="folds: expected between 2 and the size of the largest class"):
            logistic(K, y, folds=folds)


def test_accuracy_of_a_part_that_is_not_there():
    K, y, _, _ = problem()
    fit = ridge(K, y)
    with pytest.raises(KernelError, match="pass K_test"):
        fit.accuracy(y)
    with pytest.raises(KernelError, match="got 'validation'"):
        fit.accuracy(y, "validation")
