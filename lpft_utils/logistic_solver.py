r"""Many L2-regularised multinomial logistic regressions on one data matrix, solved together.

Problem $p$ has its own strength $\lambda$ and its own 0/1 weights $w_i$ (the examples a fold trains on), and minimises

$$f(V, b) = \sum_i w_i\,\bigl[\operatorname{lse}(V z_i + b) - (V z_i + b)_{y_i}\bigr]
  + \tfrac{\lambda}{2}\lVert V\rVert_F^2 .$$

**Coordinates.** At the optimum the rows of $V$ sum to zero, so $V = Q U$ with $Q \in \mathbb{R}^{C\times K}$ an
orthonormal basis of $\mathbf{1}^\perp$, $K = C - 1$, and $\lVert V\rVert_F = \lVert U\rVert_F$. The data are centred
and turned into the eigenbasis of their Gram matrix. That changes neither the losses (the intercept absorbs the mean)
nor the penalty (the turn is orthogonal).

**Preconditioner.** Böhning (1992): $\operatorname{diag}(p) - pp^\top \preceq \tfrac12 (I -
\mathbf{1}\mathbf{1}^\top/C)$. In the coordinates above this bounds the Hessian by $\tfrac12 I_K \otimes Z^\top Z +
\lambda I$, which is diagonal, for every problem at once. $\tfrac12 I_K$ is then replaced by the mean over the examples
of the actual $K \times K$ blocks, which follows class imbalance and confident predictions at the price of one small
eigendecomposition a problem.

**Method.** Truncated Newton: conjugate gradients on all problems side by side, so that a Hessian product is two matrix
products with $K \times$ (number of problems) columns. The products inside CG run in float32, which only perturbs the
search direction; objective, gradient and certificate are computed in the dtype of the data.

**Certificate.** The dual has one distribution $q_i$ for each example, subject to $\sum_i w_i (q_i - y_i) = 0$ (the
intercept is free), and the value $D(q) = \sum_i w_i H(q_i) - \tfrac{1}{2\lambda}\lVert\sum_i w_i (q_i - y_i)
z_i^\top\rVert_F^2 \le f^*$ with $H$ the entropy. The model's own probabilities, mixed with a minute share
$\varepsilon$ of a constant distribution so that they meet the constraint, give `gap` = $f - D(q) \ge f - f^*$ (with
$H$ of the mixture bounded below by concavity). For $\varepsilon = 0$ it equals $\lVert\nabla_V f\rVert^2 / 2\lambda$,
the bound that strong convexity gives.

References: D. Böhning, "Multinomial logistic regression algorithm", Annals of the Institute of Statistical Mathematics
44 (1992); J. Nocedal and S. Wright, "Numerical Optimization", chapter 7 (truncated Newton).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

ROWS_PER_BLOCK = 2048  # keeps the (rows, K, problems) temporaries of a block inside the processor's caches


@dataclass
class Solution:
    """Solved problems, entries (P,); `theta` (r + 1, K, P) is in the coordinates of `Design`, intercepts last."""

    theta: Tensor
    objective: Tensor
    gap: Tensor
    n_iter: Tensor
    n_products: int


class Design:
    """The shared data: centred, turned into the Gram eigenbasis, with a column of ones; labels; fold weights.

    Args:
        X: Features (N, H), float64 or float32, on the device to be used.
        y: Labels (N,), int64 in 0 … C − 1.
        n_classes: C ≥ 2.
        weights: 0/1 weights (N, F), one column a training set; None = one column of ones.
    """

    def __init__(self, X: Tensor, y: Tensor, n_classes: int, weights: Tensor | None = None) -> None:
        n, device, dtype = len(X), X.device, X.dtype
        self.y, self.n_classes, self.n_free = y, n_classes, n_classes - 1
        self.weights = torch.ones(n, 1, device=device, dtype=dtype) if weights is None else weights.to(X)  # (N, F)
        self.mean = X.mean(0)
        Xc = X - self.mean
        if n >= X.shape[1]:
            self.basis = torch.linalg.eigh(Xc.T @ Xc)[1]  # (H, r)
        else:  # V* is a combination of the centred examples: N directions hold it
            self.basis = torch.linalg.svd(Xc, full_matrices=False)[2].T
        self.Z = torch.cat([Xc @ self.basis, torch.ones(n, 1, device=device, dtype=dtype)], 1)  # (N, r + 1)
        self.Z32 = self.Z.float()
        # Q: orthonormal basis of 1⊥ (C, K); the logits relative to the last class are A = T U, T = Q[:K] − Q[K]
        centring = torch.eye(n_classes, dtype=torch.float64) - 1 / n_classes
        self.Q = torch.linalg.eigh(centring)[1][:, 1:].to(X)
        self.T = self.Q[:-1] - self.Q[-1]
        one_hot = torch.nn.functional.one_hot(y, n_classes).to(dtype)
        self.n_train = self.weights.sum(0)  # (F,)
        self.class_mass = one_hot.T @ self.weights  # (C, F)
        weighted_labels = (one_hot[:, :-1, None] * self.weights[:, None]).flatten(1)  # (N, K F)
        self.label_moment = (self.Z.T @ weighted_labels).unflatten(1, (n_classes - 1, -1))  # (r + 1, K, F)
        self.moment = self.Z.T @ self.weights  # (r + 1, F): n times the mean of z over each training set
        self.second_moment = (self.Z**2).T @ self.weights  # (r + 1, F)

    def to_head(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Heads on the original features.

        Args:
            theta: Parameters (r + 1, K, P).

        Returns:
            Weights (P, C, H) and intercepts (P, C).
        """
        V = torch.einsum("rkp,hr,ck->pch", theta[:-1], self.basis, self.Q)
        return V, theta[-1].T @ self.Q.T - V @ self.mean


