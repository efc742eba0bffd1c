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
eigendecomposition for each problem.

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

MAX_STEPS = 200  # Newton steps, at most
MAX_PRODUCTS = 200  # Hessian products in one Newton step, at most
ROWS_PER_BLOCK = {"cpu": 2048, "cuda": 65536}  # on a CPU the temporaries of a block stay in its caches


class Design:
    """The shared data: centred, turned into the Gram eigenbasis, with a column of ones; labels; fold weights.

    Args:
        X: Features (N, H), float64 or float32, on the device to be used.
        y: Labels (N,), int64 in 0 … C − 1.
        n_classes: C ≥ 2.
        weights: 0/1 weights (N, F), one column for each training set.
    """

    def __init__(self, X: Tensor, y: Tensor, n_classes: int, weights: Tensor) -> None:
        n, device, dtype = len(X), X.device, X.dtype
        self.y, self.n_classes = y, n_classes
        self.weights = weights.to(X)  # (N, F)
        self.mean = X.mean(0)
        Xc = X - self.mean
        if n >= X.shape[1]:
            self.basis = torch.linalg.eigh(Xc.T @ Xc)[1]  # (H, r)
        else:  # V* is a combination of the centred examples: N directions hold it
            self.basis = torch.linalg.svd(Xc, full_matrices=False)[2].T
        self.Z = torch.cat([Xc @ self.basis, torch.ones(n, 1, device=device, dtype=dtype)], 1)  # (N, r + 1)
        self.Z32 = self.Z.float()
        block = ROWS_PER_BLOCK.get(device.type, 65536)
        self.row_blocks = [slice(start, start + block) for start in range(0, n, block)]
        # Q: orthonormal basis of 1⊥ (C, K); the logits relative to the last class are A = T U, T = Q[:K] − Q[K]
        centring = torch.eye(n_classes, dtype=torch.float64) - 1 / n_classes
        self.Q = torch.linalg.eigh(centring)[1][:, 1:].to(X)
        self.T = self.Q[:-1] - self.Q[-1]
        one_hot = torch.nn.functional.one_hot(y, n_classes).to(dtype)
        self.n_train = self.weights.sum(0)  # (F,)
        self.class_mass = one_hot.T @ self.weights  # (C, F)
        weighted_labels = (self.weights.T[:, None] * one_hot.T[None, :-1]).flatten(0, 1)  # (F K, N)
        self.label_moment = (weighted_labels @ self.Z).unflatten(0, (-1, n_classes - 1))  # (F, K, r + 1)
        self.moment = self.weights.T @ self.Z  # (F, r + 1): n times the mean of z over each training set
        self.second_moment = self.weights.T @ self.Z**2  # (F, r + 1)
        self.weights_t = self.weights.T.contiguous()  # (F, N)

    def to_head(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Heads on the original features.

        Args:
            theta: Parameters (P, K, r + 1).

        Returns:
            Weights (P, C, H) and intercepts (P, C).
        """
        full = self.Q @ theta  # (P, C, r + 1)
        V = full[..., :-1] @ self.basis.T
        return V, full[..., -1] - V @ self.mean


@dataclass
class _State:
    """Everything known at one θ: objective f, duality gap, gradient in θ, and w·p for Hessian products."""

    f: Tensor  # (P,)
    gap: Tensor  # (P,)
    grad: Tensor  # (P, K, r + 1)
    wp: Tensor  # (P, K, N) float32: weighted probabilities of the first K classes

    def put(self, where: Tensor, other: _State) -> None:
        self.f[where], self.gap[where], self.grad[where], self.wp[where] = other.f, other.gap, other.grad, other.wp

    def take(self, where: Tensor) -> _State:
        return _State(self.f[where], self.gap[where], self.grad[where], self.wp[where])


def _evaluate(d: Design, theta: Tensor, lam: Tensor, fold: Tensor) -> _State:
    """Objective, gradient and certificate of each problem; θ (P, K, r + 1), lam and fold (P,)."""
    P, K, r1 = theta.shape
    A = d.T @ theta  # weights of the logits relative to the last class
    A2 = A.reshape(P * K, r1)
    loss = torch.zeros_like(lam)
    G = torch.zeros_like(A2)
    wp = torch.empty(P, K, len(d.Z), device=theta.device)
    for rows in d.row_blocks:
        Z, w = d.Z[rows], d.weights_t[fold, rows]  # (n, r + 1), (P, n)
        has_logit = d.y[rows] < K  # the last class has logit 0
        label = d.y[rows].clamp(max=K - 1).expand(P, 1, -1)
        logits = (A2 @ Z.T).view(P, K, -1)
        own = logits.gather(1, label)[:, 0] * has_logit
        top = logits.amax(1).clamp(min=0)  # (P, n)
        expo = (logits - top[:, None]).exp_()
        total = expo.sum(1) + (-top).exp()
        loss += ((total.log() + top - own) * w).sum(1)
        expo *= (w / total)[:, None]  # w p
        wp[..., rows] = expo
        expo.scatter_add_(1, label, -(w * has_logit)[:, None])
        G += expo.view(P * K, -1) @ Z
    G = G.view(P, K, r1)
    f = loss + 0.5 * lam * (theta[..., :-1] ** 2).sum((1, 2))
    # Certificate: q = (1 − ε) p + ε r with r = ȳ − (1 − ε) δ / (ε n), which meets Σ w (q − y) = 0.
    excess = torch.cat([G[..., -1], -G[..., -1].sum(1, keepdim=True)], 1)  # δ (P, C)
    mass = d.class_mass.T[fold]
    ratio = (excess / mass).amax(1).clamp(min=0)  # ε / (1 − ε): the least share that keeps r a distribution
    eps = (ratio / (1 + ratio))[:, None]
    constant = (eps * mass - (1 - eps) * excess)[:, :-1] / d.n_train[fold, None]  # ε r (P, K)
    q_moment = (
        (1 - eps[..., None]) * G + d.moment[fold][:, None] * constant[..., None] - eps[..., None] * d.label_moment[fold]
    )
    dual_norm2 = ((d.T.T @ q_moment[..., :-1]) ** 2).sum((1, 2))
    entropy = loss - (A * G).sum((1, 2))
    gap = f - (1 - eps[:, 0]) * entropy + 0.5 * dual_norm2 / lam
    grad = d.T.T @ G
    grad[..., :-1] += lam[:, None, None] * theta[..., :-1]
    return _State(f, gap.clamp(min=0), grad, wp)


def _hessian_product(d: Design, wp: Tensor, v: Tensor, lam: Tensor) -> Tensor:
    """Hessian times v (P, K, r + 1), products in float32."""
    P, K, r1 = v.shape
    v2 = (d.T @ v).view(P * K, r1).float()
    out = torch.zeros_like(v2)
    for rows in d.row_blocks:
        t, p = (v2 @ d.Z32[rows].T).view(P, K, -1), wp[..., rows]
        t -= (p * t).sum(1, keepdim=True)
        t *= p
        out += t.view(P * K, -1) @ d.Z32[rows]
    Hv = d.T.T @ out.view(P, K, r1).to(v.dtype)
    Hv[..., :-1] += lam[:, None, None] * v[..., :-1]
    return Hv


def _preconditioner(d: Design, wp: Tensor, lam: Tensor, fold: Tensor) -> Callable[[Tensor], Tensor]:
    """Inverse of (mean block of diag(p) − pp') ⊗ diag(Σ w z²) + λ I, for v (P, K, r + 1)."""
    block = torch.diag_embed(wp.sum(2)) - wp @ wp.mT  # (P, K, K)
    block = (d.T.T @ block.to(d.T) @ d.T) / d.n_train[fold, None, None]
    scale, turn = torch.linalg.eigh(block)  # (P, K), (P, K, K)
    scale = scale.clamp(min=1e-3 * scale[:, -1:].clamp(min=1e-12))
    ridge = lam[:, None, None].repeat(1, 1, d.Z.shape[1])
    ridge[..., -1] = 0  # the intercept is not penalised
    inverse = 1 / (d.second_moment[fold][:, None] * scale[..., None] + ridge)  # (P, K, r + 1)
    return lambda v: turn @ ((turn.mT @ v) * inverse)


def _newton_direction(d: Design, state: _State, lam: Tensor, fold: Tensor, eta: Tensor) -> Tensor:
    """Conjugate gradients on H v = −g, to relative residual eta (P,) in the norm of the preconditioner."""
    result = torch.zeros_like(state.grad)
    columns = torch.arange(len(lam), device=lam.device)  # the problems still worked on
    wp, precondition = state.wp, _preconditioner(d, state.wp, lam, fold)
    x, res = torch.zeros_like(state.grad), -state.grad
    direction = precondition(res)
    rz = (res * direction).sum((1, 2))
    goal = eta**2 * rz
    for n_products in range(MAX_PRODUCTS + 1):
        running = rz > goal
        n_running = int(running.sum())
        if n_running == 0 or n_products == MAX_PRODUCTS:
            break
        if 2 * n_running <= len(columns):  # leave the finished problems out of the products
            result[columns] = x
            columns, wp, lam, fold = columns[running], wp[running], lam[running], fold[running]
            x, res, direction, rz, goal = x[running], res[running], direction[running], rz[running], goal[running]
            precondition = _preconditioner(d, wp, lam, fold)
            running = running[running]
        Hd = _hessian_product(d, wp, direction, lam)
        alpha = torch.where(running, rz / (direction * Hd).sum((1, 2)).clamp(min=1e-300), 0.0)[:, None, None]
        x += alpha * direction
        res -= alpha * Hd
        z = precondition(res)
        new_rz = (res * z).sum((1, 2))
        # a finished problem stays as it is: its step is 0, so its rz does not change
        direction = z + (new_rz / rz.clamp(min=1e-300))[:, None, None] * direction
        rz = new_rz
    result[columns] = x
    return result


def solve(d: Design, lam: Tensor, fold: Tensor, tol: float) -> tuple[Tensor, Tensor, Tensor]:
    """Solve every problem until its duality gap is at most `tol` times its objective.

    Args:
        d: The shared data.
        lam: Penalty strengths (P,).
        fold: Column of `d.weights` of each problem (P,), int64.
        tol: Relative suboptimality that each problem is certified to have.

    Returns:
        θ (P, K, r + 1) in the coordinates of `Design`, intercepts last; the objectives (P,); and the gaps (P,).
        Problems with gap > tol · objective have not converged.
    """
    P = len(lam)
    theta = d.Z.new_zeros(P, d.n_classes - 1, d.Z.shape[1])
    active = torch.arange(P, device=d.Z.device)
    state = _evaluate(d, theta, lam, fold)
    f, gap = state.f.clone(), state.gap.clone()
    slack = 1e3 * torch.finfo(theta.dtype).eps
    stalled = torch.zeros(P, dtype=torch.bool, device=d.Z.device)
    for _ in range(MAX_STEPS):
        todo = (state.gap > tol * state.f) & ~stalled[active]
        if not bool(todo.any()):
            break
        if not bool(todo.all()):
            active, state = active[todo], state.take(todo)
        strength, k = lam[active], fold[active]
        rel = (state.gap / state.f).clamp(max=1)
        eta = rel.pow(0.25).clamp(1e-3, 0.2)
        v = _newton_direction(d, state, strength, k, eta)
        slope = (state.grad * v).sum((1, 2))
        step = torch.ones_like(strength)
        pending = torch.arange(len(active), device=lam.device)
        old, base = state.f.clone(), theta[active]
        for trial in range(30):
            trial_theta = base[pending] + step[pending, None, None] * v[pending]
            new = _evaluate(d, trial_theta, strength[pending], k[pending])
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
        theta[active] = base + step[:, None, None] * v
        f[active], gap[active] = state.f, state.gap
    return theta, f, gap
