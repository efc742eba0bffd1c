r"""What one reads off a kernel: its size, the share of F, its spectrum, its likeness to another kernel.

A kernel of vector-valued outputs is a tensor of shape (N, C, M, C). All of these measures are those of the NC × MC
matrix in which each pair of examples is a C × C block. They are computed in float64, on the device of the kernel.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lpft_utils.common.errors import KernelError
from lpft_utils.kernel_methods.validation import check_kernel, check_labels


def frobenius(K: Tensor) -> float:
    """‖K‖_F, the root of the sum of squares of all entries.

    Args:
        K: Kernel, shape (N, C, M, C).

    Returns:
        The norm, ≥ 0.
    """
    return torch.linalg.vector_norm(check_kernel(K)).item()


def ft_ratio(P: Tensor, F: Tensor) -> float:
    """The share of the FT-effective kernel by its norm: ‖F‖_F / ‖P + F‖_F.

    It is not the paper's FT ratio, which weights the kernels with residuals: see `residual_ft_ratio`.

    On train × train both parts are positive semi-definite, so ⟨P, F⟩ ≥ 0 and the ratio lies in [0, 1]. On test × train
    it may exceed 1. The ratios of P and F do not add up to 1: norms do not add.

    Args:
        P: Pre-train-effective kernel, shape (N, C, M, C).
        F: FT-effective kernel, shape (N, C, M, C).

    Returns:
        The ratio, ≥ 0.

    Raises:
        KernelError: If the shapes differ or P + F is zero.
    """
    P, F = _pair(P, F, "P", "F")
    total = torch.linalg.vector_norm(P + F)
    if total == 0:
        raise KernelError("P + F is zero, so F has no share of it. Does any trainable parameter act on the output?")
    return (torch.linalg.vector_norm(F) / total).item()


def residual_ft_ratio(P: Tensor, F: Tensor, residuals: Tensor) -> float:
    """The paper's FT ratio (§5.3): mean over x of ‖Σ_i F(x, x_i) δ_i‖ / ‖Σ_i (P + F)(x, x_i) δ_i‖.

    δ_i is the residual at initialisation, so that numerator and denominator are what the first step of gradient descent
    does to f(x) through F and in all (Proposition 4.1). It may exceed 1, where P and F pull apart.

    Args:
        P: Pre-train-effective kernel, shape (M, C, N, C).
        F: FT-effective kernel, shape (M, C, N, C).
        residuals: δ, shape (N, C); of either sign.

    Returns:
        The ratio, ≥ 0.

    Raises:
        KernelError: If the shapes do not fit, or (P + F) δ is zero for an example.
    """
    P, F = _pair(P, F, "P", "F")
    if residuals.shape != F.shape[2:]:
        raise KernelError(f"residuals: expected shape {tuple(F.shape[2:])}, got {tuple(residuals.shape)}.")
    by_F, in_all = (torch.einsum("mcnd,nd->mc", K, residuals.to(K)).norm(dim=1) for K in (F, P + F))  # (M,)
    if (in_all == 0).any():
        raise KernelError("(P + F) δ is zero for an example, so F has no share of it. Are all residuals zero?")
    return (by_F / in_all).mean().item()


def block_trace_norms(K: Tensor) -> Tensor:
    """The trace norm of every C × C block, as in the paper's heat maps (Figures 8, 9).

    Args:
        K: Kernel, shape (N, C, M, C).

    Returns:
        The sum of the singular values of K(x_n, x'_m), shape (N, M).
    """
    return torch.linalg.matrix_norm(check_kernel(K).permute(0, 2, 1, 3), ord="nuc")


def class_contrast(K: Tensor, labels: Tensor) -> float:
    """How much the blocks of one class stand out: log10 of the mean trace norm within classes over that between them.

    The diagonal of the paper's heat maps (Figures 8, 9) as one number. An example with itself does not count.

    Args:
        K: Kernel, shape (N, C, N, C).
        labels: Class indices, shape (N,).

    Returns:
        The contrast; 0 where classes do not stand out.

    Raises:
        KernelError: If there are no two examples of one class, or no two classes.
    """
    norms = block_trace_norms(K)
    labels = check_labels(labels, len(norms), K.shape[1]).to(norms.device)
    same = labels[:, None] == labels
    other = ~torch.eye(len(norms), dtype=torch.bool, device=norms.device)
    if not (same & other).any() or same.all():
        raise KernelError(f"expected two classes, one of them twice, got the labels {labels.tolist()[:20]}.")
    return (norms[same & other].mean() / norms[~same].mean()).log10().item()


def spectrum(K: Tensor) -> Tensor:
    """Singular values divided by the largest, descending.

    Of a symmetric matrix (train × train) they are the absolute eigenvalues, which are cheaper to find.

    Args:
        K: Kernel, shape (N, C, M, C).

    Returns:
        Shape (min(N, M)·C,), float64, the first one 1. Values below about 10⁻¹⁶ (10⁻⁷ for a kernel that was computed
        in float32) are rounding.
    """
    values = _singular_values(K)
    return values / values[0]


def effective_rank(K: Tensor) -> float:
    """exp(H(p)) with p the singular values divided by their sum and H(p) = −Σ p ln p (Roy & Vetterli 2007).

    r equal singular values and zeros beside them give r; unequal ones give less.

    Args:
        K: Kernel, shape (N, C, M, C).

    Returns:
        Between 1 and the rank of the NC × MC matrix.
    """
    values = _singular_values(K)
    p = values / values.sum()
    return torch.special.entr(p).sum().exp().item()


def numerical_rank(K: Tensor) -> int:
    """How many singular values are above max(NC, MC) · ε of the largest, ε that of float32.

    The rank of the paper's Tables 2 and 9: its tolerance is not stated, and this is the default of
    `numpy.linalg.matrix_rank` and `torch.linalg.matrix_rank` for a float32 matrix. In float64 the same default counts
    nearly every singular value, far more than the published 18 for P of CB.

    Args:
        K: Kernel, shape (N, C, M, C).

    Returns:
        The rank, ≥ 1.
    """
    values = spectrum(K)
    N, C, M, _ = K.shape
    return int((values > max(N, M) * C * torch.finfo(torch.float32).eps).sum())


def alignment(K1: Tensor, K2: Tensor, *, centered: bool = False) -> float:
    """⟨K1, K2⟩ / (‖K1‖ ‖K2‖), the cosine between two kernels on the same examples (Cristianini et al. 2001).

    With `centered`, both kernels are first centred among the examples (Cortes, Mohri & Rostamizadeh 2012), for each
    pair of outputs (c, d) by itself: K ↦ (H_N ⊗ I_C) K (H_M ⊗ I_C) with H_N = I − 11ᵀ/N. That is the kernel of
    ∂f(x) minus its mean over the examples. It takes away what all examples share, such as the "+1" of the bias, which
    otherwise makes any two kernels of a Transformer look alike.

    Args:
        K1: Kernel, shape (N, C, M, C).
        K2: Kernel, shape (N, C, M, C).
        centered: Whether to centre both.

    Returns:
        In [−1, 1]; in [0, 1] on train × train. 1 means equal up to a positive factor.

    Raises:
        KernelError: If the shapes differ, or a kernel is zero (after centring: the same for all examples).
    """
    K1, K2 = _pair(K1, K2, "K1", "K2")
    norms = []
    for name, K in (("K1", K1), ("K2", K2)):
        size = torch.linalg.vector_norm(K)
        if centered:
            K -= K.mean(0, keepdim=True)
            K -= K.mean(2, keepdim=True)
        norms.append(torch.linalg.vector_norm(K))
        if norms[-1] <= 1e-14 * size:  # rounding is all that is left
            why = "zero after centring: it is the same for all examples" if size > 0 else "zero"
            raise KernelError(f"{name} is {why}, so it has no direction to compare.")
    return ((K1 * K2).sum() / (norms[0] * norms[1])).item()


def _pair(K1: Tensor, K2: Tensor, name1: str, name2: str) -> tuple[Tensor, Tensor]:
    """Two kernels of one shape, float64, in memory of their own."""
    if K1.shape != K2.shape:
        raise KernelError(f"Expected {name1} and {name2} of one shape, got {tuple(K1.shape)} and {tuple(K2.shape)}.")
    K1, K2 = check_kernel(K1, name1), check_kernel(K2, name2)
    return K1.clone(), K2.to(K1.device).clone()


def _singular_values(K: Tensor) -> Tensor:
    K = check_kernel(K)
    A = K.flatten(2).flatten(0, 1)  # row n·C + c is output c of example n
    scale = A.abs().max()
    if scale == 0:
        raise KernelError("K is zero, so it has no spectrum. Does any trainable parameter act on the output?")
    # A kernel computed block by block in float32 is symmetric to its own rounding, not to that of float64.
    if A.shape[0] == A.shape[1] and (A - A.T).abs().max() <= 1e-6 * scale:
        return torch.linalg.eigvalsh((A + A.T) / 2).abs().sort(descending=True).values
    return torch.linalg.svdvals(A)
