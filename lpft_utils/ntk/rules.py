"""Where a parameter meets the data, and what the gradient of that operation is for every example.

A rule belongs to an operation of torch (`linear`, `embedding`, `mul`, …), not to a class of layers: however a model
spells its layer norm or its scaled embedding, in the end it calls one of these. From an operation's arguments a rule
makes a `Use` for each parameter among them; what it cannot tell apart by example it leaves out, and the engine then
asks autograd. Rules are proposals: the engine compares what they give with autograd's gradient (`factors.certify`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from lpft_utils.ntk.gradients import Dense, Gradient, Outer, Rows


@dataclass
class Use(ABC):
    """One use of a parameter in a forward pass of B examples.

    Attributes:
        source: The parameter, or a tensor made of it alone, such as 1 + w.
        B: Examples.
    """

    source: Tensor
    B: int

    @abstractmethod
    def part(self, g: Tensor) -> Tensor:
        """What is kept of the derivative g of one function with respect to the operation's output; B comes first."""

    @abstractmethod
    def gradient(self, parts: Sequence[Tensor]) -> Gradient:
        """The gradients of C functions, from the part of each."""

    @abstractmethod
    def weighted(self, g: Tensor, r: Tensor, v: Tensor | None) -> tuple[Tensor, float]:
        """Σ_b r_b ∂f_b/∂source and the size of the terms of this sum, on which its rounding error depends.

        Args:
            g: Derivative of one function with respect to the output.
            r: Weights of the examples, shape (B,).
            v: For a source of two dimensions or more, seen as a matrix, the vector by which the sum is multiplied from
                the right, so that no matrix is formed.

        Returns:
            The sum, and the Frobenius norm of its terms before the multiplication.
        """


@dataclass
class _Tokens(Use):
    """Gradients Σ_t g_t ⊗ a_t.

    Attributes:
        a: Shape (B, T, q), or ids (B, T).
        channels: Whether the output is (B, p, …), as of a convolution, and not (…, p).
    """

    a: Tensor
    channels: bool = False

    def part(self, g: Tensor) -> Tensor:
        """(B, T, p)."""
        if self.channels:
            return g.flatten(2).mT
        by_token = by_example(g, self.B)
        assert by_token is not None  # the input had one
        return by_token


@dataclass
class Matrix(_Tokens):
    """Weight of a linear map, kept as (p, q), or as (q, p) where `transposed`."""

    transposed: bool = False

    def gradient(self, parts: Sequence[Tensor]) -> Gradient:
        """Factors."""
        return Outer(torch.stack(list(parts), 2), self.a, self.transposed)

    def weighted(self, g: Tensor, r: Tensor, v: Tensor | None) -> tuple[Tensor, float]:
        """By token."""
        assert v is not None
        left, right = self.part(g).to(self.a.dtype) * r[:, None, None], self.a
        size = (left.norm(dim=2) * right.norm(dim=2)).norm().item()
        if self.transposed:
            left, right = right, left
        return (left * (right @ v.to(right.dtype))[:, :, None]).sum((0, 1)), size


@dataclass
class Lookup(_Tokens):
    """Rows of an embedding.

    Attributes:
        padding: Id whose row gets no gradient.
    """

    padding: int | None = None

    def part(self, g: Tensor) -> Tensor:
        """Without the padding."""
        kept = super().part(g)
        return kept if self.padding is None else kept * (self.a != self.padding)[:, :, None]

    def gradient(self, parts: Sequence[Tensor]) -> Gradient:
        """Factors."""
        return Rows(torch.stack(list(parts), 2), self.a)

    def weighted(self, g: Tensor, r: Tensor, v: Tensor | None) -> tuple[Tensor, float]:
        """By id."""
        assert v is not None
        terms = self.part(g) * r[:, None, None]
        total = terms.new_zeros(len(self.source))
        return total.index_add_(0, self.a.flatten(), (terms @ v.to(g.dtype)).flatten()), terms.norm().item()