@dataclass
class _State:
    """Everything known at one θ: objective f, duality gap, gradient in θ, and w·p for Hessian products."""

    f: Tensor  # (P,)
    gap: Tensor  # (P,)
    grad: Tensor  # (r + 1, K, P)
    wp: Tensor  # (N, K, P) float32: weighted probabilities of the first K classes

    def put(self, where: Tensor, other: _State) -> None:
        self.f[where], self.gap[where] = other.f, other.gap
        self.grad[..., where], self.wp[..., where] = other.grad, other.wp

    def take(self, where: Tensor) -> _State:
        return _State(self.f[where], self.gap[where], self.grad[..., where], self.wp[..., where])


def _evaluate(d: Design, theta: Tensor, lam: Tensor, fold: Tensor) -> _State:
    """Objective, gradient and certificate of each problem; lam, fold: (P,)."""
    r1, K, P = theta.shape
    A = torch.einsum("ck,jkp->jcp", d.T, theta)  # weights of the logits relative to the last class
    A2 = A.reshape(r1, K * P)
    loss = torch.zeros(P, device=theta.device, dtype=theta.dtype)
    G = torch.zeros_like(A2)
    wp = torch.empty(len(d.Z), K, P, device=theta.device)
    for start in range(0, len(d.Z), ROWS_PER_BLOCK):
        rows = slice(start, start + ROWS_PER_BLOCK)
        y, w = d.y[rows], d.weights[rows][:, fold]  # (n,), (n, P)
        logits = (d.Z[rows] @ A2).view(-1, K, P)
        own = torch.where((y < K)[:, None], logits[torch.arange(len(y), device=y.device), y.clamp(max=K - 1)], 0.0)
        top = logits.amax(1).clamp(min=0)  # (n, P); the last class has logit 0
        expo = (logits - top[:, None]).exp_()
        total = expo.sum(1) + (-top).exp()
        loss += ((total.log() + top - own) * w).sum(0)
        expo *= (w / total)[:, None]  # w p
        wp[rows] = expo
        has_row = (y < K).nonzero().squeeze(1)
        expo[has_row, y[has_row]] -= w[has_row]
        G += d.Z[rows].T @ expo.view(-1, K * P)
    G = G.view(r1, K, P)
    s = torch.einsum("ck,jcp->jkp", d.T, G)
    norm2 = (theta[:-1] ** 2).sum((0, 1))
    f = loss + 0.5 * lam * norm2
    # Certificate: q = (1 − ε) p + ε r with r = ȳ − (1 − ε) δ / (ε n), which meets Σ w (q − y) = 0.
    excess = torch.cat([G[-1], -G[-1].sum(0, keepdim=True)])  # δ (C, P)
    mass = d.class_mass[:, fold]
    ratio = (excess / mass).amax(0).clamp(min=0)  # ε / (1 − ε): the least share that keeps r a distribution
    eps = ratio / (1 + ratio)
    constant = (eps * mass - (1 - eps) * excess)[:-1] / d.n_train[fold]  # ε r
    q_moment = (1 - eps) * G + d.moment[:, fold][:, None] * constant[None] - eps * d.label_moment[..., fold]
    dual_norm2 = (torch.einsum("ck,jcp->jkp", d.T, q_moment[:-1]) ** 2).sum((0, 1))
    entropy = loss - (A * G).sum((0, 1))
    gap = f - (1 - eps) * entropy + 0.5 * dual_norm2 / lam
    grad = s
    grad[:-1] += lam * theta[:-1]
    return _State(f, gap.clamp(min=0), grad, wp)


