"""One forward pass on record and C backward passes: the factors of every per-example gradient of a batch.

The cotangents of the backward passes are the rows of V, so f_c = ⟨V_c, φ⟩ is differentiated for the whole batch at
once: no Jacobian of φ is formed, and no gradient of a weight. Only inputs and output gradients of operations are kept.
What they give is then compared with a gradient that autograd forms itself, so that no kernel is wrong in silence.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lpft_utils.common.errors import KernelError
from lpft_utils.ntk.gradients import Dense, Gradient, merge
from lpft_utils.ntk.rules import Broadcast
from lpft_utils.ntk.tape import Entry, Tape

Inputs = Mapping[str, Tensor]
Features = Callable[[nn.Module, Inputs], Tensor]

# Rounding of a sum, relative to its terms, by the lowest precision in which a model computes.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 3e-5, torch.float16: 3e-2, torch.bfloat16: 3e-2}


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
        reached: Parameters that φ depends on as autograd sees it; empty where it was not asked.
        dtype: The lowest precision in which the model computed.
    """

    phi: Tensor
    gradients: dict[str, Gradient]
    reached: set[str]
    dtype: torch.dtype

    def nbytes(self) -> int:
        """Bytes held, counting shared inputs once."""
        tensors = {}
        for gradient in self.gradients.values():
            for t in vars(gradient).values():
                if isinstance(t, Tensor):
                    tensors[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return sum(tensors.values())


class NoRule(Exception):
    """Parameters whose gradients the rules do not give.

    Attributes:
        why: Reason by parameter.
    """

    def __init__(self, why: Mapping[str, str]) -> None:
        super().__init__(", ".join(why))
        self.why = dict(why)


@contextlib.contextmanager
def frozen(model: nn.Module, wanted: Mapping[str, nn.Parameter]) -> Iterator[None]:
    """Evaluation mode, only the wanted parameters requiring gradients; restored afterwards."""
    required = [(p, p.requires_grad) for p in model.parameters()]
    training = {module: module.training for module in model.modules()}
    model.eval()
    model.requires_grad_(False)
    for parameter in wanted.values():
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter, flag in required:
            parameter.requires_grad_(flag)
        for module, flag in training.items():
            module.training = flag


def factors(
    phi_of: Callable[[Inputs], Tensor],
    inputs: Inputs,
    V: Tensor,
    wanted: Mapping[str, nn.Parameter],
    *,
    autograd: Sequence[str] = (),
    check: bool = False,
) -> Batch:
    """φ and the factors of all per-example gradients of V φ with respect to the wanted parameters.

    Args:
        phi_of: Computes φ (B, H), finite.
        inputs: Tensors with first dimension B.
        V: Cotangents, shape (C, H).
        wanted: Parameters by name, the only ones that require gradients.
        autograd: Names of those that autograd differentiates, possible for a single example only.
        check: Whether they are compared with autograd's.

    Returns:
        The batch.

    Raises:
        KernelError: If a gradient of a single example is not finite.
        NoRule: If gradients of some parameters cannot be told apart by example, or differ from autograd's.
    """
    B = len(next(iter(inputs.values())))
    tape = Tape(wanted, B)
    with torch.enable_grad(), tape:
        phi = phi_of(inputs)
    others = {name: f"used in {what}" for name, what in tape.unknown.items() if name not in autograd}
    if others:
        raise NoRule(others)
    entries = [entry for entry in tape.entries if entry.name not in autograd]
    if not phi.requires_grad:
        return Batch(phi.detach(), {}, set(), tape.dtype)
    w = weights(len(V)).to(V) if check else None
    gradients, outputs = _differentiate(phi, entries, V, wanted, autograd, w)
    if w is None:
        return Batch(phi.detach(), gradients, set(), tape.dtype)
    checked = {name: p for name, p in wanted.items() if name not in autograd}
    if not checked:
        return Batch(phi.detach(), gradients, set(gradients), tape.dtype)
    reached = _certify(phi, entries, outputs, w @ V, checked, tape.dtype)
    return Batch(phi.detach(), gradients, reached | (gradients.keys() & set(autograd)), tape.dtype)


def close(x: Tensor, y: Tensor, dtype: torch.dtype, floor: float = 0.0) -> bool:
    """Whether they differ by no more than rounding in this type, of their own size or of another's (`floor`)."""
    return bool((x - y).norm() <= max(10 * TOLERANCE[dtype] * y.norm().item(), 10 * torch.finfo(dtype).eps * floor))


def weights(n: int) -> Tensor:
    """A weight for each of n examples or classes, no two alike, between 1/2 and 2 in size."""
    generator = torch.Generator().manual_seed(n)
    size = 2 ** (2 * torch.rand(n, generator=generator, dtype=torch.float64) - 1)
    return torch.where(torch.rand(n, generator=generator) < 0.5, -size, size)


def _differentiate(
    phi: Tensor,
    entries: Sequence[Entry],
    V: Tensor,
    wanted: Mapping[str, Tensor],
    autograd: Sequence[str],
    w: Tensor | None,
) -> tuple[dict[str, Gradient], list[Tensor | None]]:
    """One backward pass for each row of V.

    Returns:
        Gradients by parameter, and with weights w (C,) for each entry Σ_c w_c g_c, as it came.
    """
    ends = [*(entry.output for entry in entries), *(wanted[name] for name in autograd)]
    parts: list[list[Tensor]] = [[] for _ in ends]
    weighted: list[Tensor | None] = [None] * len(entries)
    for c, row in enumerate(V if ends else V[:0]):
        found = torch.autograd.grad(phi, ends, row.to(phi.dtype).expand_as(phi), retain_graph=True, allow_unused=True)
        for i, g in enumerate(found):
            if g is None:
                continue
            parts[i].append(entries[i].use.part(g) if i < len(entries) else g[None])
            if w is not None and i < len(entries):
                before = weighted[i]
                weighted[i] = w[c] * g if before is None else before.add_(g, alpha=w[c].item())
    uses: dict[str, list[Gradient]] = {}
    for entry, part in zip(entries, parts, strict=False):
        if part:
            gradient = _of_parameter(entry, entry.use.gradient(part), wanted[entry.name])
            uses.setdefault(entry.name, []).append(gradient.to(V.dtype))
    for name, part in zip(autograd, parts[len(entries) :], strict=True):
        if part:
            uses[name] = [Dense(torch.stack(part, 1).reshape(1, len(V), -1).to(V.dtype))]
    return {name: merge(found, wanted[name].shape).active() for name, found in uses.items()}, weighted


def _of_parameter(entry: Entry, gradient: Gradient, parameter: Tensor) -> Gradient:
    """From the tensor that meets the data back to the parameter of which it is made."""
    u = entry.use.source
    if u is parameter or not isinstance(gradient, Dense):
        return gradient
    B, C, _ = gradient.rows.shape
    G = gradient.rows.reshape(B * C, *u.shape).to(u.dtype)
    try:
        (back,) = torch.autograd.grad(u, parameter, G, retain_graph=True, is_grads_batched=True)
    except (RuntimeError, NotImplementedError) as error:
        raise NoRule({entry.name: "through an operation that is not differentiated in batches"}) from error
    return Dense(back.reshape(B, C, -1))


def _certify(
    phi: Tensor,
    entries: Sequence[Entry],
    outputs: Sequence[Tensor | None],
    cotangent: Tensor,
    wanted: Mapping[str, Tensor],
    dtype: torch.dtype,
) -> set[str]:
    """Compare Σ_b r_b Σ_c w_c ∂f_bc/∂θ with autograd's gradient of Σ_b r_b Σ_c w_c f_bc, parameter by parameter.

    The weights r differ between examples, so that a gradient given to the wrong example shows.

    Args:
        phi: Features (B, H), with their graph.
        entries: Uses of the parameters.
        outputs: For each, the derivative of Σ_c w_c f_c with respect to its output, None if there is none.
        cotangent: Σ_c w_c V_c, shape (H,).
        wanted: Parameters.
        dtype: The lowest precision in which the model computes.

    Returns:
        Names of the parameters that φ depends on.

    Raises:
        KernelError: If the gradient of a single example is not finite.
        NoRule: If there is a difference beyond rounding.
    """
    B = len(phi)
    r = weights(B).to(phi)
    whole = r[:, None] * cotangent.to(phi.dtype)
    truth = torch.autograd.grad(phi, list(wanted.values()), whole, retain_graph=True, allow_unused=True)
    # A gradient that is zero but for rounding, such as that of attention to a single token, has the rounding of others.
    noise = torch.finfo(dtype).eps * max((true.norm().item() for true in truth if true is not None), default=0.0)
    wrong: dict[str, str] = {}
    reached = set()
    for (name, parameter), found in zip(wanted.items(), truth, strict=True):
        true = found.to_dense() if found is not None and found.is_sparse else found
        uses = [(e, g) for e, g in zip(entries, outputs, strict=True) if e.name == name and g is not None]
        if true is None and not uses:
            continue
        reached.add(name)
        if true is None or not _agrees(uses, true, parameter, r, TOLERANCE[dtype], noise):
            wrong[name] = "with a gradient that differs from autograd's"
        if B == 1 and true is not None and not true.isfinite().all():
            raise KernelError(_not_finite(name, entries, outputs))
    if wrong:
        raise NoRule(wrong)
    return reached


def _not_finite(name: str, entries: Sequence[Entry], outputs: Sequence[Tensor | None]) -> str:
    """Where a gradient stops being finite on its way back."""
    bad = [e.name for e, g in zip(entries, outputs, strict=True) if g is not None and not g.isfinite().all()]
    return (
        f"The gradient of an example with respect to {name!r} is not finite, though φ is. The last layer in the "
        f"forward pass whose output gradient is not: {(bad or [name])[-1]!r}. A softmax over masked tokens only does "
        "that; other attention (attn_implementation) or float32 may not."
    )


def random_vector(g: Tensor) -> Tensor | None:
    """A vector for the columns of a gradient seen as a matrix, the same for every gradient of its shape."""
    if g.ndim < 2:
        return None
    generator = torch.Generator().manual_seed(g.numel())
    return torch.randn(g.shape[1:].numel(), generator=generator, dtype=torch.float64).to(g.device, g.dtype)


def through_vector(g: Tensor) -> Tensor:
    """A gradient times a random vector: as different gradients show differences, and are small."""
    v, dense = random_vector(g), g.to_dense()
    return dense if v is None else dense.flatten(1) @ v


def _agrees(
    uses: Sequence[tuple[Entry, Tensor]],
    true: Tensor,
    parameter: Tensor,
    r: Tensor,
    tolerance: float,
    noise: float,
) -> bool:
    """Whether the uses of a parameter add up to its gradient, a matrix seen through one random vector."""
    v = random_vector(true)
    scale = 1.0 if v is None else v.norm().item() / len(v) ** 0.5
    true = through_vector(true)
    total, squares = torch.zeros_like(true), 0.0
    for entry, g in uses:
        value, size = entry.use.weighted(g, r.to(g.dtype), v)
        if isinstance(entry.use, Broadcast):
            u = entry.use.source
            if u is not parameter:
                (value,) = torch.autograd.grad(u, parameter, value.to(u.dtype), retain_graph=True)
            if v is not None:
                value = value.flatten(1).to(v.dtype) @ v
        total += value.reshape(total.shape)
        squares += size**2
    terms = r.abs().max().item() * scale * squares**0.5
    return bool((total - true).norm() <= max(tolerance * max(terms, true.norm().item()), noise * scale))