@dataclass
class Broadcast(Use):
    """A tensor that meets every example elementwise: the output is factor ∘ source, or has such a term.

    Attributes:
        factor: What the source is multiplied with, a number or a tensor that broadcasts against the output.
        shape: The source as it is broadcast, if it is not its own shape.
        view: Brings the output's derivative into the form in which it is multiplied.
    """

    factor: Tensor | float = 1.0
    shape: tuple[int, ...] = ()
    view: Callable[[Tensor], Tensor] | None = None

    def _terms(self, g: Tensor) -> Tensor:
        return (g if self.view is None else self.view(g)) * self.factor

    def part(self, g: Tensor) -> Tensor:
        """(B, *source.shape)."""
        terms, shape = self._terms(g), self.shape or tuple(self.source.shape)
        if self.B > 1 and len(shape) == 1 and terms.shape[0] != self.B:  # flattened, or tokens first
            by_token = by_example(terms, self.B)
            assert by_token is not None
            return by_token.sum(1)
        if self.B == 1:
            return terms.sum_to_size(shape).reshape(1, *self.source.shape)
        shape = (1,) * (terms.ndim - len(shape)) + shape
        return terms.sum_to_size(len(terms), *shape[1:]).reshape(self.B, *self.source.shape)

    def gradient(self, parts: Sequence[Tensor]) -> Gradient:
        """As they are."""
        return Dense(torch.stack(list(parts), 1).reshape(self.B, len(parts), -1))

    def weighted(self, g: Tensor, r: Tensor, v: Tensor | None) -> tuple[Tensor, float]:
        """Whole: such sources are small."""
        return torch.tensordot(r.to(g.dtype), self.part(g), 1), self._terms(g).norm().item()


def by_example(x: Tensor, B: int) -> Tensor | None:
    """Tokens of each example.

    Args:
        x: Shape (B, …, p), (T, B, …, p) or (B T, p); of a single example any.
        B: Examples.

    Returns:
        Shape (B, T, p), or None if the examples cannot be seen in the shape.
    """
    if B == 1:
        return x.reshape(1, -1, x.shape[-1])
    if x.ndim >= 2 and x.shape[0] == B:
        return x[:, None] if x.ndim == 2 else x.flatten(1, -2)
    if x.ndim >= 3 and x.shape[1] == B:
        return x.transpose(0, 1).flatten(1, -2)
    if x.ndim == 2 and x.shape[0] % B == 0:
        return x.unflatten(0, (B, -1))
    return None


class At(NamedTuple):
    """Output of an operation, and B."""

    out: Tensor
    B: int


# From an operation's output and arguments, named as torch names them: a use for each parameter that the rule knows.
Rule = Callable[..., list[Use]]
Uses = list[Use]
Maybe = Tensor | None


def _matrix(at: At, weight: Tensor, x: Tensor, *, transposed: bool) -> Uses:
    a = by_example(x, at.B) if weight.ndim == 2 else None
    return [] if a is None else [Matrix(weight, at.B, a.detach(), transposed=transposed)]


def _shift(at: At, source: object, factor: Tensor | float = 1.0) -> Uses:
    """A source on the last dimensions of the output, or on all but the batch's."""
    if not isinstance(source, Tensor):
        return []
    out, B = at
    last_only = source.ndim == 1 and source.shape == out.shape[-1:] and by_example(out, B) is not None
    shape = (1,) * (out.ndim - source.ndim) + tuple(source.shape)
    if B == 1 or last_only or (out.ndim > 1 and out.shape[0] == B and shape[0] == 1):
        return [Broadcast(source, B, factor)]
    return []


def _per_channel(at: At, source: object, factor: Tensor | float = 1.0) -> Uses:
    """A source on dimension 1."""
    if not isinstance(source, Tensor) or (at.out.shape[0] != at.B and at.B > 1):
        return []
    return [Broadcast(source, at.B, factor, shape=(1, len(source), *(1,) * (at.out.ndim - 2)))]


def _linear(at: At, input: Tensor, weight: Tensor, bias: Maybe = None) -> Uses:
    return _matrix(at, weight, input, transposed=False) + _shift(at, bias)


def _addmm(at: At, input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1, alpha: float = 1) -> Uses:
    if beta != 1 or alpha != 1:
        return []
    return _matrix(at, mat2, mat1, transposed=True) + _shift(at, input)


def _matmul(at: At, input: Tensor, other: Tensor) -> Uses:
    uses = _matrix(at, other, input, transposed=True) if input.ndim > 1 else []
    if input.ndim == 2 and other.ndim == 3 and len(other) == at.B:  # W x, with tokens last
        uses.append(Matrix(input, at.B, other.detach().mT, channels=True))
    return uses


def _embedding(
    at: At, input: Tensor, weight: Tensor, padding_idx: int | None = None, max_norm: float | None = None, *more: Any,
    scale_grad_by_freq: bool = False, **_: Any,
) -> Uses:  # fmt: skip
    if max_norm is not None or scale_grad_by_freq or any(more[1:2]):  # rows rescaled, or their gradients
        return []
    one_for_all = len(input) == 1 < at.B
    ids = None if one_for_all else by_example(input[..., None], at.B)
    if ids is None:
        return []
    return [Lookup(weight, at.B, ids[:, :, 0], padding=None if padding_idx is None else padding_idx % len(weight))]


