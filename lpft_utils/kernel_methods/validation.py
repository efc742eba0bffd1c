"""Checks of kernels and labels."""

from __future__ import annotations

import torch
from torch import Tensor

from lpft_utils.common import validation
from lpft_utils.common.errors import KernelError

SYMMETRY = 1e-3  # relative; leaves room for kernels that were computed in float32 or TF32


def check_kernel(K: Tensor, name: str = "K") -> Tensor:
    """A kernel in float64, without gradient.

    Args:
        K: Kernel, shape (N, C, M, C).
        name: What the error calls it.

    Returns:
        The kernel, float64, on its device.

    Raises:
        KernelError: If the shape is not (N, C, M, C) with N, M, C ≥ 1, or a value is complex, infinite or NaN.
    """
    if K.ndim != 4 or K.shape[1] != K.shape[3] or K.numel() == 0 or K.is_complex():
        raise KernelError(
            f"{name}: expected a kernel of shape (N, C, M, C), real and not empty, got {tuple(K.shape)}, {K.dtype}."
        )
    K = K.detach().double()
    bad = ~torch.isfinite(K)
    if bad.any():
        first = tuple(bad.nonzero()[0].tolist())
        raise KernelError(
            f"{name}: expected finite values, but {int(bad.sum())} of {K.numel()} are infinite or NaN (first at "
            f"{first}). Look at the features and gradients of that example."
        )
    return K


def check_train_kernel(K: Tensor, name: str = "K_train") -> Tensor:
    """A train × train kernel in float64, made exactly symmetric.

    Args:
        K: Kernel, shape (N, C, N, C).
        name: What the error calls it.

    Returns:
        The kernel, float64, shape (N, C, N, C).

    Raises:
        KernelError: If it is no kernel of shape (N, C, N, C) with C ≥ 2, is zero, or is not symmetric to 10⁻³ of its
            largest value.
    """
    K = check_kernel(K, name)
    N, C, M, _ = K.shape
    if N != M or C < 2:
        raise KernelError(f"{name}: expected train × train, shape (N, C, N, C) with C ≥ 2, got {tuple(K.shape)}.")
    if not K.any():
        raise KernelError(f"{name}: every value is zero. Does any trainable parameter act on the output?")
    transposed = K.permute(2, 3, 0, 1)
    asymmetry = ((K - transposed).abs().max() / K.abs().max()).item()
    if asymmetry > SYMMETRY:
        raise KernelError(
            f"{name}: expected a symmetric kernel, K[n, c, m, d] = K[m, d, n, c], got a relative difference of "
            f"{asymmetry:.1e}. Are both sides the same examples in the same order?"
        )
    return (K + transposed) / 2


def check_labels(labels: Tensor, n: int, n_classes: int, name: str = "labels") -> Tensor:
    """As `common.validation.check_labels`: class indices as a tensor of int64 on the CPU, or KernelError."""
    return torch.as_tensor(validation.check_labels(labels, n, n_classes, name, error=KernelError))
