"""One forward pass with hooks and C backward passes: the factors of every per-example gradient of a batch.

The cotangents of the backward passes are the rows of V, so f_c = ⟨V_c, φ⟩ is differentiated for the whole batch at
once: no Jacobian of φ is formed, and no gradient of a weight. Only inputs and output gradients of layers are kept.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from lpft_utils.common.errors import KernelError
from lpft_utils.ntk.gradients import Gradient, merge
from lpft_utils.ntk.rules import rules

Inputs = Mapping[str, Tensor]
Features = Callable[[nn.Module, Inputs], Tensor]


def model_features(model: nn.Module, inputs: Inputs) -> Tensor:
    """φ(x) of a model that has a method `features`, such as `Classifier`."""
    if not hasattr(model, "features"):
        raise KernelError(
            f"features: {type(model).__name__} has no method of this name, so expected `features=`, a function of the "
            "model and a batch that computes φ (B, H), such as lambda model, batch: model.body(**batch)."
        )
    return model.features(**inputs)  # pyright: ignore[reportCallIssue]


@dataclass
class Batch:
    """What one batch contributes.

    Attributes:
        phi: Features, shape (B, H).
        gradients: By parameter name; a parameter that φ does not depend on is absent.
    """

    phi: Tensor
    gradients: dict[str, Gradient]

    def nbytes(self) -> int:
        """Bytes held, counting shared layer inputs once."""
        tensors = {}
        for gradient in self.gradients.values():
            for t in vars(gradient).values():
                if isinstance(t, Tensor):
                    tensors[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return sum(tensors.values())


@dataclass
class _Call:
    module: nn.Module
    input: Tensor
    output: GradientEdge  # where the derivative with respect to the output arrives: the output itself need not be kept


@dataclass
class Plan:
    """Which parameters are wanted, and in which modules they live.

    Attributes:
        names: Wanted parameters; of a tied parameter the name that `named_parameters` gives.
        homes: For every module with wanted parameters: local name → name in `names`.
        shapes: Shape by name.
    """

    names: tuple[str, ...]
    homes: dict[nn.Module, dict[str, str]] = field(repr=False)
    shapes: dict[str, torch.Size] = field(repr=False)


def plan(model: nn.Module, wanted: Mapping[str, nn.Parameter]) -> Plan:
    """Find the modules of the wanted parameters.

    Args:
        model: The model.
        wanted: Parameters by name.

    Returns:
        The plan.
    """
    names = {id(parameter): name for name, parameter in wanted.items()}
    homes: dict[nn.Module, dict[str, str]] = {}
    for module in model.modules():
        if isinstance(module, nn.ParameterDict):  # has no forward of its own: its owner uses it
            continue
        own = dict(module.named_parameters(recurse=False))
        for prefix, child in module.named_children():
            if isinstance(child, nn.ParameterDict):
                own |= {f"{prefix}.{k}": p for k, p in child.named_parameters(recurse=False)}
        local = {k: names[id(p)] for k, p in own.items() if id(p) in names}
        if local:
            homes[module] = local
    return Plan(tuple(wanted), homes, {name: p.shape for name, p in wanted.items()})


@contextlib.contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, no parameter requiring gradients; restored afterwards."""
    required = [p.requires_grad for p in model.parameters()]
    training = {module: module.training for module in model.modules()}
    model.eval()
    model.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, flag in zip(model.parameters(), required, strict=True):
            parameter.requires_grad_(flag)
        for module, flag in training.items():
            module.training = flag


class SharedInput(Exception):
    """A layer computes something once for the whole batch, so only a batch of one example tells gradients apart."""


