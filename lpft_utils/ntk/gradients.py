"""Per-example gradients, kept factored, and their inner products.

For one example x and class c the gradient of f_c(x) by a weight matrix is a sum over tokens of outer products,

    ∂f_c/∂W = Σ_t g_{c,t} a_tᵀ,    a_t: input of the layer, g_{c,t}: derivative of f_c with respect to its output,

so the pair (g, a) is all that has to be kept: T (C p + q) numbers in place of C p q. Three kinds of gradient occur:
`Outer` (weights of linear layers), `Rows` (embeddings, where a_t is one-hot) and `Dense` (vectors).
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Self

import torch
from torch import Tensor

# Torch has no call for half of X Xᵀ, and BLAS syrk, called through SciPy, brings a second pool of threads that takes
# more from the products around it than it saves. Measured on two cores: rows in a tile, and length of a summand.
TILE = 128
LENGTH = 4096


class Gradient(ABC):
    """Gradients of V φ by one parameter, for B examples."""

    def kind(self) -> tuple[object, ...]:
        """Gradients of one kind have a `total`, a `gram`, and can be joined."""
        return (type(self),)

    @abstractmethod
    def total(self, others: Sequence[Self]) -> Self:
        """The sum with those of the same examples through other uses of the parameter."""

    @abstractmethod
    def join(self, others: Sequence[Self]) -> Self:
        """One batch of these examples and others."""

    @abstractmethod
    def zeros(self, B: int) -> Self:
        """Gradients of this kind that are zero, for B other examples."""

    def to(self, dtype: torch.dtype) -> Self:
        """In another type."""
        made = copy.copy(self)
        for name, t in vars(self).items():
            if isinstance(t, Tensor) and t.is_floating_point():
                setattr(made, name, t.to(dtype))
        return made

    @abstractmethod
    def formed(self, shape: torch.Size) -> Dense:
        """The gradients themselves, in the layout of the parameter of this shape."""

    @classmethod
    @abstractmethod
    def gram(cls, x: Sequence[Self], y: Sequence[Self] | None, product: Product, workspace: Tensor) -> Tensor:
        """Inner products of per-example gradients by one parameter.

        Args:
            x: Batches of gradients, N examples together.
            y: Batches of gradients of M other examples, or None for those of `x` again, at half the work.
            product: Multiplies.
            workspace: Flat; gradients are formed in it, so its size bounds how many at one time. It is written over and
                over, because fresh pages cost as much as the products themselves.

        Returns:
            Shape (N C, M C).
        """

    @abstractmethod
    def samples(self) -> tuple[Tensor, ...]:
        """What a projection of each side is drawn from: vectors (n, p), or token ids (n,)."""

    @abstractmethod
    def project(self, *sides: Tensor) -> Tensor:
        """Projected gradients (B, C, D), by one projection (p, k) or (ids, k) for each of `samples`."""

    def active(self) -> Self:
        """The same gradients without what is zero anyway."""
        return self


@dataclass
class _ByToken(Gradient):
    """Σ_t g_{c,t} ⊗ a_t for B examples.

    Attributes:
        g: Class side, shape (B, T, C, p).
        a: Shared side, shape (B, T, …).
    """

    g: Tensor
    a: Tensor

    def total(self, others: Sequence[Self]) -> Self:
        """The tokens of all uses, one after another."""
        uses = (self, *others)
        return replace(self, g=torch.cat([use.g for use in uses], 1), a=torch.cat([use.a for use in uses], 1))

    def join(self, others: Sequence[Self]) -> Self:
        """All examples; tokens that a batch lacks are zero."""
        parts = (self, *others)
        T = max(part.g.shape[1] for part in parts)
        return replace(self, g=_padded([part.g for part in parts], T), a=_padded([part.a for part in parts], T))

    def zeros(self, B: int) -> Self:
        """One token each."""
        return replace(self, g=self.g.new_zeros(B, 1, *self.g.shape[2:]), a=self.a.new_zeros(B, 1, *self.a.shape[2:]))

    def samples(self) -> tuple[Tensor, ...]:
        """All a, then all g."""
        return self.a.flatten(0, 1), self.g.flatten(0, 2)

    def _products(self, g: Tensor, a: Tensor) -> Tensor:
        """Σ_t g_{c,t} ⊗ a_t, shape (B, C, k_g k_a), of sides (B, T, C, k_g) and (B, T, k_a)."""
        B, _, C, _ = g.shape
        return torch.bmm(g.flatten(2).mT, a).view(B, C, -1)


def _padded(sides: Sequence[Tensor], T: int) -> Tensor:
    """Batches (B, T', …) one below the other, with zeros up to T tokens."""
    return torch.cat([torch.nn.functional.pad(x, (0, 0) * (x.ndim - 2) + (0, T - x.shape[1])) for x in sides])


@dataclass
class Outer(_ByToken):
    """∂f_c/∂W = Σ_t g_{c,t} a_tᵀ for B examples.

    Attributes:
        g: Class side, shape (B, T, C, p).
        a: Shared side, shape (B, T, q).
        transposed: Whether the layer keeps Wᵀ, shape (q, p).
    """

    transposed: bool = False

    def kind(self) -> tuple[object, ...]:
        """Orientations differ in what is added to what."""
        return (Outer, self.transposed)

    def dense(self) -> Tensor:
        """The gradients themselves, shape (B, C, p q)."""
        return self._products(self.g, self.a)

    def formed(self, shape: torch.Size) -> Dense:
        """The sums of outer products, turned as the layer keeps its weight."""
        matrix = self.dense().unflatten(2, (self.g.shape[3], self.a.shape[2]))
        return Dense((matrix.mT if self.transposed else matrix).flatten(2))

    def active(self) -> Self:
        """Without tokens whose g is zero, as far as the fullest example of the batch allows."""
        nonzero = self.g.flatten(2).any(2)  # (B, T); padding, and all but one token in a last block pooled at one token
        count = int(nonzero.sum(1).max())
        if count > 0.8 * nonzero.shape[1]:
            return self
        kept = nonzero.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, : max(count, 1)]
        rows = torch.arange(len(kept), device=kept.device)[:, None]
        return replace(self, g=self.g[rows, kept], a=self.a[rows, kept])

    @classmethod
    def gram(cls, x: Sequence[Self], y: Sequence[Self] | None, product: Product, workspace: Tensor) -> Tensor:
        """By gradients formed a few columns at a time, or by pairs of tokens where that is cheaper."""
        if _few_tokens(x, y or x):
            return _gram_tokens(x, y or x)
        return _gram_outer(x, y, product, workspace)

    def project(self, *sides: Tensor) -> Tensor:
        """Tokens are projected first, so that no gradient is formed."""
        of_a, of_g = sides
        return self._products(self.g @ of_g, self.a @ of_a)


