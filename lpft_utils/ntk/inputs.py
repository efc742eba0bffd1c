"""What the kernel is computed of: padded tensors by name, examples first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lpft_utils.common.errors import KernelError
from lpft_utils.ntk.factors import Features, Inputs, model_features

TOKENS = {"input_ids", "attention_mask", "token_type_ids", "position_ids"}  # inputs (N, T) that may be cut at padding


def named_inputs(
    inputs: Inputs | Tensor, features: Callable[[nn.Module, Any], Tensor] | None
) -> tuple[dict[str, Tensor], Features]:
    """Inputs by name, and φ as a function of them."""
    named = {"x": inputs} if isinstance(inputs, Tensor) else inputs
    types = {k: type(t).__name__ for k, t in named.items()} if isinstance(named, Mapping) else type(named).__name__
    if not isinstance(named, Mapping) or not named or not all(isinstance(t, Tensor) and t.ndim for t in named.values()):
        raise KernelError(
            "inputs: expected padded tensors by name, examples first, as tokenizer(texts, padding=True, "
            f'return_tensors="pt") makes of texts; or one tensor. Got {types}.'
        )
    counts = {name: len(t) for name, t in named.items()}
    if len(set(counts.values())) != 1 or not next(iter(counts.values())):
        raise KernelError(f"inputs: expected tensors with one first dimension N ≥ 1, got {counts}.")
    if isinstance(inputs, Tensor):
        call = features or (lambda model, x: model.features(x))
        return dict(named), lambda model, batch: call(model, batch["x"])
    return dict(named), features or model_features


def count(inputs: Inputs) -> int:
    """N."""
    return len(next(iter(inputs.values())))


def chosen(inputs: Inputs, index: Tensor) -> dict[str, Tensor]:
    """Some examples."""
    return {name: t[index] for name, t in inputs.items()}


def lengths(inputs: Inputs) -> Tensor | None:
    """Index of the last token plus one for each example, shape (N,), or None without a mask."""
    mask = inputs.get("attention_mask")
    if mask is None or mask.ndim != 2:
        return None
    return ((mask != 0).long() * torch.arange(1, mask.shape[1] + 1, device=mask.device)).amax(1).clamp_min(1)


def take(inputs: Inputs, index: Tensor) -> dict[str, Tensor]:
    """Some examples, without the columns in which all of them are padding at the end; inputs must be of `TOKENS`."""
    some = chosen(inputs, index)
    length = lengths(some)
    if length is None:
        return some
    T, stop = some["attention_mask"].shape[1], int(length.max())
    return {k: t[:, :stop] if t.ndim > 1 and t.shape[1] == T else t for k, t in some.items()}


def by_length(inputs: Inputs) -> Tensor:
    """Examples from short to long, so that batches have little padding."""
    length = lengths(inputs)
    return torch.arange(count(inputs)) if length is None else length.cpu().argsort(stable=True)
