r"""Training in function space: the linearised model's, from its kernel alone.

The linearised model f(x; θ_0) + ∂f(x) (θ − θ_0), trained on the mean cross-entropy of N examples by gradient flow with
labels Y, moves in the span of the training gradients. With Q_t ∈ R^{N×C}, the time-integrated residuals,

    dQ/dt = (softmax(f_t) − Y) / N,   Q_0 = 0,
    f_t(x) = f_0(x) − Σ_n K(x, x_n) Q_t[n],   θ_t − θ_0 = −Σ_n Σ_c Q_t[n, c] ∂f_c(x_n),

so Q_t says all about the trained model: logits by the kernel, parameters and features by one backward pass. Gradient
descent with rate η is Euler's method for this flow with step η, at the times t = η · step. Rows of Q_t sum to zero.

K = P + F is fine-tuning, P alone linear probing, F alone fine-tuning with a fixed head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from scipy.integrate import solve_ivp
from threadpoolctl import threadpool_limits
from torch import Tensor

from lpft_utils.common.errors import KernelError
from lpft_utils.common.threads import one_thread_if_small
from lpft_utils.kernel_methods.contrasts import contrast_kernel, contrasts, one_hot, softmax_hessian
from lpft_utils.kernel_methods.trajectory import Trajectory, measure, recorded_steps
from lpft_utils.kernel_methods.validation import check_labels, check_train_kernel

RTOL = 1e-9  # of the integrator; its absolute tolerance is the same for the logits


def gradient_flow(
    K: Tensor,
    f_0: Tensor,
    labels: Tensor,
    times: Sequence[float] | Tensor,
) -> Trajectory:
    """Gradient flow of the linearised model, by backward differentiation formulas with the exact Jacobian.

    The flow is stiff: its rates are the eigenvalues of K / N, over many orders of magnitude.

    Args:
        K: Kernel of the training examples, shape (N, C, N, C), symmetric.
        f_0: Their logits at initialisation, shape (N, C).
        labels: Their class indices, shape (N,).
        times: When to record, ascending from 0 or later, shape (S,).

    Returns:
        The trajectory.

    Raises:
        KernelError: If an argument does not fit or the integrator fails.
    """
    K, f_0, labels = _check(K, f_0, labels)
    t = np.asarray(times, dtype=np.float64)
    if t.ndim != 1 or t.size == 0 or not (np.isfinite(t).all() and t[0] >= 0 and (np.diff(t) > 0).all()):
        raise KernelError(f"times: expected ascending numbers from 0 or later, got {times!r}.")
    N, C = f_0.shape
    B = contrasts(C)  # Q = q Bᵀ: rows that sum to zero, and (C − 1) / C of the unknowns
    reduced = contrast_kernel(K, B).reshape(N * (C - 1), N * (C - 1))
    f_B, Y = f_0 @ B, one_hot(labels, C)

    def probabilities(q: np.ndarray) -> Tensor:
        return ((f_B - (reduced @ torch.as_tensor(q)).view(N, C - 1)) @ B.T).softmax(1)

    def derivative(_: float, q: np.ndarray) -> np.ndarray:
        return ((probabilities(q) - Y) @ B / N).flatten().numpy()

    def jacobian(_: float, q: np.ndarray) -> np.ndarray:
        W = softmax_hessian(probabilities(q), B) / N
        return -(W @ reduced.view(N, C - 1, -1)).view_as(reduced).numpy()

    # a change of Q by ε moves a logit by at most ε times the largest sum over a row of K
    atol = RTOL / reduced.abs().sum(1).max().item()
    zero = np.zeros(N * (C - 1))
    with one_thread_if_small(reduced), threadpool_limits(1):  # torch's threads and those of SciPy's LU
        end = t[-1] or 1e-9  # SciPy integrates over some time only
        solution = solve_ivp(derivative, (0, end), zero, "BDF", t, jac=cast(Any, jacobian), rtol=RTOL, atol=atol)
    if not solution.success:
        raise KernelError(f"The gradient flow could not be integrated: {solution.message}")
    Q = torch.as_tensor(solution.y.T).reshape(-1, N, C - 1) @ B.T
    return measure(torch.as_tensor(t), logits(K, f_0, Q), labels, Q=Q)


def gradient_descent(
    K: Tensor,
    f_0: Tensor,
    labels: Tensor,
    learning_rate: float,
    steps: int,
    every: int = 1,
) -> Trajectory:
    """Full-batch gradient descent of the linearised model: what `weight_space.train` does if the kernel never changes.

    Args:
        K: Kernel of the training examples, shape (N, C, N, C), symmetric.
        f_0: Their logits at initialisation, shape (N, C).
        labels: Their class indices, shape (N,).
        learning_rate: η > 0. Below 4N / (largest eigenvalue of K) the loss falls at every step: the Hessian of the
            cross-entropy is at most ½.
        steps: Number of steps.
        every: Record step 0, every so many steps, and the last one.

    Returns:
        The trajectory, with `times` = η · step.
    """
    K, f_0, labels = _check(K, f_0, labels)
    recorded = recorded_steps(learning_rate, steps, every)
    N, C = f_0.shape
    A, Y = K.reshape(N * C, N * C), one_hot(labels, C)
    Q, kept = torch.zeros_like(Y), []
    with one_thread_if_small(A):
        for step in range(steps + 1):
            if step in recorded:
                kept.append(Q.clone())
            f = f_0 - (A @ Q.flatten()).view(N, C)
            Q += learning_rate / N * (f.softmax(1) - Y)
    times = learning_rate * torch.tensor(recorded, dtype=torch.float64)
    Q = torch.stack(kept)
    return measure(times, logits(K, f_0, Q), labels, Q=Q)


def logits(K: Tensor, f_0: Tensor, Q: Tensor) -> Tensor:
    """Logits of the linearised model, f_t(x) = f_0(x) − Σ_n K(x, x_n) Q_t[n].

    Args:
        K: Kernel of any × training examples, shape (M, C, N, C).
        f_0: Logits of the former at initialisation, shape (M, C).
        Q: Time-integrated residuals of the latter, shape (S, N, C).

    Returns:
        Shape (S, M, C), float64, on the CPU.

    Raises:
        KernelError: If the shapes do not fit.
    """
    if Q.ndim != 3 or K.shape != (*f_0.shape, *Q.shape[1:]):
        shapes = ", ".join(str(tuple(t.shape)) for t in (K, f_0, Q))
        raise KernelError(f"Expected K (M, C, N, C), f_0 (M, C) and Q (S, N, C), got {shapes}.")
    K, f_0, Q = (t.detach().double().cpu() for t in (K, f_0, Q))
    return f_0 - torch.einsum("mcnd,snd->smc", K, Q)


def _check(K: Tensor, f_0: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Everything in float64 on the CPU, or KernelError."""
    K = check_train_kernel(K, "K").cpu()
    N, C = K.shape[:2]
    if f_0.shape != (N, C) or not bool(torch.isfinite(f_0).all()):
        raise KernelError(f"f_0: expected finite logits of shape ({N}, {C}), got {tuple(f_0.shape)}.")
    return K, f_0.detach().double().cpu(), check_labels(labels, N, C)
