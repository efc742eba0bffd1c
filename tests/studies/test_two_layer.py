"""The two-layer linear model: exact facts, and closed forms against the integrated flow."""

import numpy as np
import pytest

from lpft_utils.studies.two_layer import gradient_flow, linear_probe, make_problem, one_direction_limit

TIMES = np.concatenate([[0.0], np.geomspace(0.01, 200, 30)])


@pytest.fixture(scope="module")
def problem():
    return make_problem(seed=1, d=9, k=3, m=5, n=20, n_ood=50, feature_error=0.4)


@pytest.fixture(scope="module")
def flow(problem):
    v_0 = np.random.default_rng(0).normal(size=3) * 0.1
    return gradient_flow(problem.X, problem.y, v_0, problem.B_0, TIMES)


def test_problem_is_as_described(problem):
    p = problem
    for B in (p.B_0, p.B_star):
        np.testing.assert_allclose(B @ B.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(p.X @ p.X_ood.T, 0, atol=1e-12)
    assert np.linalg.matrix_rank(p.X) == 5
    np.testing.assert_allclose(p.y, [p.v_star @ p.B_star @ x for x in p.X])
    assert 0.01 < np.linalg.norm(p.B_0 - p.B_star) < 1.5
    assert p.error(p.v_star, p.B_star, p.X) == pytest.approx(0, abs=1e-12)
    assert p.error(0 * p.v_star, p.B_star, p.X) == pytest.approx(1)


def test_pre_trained_features_are_aligned_as_well_as_rotations_allow(problem):
    """B_0 B_*ᵀ is symmetric positive semi-definite: what orthogonal Procrustes gives."""
    M = problem.B_0 @ problem.B_star.T
    np.testing.assert_allclose(M, M.T, atol=1e-10)
    assert np.linalg.eigvalsh(M).min() > 0


def test_smaller_feature_error_is_closer():
    distance = [np.linalg.norm(p.B_0 - p.B_star) for p in (make_problem(feature_error=e) for e in (0.0, 0.05, 0.3))]
    assert distance[0] == pytest.approx(0, abs=1e-10) and distance[0] < distance[1] < distance[2]


@pytest.mark.parametrize("sizes", [{"k": 5, "m": 4}, {"m": 20, "d": 20}])
def test_impossible_sizes_are_refused(sizes):
    with pytest.raises(ValueError, match="k ≤ m < d"):
        make_problem(**sizes)


def test_flow_follows_the_gradient_of_the_loss(problem):
    """A small time step against central differences of the loss itself."""
    v, B, X, y = np.array([0.3, -0.2, 0.5]), problem.B_0, problem.X, problem.y

    def loss(v, B):
        return 0.5 * np.sum((X @ B.T @ v - y) ** 2)

    t, h = 1e-6, 1e-5
    flow = gradient_flow(X, y, v, B, np.array([0.0, t]))
    for i in range(3):
        e = np.eye(3)[i] * h
        assert (flow.v[1] - v)[i] / t == pytest.approx(-(loss(v + e, B) - loss(v - e, B)) / (2 * h), rel=1e-4, abs=1e-6)
    for i, j in [(0, 0), (1, 4), (2, 8)]:
        E = np.zeros_like(B)
        E[i, j] = h
        slope = -(loss(v, B + E) - loss(v, B - E)) / (2 * h)
        assert (flow.B[1] - B)[i, j] / t == pytest.approx(slope, rel=1e-4, abs=1e-6)


def test_balance_of_head_and_features_is_conserved(problem, flow):
    start = np.outer(flow.v[0], flow.v[0]) - flow.B[0] @ flow.B[0].T
    for v, B in zip(flow.v, flow.B, strict=True):
        np.testing.assert_allclose(np.outer(v, v) - B @ B.T, start, atol=1e-8)
    assert np.linalg.norm(flow.B[-1] - flow.B[0]) > 0.05  # something did move


def test_features_of_orthogonal_inputs_never_move_while_those_of_training_inputs_do(problem, flow):
    before, after = (problem.X_ood @ B.T for B in (flow.B[0], flow.B[-1]))
    np.testing.assert_allclose(after, before, atol=1e-9)
    assert np.linalg.norm(problem.X @ (flow.B[-1] - flow.B[0]).T) > 0.01


def test_loss_falls_to_zero(problem, flow):
    losses = [np.sum((problem.X @ B.T @ v - problem.y) ** 2) for v, B in zip(flow.v, flow.B, strict=True)]
    assert np.all(np.diff(losses) <= 1e-9) and losses[-1] < 1e-3 * losses[0]


def test_linear_probe_is_optimal(problem):
    X, y, B = problem.X, problem.y, problem.B_0
    v = linear_probe(X, y, B)
    np.testing.assert_allclose(B @ X.T @ (X @ B.T @ v - y), 0, atol=1e-12)  # normal equations
    rng = np.random.default_rng(0)
    best = np.sum((X @ B.T @ v - y) ** 2)
    assert all(np.sum((X @ B.T @ (v + 0.1 * rng.normal(size=3)) - y) ** 2) > best for _ in range(20))


def test_linear_probe_is_the_shortest_of_the_optimal_heads():
    X, B = np.array([[1.0, 0.0]]), np.eye(2)
    np.testing.assert_allclose(linear_probe(X, np.array([2.0]), B), [2.0, 0.0])


def test_starting_from_the_probe_moves_the_features_less(problem):
    v_lp = linear_probe(problem.X, problem.y, problem.B_0)
    random = np.random.default_rng(0).normal(size=3)
    moved = [
        np.linalg.norm(gradient_flow(problem.X, problem.y, v, problem.B_0, TIMES).B[-1] - problem.B_0)
        for v in (v_lp, random)
    ]
    assert moved[0] < moved[1]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("y", [1.5, -0.7, 0.0])
def test_closed_form_is_where_the_flow_ends(seed, y):
    rng = np.random.default_rng(seed)
    v_0, w_0, u = rng.normal(size=3), rng.normal(size=3), np.array([0.6, 0.8, 0.0, 0.0])
    B_0 = rng.normal(size=(3, 4))
    B_0 += np.outer(w_0 - B_0 @ u, u)
    flow = gradient_flow(u[None], np.array([y]), v_0, B_0, np.array([0.0, 60.0]))
    v, w = one_direction_limit(v_0, w_0, y)
    np.testing.assert_allclose(flow.v[-1], v, atol=1e-6)
    np.testing.assert_allclose(flow.B[-1] @ u, w, atol=1e-6)
    assert v @ w == pytest.approx(y, abs=1e-10)


def test_closed_form_survives_cancellation():
    """ν_0 is tiny and y negative: a² is a difference of nearly equal numbers in the usual form of the root."""
    w_0 = np.array([1.0, 0.0])
    v, w = one_direction_limit(w_0 + np.array([0.0, 1e-9]), w_0, -0.5)
    assert v @ w == pytest.approx(-0.5, rel=1e-9)


@pytest.mark.parametrize(("sign", "y", "message"), [(-1, 1.0, "v_0 ≠ −w_0"), (1, -1.0, "y > 0"), (1, 0.0, "y > 0")])
def test_closed_form_refuses_starts_from_which_the_flow_cannot_fit(sign, y, message):
    v = np.array([1.0, 2.0])
    with pytest.raises(ValueError, match=message):
        one_direction_limit(v, sign * v, y)


def test_flow_from_equal_head_and_feature_cannot_fit_a_negative_target():
    v = np.array([1.0, 2.0])
    flow = gradient_flow(np.ones((1, 1)), np.array([-1.0]), v, v[:, None], np.array([0.0, 60.0]))
    assert abs(flow.v[-1] @ flow.B[-1][:, 0]) < 1e-6