def _layer_norm(
    at: At, input: Tensor, normalized_shape: Any, weight: Maybe = None, bias: Maybe = None, *e: Any, **kw: Any
) -> Uses:
    normal = functional.layer_norm(input.detach(), normalized_shape, None, None, *e, **kw)
    return _shift(at, weight, normal) + _shift(at, bias)


def _rms_norm(at: At, input: Tensor, normalized_shape: Any, weight: Maybe = None, eps: float | None = None) -> Uses:
    return _shift(at, weight, functional.rms_norm(input.detach(), normalized_shape, None, eps))


def _group_norm(
    at: At, input: Tensor, num_groups: int, weight: Maybe = None, bias: Maybe = None, *e: Any, **kw: Any
) -> Uses:
    normal = functional.group_norm(input.detach(), num_groups, None, None, *e, **kw)
    return _per_channel(at, weight, normal) + _per_channel(at, bias)


def _batch_norm(
    at: At, input: Tensor, running_mean: Maybe, running_var: Maybe, weight: Maybe = None, bias: Maybe = None,
    training: bool = False, *rest: Any, **kw: Any,
) -> Uses:  # fmt: skip
    if training:  # examples are mixed
        return []
    normal = functional.batch_norm(input.detach(), running_mean, running_var, None, None, training, *rest, **kw)
    return _per_channel(at, weight, normal) + _per_channel(at, bias)


def _mul(at: At, input: Any, other: Any) -> Uses:
    return [use for x, y in ((input, other), (other, input)) if _is_data(y) for use in _shift(at, x, y.detach())]


def _add(at: At, input: Any, other: Any, *, alpha: float = 1) -> Uses:
    pairs = ((input, other, 1), (other, input, alpha))
    return [use for x, y, factor in pairs if _is_data(y) for use in _shift(at, x, factor)]


def _sub(at: At, input: Any, other: Any, *, alpha: float = 1) -> Uses:
    return _add(at, input, other, alpha=-alpha)


def _expand(at: At, input: Tensor, *_: Any) -> Uses:
    """One for all examples: a class token, or a query that is learned."""
    alike = input.ndim == at.out.ndim and input.shape[1:] == at.out.shape[1:] and len(input) == 1
    return _shift(at, input) if alike else []


def _convolution(
    at: At, input: Tensor, weight: Tensor, bias: Maybe = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1,
) -> Uses:  # fmt: skip
    """In one or two dimensions, of all channels or of each by itself."""
    n = weight.ndim - 2
    depthwise = groups == input.shape[1] == len(weight)
    if isinstance(padding, str) or input.ndim != n + 2 or len(input) != at.B or not (groups == 1 or depthwise):
        return _per_channel(at, bias) if at.out.ndim == n + 2 else []
    sizes = [[x] * n if isinstance(x, int) else list(x) * (n // len(x)) for x in (dilation, padding, stride)]
    if n == 1:  # as an image one pixel high
        image, kernel = input.detach()[:, :, None], (1, weight.shape[2])
        sizes = [[unit, *x] for unit, x in zip((1, 0, 1), sizes, strict=True)]
    else:
        image, kernel = input.detach(), tuple(weight.shape[2:])
    patches = functional.unfold(image, kernel, *(tuple(x) for x in sizes))  # (B, q, T)
    if groups == 1:
        return [Matrix(weight, at.B, patches.mT, channels=True), *_per_channel(at, bias)]
    factor = patches.unflatten(1, (groups, -1))  # (B, channels, kernel, T)
    shape = (1, groups, factor.shape[2], 1)
    return [Broadcast(weight, at.B, factor, shape, lambda g: g.flatten(2)[:, :, None]), *_per_channel(at, bias)]


def _is_data(x: object) -> bool:
    """Whether a source meets examples there; with a plain number it only becomes another tensor of its own."""
    return isinstance(x, Tensor) and x.ndim > 0


RULES: dict[str, Rule] = {
    **{"linear": _linear, "addmm": _addmm, "matmul": _matmul, "mm": _matmul, "embedding": _embedding},
    **{"layer_norm": _layer_norm, "rms_norm": _rms_norm, "group_norm": _group_norm, "batch_norm": _batch_norm},
    **{"mul": _mul, "multiply": _mul, "add": _add, "sub": _sub, "expand": _expand, "repeat": _expand},
    **{"conv1d": _convolution, "conv2d": _convolution},
}
