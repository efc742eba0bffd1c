"""Per-example gradients, kept factored, and their inner products.

For one example x and class c the gradient of f_c(x) by a weight matrix is a sum over tokens of outer products,

    ∂f_c/∂W = Σ_t g_{c,t} a_tᵀ,    a_t: input of the layer, g_{c,t}: derivative of f_c by its output,

so the pair (g, a) is all that has to be kept: T (C p + q) numbers in place of C p q. Three shapes of gradient occur:
`Outer` (weights of linear layers), `Rows` (embeddings, where a_t is one-hot) and `Dense` (vectors). Each knows its
inner products with the gradients of other examples: `gram`. An orientation (W or Wᵀ) does not change inner products,
so none is kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

# Torch has no call for half of X Xᵀ, and BLAS syrk, called through SciPy, brings a second pool of threads that takes
# more from the products around it than it saves. Measured on two cores: rows in a tile, and length of a summand.
TILE = 128
LENGTH = 4096


@dataclass
class Outer:
    """∂f_c/∂W = Σ_t g_{c,t} a_tᵀ for B examples.

    Attributes:
        g: Class side, shape (B, T, C, p).
        a: Shared side, shape (B, T, q).
    """

    g: Tensor
    a: Tensor

    def dense(self) -> Tensor:
        """The gradients themselves, shape (B, C, p q)."""
        B, _, C, _ = self.g.shape
        return torch.bmm(self.g.flatten(2).mT, self.a).view(B, C, -1)

    def active(self) -> Outer:
        """The same gradients without tokens whose g is zero, as far as the fullest example of the batch allows."""
        nonzero = self.g.flatten(2).any(2)  # (B, T); padding, and all but one token in a last block pooled at one token
        count = int(nonzero.sum(1).max())
        if count > 0.8 * nonzero.shape[1]:
            return self
        kept = nonzero.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, : max(count, 1)]
        rows = torch.arange(len(kept), device=kept.device)[:, None]
        return Outer(self.g[rows, kept], self.a[rows, kept])


@dataclass
class Rows:
    """Gradient of an embedding: Σ_t g_{c,t} goes to row ids_t, for B examples.

    Attributes:
        g: Shape (B, T, C, p).
        ids: Shape (B, T).
    """

    g: Tensor
    ids: Tensor

    def by_id(self) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients summed within an example and id.

        Returns:
            Examples (R,) and ids (R,) of the R pairs that occur, sorted by id, and their gradients (R, C, p).
        """
        B, T, C, p = self.g.shape
        example = torch.arange(B, device=self.ids.device).repeat_interleave(T)
        pairs, inverse = torch.stack([self.ids.flatten(), example]).unique(dim=1, return_inverse=True)
        summed = self.g.new_zeros(pairs.shape[1], C, p).index_add_(0, inverse, self.g.reshape(B * T, C, p))
        return pairs[1], pairs[0], summed

    def as_outer(self, n_rows: int) -> Outer:
        """With one-hot a."""
        return Outer(self.g, torch.nn.functional.one_hot(self.ids, n_rows).to(self.g.dtype))


@dataclass
class Dense:
    """Gradients as they are.

    Attributes:
        rows: Shape (B, C, p).
    """

    rows: Tensor


Gradient = Outer | Rows | Dense


def merge(uses: Sequence[Gradient], shape: torch.Size, transposed: Sequence[bool]) -> Gradient:
    """The gradient of a parameter that a forward pass uses several times (tied weights, shared layers).

    Args:
        uses: Gradient through each use alone.
        shape: Shape of the parameter.
        transposed: For each use, whether the class side g belongs to the parameter's second axis.

    Returns:
        Their sum.
    """
    if len(uses) == 1:
        return uses[0]
    if all(isinstance(use, Dense) for use in uses):
        return Dense(torch.stack([use.rows for use in uses if isinstance(use, Dense)]).sum(0))
    if all(isinstance(use, Rows) for use in uses):
        rows = [use for use in uses if isinstance(use, Rows)]
        return Rows(torch.cat([use.g for use in rows], 1), torch.cat([use.ids for use in rows], 1))
    if all(isinstance(use, Outer) for use in uses) and len(set(transposed)) == 1:
        outers = [use for use in uses if isinstance(use, Outer)]
        return Outer(torch.cat([use.g for use in outers], 1), torch.cat([use.a for use in outers], 1))
    # An embedding tied to a linear layer: rare, and the two sides differ, so the sum is formed.
    return Dense(
        sum((_oriented(use, shape, flip) for use, flip in zip(uses, transposed, strict=True)), torch.tensor(0))
    )


def join(parts: Sequence[Gradient]) -> Gradient:
    """Gradients of several batches, all of one kind, as those of one batch; tokens that one lacks are zero."""
    if all(isinstance(part, Dense) for part in parts):
        return Dense(torch.cat([part.rows for part in parts if isinstance(part, Dense)]))
    uses = [part for part in parts if not isinstance(part, Dense)]
    T = max(use.g.shape[1] for use in uses)

    def cat(sides: Sequence[Tensor]) -> Tensor:
        return torch.cat([torch.nn.functional.pad(x, (0, 0) * (x.ndim - 2) + (0, T - x.shape[1])) for x in sides])

    g = cat([use.g for use in uses])
    if isinstance(uses[0], Rows):
        return Rows(g, cat([use.ids for use in uses if isinstance(use, Rows)]))
    return Outer(g, cat([use.a for use in uses if isinstance(use, Outer)]))


def _oriented(use: Gradient, shape: torch.Size, transposed: bool) -> Tensor:
    if isinstance(use, Dense):
        return use.rows
    outer = use if isinstance(use, Outer) else use.as_outer(shape[0])
    B, _, C, _ = outer.g.shape
    matrix = outer.dense().view(B, C, outer.g.shape[3], outer.a.shape[2])
    return (matrix.mT if transposed else matrix).flatten(2)


def as_parameter(use: Gradient, shape: torch.Size, transposed: bool) -> Tensor:
    """Gradients in the parameter's own layout, shape (B, C, *shape)."""
    matrix = _oriented(use, shape, transposed)
    return matrix.view(*matrix.shape[:2], *shape)


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


def gram(x: Sequence[Gradient], y: Sequence[Gradient] | None, product: Product, workspace: Tensor) -> Tensor:
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
    first = x[0]
    if isinstance(first, Dense):
        X, Y = (
            None if z is None else torch.cat([b.rows for b in z if isinstance(b, Dense)]).flatten(0, 1) for z in (x, y)
        )
        assert X is not None
        return product.symmetric(X) if Y is None else product(X, Y)
    if isinstance(first, Rows):
        return _gram_rows(
            [b for b in x if isinstance(b, Rows)], None if y is None else [b for b in y if isinstance(b, Rows)]
        )
    xs = [b for b in x if isinstance(b, Outer)]
    ys = None if y is None else [b for b in y if isinstance(b, Outer)]
    if _few_tokens(xs, xs if ys is None else ys):
        return _gram_tokens(xs, xs if ys is None else ys)
    return _gram_outer(xs, ys, product, workspace)


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