def _hessian_product(d: Design, wp: Tensor, v: Tensor, lam: Tensor) -> Tensor:
    """Hessian times v (r + 1, K, P), products in float32."""
    r1, K, P = v.shape
    v2 = torch.einsum("ck,jkp->jcp", d.T, v).reshape(r1, K * P).float()
    out = torch.zeros_like(v2)
    for start in range(0, len(d.Z32), ROWS_PER_BLOCK):
        rows = slice(start, start + ROWS_PER_BLOCK)
        t, p = (d.Z32[rows] @ v2).view(-1, K, P), wp[rows]
        t -= (p * t).sum(1, keepdim=True)
        t *= p
        out += d.Z32[rows].T @ t.view(-1, K * P)
    Hv = torch.einsum("ck,jcp->jkp", d.T, out.view(r1, K, P).to(v.dtype))
    Hv[:-1] += lam * v[:-1]
    return Hv


def _preconditioner(d: Design, wp: Tensor, lam: Tensor, fold: Tensor) -> Callable[[Tensor], Tensor]:
    """Inverse of (mean block of diag(p) − pp') ⊗ diag(Σ w z²) + λ I, block by block."""
    K, P = wp.shape[1:]
    block = torch.diag_embed(wp.sum(0, dtype=torch.float64).T)  # (P, K, K)
    for k in range(K):
        block[:, k, :] -= (wp[:, k : k + 1] * wp).sum(0, dtype=torch.float64).T
    block = (d.T.T @ block.to(d.T) @ d.T) / d.n_train[fold, None, None]
    scale, turn = torch.linalg.eigh(block)  # (P, K), (P, K, K)
    scale = scale.clamp(min=1e-3 * scale[:, -1:].clamp(min=1e-12))
    ridge = lam.expand(d.Z.shape[1], 1, P).clone()
    ridge[-1] = 0
    inverse = 1 / (d.second_moment[:, fold][:, None] * scale.T[None] + ridge)  # (r + 1, K, P)

    def apply(v: Tensor) -> Tensor:
        u = torch.einsum("pkl,jkp->jlp", turn, v)
        return torch.einsum("pkl,jlp->jkp", turn, u * inverse)

    return apply


