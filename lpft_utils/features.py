"""The features φ(x), and how much fine-tuning changed them."""

from __future__ import annotations

import logging
import uuid
from pathlib import Path

import datasets
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm

from lpft_utils.classifier import Classifier
from lpft_utils.encoding import Collator

log = logging.getLogger(__name__)


@torch.no_grad()
def extract_features(
    model: Classifier, encoded: datasets.Dataset, collate: Collator, *, batch_size: int = 64, progress: bool = False
) -> Tensor:
    """φ(x) for every example, in evaluation mode (no dropout).

    Batches are made of texts of similar length, longest first, so that little is spent on padding and a shortage of
    memory shows in the first batch.

    Args:
        model: The classifier.
        encoded: Tokenised examples of `encode`.
        collate: Pads a batch.
        batch_size: Examples in a batch.
        progress: Whether to show a progress bar.

    Returns:
        Features in the order of `encoded`, shape (N, H), float32, on the CPU.
    """
    was_training = model.training
    model.eval()
    order = np.argsort(-np.asarray(encoded["length"]), kind="stable")
    phi = torch.empty(len(encoded), model.config.hidden_size, dtype=torch.float32)
    for start in tqdm(range(0, len(order), batch_size), desc="features", disable=not progress, leave=False):
        index = order[start : start + batch_size]
        batch = collate([encoded[int(i)] for i in index])
        batch.pop("labels", None)
        phi[index] = model.features(**{k: v.to(model.device) for k, v in batch.items()}).float().cpu()
    model.train(was_training)
    return phi


def cached_features(cache: Path | None, key: str, compute) -> Tensor:  # noqa: ANN001
    """Features from a cache file, computed and stored on the first call.

    A damaged cache file is recomputed with a warning: unlike a run, it holds nothing that cannot be had again.

    Args:
        cache: Folder of the cache, or None for no cache.
        key: File name without ending; must name the weights, texts and settings that the features depend on.
        compute: Function without arguments that returns the features, shape (N, H).

    Returns:
        Features, shape (N, H).
    """
    if cache is None:
        return compute()
    path = cache / f"{key}.safetensors"
    if path.exists():
        try:
            return load_file(path)["phi"]
        except Exception as error:  # safetensors raises its own type, OSError or KeyError
            log.warning("%s is damaged (%s); the features are computed again.", path, error)
    phi = compute()
    cache.mkdir(parents=True, exist_ok=True)
    # Not from torch's generator: that would move the random numbers of what follows, and equal seeds would collide.
    temporary = path.with_suffix(f".{uuid.uuid4().hex[:8]}.tmp")
    save_file({"phi": phi.contiguous()}, temporary)
    temporary.replace(path)  # whole or not at all
    return phi


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
    """All measures of feature change between φ_0 and φ on the same examples.

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
