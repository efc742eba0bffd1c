"""Kernels of large sets: gradients projected to few numbers each, in time linear in N.

The gradient of a weight matrix is G = Σ_t g_t a_tᵀ. With projections R (k_g, p) and S (k_a, q) on its two sides,

    z = R G Sᵀ = Σ_t (R g_t)(S a_t)ᵀ,    E⟨z, z'⟩ = ⟨G, G'⟩    if E[RᵀR] = I, E[SᵀS] = I, independent,

so tokens are projected before anything is multiplied, and G is never formed. The Gram of all z approximates F without
bias.

Activations and output gradients of Transformers have few strong directions. Each projection therefore keeps the leading
directions of a pilot sample exactly and spends the rest of its k on random orthogonal directions of the complement:

    R = [Uᵀ; √((p − u)/(k − u)) Qᵀ],    U: u leading directions,    Q: random orthonormal in the complement of U.

E[RᵀR] = I for every fixed U, and at k = p the sketch is exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from lpft_utils.common.errors import KernelError
from lpft_utils.ntk.engine import kernel
from lpft_utils.ntk.examination import examine
from lpft_utils.ntk.factors import Batch, Inputs
from lpft_utils.ntk.gradients import alike
from lpft_utils.ntk.inputs import by_length, chosen, count, named_inputs
from lpft_utils.ntk.problem import Problem, prepared
from lpft_utils.ntk.result import Kernel

N_PILOT = 32  # examples from which leading directions are taken
TOKENS = 1024  # in one forward pass
LARGE = 4096  # dimensions whose square is no matrix to decompose


@dataclass(repr=False)
class Sketch:
    """Projected gradients of N examples.

    Attributes:
        Z: Shape (N, C, D); F ≈ Z Zᵀ.
        phi: Features, shape (N, H).
        bias: Whether the head has a bias.
        spec: k, D, the parameters, and under "error" the relative Frobenius error of F measured against the exact
            kernel of `spec["checked"]` examples.
    """

    Z: Tensor
    phi: Tensor
    bias: bool
    spec: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        N, C, D = self.Z.shape
        error = f", error {self.spec['error']:.2g}" if "error" in self.spec else ""
        return f"Sketch(N={N}, C={C}, D={D}, {self.spec['parameters']:,} parameters{error}, {self.Z.dtype})"

    def kernel(self, rows: Sequence[int] | None = None, columns: Sequence[int] | None = None) -> Kernel:
        """The kernel that the sketch approximates.

        Args:
            rows: Examples, None for all.
            columns: Examples, None for all.

        Returns:
            Kernel with F ≈ Z Zᵀ and exact P.
        """
        left, right = (slice(None) if index is None else list(index) for index in (rows, columns))
        F = torch.einsum("ncd,med->ncme", self.Z[left], self.Z[right])
        gram = self.phi[left] @ self.phi[right].T + float(self.bias)
        return Kernel(gram, F, {}, {**self.spec, "N": len(F), "M": F.shape[2]})


def sketch(
    model: nn.Module,
    inputs: Inputs | Tensor,
    k: int = 1024,
    *,
    V: Tensor | None = None,
    features: Callable[[nn.Module, Any], Tensor] | None = None,
    head: str = "head",
    parameters: Callable[[str], bool] | Iterable[str] | None = None,
    seed: int = 0,
    pilot: int = N_PILOT,
    check: int = 16,
) -> Sketch:
    """Project the gradients of every example.

    Args:
        model: As in `kernel`.
        inputs: As in `kernel`.
        k: Numbers kept of the gradient of a weight matrix (√k on each of its sides); of a vector, k / 4.
        V: As in `kernel`.
        features: As in `kernel`.
        head: As in `kernel`.
        parameters: As in `kernel`.
        seed: Seed of the projections and of the examples that are checked.
        pilot: Examples from which leading directions are taken; 0 for purely random projections.
        check: Examples whose exact kernel is computed to state the error; 0 leaves it out.

    Returns:
        The sketch, on the CPU.

    Raises:
        KernelError: As `kernel`, or if k is too small.
    """
    if k < 4:
        raise KernelError(f"k: expected at least 4, got {k}.")
    rows, compute = named_inputs(inputs, features)
    generator = torch.Generator().manual_seed(seed)
    N = count(rows)
    with prepared(model, compute, V, head, parameters, None) as problem:
        examine(problem, rows)
        first = torch.randperm(N, generator=generator)[: max(pilot, 1)]
        projections = _projections(problem, chosen(rows, first), k, generator, leading=pilot > 0)
        order = by_length(rows)
        Z: Tensor | None = None
        phi = torch.empty(N, problem.V.shape[1], dtype=problem.V.dtype)
        for part in tqdm(_batches(rows, order), desc="sketch", disable=None, delay=5, leave=False):
            batch = problem.compute(rows, part, check=True)
            z = _projected(batch, projections, len(problem.V)).cpu()
            Z = z.new_empty(N, *z.shape[1:]) if Z is None else Z
            Z[part], phi[part] = z, batch.phi.cpu()
        assert Z is not None
        problem.check_reached()
        wanted = set(problem.wanted)
        bias, n_parameters = problem.bias, sum(p.numel() for p in problem.wanted.values())
    spec = {"k": k, "D": Z.shape[2], "seed": seed, "pilot": pilot, "parameters": n_parameters, "N": N, "checked": 0}
    made = Sketch(Z, phi, bias, spec)
    if check:
        some = torch.randperm(N, generator=generator)[:check]
        exact = kernel(model, chosen(rows, some), V=V, features=compute, head=head, parameters=wanted.__contains__)
        near = made.kernel(some.tolist(), some.tolist()).F
        made.spec |= {"checked": len(some), "error": ((near - exact.F).norm() / exact.F.norm()).item()}
    return made


def _projected(batch: Batch, projections: dict[str, list[Tensor]], C: int) -> Tensor:
    """Z (B, C, D) of a batch; a parameter on which φ does not depend there has zeros."""
    new = batch.gradients.keys() - projections.keys()
    if new:
        raise KernelError(
            f"pilot: φ depends on {min(new)!r} for some examples, but for none of the pilot's. Give a larger pilot."
        )
    z = []
    for name, sides in projections.items():
        gradient = batch.gradients.get(name)
        if gradient is None:
            z.append(batch.phi.new_zeros(len(batch.phi), C, math.prod(side.shape[1] for side in sides)))
        elif len(gradient.samples()) != len(sides):
            raise KernelError(f"pilot: {name!r} has another use in some examples than in the pilot's. Give more.")
        else:
            z.append(gradient.project(*sides))
    whole = torch.cat(z, 2)
    if not whole.isfinite().all():
        raise KernelError("A gradient is not finite for some example, though φ is.")
    return whole


def _batches(rows: Inputs, order: Tensor) -> list[Tensor]:
    """Examples of one forward pass each, from short to long."""
    longest_tokens = next((t.shape[1] for t in rows.values() if t.ndim > 1), 1)
    return list(order.split(max(1, TOKENS // longest_tokens)))


def _projections(
    problem: Problem, pilot: Inputs, k: int, generator: torch.Generator, *, leading: bool
) -> dict[str, list[Tensor]]:
    """Projections of the sides of the gradient, for every parameter that φ depends on."""
    batches = [problem.factors(problem.take(pilot, part)) for part in _batches(pilot, by_length(pilot))]
    made = {}
    for name, parameter in problem.wanted.items():
        same = alike([b.gradients.get(name) for b in batches], [len(b.phi) for b in batches], parameter.shape)
        if not same:
            continue
        sides = [torch.cat(side) for side in zip(*(x.samples() for x in same), strict=True)]
        each = math.isqrt(k) if len(sides) == 2 else k // 4
        dtype = sides[-1].dtype
        made[name] = [
            _table(side, len(parameter), each, generator, dtype, leading)
            if side.ndim == 1  # token ids
            else _orthogonal(side, each, generator, leading)
            for side in sides
        ]
    return made


def _orthogonal(samples: Tensor, k: int, generator: torch.Generator, leading: bool) -> Tensor:
    """Leading directions of samples (n, p), random ones of the complement: (p, k); the identity where k ≥ p."""
    p = samples.shape[1]
    if k >= p:
        return torch.eye(p, dtype=samples.dtype, device=samples.device)
    x = samples.double().cpu()
    u = k // 2 if leading else 0
    if p <= LARGE:
        U = torch.linalg.eigh(x.T @ x)[1][:, p - u :]  # (p, u)
    else:
        U = torch.linalg.svd(x, full_matrices=False)[2][:u].T
        u = U.shape[1]
    noise = torch.randn(p, k - u, generator=generator, dtype=torch.float64)
    Q = torch.linalg.qr(noise - U @ (U.T @ noise))[0]
    return torch.cat([U, Q * math.sqrt((p - u) / (k - u))], 1).to(samples)


def _table(ids: Tensor, n_ids: int, k: int, generator: torch.Generator, dtype: torch.dtype, leading: bool) -> Tensor:
    """Projection of one-hot vectors (n_ids, k): frequent ids keep a coordinate each, others share random signs."""
    if k >= n_ids:
        return torch.eye(n_ids, dtype=dtype, device=ids.device)
    values, counts = ids.cpu().unique(return_counts=True)
    own = values[counts.argsort(descending=True)[: k // 2 if leading else 0]]
    free = k - len(own)
    table = torch.zeros(n_ids, k, dtype=dtype)
    signs = torch.randint(0, 2, (n_ids, free), generator=generator) * 2 - 1
    table[:, len(own) :] = signs.to(dtype) / math.sqrt(free)
    table[own] = torch.eye(len(own), k, dtype=dtype)
    return table.to(ids.device)
