"""The features φ(x) of tokenised texts, and their cache."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import torch
from filelock import FileLock
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from lpft_utils.common.tensors import write_tensors
from lpft_utils.models.classifier import Classifier
from lpft_utils.models.encoding import Collator

log = logging.getLogger(__name__)


EVALUATION_BATCH = 64


def evaluation_batch(accumulation: int) -> int:
    """Examples in a batch of evaluation, where batches of training are cut into `accumulation` parts."""
    return max(1, EVALUATION_BATCH // accumulation)


@torch.no_grad()
def extract_features(
    model: Classifier, encoded: datasets.Dataset, collate: Collator, *, batch_size: int = EVALUATION_BATCH,
    progress: bool = False,
) -> Tensor:  # fmt: skip
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


def cached_features(cache: Path | None, key: str, compute: Callable[[], Tensor]) -> Tensor:
    """Features from a cache file, computed and stored on the first call: by one process, others wait for it.

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
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if path.exists():
            try:
                return load_file(path)["phi"]
            except Exception as error:  # safetensors raises its own type, OSError or KeyError
                log.warning("%s is damaged (%s); the features are computed again.", path, error)
        phi = compute()
        write_tensors(path, {"phi": phi}, {})
    return phi
