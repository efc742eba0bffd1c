"""The logistic path against scikit-learn, its certificate, and gradient descent against a loop written by hand."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.model_selection import StratifiedKFold

from lpft_utils.common.errors import LpftError, ParameterError, TaskWarning
from lpft_utils.common.folds import fold_ids
from lpft_utils.common.threads import one_thread_if_small
from lpft_utils.training import logistic, logistic_solver
from lpft_utils.training.logistic import (
    LogisticConvergenceWarning,
    fit_logistic,
    logistic_path,
)
from lpft_utils.training.logistic_descent import logistic_gd
from lpft_utils.training.logistic_solver import Design, _evaluate, _hessian_product


def make_data(N=120, H=10, n_classes=3, *, signal=1.0, shares=None, seed=0):
    """Correlated features with an offset, as those of a Transformer are, and labels that depend on them."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(N, H)) @ (rng.normal(size=(H, H)) / np.sqrt(H)) + 2 * rng.normal(size=H)
    logits = signal * (X - X.mean(0)) @ rng.normal(size=(H, n_classes)) + rng.gumbel(size=(N, n_classes))
    if shares is not None:
        logits += 3 * np.log(shares)
    y = logits.argmax(1)
    y[: 2 * n_classes] = np.arange(2 * n_classes) % n_classes  # every class at least twice
    return X, y


def logistic_objective(V, b, X, y, C):
    """F_C from its definition, with scikit-learn's penalty for two classes."""
    loss = torch.nn.functional.cross_entropy(torch.tensor(X) @ V.T + b, torch.tensor(y), reduction="sum")
    return float(C * loss + (1.0 if len(V) == 2 else 0.5) * (V**2).sum())


def fit_to(tolerance, *data):
    """A fit to another tolerance than the package's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logistic, "TOLERANCE", tolerance)
        return fit_logistic(*data)


def sklearn_head(X, y, C):
    """scikit-learn's head at a tight tolerance, as rows (C, H) that sum to zero."""
    model = LogisticRegression(C=C, solver="newton-cholesky", tol=1e-12, max_iter=500).fit(X, y)
    if len(model.classes_) == 2:
        w, c = model.coef_[0], model.intercept_[0]
        return np.stack([-w / 2, w / 2]), np.array([-c / 2, c / 2]), model
    return model.coef_, model.intercept_ - model.intercept_.mean(), model


