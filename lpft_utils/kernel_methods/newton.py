r"""Multinomial logistic regression with a kernel, by Newton's method in a trust region.

Minimises (1/N) Σ_n CE(f(x_n), y_n) + ½ λ αᵀ K α with f = K α, in float64. The softmax ignores what all classes share,
so α = β Bᵀ with B the contrasts of `contrasts.contrasts`: N (C − 1) numbers, with K read as the kernel between
contrasts. With K = Φ Φᵀ, Φ = U √s from its eigenvalues s and eigenvectors U, and w = Φᵀ β this is a regression on
features,

    min_w  (1/N) Σ_n CE(B (Φ w)_n, y_n) + ½ λ ‖w‖²,    Hessian  Φᵀ W Φ / N + λ I,

W the block-diagonal Hessian of the cross-entropy between contrasts. By strong convexity the objective is within
‖gradient‖² / 2λ of its minimum: that is the certificate.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from lpft_utils.common.errors import KernelError
from lpft_utils.common.threads import one_thread_if_small
from lpft_utils.kernel_methods.contrasts import contrast_kernel, contrasts, one_hot, softmax_hessian

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
    B = contrasts(C)
    reduced = contrast_kernel(K.cpu(), B).reshape(N * (C - 1), N * (C - 1))
    Y = one_hot(labels.cpu(), C)
    alphas = torch.zeros(len(penalties), N, C, dtype=torch.float64)
    with one_thread_if_small(reduced):
        s, U = torch.linalg.eigh(reduced)
        known = s > torch.finfo(s.dtype).eps * s[-1]  # the rest is rounding
        s, U = s[known], U[:, known]
        w = torch.zeros_like(s)
        for index in penalties.argsort(descending=True).tolist():
            w = _fit(U * s.sqrt(), Y, B, float(penalties[index]), w)
            alphas[index] = (U @ (w / s.sqrt())).view(N, C - 1) @ B.T
    return alphas.to(K.device)


def _fit(Phi: Tensor, Y: Tensor, B: Tensor, lam: float, w: Tensor) -> Tensor:
    """The minimiser w, from another of the same shape."""
    N, k = len(Y), B.shape[1]

    def log_p(w: np.ndarray) -> Tensor:
        return ((Phi @ torch.as_tensor(w)).view(N, k) @ B.T).log_softmax(1)

    def objective(w: np.ndarray) -> tuple[float, np.ndarray]:
        log = log_p(w)
        gradient = Phi.T @ ((log.exp() - Y) @ B).flatten() / N
        return -(Y * log).sum().item() / N + lam / 2 * float(w @ w), gradient.numpy() + lam * w

    def hessian(w: np.ndarray) -> np.ndarray:
        W = softmax_hessian(log_p(w).exp(), B) / N
        return (Phi.T @ (W @ Phi.view(N, k, -1)).view_as(Phi)).numpy() + lam * np.eye(len(w))

    options = {"gtol": 0.0, "maxiter": MAX_STEPS, "max_trust_radius": np.inf}
    found = minimize(objective, w.numpy(), jac=True, hess=hessian, method="trust-exact", options=options).x
    # The trust region ends where steps no longer lower the rounded objective. One more step is below its rounding.
    found = found - np.linalg.solve(hessian(found), objective(found)[1])
    value, gradient = objective(found)
    if not gradient @ gradient / (2 * lam) <= TOLERANCE * value:
        raise KernelError(
            f"Logistic regression did not converge in {MAX_STEPS} Newton steps at λ = {lam:.3g}. Use larger penalties, "
            "or scale the kernel."
        )
    return torch.as_tensor(found)