@dataclass
class Rows(_ByToken):
    """Gradient of an embedding: Σ_t g_{c,t} goes to row a_t, for B examples.

    Attributes:
        g: Shape (B, T, C, p).
        a: Token ids, shape (B, T).
    """

    def by_id(self) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients summed within an example and id.

        Returns:
            Examples (R,) and ids (R,) of the R pairs that occur, sorted by id, and their gradients (R, C, p).
        """
        B, T, C, p = self.g.shape
        example = torch.arange(B, device=self.a.device).repeat_interleave(T)
        pairs, inverse = torch.stack([self.a.flatten(), example]).unique(dim=1, return_inverse=True)
        summed = self.g.new_zeros(pairs.shape[1], C, p).index_add_(0, inverse, self.g.reshape(B * T, C, p))
        return pairs[1], pairs[0], summed

    def formed(self, shape: torch.Size) -> Dense:
        """Zero but for the rows of the ids that occur."""
        example, ids, summed = self.by_id()
        whole = self.g.new_zeros(len(self.g), self.g.shape[2], *shape)
        whole[example, :, ids] = summed
        return Dense(whole.flatten(2))

    @classmethod
    def gram(cls, x: Sequence[Self], y: Sequence[Self] | None, product: Product, workspace: Tensor) -> Tensor:
        """Only equal ids meet."""
        return _gram_rows(x, y)

    def project(self, *sides: Tensor) -> Tensor:
        """As for `Outer`, with a projection of one-hot vectors: its rows."""
        of_ids, of_g = sides
        return self._products(self.g @ of_g, of_ids[self.a])


@dataclass
class Dense(Gradient):
    """Gradients as they are.

    Attributes:
        rows: Shape (B, C, p).
    """

    rows: Tensor

    def total(self, others: Sequence[Self]) -> Self:
        """Added."""
        return replace(self, rows=torch.stack([self.rows, *(other.rows for other in others)]).sum(0))

    def join(self, others: Sequence[Self]) -> Self:
        """One below the other."""
        return replace(self, rows=torch.cat([self.rows, *(other.rows for other in others)]))

    def zeros(self, B: int) -> Self:
        """Rows of zeros."""
        return replace(self, rows=self.rows.new_zeros(B, *self.rows.shape[1:]))

    def formed(self, shape: torch.Size) -> Dense:
        """What is kept."""
        return self

    @classmethod
    def gram(cls, x: Sequence[Self], y: Sequence[Self] | None, product: Product, workspace: Tensor) -> Tensor:
        """One product."""
        X = torch.cat([batch.rows for batch in x]).flatten(0, 1)
        return product.symmetric(X) if y is None else product(X, torch.cat([batch.rows for batch in y]).flatten(0, 1))

    def samples(self) -> tuple[Tensor, ...]:
        """All of them."""
        return (self.rows.flatten(0, 1),)

    def project(self, *sides: Tensor) -> Tensor:
        """On the one side there is."""
        return self.rows @ sides[0]


def merge(uses: Sequence[Gradient], shape: torch.Size) -> Gradient:
    """The gradient of a parameter that a forward pass uses several times (tied weights, shared layers).

    Args:
        uses: Gradient through each use alone.
        shape: Shape of the parameter.

    Returns:
        Their sum.
    """
    if len({use.kind() for use in uses}) == 1:
        return uses[0].total(uses[1:]) if len(uses) > 1 else uses[0]
    # An embedding tied to a linear layer: rare, and the two sides differ, so the sum is formed.
    return Dense(torch.stack([use.formed(shape).rows for use in uses]).sum(0))


def alike(batches: Sequence[Gradient | None], sizes: Sequence[int], shape: torch.Size) -> list[Gradient]:
    """Gradients of one parameter in several batches, in one form.

    Args:
        batches: Gradients, None where φ does not depend on the parameter.
        sizes: Examples of each batch.
        shape: Shape of the parameter.

    Returns:
        As many; empty if all are None.
    """
    if len({x.kind() for x in batches if x is not None}) > 1:  # for some examples the parameter has another use
        batches = [None if x is None else x.formed(shape) for x in batches]
    found = next((x for x in batches if x is not None), None)
    return [] if found is None else [found.zeros(B) if x is None else x for x, B in zip(batches, sizes, strict=True)]


@dataclass(frozen=True)
class Product:
    """X Yᵀ of rows of gradients, accumulated and returned in at least float32.

    Attributes:
        precision: "full" (that of X), "tf32" (set by the caller for all of CUDA) or "bf16". On a CPU "bf16" rounds the
            factors and multiplies in float32: it shows the error, without the speed.
    """

    precision: str = "full"

    def __call__(self, X: Tensor, Y: Tensor) -> Tensor:
        """X Yᵀ, shape (n, m), of X (n, p) and Y (m, p)."""
        if self.precision != "bf16":
            return X @ Y.T
        X, Y = X.bfloat16(), Y.bfloat16()
        return torch.mm(X, Y.T, out_dtype=torch.float32) if X.is_cuda else X.float() @ Y.float().T

    def symmetric(self, X: Tensor) -> Tensor:
        """X Xᵀ at about half the work, shape (n, n), of a contiguous X (n, p)."""
        n = len(X)
        K = X.new_empty(n, n, dtype=torch.promote_types(X.dtype, torch.float32))
        tiles = torch.arange(n).chunk(math.ceil(n / TILE)) if n else ()
        bounds = [(int(t[0]), int(t[-1]) + 1) for t in tiles]
        multiply = self._long if X.device.type == "cpu" and self.precision == "full" else self
        for i, (a, b) in enumerate(bounds):
            for c, d in bounds[: i + 1]:
                block = multiply(X[a:b], X[c:d])
                K[a:b, c:d], K[c:d, a:b] = block, block.T
        return K

    def _long(self, X: Tensor, Y: Tensor) -> Tensor:
        """X Yᵀ of few long rows: a CPU's threads share out the sum, since there are too few rows to share out."""
        whole = X.shape[1] // LENGTH * LENGTH
        if not whole:
            return X @ Y.T
        x, y = (Z[:, :whole].unflatten(1, (-1, LENGTH)).transpose(0, 1) for Z in (X, Y))  # (summands, rows, LENGTH)
        return torch.bmm(x, y.mT).sum(0) + X[:, whole:] @ Y[:, whole:].T


