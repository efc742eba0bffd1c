"""How much fine-tuning changed the features φ(x)."""

from __future__ import annotations

import torch
from torch import Tensor


def cosine_similarity(phi_0: Tensor, phi: Tensor) -> float:
    """CS(F): mean over examples of cos(φ_0(x), φ(x)). 1 means that no feature has turned.

    Args:
        phi_0: Pre-trained features, shape (N, H).
        phi: Features after tuning, same examples in the same order, shape (N, H).

    Returns:
        Mean cosine similarity, in [−1, 1].
    """
    return torch.nn.functional.cosine_similarity(phi_0.double(), phi.double(), dim=1).mean().item()


def feature_difference(phi_0: Tensor, phi: Tensor) -> float:
    """Diff(F): mean over examples of ‖φ(x) − φ_0(x)‖₂.

    Args:
        phi_0: Pre-trained features, shape (N, H).
        phi: Features after tuning, shape (N, H).

    Returns:
        Mean Euclidean distance, ≥ 0.
    """
    return torch.linalg.vector_norm(phi.double() - phi_0.double(), dim=1).mean().item()


def feature_norm(phi: Tensor) -> float:
    """Norm(F): mean over examples of ‖φ(x)‖₂.

    Args:
        phi: Features, shape (N, H).

    Returns:
        Mean Euclidean norm, ≥ 0.
    """
    return torch.linalg.vector_norm(phi.double(), dim=1).mean().item()


def fisher_ratio(phi: Tensor, labels: Tensor) -> float:
    """FDR(F): Fisher's discriminant ratio tr(S_B) / tr(S_W) of the features by class.

    Fisher (1936); Fukunaga (1990), chapter 10. S_B = Σ_c (n_c / N)(μ_c − μ)(μ_c − μ)ᵀ is the scatter of the class means
    and S_W the mean scatter within classes. The ratio of traces does not change when the features are rotated or
    scaled, and, unlike tr(S_W⁻¹ S_B), it exists when there are fewer examples than dimensions.

    Args:
        phi: Features, shape (N, H).
        labels: Class indices, shape (N,).

    Returns:
        The ratio, ≥ 0; large when classes form tight, distant groups, infinite when no class has any spread.
    """
    phi = phi.double()
    mean = phi.mean(0)
    between, within = 0.0, 0.0
    for c in labels.unique():
        group = phi[labels == c]
        between += len(group) * (group.mean(0) - mean).square().sum().item()
        within += (group - group.mean(0)).square().sum().item()
    return between / within if within > 0 else float("inf")


def feature_change(phi_0: Tensor, phi: Tensor, labels: Tensor) -> dict[str, float]:
    """All metrics of feature change between φ_0 and φ on the same examples.

    Args:
        phi_0: Pre-trained features, shape (N, H).
        phi: Features after tuning, shape (N, H).
        labels: Class indices, shape (N,).

    Returns:
        "CS", "Diff", "FDR", "FDR_0" (before tuning), "NormF" and "NormF_0".

    Raises:
        ValueError: If the shapes do not agree.
    """
    if phi_0.shape != phi.shape or labels.shape != phi.shape[:1]:
        raise ValueError(
            f"Expected φ_0 and φ of one shape (N, H) and labels (N,), got {tuple(phi_0.shape)}, {tuple(phi.shape)} and "
            f"{tuple(labels.shape)}."
        )
    return {
        "CS": cosine_similarity(phi_0, phi),
        "Diff": feature_difference(phi_0, phi),
        "FDR": fisher_ratio(phi, labels),
        "FDR_0": fisher_ratio(phi_0, labels),
        "NormF": feature_norm(phi),
        "NormF_0": feature_norm(phi_0),
    }