def sklearn_cv(X, y, **options):
    """LogisticRegressionCV as the published code uses it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        options = {"Cs": 10, "cv": 5, "scoring": "accuracy", "l1_ratios": (0.0,), "max_iter": 2000} | options
        return LogisticRegressionCV(use_legacy_attributes=False, **options).fit(X, y)


CASES = {
    "binary": {"n_classes": 2},
    "three classes": {},
    "five classes": {"n_classes": 5, "N": 200},
    "imbalanced": {"N": 300, "shares": [0.8, 0.19, 0.01]},
    "fewer examples than features": {"N": 40, "H": 70},
    "binary, fewer examples than features": {"N": 40, "H": 70, "n_classes": 2},
    "separable": {"signal": 50.0},
}


@pytest.mark.parametrize("C", [1e-4, 0.3, 1e4])
@pytest.mark.parametrize("case", CASES)
def test_fit_is_the_optimum_that_scikit_learn_finds(case, C):
    X, y = make_data(**CASES[case])
    n_classes = int(y.max()) + 1
    V, b, model = sklearn_head(X, y, C)
    fit = fit_to(1e-12, X, y, n_classes, C)
    theirs = logistic_objective(torch.tensor(V), torch.tensor(b), X, y, C)
    assert fit.gap <= 1e-12 * fit.objective
    assert fit.objective <= theirs * (1 + 1e-10)
    assert fit.objective == pytest.approx(logistic_objective(fit.V, fit.b, X, y, C), rel=1e-12)
    torch.testing.assert_close(fit.V, torch.tensor(V), rtol=1e-4, atol=1e-4 * float(np.abs(V).max()))
    probabilities = torch.softmax(torch.tensor(X) @ fit.V.T + fit.b, 1)
    np.testing.assert_allclose(probabilities, model.predict_proba(X), atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(
    N=st.integers(8, 60),
    H=st.integers(1, 40),
    n_classes=st.integers(2, 4),
    log_C=st.floats(-4, 4),
    seed=st.integers(0, 10**6),
)
def test_any_shape_reaches_scikit_learns_objective(N, H, n_classes, log_C, seed):
    X, y = make_data(N, H, n_classes, seed=seed)
    V, b, _ = sklearn_head(X, y, 10**log_C)
    fit = fit_logistic(X, y, n_classes, 10**log_C)
    theirs = logistic_objective(torch.tensor(V), torch.tensor(b), X, y, 10**log_C)
    assert fit.objective <= theirs * (1 + 1e-7)
    assert fit.objective - fit.gap <= theirs * (1 + 1e-12)


@pytest.mark.parametrize("case", ["binary", "three classes", "imbalanced", "fewer examples than features"])
def test_path_chooses_what_scikit_learn_chooses(case):
    X, y = make_data(**CASES[case])
    n_classes = int(y.max()) + 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the imbalanced case has a class smaller than the number of folds
        path = logistic_path(X, y, n_classes)
        model = sklearn_cv(X, y, solver="newton-cholesky", tol=1e-10)
    np.testing.assert_allclose(path.fold_accuracy, model.scores_[:, 0], atol=1e-12)
    assert path.best_C == model.C_
    V = model.coef_ if n_classes > 2 else np.concatenate([-model.coef_, model.coef_]) / 2
    np.testing.assert_allclose(path.V, V, rtol=1e-3, atol=1e-3 * np.abs(V).max())
    np.testing.assert_allclose(path.mean_accuracy, path.fold_accuracy.mean(0))


def test_path_refits_every_C_on_all_data():
    X, y = make_data()
    path = logistic_path(X, y, 3, Cs=[0.01, 1.0, 100.0], n_folds=3)
    assert path.V_path.shape == (3, 3, 10) and path.fold_accuracy.shape == path.fold_objective.shape == (3, 3)
    for i, C in enumerate(path.Cs):
        fit = fit_logistic(X, y, 3, C)
        torch.testing.assert_close(path.V_path[i], fit.V, rtol=1e-3, atol=1e-4)
        assert path.objective[i] == pytest.approx(fit.objective, rel=2e-8)
        assert path.norms[i] == pytest.approx(float(fit.V.norm()), rel=1e-3)
    assert (np.diff(path.norms) > 0).all()
    torch.testing.assert_close(path.V, path.V_path[path.best_index])
    torch.testing.assert_close(path.b, path.b_path[path.best_index])


def test_fold_fits_are_fits_of_their_training_part():
    X, y = make_data()
    path = logistic_path(X, y, 3, Cs=[1.0], n_folds=4)
    for fold, (train, _) in enumerate(StratifiedKFold(4).split(X, y)):
        assert path.fold_objective[fold, 0] == pytest.approx(
            fit_logistic(X[train], y[train], 3, 1.0).objective, rel=2e-8
        )


def test_ties_go_to_the_first_C():
    X, y = make_data(N=60, H=4, signal=50.0)
    path = logistic_path(X, y, 3, Cs=[1000.0, 999.0])
    assert path.fold_accuracy[:, 0].tolist() == path.fold_accuracy[:, 1].tolist() and path.best_C == 1000.0


@pytest.mark.parametrize("case", CASES)
def test_gap_bounds_the_suboptimality_far_from_and_near_the_optimum(case):
    X, y = make_data(**CASES[case])
    n_classes = int(y.max()) + 1
    design = Design(torch.tensor(X), torch.tensor(y), n_classes, torch.ones(len(X), 1))
    lam, fold = torch.tensor([1.0], dtype=torch.float64), torch.zeros(1, dtype=torch.int64)
    scale = 2 if n_classes == 2 else 1  # of the penalty, which at C = scale is that of λ = 1
    best = fit_to(1e-12, X, y, n_classes, float(scale))
    generator = torch.Generator().manual_seed(0)
    shape = (1, n_classes - 1, design.Z.shape[1])
    optimum = design.Q.T @ torch.cat([best.V @ design.basis, (best.b + best.V @ design.mean)[:, None]], 1)
    for distance in [0.0, 1e-6, 1e-3, 0.1, 10.0]:
        theta = optimum[None] + distance * torch.randn(shape, generator=generator, dtype=torch.float64)
        state = _evaluate(design, theta, lam, fold)
        V, b = design.to_head(theta)
        f = logistic_objective(V[0], b[0], X, y, scale) / scale
        assert float(state.f) == pytest.approx(f, rel=1e-10)
        assert float(state.gap) >= f - best.objective / scale - 1e-10 * f
        if distance == 0:
            assert float(state.gap) < 1e-9 * f


def test_gap_is_the_strong_convexity_bound_once_the_intercept_is_optimal():
    X, y = make_data(N=80, H=6)
    design = Design(torch.tensor(X), torch.tensor(y), 3, torch.ones(len(X), 1))
    lam, fold = torch.tensor([0.5], dtype=torch.float64), torch.zeros(1, dtype=torch.int64)
    theta = 0.2 * torch.randn(1, 2, 7, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for _ in range(200):  # the intercept alone, by descent
        theta[..., -1] -= 0.02 * _evaluate(design, theta, lam, fold).grad[..., -1]
    state = _evaluate(design, theta, lam, fold)
    assert float(state.gap) == pytest.approx(float((state.grad[..., :-1] ** 2).sum() / (2 * lam)), rel=1e-8)


def test_gap_bounds_the_distance_to_the_optimum():
    X, y = make_data()
    rough, exact = fit_to(1e-2, X, y, 3, 1.0), fit_to(1e-13, X, y, 3, 1.0)
    assert rough.gap > exact.gap
    assert 0.5 * float(((rough.V - exact.V) ** 2).sum()) <= rough.gap


def test_gradient_and_hessian_product_agree_with_autograd():
    X, y = make_data(N=50, H=6)
    weights = torch.ones(50, 2)
    weights[::3, 1] = 0
    design = Design(torch.tensor(X), torch.tensor(y), 3, weights)
    lam, fold = torch.tensor([0.7, 1.3], dtype=torch.float64), torch.tensor([1, 0])
    theta = 0.3 * torch.randn(2, 2, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    v = torch.randn(2, 2, 7, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def total(theta):
        value = torch.zeros((), dtype=torch.float64)
        for p in range(2):
            V, b = design.to_head(theta[p : p + 1])
            losses = torch.nn.functional.cross_entropy(torch.tensor(X) @ V[0].T + b[0], design.y, reduction="none")
            value = value + (design.weights[:, fold[p]] * losses).sum() + 0.5 * lam[p] * (V**2).sum()
        return value

    state = _evaluate(design, theta, lam, fold)
    theta.requires_grad_()
    (gradient,) = torch.autograd.grad(total(theta), theta, create_graph=True)
    torch.testing.assert_close(state.grad, gradient.detach())
    (expected,) = torch.autograd.grad((gradient * v).sum(), theta)
    torch.testing.assert_close(_hessian_product(design, state.wp, v, lam), expected, rtol=1e-5, atol=1e-4)


def test_folds_are_those_of_stratified_k_fold():
    y = np.random.default_rng(0).integers(0, 3, 100)
    ids = fold_ids(y, 5)
    for fold, (_, held_out) in enumerate(StratifiedKFold(5).split(y, y)):
        assert np.flatnonzero(ids == fold).tolist() == held_out.tolist()


def test_constant_and_repeated_features_do_no_harm():
    X, y = make_data(H=5)
    padded = np.concatenate([X, np.full((len(X), 2), 3.0), X], 1)
    fit = fit_logistic(padded, y, 3, 1.0)
    torch.testing.assert_close(fit.V[:, 5:7], torch.zeros(3, 2, dtype=torch.float64), atol=1e-8, rtol=0)
    torch.testing.assert_close(fit.V[:, :5], fit.V[:, 7:], atol=1e-6, rtol=0)


def test_float32_features_are_fitted_in_float64():
    X, y = make_data()
    single, double = fit_logistic(X.astype(np.float32), y, 3), fit_logistic(X.astype(np.float32).astype(float), y, 3)
    assert single.V.dtype == torch.float64 and torch.equal(single.V, double.V)


def test_a_fit_that_stops_early_says_so(monkeypatch):
    X, y = make_data()
    monkeypatch.setattr(logistic_solver, "MAX_STEPS", 1)
    with pytest.warns(LogisticConvergenceWarning, match="relative gap"):
        fit = fit_logistic(X, y, 3, 100.0)
    assert fit.gap > 1e-8 * fit.objective


def test_a_class_smaller_than_the_number_of_folds_is_warned_about():
    X, y = make_data(N=60, n_classes=2)
    y[:] = 0
    y[:3] = 1
    with pytest.warns(TaskWarning, match="rarest class: 3, fewer than the 5 folds"):
        path = logistic_path(X, y, 2, Cs=[0.1])
    assert path.converged and path.fold_accuracy.shape == (5, 1)


def test_the_only_example_of_a_class_is_in_every_training_part():
    X, y = make_data(N=80, n_classes=4)
    y = np.where(y == 3, 0, y)
    y[17] = 3
    with pytest.warns(TaskWarning, match="rarest class: 1, fewer than the 5 folds"):
        path = logistic_path(X, y, 4, Cs=[0.01, 1.0, 10.0])
        held_out = [part[part != 17] for _, part in StratifiedKFold(5).split(X, y)]
    parts = [(np.setdiff1d(np.arange(80), part), part) for part in held_out]
    model = sklearn_cv(X, y, Cs=[0.01, 1.0, 10.0], cv=parts, solver="newton-cholesky", tol=1e-10)
    np.testing.assert_allclose(path.fold_accuracy, model.scores_[:, 0], atol=1e-12)
    assert path.best_C == model.C_ and path.converged
    np.testing.assert_allclose(path.V, model.coef_, rtol=1e-3, atol=1e-3 * np.abs(model.coef_).max())


X_OK, Y_OK = make_data(N=30, H=4)


@pytest.mark.parametrize(
    ("X", "y", "options", "message"),
    [
        (np.where(np.arange(4) == 1, np.nan, X_OK), Y_OK, {}, "features are NaN or infinite in 30 of 30"),
        (X_OK, Y_OK + 1, {}, "labels must lie in 0 … 2"),
        (X_OK, np.where(Y_OK == 2, 0, Y_OK), {}, r"no example of class \[2\]"),
        (X_OK, Y_OK[:-1], {}, r"expected labels of shape \(30,\)"),
        (X_OK[0], Y_OK, {}, "expected features of 2 dimensions"),
        (X_OK, Y_OK.astype(float), {}, "labels must be integers"),
        (X_OK, Y_OK, {"Cs": []}, "expected Cs of 1 dimension, not empty"),
        (X_OK, Y_OK, {"Cs": [0.0, 1.0]}, "C must be a positive number"),
        (X_OK, Y_OK, {"n_folds": 1}, "folds: expected between 2 and"),
        (X_OK, Y_OK, {"n_folds": 31}, "folds: expected between 2 and"),
    ],
)
def test_bad_input_is_named(X, y, options, message):
    with pytest.raises(ParameterError, match=message) as caught:
        logistic_path(X, y, 3, **options)
    assert isinstance(caught.value, LpftError)


def test_fewer_than_two_classes_are_an_error():
    with pytest.raises(ParameterError, match="n_classes must be an integer of at least 2"):
        fit_logistic(X_OK, np.zeros(30, dtype=int), 1)


# Gradient descent


def test_descent_equals_a_loop_written_by_hand():
    X, y = make_data(N=40, H=5)
    Xt, Y = torch.tensor(X), torch.nn.functional.one_hot(torch.tensor(y), 3).double()
    V, b = torch.zeros(3, 5, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    descent = logistic_gd(X, y, 3, steps=20, record=[7], eval_sets={"odd": (X[1::2], y[1::2])})
    lr, row = descent.learning_rate, descent.history.loc[1]
    for step in range(21):
        if step == 7:
            logits = Xt @ V.T + b
            assert row["train_loss"] == pytest.approx(float(torch.nn.functional.cross_entropy(logits, Y)))
            assert row["head_norm"] == pytest.approx(float(V.norm()))
            right = logits.argmax(1).numpy() == y
            assert row["train_accuracy"] == right.mean() and row["odd_accuracy"] == right[1::2].mean()
        if step < 20:
            residual = torch.softmax(Xt @ V.T + b, 1) - Y
            V, b = V - lr * residual.T @ Xt / 40, b - lr * residual.mean(0)
    assert descent.history["step"].tolist() == [0, 7, 20]
    torch.testing.assert_close(descent.V, V)
    torch.testing.assert_close(descent.b, b)


def test_on_separable_data_the_norm_keeps_growing_after_the_accuracy_has_saturated():
    X, y = make_data(N=30, H=40, signal=5.0)
    history = logistic_gd(
        X, y, 3, steps=20_000, record=np.geomspace(1, 20_000, 39).round().astype(int).tolist()
    ).history
    assert (np.diff(history["train_loss"]) < 0).all()
    saturated = history["train_accuracy"] == 1.0
    assert saturated[-10:].all()
    norms = history["head_norm"][saturated].to_numpy()
    assert (np.diff(norms) > 0).all() and norms[-1] > 1.3 * norms[0]


def test_default_step_is_the_inverse_of_boehnings_bound_and_never_raises_the_loss():
    X, y = make_data()
    descent = logistic_gd(X, y, 3, steps=300, record=range(301))
    X1 = np.concatenate([X, np.ones((len(X), 1))], 1)
    assert descent.learning_rate == pytest.approx(2 * len(X) / np.linalg.eigvalsh(X1.T @ X1)[-1])
    loss = descent.history["train_loss"].to_numpy()
    assert (np.diff(loss) <= 0).all() and loss[0] == pytest.approx(np.log(3))


def test_descent_converges_to_the_unregularised_optimum_where_there_is_one():
    X, y = make_data(N=400, H=3, signal=0.3)
    V, _, _ = sklearn_head(X, y, 1e8)
    for nesterov, steps in [(False, 20_000), (True, 2_000)]:
        history = logistic_gd(X, y, 3, steps=steps, nesterov=nesterov)
        torch.testing.assert_close(history.V, torch.tensor(V), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be"),
        ({"record": [11]}, "steps to record"),
        ({"eval_sets": {"ood": (X_OK, Y_OK[:-1])}}, "labels of 'ood'"),
        ({"eval_sets": {"ood": (X_OK, Y_OK + 1)}}, "labels of 'ood'"),
    ],
)
def test_bad_descent_options_are_named(options, message):
    with pytest.raises(ParameterError, match=message):
        logistic_gd(X_OK, Y_OK, 3, **{"steps": 10} | options)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_the_path_is_the_same():
    X, y = make_data()
    cpu, gpu = logistic_path(X, y, 3), logistic_path(torch.tensor(X, device="cuda"), y, 3)
    assert gpu.V.is_cuda and gpu.best_C == cpu.best_C
    np.testing.assert_allclose(gpu.objective, cpu.objective, rtol=2e-8)


def test_small_problems_use_one_thread_and_give_the_threads_back():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        X = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
        with one_thread_if_small(X):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
        with pytest.raises(RuntimeError), one_thread_if_small(X):
            raise RuntimeError
        assert torch.get_num_threads() == 2
        with one_thread_if_small(torch.empty(2**11, 2**10)):
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