def _newton_direction(
    d: Design, state: _State, lam: Tensor, fold: Tensor, eta: Tensor, max_products: int
) -> tuple[Tensor, int]:
    """Conjugate gradients on H v = −g, to relative residual eta (P,) in the norm of the preconditioner."""
    precondition = _preconditioner(d, state.wp, lam, fold)
    x, res = torch.zeros_like(state.grad), -state.grad
    z = precondition(res)
    direction = z
    rz = (res * z).sum((0, 1))
    goal = eta**2 * rz
    running = rz > goal
    n_products = 0
    while bool(running.any()) and n_products < max_products:
        Hd = _hessian_product(d, state.wp, direction, lam)
        n_products += 1
        alpha = torch.where(running, rz / (direction * Hd).sum((0, 1)).clamp(min=1e-300), 0.0)
        x += alpha * direction
        res -= alpha * Hd
        z = precondition(res)
        new_rz = (res * z).sum((0, 1))
        running = running & (new_rz > goal)
        direction = torch.where(running, z + (new_rz / rz) * direction, 0.0)
        rz = new_rz
    return x, n_products


def solve(
    d: Design,
    lam: Tensor,
    fold: Tensor,
    start: Tensor | None = None,
    *,
    tol: float = 1e-8,
    max_iter: int = 100,
    max_products: int = 200,
    progress: Callable[[int, int], None] | None = None,
) -> Solution:
    """Solve every problem until its duality gap is at most `tol` times its objective.

    Args:
        d: The shared data.
        lam: Penalty strengths (P,).
        fold: Column of `d.weights` of each problem (P,), int64.
        start: θ to start from (r + 1, K, P); None = 0.
        tol: Relative suboptimality that each problem is certified to have.
        max_iter: Newton steps at most.
        max_products: Hessian products at most in one Newton step.
        progress: Called after each Newton step with (problems solved, problems).

    Returns:
        The solutions; problems with `gap > tol * objective` have not converged.
    """
    P = len(lam)
    theta = (
        torch.zeros(d.Z.shape[1], d.n_free, P, device=d.Z.device, dtype=d.Z.dtype) if start is None else start.clone()
    )
    n_iter = torch.zeros(P, dtype=torch.int64, device=d.Z.device)
    active = torch.arange(P, device=d.Z.device)
    state = _evaluate(d, theta, lam, fold)
    f, gap = state.f.clone(), state.gap.clone()
    n_products, slack = 0, 1e3 * torch.finfo(theta.dtype).eps
    stalled = torch.zeros(P, dtype=torch.bool, device=d.Z.device)
    for _ in range(max_iter):
        todo = (state.gap > tol * state.f) & ~stalled[active]
        if progress is not None:
            progress(P - int(todo.sum()), P)
        if not bool(todo.any()):
            break
        if not bool(todo.all()):
            active, state = active[todo], state.take(todo)
        strength, k = lam[active], fold[active]
        rel = (state.gap / state.f).clamp(max=1)
        eta = rel.pow(0.25).clamp(1e-3, 0.2)
        v, used = _newton_direction(d, state, strength, k, eta, max_products)
        n_products += used
        slope = (state.grad * v).sum((0, 1))
        step = torch.ones_like(strength)
        pending = torch.arange(len(active), device=lam.device)
        old, base = state.f.clone(), theta[..., active]
        for trial in range(30):
            new = _evaluate(d, base[..., pending] + step[pending] * v[..., pending], strength[pending], k[pending])
            # below rounding of f the objective cannot judge a step: the slack lets Newton's last steps through
            good = new.f <= old[pending] + 1e-4 * step[pending] * slope[pending] + slack * old[pending]
            if bool(good.all()) and trial == 0:
                state = new
            else:
                state.put(pending[good], new.take(good))
            step[pending[~good]] *= 0.5
            pending = pending[~good]
            if len(pending) == 0:
                break
        step[pending] = 0
        stalled[active[pending]] = True
        theta[..., active] = base + step * v
        n_iter[active] += 1
        f[active], gap[active] = state.f, state.gap
    return Solution(theta, f, gap, n_iter, n_products)
