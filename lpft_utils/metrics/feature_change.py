"""How much fine-tuning changed the features φ(x)."""

from __future__ import annotations

import torch
from torch import Tensor

RIDGE = 1e-3  # of the mean eigenvalue of S_W


def cosine_similarity(phi_0: Tensor, phi: Tensor) -> float:
    """CS(F), before and after: mean over examples of cos(φ_0(x), φ(x)). 1 means that no feature has turned.

    It is not the CS(F) of the paper's Tables 1 and 11: see `text_similarity`.

    Args:
        phi_0: Pre-trained features, shape (N, H).
        phi: Features after tuning, same examples in the same order, shape (N, H).

    Returns:
        Mean cosine similarity, in [−1, 1].
    """
    return torch.nn.functional.cosine_similarity(phi_0.double(), phi.double(), dim=1).mean().item()


def text_similarity(phi: Tensor) -> float:
    """CS(F) among texts: mean over pairs of different examples of cos(φ(x), φ(x')).

    The CS(F) of the paper's Tables 1 and 11 must be this one, since the pre-trained model has .996 to .998 there: the
    similarity of its features with themselves would be 1. Features that fine-tuning has spread apart have less.

    Args:
        phi: Features, shape (N, H).

    Returns:
        Mean cosine similarity, in [−1/(N − 1), 1]; NaN for a single example.
    """
    unit = torch.nn.functional.normalize(phi.double(), dim=1)
    n = len(unit)
    # Σ_{n≠m} ⟨u_n, u_m⟩ = ‖Σ_n u_n‖² − Σ_n ‖u_n‖²
    total = unit.sum(0).square().sum() - unit.square().sum()
    return (total / (n * (n - 1))).item() if n > 1 else float("nan")


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


def fisher_ratios(phi: Tensor, labels: Tensor) -> dict[str, float]:
    """FDR(F), Fisher's discriminant ratio of the features by class, in three forms.

    Fisher (1936); Fukunaga (1990), chapter 10. S_B = Σ_c (n_c / N)(μ_c − μ)(μ_c − μ)ᵀ is the scatter of the class means
    and S_W the mean scatter within classes. The ratio of traces tr(S_B) / tr(S_W) does not change when the features are
    rotated or scaled, and it exists when there are fewer examples than dimensions. The others have the inverse of S_W:
    tr(S_W⁺ S_B), and tr((S_W + λ I)⁻¹ S_B) with λ = `RIDGE` · tr(S_W) / H.

    The paper's FDR (Tables 1, 11) is not identified. Its
    8·10⁴ for pre-trained features of CB and 7·10⁸ after tuning are far above what a ratio of traces gives. They fall
    with the size of the test set (8·10⁴ at 57 texts, 86 at 277, 17 at 1,067), as when a singular S_W is inverted in
    float32: with fewer texts than dimensions the inverse amplifies rounding. The pseudo-inverse leaves out the
    directions in which no class has any spread, although these separate the classes best; the ridge keeps them, and
    depends on λ.

    Args:
        phi: Features, shape (N, H).
        labels: Class indices, shape (N,).

    Returns:
        "FDR" (of traces), "FDR, pinv" and "FDR, ridge", each ≥ 0: large when classes form tight, distant groups; the
        first and the last infinite where no class has any spread; NaN where a feature is not finite.
    """
    phi, classes = phi.double(), labels.unique()
    if not phi.isfinite().all():  # of a run that diverged
        return dict.fromkeys(("FDR", "FDR, pinv", "FDR, ridge"), float("nan"))
    means = torch.stack([phi[labels == c].mean(0) for c in classes])  # (C, H)
    shares = torch.stack([(labels == c).double().mean() for c in classes])
    within = phi - means[torch.searchsorted(classes, labels)]
    s, U = torch.linalg.eigh(within.T @ within / len(phi))  # S_W = U diag(s) Uᵀ
    between = (shares[:, None] * ((means - phi.mean(0)) @ U).square()).sum(0)  # diagonal of Uᵀ S_B U
    kept = s > s[-1] * max(phi.shape) * torch.finfo(s.dtype).eps
    ridge = RIDGE * s.clamp(min=0).mean()
    return {
        "FDR": (between.sum() / within.square().sum() * len(phi)).item(),
        "FDR, pinv": (between[kept] / s[kept]).sum().item(),
        "FDR, ridge": (between / (s.clamp(min=0) + ridge)).sum().item() if ridge > 0 else float("inf"),
    }


def feature_change(phi_0: Tensor, phi: Tensor, labels: Tensor) -> dict[str, float]:
    """All metrics of feature change between φ_0 and φ on the same examples.

    Args:
        phi_0: Pre-trained features, shape (N, H).
        phi: Features after tuning, shape (N, H).
        labels: Class indices, shape (N,).

    Returns:
        "CS" and "Diff" between the two, and of φ "CS among texts", "FDR", "FDR, pinv", "FDR, ridge" and "NormF"; with
        "_0" those of φ_0.

    Raises:
        ValueError: If the shapes do not agree.
    """
    if phi_0.shape != phi.shape or labels.shape != phi.shape[:1]:
        raise ValueError(
            f"Expected φ_0 and φ of one shape (N, H) and labels (N,), got {tuple(phi_0.shape)}, {tuple(phi.shape)} and "
            f"{tuple(labels.shape)}."
        )
    found = {"CS": cosine_similarity(phi_0, phi), "Diff": feature_difference(phi_0, phi)}
    for suffix, features in (("", phi), ("_0", phi_0)):
        found[f"CS among texts{suffix}"] = text_similarity(features)
        found |= {f"{name}{suffix}": ratio for name, ratio in fisher_ratios(features, labels).items()}
        found[f"NormF{suffix}"] = feature_norm(features)
    return found
