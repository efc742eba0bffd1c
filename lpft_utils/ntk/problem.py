"""A model made ready for the engine: frozen, its head found, the parameters chosen."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lpft_utils.common.errors import KernelError
from lpft_utils.ntk.factors import Batch, Features, Inputs, Plan, SharedInput, factors, frozen, model_features, plan


@dataclass(frozen=True)
class Problem:
    """A model, ready for the engine.

    Attributes:
        model: Evaluation mode, nothing requiring gradients.
        features: Computes φ.
        V: Cotangents, shape (C, H).
        bias: Whether the head has a bias.
        wanted: Parameters.
        device: Where the model is.
    """

    model: nn.Module
    features: Features
    V: Tensor
    bias: bool
    wanted: Plan
    device: torch.device

    def factors(self, inputs: Inputs) -> Batch:
        """Factors of a batch."""
        moved = self.moved(inputs)
        try:
            return factors(self.model, self.features, moved, self.V, self.wanted)
        except SharedInput:
            single = [{k: t[i : i + 1] for k, t in moved.items()} for i in range(count(moved))]
            found = [factors(self.model, self.features, one, self.V, self.wanted) for one in single]
            first, *others = (batch.gradients for batch in found)
            joined = {name: g.join([other[name] for other in others]) for name, g in first.items()}
            return Batch(torch.cat([batch.phi for batch in found]), joined)

    def moved(self, inputs: Inputs) -> dict[str, Tensor]:
        """Inputs on the model's device; numbers, other than token ids, in the model's type."""
        return {k: t.to(self.device, self.V.dtype if t.is_floating_point() else t.dtype) for k, t in inputs.items()}


@contextmanager
def prepared(
    model: nn.Module,
    features: Features,
    V: Tensor | None,
    head: str,
    parameters: Callable[[str], bool] | Iterable[str] | None,
    dtype: torch.dtype | None,
) -> Iterator[Problem]:
    """Freeze a model for the engine and restore it afterwards.

    Args:
        model: The model.
        features: Computes φ.
        V: Another head, or None.
        head: Name of the linear head.
        parameters: Wanted parameters, as in `kernel`.
        dtype: Type to convert a copy of the model to, or None.

    Yields:
        The problem.

    Raises:
        KernelError: If there is no such head, V does not fit it, a parameter name is unknown, or the weights are not
            in float32 or float64.
    """
    linear = functools.reduce(lambda m, name: getattr(m, name, None), head.split("."), model)
    if V is None and not isinstance(linear, nn.Linear):
        raise KernelError(f"head: expected the name of a Linear layer of the model, got {head!r}; or pass V (C, H).")
    own = {id(p) for p in linear.parameters()} if isinstance(linear, nn.Module) else set()
    body = {name: p for name, p in model.named_parameters() if id(p) not in own}
    names = _wanted_names(body, parameters)
    first = next(iter(body.values()), None)
    if first is None:
        raise KernelError("model: expected parameters besides the head, got none.")
    if dtype is not None and dtype != first.dtype:
        model = copy.deepcopy(model).to(dtype)
        first = next(p for p in model.parameters())
    by_name = dict(model.named_parameters())
    weight = linear.weight if V is None and isinstance(linear, nn.Linear) else V
    if not isinstance(weight, Tensor) or weight.ndim != 2 or not weight.numel() or not weight.isfinite().all():
        got = f"shape {tuple(weight.shape)}" if isinstance(weight, Tensor) else type(weight).__name__
        raise KernelError(f"V: expected a tensor of finite numbers, shape (C, H), C and H ≥ 1, got {got}.")
    if first.dtype not in (torch.float32, torch.float64):
        raise KernelError(f"model: expected float32 or float64 weights, got {first.dtype}; pass dtype=torch.float32.")
    bias = not isinstance(linear, nn.Linear) or linear.bias is not None
    V_ = weight.detach().to(first.device, first.dtype)
    with frozen(model):
        wanted = plan(model, {name: by_name[name] for name in names})
        yield Problem(model, features, V_, bias, wanted, first.device)


def _wanted_names(
    body: Mapping[str, nn.Parameter], parameters: Callable[[str], bool] | Iterable[str] | None
) -> list[str]:
    if parameters is None:
        return [name for name, p in body.items() if p.requires_grad]
    if callable(parameters):
        return [name for name in body if parameters(name)]
    names = [parameters] if isinstance(parameters, str) else list(parameters)
    unknown = [name for name in names if name not in body]
    if unknown:
        raise KernelError(
            f"parameters: the model's body has no parameter {unknown[0]!r}; it has {', '.join(list(body)[:4])}, …."
        )
    return names


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