def factors(model: nn.Module, features: Features, inputs: Inputs, V: Tensor, wanted: Plan) -> Batch:
    """φ and the factors of all per-example gradients of V φ with respect to the wanted parameters.

    Args:
        model: The model, `frozen`.
        features: Computes φ (B, H) from the model and its inputs.
        inputs: Tensors with first dimension B.
        V: Cotangents, shape (C, H).
        wanted: Parameters.

    Returns:
        The batch.

    Raises:
        KernelError: If a layer's input is not laid out by example, or φ is not finite.
        SharedInput: If a layer's input is shared by all examples.
    """
    B = len(next(iter(inputs.values())))
    calls: list[_Call] = []
    label = {module: next(iter(local.values())) for module, local in wanted.homes.items()}

    def record(module: nn.Module, given: tuple[Any, ...], output: Tensor) -> Tensor:
        if not given or not isinstance(given[0], Tensor) or not isinstance(output, Tensor):
            return output  # no rule for it: `verify` names its parameters
        a = given[0]
        if len(a) != B and len(a) == 1:  # made once and broadcast over the batch
            if not isinstance(module, nn.Embedding):  # as for the relative positions of DeBERTa
                raise SharedInput
            a, output = a.expand(B, *a.shape[1:]), output.expand(B, *output.shape[1:])
        if len(a) != B:
            raise KernelError(
                f"The layer of {label[module]!r} got an input of shape {tuple(a.shape)} for a batch of {B} examples. "
                f"Expected "
                "the examples as its first dimension: per-example gradients cannot be told apart otherwise. Leave its "
                "parameters out (`parameters=`), or rewrite the layer."
            )
        if not output.requires_grad:  # the first layer on the way; a leaf must not be changed in place, its copy may
            output = output.detach().requires_grad_().clone()
        calls.append(_Call(module, a.detach(), get_gradient_edge(output)))
        return output

    hooks = [module.register_forward_hook(record) for module in wanted.homes]
    try:
        with torch.enable_grad():
            phi = features(model, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    if not isinstance(phi, Tensor) or phi.ndim != 2 or len(phi) != B:
        got = tuple(phi.shape) if isinstance(phi, Tensor) else type(phi).__name__
        raise KernelError(f"features: expected φ of shape ({B}, H) for a batch of {B}, got {got}.")
    if phi.shape[1] != V.shape[1]:
        raise KernelError(
            f"V: expected shape (C, {phi.shape[1]}), since φ has {phi.shape[1]} numbers for each example, got "
            f"{tuple(V.shape)}. Without `V=` it is the weight of the layer that `head=` names."
        )
    if not phi.isfinite().all():
        raise KernelError("features: φ has entries that are not finite. Check the inputs and the model's weights.")
    uses = _differentiate(phi, calls, V)
    gradients: dict[str, list[Gradient]] = {}
    for call, g in uses:
        known = rules(call.module)
        a = call.input if isinstance(call.module, nn.Embedding) else _by_token(call.input)
        for local, name in wanted.homes[call.module].items():
            if local in known:
                gradients.setdefault(name, []).append(known[local](call.module, a, g))
    merged = {name: merge(found, wanted.shapes[name]).active() for name, found in gradients.items()}
    return Batch(phi.detach(), merged)


def _differentiate(phi: Tensor, calls: Sequence[_Call], V: Tensor) -> list[tuple[_Call, Tensor]]:
    """One backward pass for each row of V; output gradients of the calls that φ depends on, shape (B, T, C, p)."""
    if not calls or not phi.requires_grad:
        return []
    passes: list[list[Tensor | None]] = []
    outputs = [call.output for call in calls]
    for c, row in enumerate(V):
        cotangent = row.to(phi.dtype).expand_as(phi)
        more = c + 1 < len(V)
        passes.append(list(torch.autograd.grad(phi, outputs, cotangent, retain_graph=more, allow_unused=True)))
    found = []
    for i, call in enumerate(calls):
        g = [_by_token(x) for x in (p[i] for p in passes) if x is not None]
        for p in passes:
            p[i] = None  # copied below; held twice, all layers together would double the peak
        if g:
            found.append((call, torch.stack(g, 2)))
    return found


def _by_token(x: Tensor) -> Tensor:
    """(B, …, p) → (B, T, p)."""
    return x[:, None] if x.ndim == 2 else x.flatten(1, -2)


def verify(model: nn.Module, features: Features, inputs: Inputs, V: Tensor, wanted: Plan) -> None:
    """Compare the gradients of one example with autograd's, so that no parameter is wrong or left out in silence.

    Args:
        model: The model, `frozen`.
        features: Computes φ.
        inputs: Tensors with first dimension 1.
        V: Cotangents, shape (C, H).
        wanted: Parameters.

    Raises:
        KernelError: Naming the parameters that φ depends on and that the engine does not handle.
    """
    mine = factors(model, features, inputs, V, wanted).gradients
    by_name = dict(model.named_parameters(remove_duplicate=True))
    parameters = [by_name[name].requires_grad_() for name in wanted.names]
    # Any one combination of classes shows an error in any class, but for a set of measure zero.
    weights = torch.linspace(1.0, 2.0, len(V), dtype=V.dtype, device=V.device)
    try:
        with torch.enable_grad():
            phi = features(model, inputs)
            output = (phi * (weights @ V).to(phi.dtype)).sum()
        # A φ that needs no gradient at all depends on none of them.
        true = (
            torch.autograd.grad(output, parameters, allow_unused=True)
            if output.requires_grad
            else [None] * len(parameters)
        )
    finally:
        for parameter in parameters:
            parameter.requires_grad_(False)
    tolerance = 1e-3  # some layers compute in float32 whatever the model's type, and a wrong rule is wrong by much more
    largest = max((g.norm().item() for g in true if g is not None), default=0.0)
    bad = []
    for name, gradient in zip(wanted.names, true, strict=True):
        if gradient is None:
            continue
        size = gradient.norm().item()
        if name not in mine:
            bad.append(name)
            continue
        got = torch.tensordot(weights.to(gradient.dtype), mine[name].as_parameter(gradient.shape)[0], 1)
        # Rounding is relative to the gradients of the whole model: a key's bias has a gradient of exactly zero.
        if not (got - gradient).norm().item() <= tolerance * size + 1e-5 * largest:
            bad.append(name)
    if bad:
        kinds = sorted({type(m).__name__ for m, local in wanted.homes.items() if set(local.values()) & set(bad)})
        shown = ", ".join(bad[:5]) + (", …" if len(bad) > 5 else "")
        raise KernelError(
            f"The engine has no exact rule for {len(bad)} of the {len(wanted.names)} parameters asked for: {shown} "
            f"(in modules {', '.join(kinds)}). It handles weights and biases of Linear, Conv1D, Embedding, LayerNorm "
            "and RMSNorm, and IA³'s vectors, that are used through their module's forward and whose output no in-place "
            "operation changes. "
            "Ask for others with `parameters=`, for example parameters=lambda name: name not in (…)."
        )
