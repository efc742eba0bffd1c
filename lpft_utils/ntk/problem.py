"""A model made ready for the engine: frozen, its head found, the parameters chosen."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lpft_utils.errors import KernelError
from lpft_utils.ntk.factors import Batch, Features, Inputs, Plan, factors, frozen, plan


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
        """Factors of a batch, moved to the model's device."""
        moved = {k: t.to(self.device) for k, t in inputs.items()}
        return factors(self.model, self.features, moved, self.V, self.wanted)


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
        KernelError: If there is no such head, V does not fit it, or a parameter name is unknown.
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
    assert weight is not None
    if weight.ndim != 2:
        raise KernelError(f"V: expected shape (C, H), got {tuple(weight.shape)}.")
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
