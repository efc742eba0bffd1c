r"""Feature distortion in the smallest model that has it: the two-layer linear model of Kumar et al. (ICLR 2022).

f(x) = vᵀ B x with features B x ∈ R^k and head v ∈ R^k, trained by gradient flow on ½ Σ_i (f(x_i) − y_i)²:

    dv/dt = −B Xᵀ r,    dB/dt = −v rᵀ X,    r = X Bᵀ v − y.

Two exact facts carry the theory. The matrix v vᵀ − B Bᵀ is conserved. And dB/dt has its rows in the span of the
training inputs, so the features of orthogonal (out-of-distribution) inputs never move, while those of training inputs
do: that is the distortion. For training inputs along one direction the flow is solved in closed form here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.integrate import solve_ivp

from lpft_utils.common.validation import Array


@dataclass(frozen=True)
class TwoLayerProblem:
    """A regression task for f(x) = vᵀ B x with good but imperfect pre-trained features.

    Attributes:
        X: Training inputs, shape (n, d); they span m < d directions.
        y: Targets v_*ᵀ B_* x, shape (n,).
        B_0: Pre-trained features, shape (k, d), orthonormal rows.
        B_star: The features that generated the targets, shape (k, d), orthonormal rows.
        v_star: The head that generated the targets, shape (k,).
        X_ood: Test inputs orthogonal to every training input, shape (n_ood, d).
    """

    X: Array
    y: Array
    B_0: Array
    B_star: Array
    v_star: Array
    X_ood: Array

    def error(self, v: Array, B: Array, X: Array) -> float:
        """Root mean squared error of vᵀ B x on inputs X (n, d), relative to the targets' root mean square."""
        target = X @ self.B_star.T @ self.v_star
        return float(np.sqrt(np.mean((X @ B.T @ v - target) ** 2) / np.mean(target**2)))


@dataclass(frozen=True)
class Flow:
    """A solution of the gradient flow.

    Attributes:
        t: Times, shape (T,).
        v: Heads, shape (T, k).
        B: Features, shape (T, k, d).
    """

    t: Array
    v: Array
    B: Array


def make_problem(
    seed: int = 0, d: int = 20, k: int = 3, m: int = 10, n: int = 40, n_ood: int = 200, feature_error: float = 0.1
) -> TwoLayerProblem:
    """Draw a problem whose pre-trained features are a small rotation away from the true ones.

    Args:
        seed: Seed.
        d: Input dimension.
        k: Feature dimension.
        m: Directions that training inputs span; k ≤ m < d.
        n: Training inputs.
        n_ood: Out-of-distribution inputs, drawn from the other d − m directions.
        feature_error: Size of the perturbation of B_* that gives B_0.

    Returns:
        The problem.

    Raises:
        ValueError: If not k ≤ m < d.
    """
    if not k <= m < d:
        raise ValueError(f"Expected k ≤ m < d, got k = {k}, m = {m}, d = {d}.")
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(d, d)))[0]
    B_star = np.linalg.qr(rng.normal(size=(d, k)))[0].T
    U = np.linalg.qr((B_star + feature_error * rng.normal(size=(k, d)) / np.sqrt(d)).T)[0].T
    # the orthonormal basis of B_0's row space that is closest to B_star (orthogonal Procrustes)
    W, _, Zt = np.linalg.svd(B_star @ U.T)
    B_0 = W @ Zt @ U
    v_star = rng.normal(size=k)
    v_star /= np.linalg.norm(v_star)
    X = rng.normal(size=(n, m)) @ basis[:, :m].T / np.sqrt(n)
    X_ood = rng.normal(size=(n_ood, d - m)) @ basis[:, m:].T
    return TwoLayerProblem(X, X @ B_star.T @ v_star, B_0, B_star, v_star, X_ood)


def linear_probe(X: Array, y: Array, B: Array) -> Array:
    """The head of least squared error on fixed features, of smallest norm where there are several.

    Args:
        X: Inputs, shape (n, d).
        y: Targets, shape (n,).
        B: Features, shape (k, d).

    Returns:
        v, shape (k,).
    """
    return np.asarray(np.linalg.lstsq(X @ B.T, y, rcond=None)[0], dtype=np.float64)


def gradient_flow(X: Array, y: Array, v_0: Array, B_0: Array, t: Array) -> Flow:
    """Solve the gradient flow to high precision (8th order, relative tolerance 1e-10).

    Args:
        X: Inputs, shape (n, d).
        y: Targets, shape (n,).
        v_0: Initial head, shape (k,).
        B_0: Initial features, shape (k, d).
        t: Times at which the solution is wanted, increasing from 0, shape (T,).

    Returns:
        The solution.
    """
    k, d = B_0.shape

    def velocity(_: float, state: Array) -> Array:
        v, B = state[:k], state[k:].reshape(k, d)
        r = X @ (B.T @ v) - y  # (n,)
        g = r @ X  # (d,)
        return np.concatenate([-B @ g, -np.outer(v, g).ravel()])

    start = np.concatenate([v_0, B_0.ravel()])
    solution = solve_ivp(velocity, (t[0], t[-1]), start, method="DOP853", t_eval=t, rtol=1e-10, atol=1e-12)
    return Flow(t, solution.y[:k].T, solution.y[k:].T.reshape(-1, k, d))


def one_direction_limit(v_0: Array, w_0: Array, y: float) -> tuple[Array, Array]:
    r"""Where the flow ends when all training inputs lie along one unit vector u: closed form.

    With w = B u the flow is dv/dt = −e w, dw/dt = −e v, e = vᵀw − y. In μ = (v + w)/√2 and ν = (v − w)/√2 it decouples:
    μ_t = a μ_0 and ν_t = ν_0 / a for one scalar a > 0, and vᵀw = (‖μ‖² − ‖ν‖²)/2 = y fixes its limit:

        a² = (y + √(y² + ‖μ_0‖² ‖ν_0‖²)) / ‖μ_0‖².

    Args:
        v_0: Initial head, shape (k,).
        w_0: Initial feature B_0 u of the training direction, shape (k,).
        y: Target of the input u.

    Returns:
        v and w in the limit t → ∞, each of shape (k,).

    Raises:
        ValueError: If v_0 = −w_0, or v_0 = w_0 and y ≤ 0: the flow stays on v = ∓w, and a has no such limit.
    """
    mu_0, nu_0 = (v_0 + w_0) / np.sqrt(2), (v_0 - w_0) / np.sqrt(2)
    M, N = mu_0 @ mu_0, nu_0 @ nu_0
    if M == 0:
        raise ValueError("Expected v_0 ≠ −w_0: from there the flow stays on v = −w.")
    if N == 0 and y <= 0:
        raise ValueError(f"Expected y > 0 where v_0 = w_0, got {y}: from there the flow stays on v = w.")
    root = np.sqrt(y**2 + M * N)
    a = np.sqrt((y + root) / M if y >= 0 else N / (root - y))  # the same number, without cancellation
    mu, nu = a * mu_0, nu_0 / a
    return (mu + nu) / np.sqrt(2), (mu - nu) / np.sqrt(2)