def _gram_outer(x: Sequence[Outer], y: Sequence[Outer] | None, product: Product, workspace: Tensor) -> Tensor:
    """Form gradients, some columns of a at a time, and multiply."""
    C, p, q = x[0].g.shape[2], x[0].g.shape[3], x[0].a.shape[2]
    per_column = [sum(len(b.g) for b in z) * C * p for z in (x, y or ())]
    if len(workspace) < sum(per_column):
        workspace = workspace.new_empty(sum(per_column))  # one column at least
    width = min(q, len(workspace) // sum(per_column))
    K: Tensor | None = None
    for start in range(0, q, width):
        stop = min(start + width, q)
        X = _form(x, start, stop, workspace)
        part = product.symmetric(X) if y is None else product(X, _form(y, start, stop, workspace[X.numel() :]))
        K = part if K is None else K.add_(part)
    assert K is not None
    return K


def _form(batches: Sequence[Outer], start: int, stop: int, workspace: Tensor) -> Tensor:
    """Columns `start` to `stop` of the gradients, shape (N C, p (stop - start)), at the beginning of the workspace."""
    _, _, C, p = batches[0].g.shape
    n = sum(len(b.g) for b in batches)
    X = workspace[: n * C * p * (stop - start)].view(n, C * p, stop - start)
    done = 0
    for b in batches:
        torch.bmm(b.g.flatten(2).mT, b.a[:, :, start:stop], out=X[done : done + len(b.g)])
        done += len(b.g)
    return X.view(n * C, p * (stop - start))


def _few_tokens(x: Sequence[Outer], y: Sequence[Outer]) -> bool:
    """Whether products of tokens are cheaper than products of gradients."""
    T, U = (max(b.g.shape[1] for b in z) for z in (x, y))
    C, p, q = x[0].g.shape[2], x[0].g.shape[3], x[0].a.shape[2]
    # The elementwise product of the two token kernels is bound by memory, not by arithmetic: it must win clearly.
    return 8 * T * U * (q + C * C * p) < C * C * p * q


def _gram_tokens(x: Sequence[Outer], y: Sequence[Outer]) -> Tensor:
    """⟨Σ_t g_t a_tᵀ, Σ_u g'_u a'_uᵀ⟩ = Σ_{t,u} ⟨a_t, a'_u⟩ ⟨g_t, g'_u⟩."""
    blocks = []
    for b in x:
        row = []
        for e in y:
            A = torch.einsum("ntq,muq->ntmu", b.a, e.a)
            g = torch.einsum("ntcp,mudp->ntcmud", b.g, e.g)
            row.append(torch.einsum("ntmu,ntcmud->ncmd", A, g).flatten(2).flatten(0, 1))
        blocks.append(torch.cat(row, 1))
    return torch.cat(blocks)


def _gram_rows(x: Sequence[Rows], y: Sequence[Rows] | None) -> Tensor:
    """Only equal ids meet: for each id, the product of the few gradients that it has."""
    (n, ids, E), N = _collect(x)
    (m, other, D), M = ((n, ids, E), N) if y is None else _collect(y)
    C = E.shape[1]
    K = E.new_zeros(N, C, M, C)
    shared = ids.unique()
    shared = shared[torch.isin(shared, other)]
    bounds = partial(torch.searchsorted, side="right")
    left = torch.stack([torch.searchsorted(ids, shared), bounds(ids, shared)], 1).tolist()
    right = torch.stack([torch.searchsorted(other, shared), bounds(other, shared)], 1).tolist()
    single_x, single_y = [], []  # ids of one example on each side: one product for all of them together
    for (a, b), (c, d) in zip(left, right, strict=True):
        if b - a == 1 and d - c == 1:
            single_x.append(a)
            single_y.append(c)
            continue
        part = (E[a:b].flatten(0, 1) @ D[c:d].flatten(0, 1).T).view(b - a, C, d - c, C)
        rows, columns = n[a:b], m[c:d]
        K[rows[:, None], :, columns[None, :]] += part.permute(0, 2, 1, 3)  # an example occurs once for an id
    if single_x:
        s, t = torch.tensor(single_x, device=n.device), torch.tensor(single_y, device=n.device)
        part = torch.bmm(E[s], D[t].mT)  # (S, C, C)
        K.permute(0, 2, 1, 3).index_put_((n[s], m[t]), part, accumulate=True)
    return K.view(N * C, M * C)


def _collect(batches: Sequence[Rows]) -> tuple[tuple[Tensor, Tensor, Tensor], int]:
    """Rows of all batches, sorted by id, with examples counted through, and the number of examples."""
    examples, ids, gradients, done = [], [], [], 0
    for b in batches:
        example, i, gradient = b.by_id()
        examples.append(example + done)
        ids.append(i)
        gradients.append(gradient)
        done += len(b.g)
    order = torch.cat(ids).argsort(stable=True)
    return (torch.cat(examples)[order], torch.cat(ids)[order], torch.cat(gradients)[order]), done
