"""Inputs of φ: tensors by name whose first dimension is the example."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import datasets
import torch
from torch import Tensor, nn

from lpft_utils.errors import KernelError
from lpft_utils.ntk.factors import Features, Inputs, model_features


def stack(
    encoded: datasets.Dataset,
    collate: Callable[[list[dict[str, Any]]], dict[str, Tensor]],
    index: Sequence[int] | None = None,
) -> dict[str, Tensor]:
    """Padded inputs of tokenised examples.

    Args:
        encoded: What `encoding.encode` gives.
        collate: Pads, such as `encoding.Collator`.
        index: Which examples; None means all.

    Returns:
        Tensors (N, T) by name, without labels.
    """
    chosen = encoded if index is None else encoded.select(list(index))
    batch = collate([dict(row) for row in chosen])
    return {k: t for k, t in batch.items() if k != "labels"}


def named_inputs(
    inputs: Inputs | Tensor, features: Callable[[nn.Module, Any], Tensor] | None
) -> tuple[dict[str, Tensor], Features]:
    """Inputs by name, and φ as a function of them."""
    named = {"x": inputs} if isinstance(inputs, Tensor) else dict(inputs)
    counts = {name: len(t) for name, t in named.items()}
    if not named or len(set(counts.values())) != 1 or not next(iter(counts.values())):
        raise KernelError(f"inputs: expected tensors with one first dimension N ≥ 1, got {counts or 'none'}.")
    if isinstance(inputs, Tensor):
        call = features or (lambda model, x: model.features(x))
        return named, lambda model, batch: call(model, batch["x"])
    return named, features or model_features


def count(inputs: Inputs) -> int:
    """N."""
    return len(next(iter(inputs.values())))


def lengths(inputs: Inputs) -> Tensor | None:
    """Index of the last token plus one for each example, shape (N,), or None without a mask."""
    mask = inputs.get("attention_mask")
    if mask is None or mask.ndim != 2:
        return None
    return (mask.long() * torch.arange(1, mask.shape[1] + 1, device=mask.device)).amax(1).clamp_min(1)


def take(inputs: Inputs, index: Tensor) -> dict[str, Tensor]:
    """Some examples, without the columns in which all of them are padding at the end."""
    chosen = {k: t[index] for k, t in inputs.items()}
    length = lengths(chosen)
    if length is None:
        return chosen
    T, stop = chosen["attention_mask"].shape[1], int(length.max())
    return {k: t[:, :stop] if t.ndim > 1 and t.shape[1] == T else t for k, t in chosen.items()}


def by_length(inputs: Inputs) -> Tensor:
    """Examples from short to long, so that batches have little padding."""
    length = lengths(inputs)
    return torch.arange(count(inputs)) if length is None else length.cpu().argsort(stable=True)


def longest(inputs: Inputs) -> dict[str, Tensor]:
    """The longest example alone, first dimension 1."""
    return take(inputs, by_length(inputs)[-1:])
