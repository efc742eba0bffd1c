"""The directions of the logits that the softmax sees."""

from __future__ import annotations

import torch
from scipy.linalg import helmert
from torch import Tensor


def one_hot(labels: Tensor, n_classes: int) -> Tensor:
    """Y, shape (N, C), float64."""
    return torch.nn.functional.one_hot(labels, n_classes).double()


def contrasts(n_classes: int) -> Tensor:
    """An orthonormal basis of 1⊥, the directions of the logits that change the softmax.

    The softmax ignores a number added to all C logits of an example, and its residual softmax(f) − Y sums to zero over
    the classes. So whatever gradient steps of the cross-entropy build up in the dual lies in the span of this basis,
    and C − 1 numbers for each example are enough.

    Args:
        n_classes: C ≥ 2.

    Returns:
        B, shape (C, C − 1), float64, with BᵀB = I and Bᵀ1 = 0 (Helmert's contrasts).
    """
    return torch.as_tensor(helmert(n_classes).T.copy())


def contrast_kernel(K: Tensor, B: Tensor) -> Tensor:
    """The kernel between contrasts of the outputs, (I ⊗ Bᵀ) K (I ⊗ B).

    Args:
        K: Kernel, shape (N, C, M, C), float64.
        B: Contrasts, shape (C, C − 1).

    Returns:
        Shape (N, C − 1, M, C − 1).
    """
    return torch.einsum("ncmd,ci,dj->nimj", K, B, B)


def softmax_hessian(p: Tensor, B: Tensor) -> Tensor:
    """Hessian of the cross-entropy with respect to contrasts of the logits, Bᵀ (diag(p) − p pᵀ) B for each example.

    Args:
        p: Class probabilities, shape (N, C).
        B: Contrasts, shape (C, C − 1).

    Returns:
        Shape (N, C − 1, C − 1).
    """
    return B.T @ (torch.diag_embed(p) - p[:, :, None] * p[:, None, :]) @ B
