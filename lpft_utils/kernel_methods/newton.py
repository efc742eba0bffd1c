r"""Multinomial logistic regression in the dual of a kernel, by Newton's method.

Minimises (1/N) Σ_n CE(f(x_n), y_n) + ½ λ αᵀ K α with f = K α, in float64. The softmax ignores what all classes share,
so α = β Bᵀ with B the contrasts of `checks.contrasts`: N (C − 1) numbers, with K read as the kernel between contrasts.

With the residual r = Bᵀ(p − Y)/N + λ β the gradient in the kernel's Hilbert space has the squared norm rᵀ K r, and by
strong convexity the objective is within rᵀ K r / 2λ of its minimum: that is the certificate. A Newton step solves
(λ I + W K / N) δ = −r with W the block-diagonal Hessian of the cross-entropy. In the symmetric form of Rasmussen &
Williams (2006, algorithm 3.3) it is one Cholesky factorisation of I + W^½ K W^½ / (Nλ), well-conditioned also where K
is singular: δ = −(r − W^½ u) / λ with (I + W^½ K W^½ / Nλ) u = W^½ K r / (Nλ).
"""

from __future__ import annotations

import torch
from torch import Tensor

from lpft_utils.common.errors import KernelError
from lpft_utils.common.threads import one_thread_if_small
from lpft_utils.kernel_methods.contrasts import contrast_kernel, contrasts, one_hot

TOLERANCE = 1e-12  # of the objective, relative
MAX_STEPS = 200


def fit_penalties(K: Tensor, labels: Tensor, penalties: Tensor) -> Tensor:
    """Dual coefficients for each penalty. The largest is solved first and each solution starts the next.

    Args:
        K: Kernel, shape (N, C, N, C), float64, symmetric and positive semi-definite.
        labels: Class indices, shape (N,).
        penalties: λ, shape (L,).

    Returns:
        α, shape (L, N, C).
    """
    N, C = K.shape[:2]
    B = contrasts(C, K.device)
    reduced = contrast_kernel(K, B).reshape(N * (C - 1), N * (C - 1))
    Y = one_hot(labels, C)
    beta = torch.zeros(N * (C - 1), dtype=K.dtype, device=K.device)
    alphas = K.new_zeros(len(penalties), N, C)
    with one_thread_if_small(reduced):
        for index in penalties.argsort(descending=True).tolist():
            beta = _newton(reduced, Y, B, float(penalties[index]), beta)
            alphas[index] = beta.view(N, C - 1) @ B.T
    return alphas


def _newton(K: Tensor, Y: Tensor, B: Tensor, lam: float, beta: Tensor) -> Tensor:
    """The minimiser β, shape (N (C − 1),), from a start of the same shape."""
    N, C = Y.shape
    k = C - 1

    def objective(beta: Tensor, f: Tensor) -> tuple[float, Tensor]:
        log_p = (f.view(N, k) @ B.T).log_softmax(1)
        return (-(Y * log_p).sum() / N + lam / 2 * (beta @ f)).item(), log_p

    f = K @ beta
    value, log_p = objective(beta, f)
    for _ in range(MAX_STEPS):
        p = log_p.exp()
        r = ((p - Y) @ B / N).flatten() + lam * beta
        Kr = K @ r
        if (r @ Kr).item() / (2 * lam) <= TOLERANCE * value:
            return beta
        W = B.T @ (torch.diag_embed(p) - p[:, :, None] * p[:, None, :]) @ B  # (N, k, k)
        scale, turn = torch.linalg.eigh(W)
        root = (turn * scale.clamp(min=0).sqrt()[:, None]) @ turn.mT  # W^½
        half = (root @ K.view(N, k, N * k)).view(N * k, N, k)
        A = torch.einsum("qmb,mbj->qmj", half, root).reshape(N * k, N * k) / (N * lam)
        A.diagonal().add_(1)
        right = (root @ Kr.view(N, k, 1)).view(-1, 1) / (N * lam)
        u = torch.cholesky_solve(right, torch.linalg.cholesky(A))
        step = ((root @ u.view(N, k, 1)).flatten() - r) / lam
        K_step, slope, t = K @ step, (Kr @ step).item(), 1.0
        while True:
            trial, log_p = objective(beta + t * step, f + t * K_step)
            # The slack lets Newton's last steps through: they lie below the rounding of the objective, a difference of
            # logits.
            slack = 4 * torch.finfo(f.dtype).eps * (value + f.abs().max().item())
            if trial <= value + 1e-4 * t * slope + slack or t < 1e-10:
                break
            t /= 2
        beta, f, value = beta + t * step, f + t * K_step, trial
    raise KernelError(
        f"Logistic regression did not converge in {MAX_STEPS} Newton steps at λ = {lam:.3g}. Use larger penalties, or "
        "scale the kernel."
    )
