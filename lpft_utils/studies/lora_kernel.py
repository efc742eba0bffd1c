r"""The NTK of a fresh LoRA adapter (Hu et al. 2022) from the factors of the weights that it adapts.

A layer's weight W becomes W + s B A with s = α / r, A (r, q) drawn at random and B (p, r) zero. Let G_c(x) = Σ_t
g_{c,t} a_tᵀ (p, q) be the gradient of output c at example x by W. Then only ∂f_c/∂B = s G_c(x) Aᵀ is not zero, so the
adapter of this layer adds

    s² ⟨G_c(x) Aᵀ, G_d(x') Aᵀ⟩ = s² Σ_{t,t'} ⟨A a_t, A a'_t'⟩ ⟨g_{c,t}, g'_{d,t'}⟩

to the kernel: FT's term of the same weight with every ⟨a, a'⟩ replaced by ⟨A a, A a'⟩ (Malladi et al. 2023). One set of
factors therefore gives the kernel for every rank and every draw of A.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from torch import Tensor, nn

from lpft_utils.common.errors import KernelError
from lpft_utils.kernel_methods.statistics import alignment
from lpft_utils.models.adapters import default_targets
from lpft_utils.models.classifier import Classifier
from lpft_utils.ntk.factors import Inputs, model_features
from lpft_utils.ntk.gradients import Outer
from lpft_utils.ntk.problem import prepared

RANKS = (1, 2, 4, 8, 16, 32, 64)


def adapted_weights(model: Classifier, targets: Sequence[str] | None = None) -> list[str]:
    """Names of the weights that LoRA adapts.

    Args:
        model: A classifier, with or without an adapter.
        targets: Endings of the names of the layers; None means query and value of the family.

    Returns:
        Parameter names.

    Raises:
        KernelError: If a target is the name of no layer.
    """
    chosen = default_targets(model.backbone.config.model_type) if targets is None else targets
    bare = {name: f".{_bare(name)}" for name, _ in model.named_parameters()}
    for t in chosen:
        if not any(b.endswith(f".{t}.weight") for b in bare.values()):
            raise KernelError(f"targets: expected endings of names of layers with a weight; no layer is {t!r}.")
    return [name for name, b in bare.items() if b.endswith(tuple(f".{t}.weight" for t in chosen))]


def layer_factors(model: Classifier, inputs: Inputs, names: Sequence[str]) -> dict[str, Outer]:
    """Factors of the gradients of V φ by weight matrices, all examples in one batch.

    Args:
        model: The classifier.
        inputs: Padded tensors by name, first dimension N.
        names: Weights of linear layers.

    Returns:
        By name, which is that of the weight without an adapter: g (N, T, C, p) and a (N, T, q).

    Raises:
        KernelError: If a parameter is no weight of a linear layer.
    """
    with prepared(model, model_features, None, "head", list(names), None) as problem:
        gradients = problem.factors(inputs, check=True).gradients
    outer = {name: g for name, g in gradients.items() if isinstance(g, Outer)}
    if len(outer) != len(gradients):
        raise KernelError(f"names: expected weights of linear layers, got {min(gradients.keys() - outer.keys())!r}.")
    return {_bare(name): g for name, g in outer.items()}


def ft_kernel(factors: Mapping[str, Outer]) -> Tensor:
    """FT's kernel of these weights, Σ_layers ⟨G, G'⟩.

    Args:
        factors: Result of `layer_factors`.

    Returns:
        Shape (N, C, N, C).
    """
    return torch.stack([_gram(x.dense()) for x in factors.values()]).sum(0)


def lora_kernel(factors: Mapping[str, Outer], A: Mapping[str, Tensor], s: float) -> Tensor:
    """The kernel of fresh adapters of these weights, at B = 0.

    Args:
        factors: Result of `layer_factors`.
        A: The drawn factor of each layer, shape (r, q), by the same names.
        s: α / r.

    Returns:
        Shape (N, C, N, C).

    Raises:
        KernelError: If the names differ.
    """
    if A.keys() != factors.keys():
        raise KernelError(
            f"A: expected one for each layer of the factors; missing are {sorted(factors.keys() - A.keys())}, and "
            f"without factors are {sorted(A.keys() - factors.keys())}."
        )
    return s**2 * torch.stack([_gram(Outer(x.g, x.a @ A[name].T).dense()) for name, x in factors.items()]).sum(0)


def expected_factor(alpha: float, r: int, q: int) -> float:
    """The factor γ in E[F_r] = γ F_W: s² r σ² with s = α / r and σ² the variance of an entry of A as peft draws it.

    That is uniform on ±1/√q (Kaiming with a = √5).

    Args:
        alpha: α.
        r: Rank.
        q: Dimension of the layer's input.

    Returns:
        The factor.
    """
    return (alpha / r) ** 2 * r / (3 * q)


def relative_standard_deviation(factors: Mapping[str, Outer]) -> float:
    r"""κ in E ‖F_r / γ − F_W‖² = κ² ‖F_W‖² / r: how far one draw of rank 1 is from the FT kernel of the same weights.

    For one layer and M = G_c(x)ᵀ G_d(x'), an entry of F_1 / γ is zᵀ M z with iid Gaussian z, whose variance is
    ‖M‖² + tr(M²). Rows of A are independent, hence 1/r; layers are independent, so their variances add. Σ ‖M‖² over
    all pairs is ‖Σ G Gᵀ‖²; M itself is never formed.

    Args:
        factors: Result of `layer_factors`.

    Returns:
        κ.
    """
    total = 0.0
    for x in factors.values():
        G = x.dense().view(-1, x.g.shape[3], x.a.shape[2])  # (NC, p, q)
        total += torch.einsum("npq,nkq->pk", G, G).double().square().sum().item() + _trace_of_squares(x)
    return total**0.5 / ft_kernel(factors).double().norm().item()


def concentration(
    factors: Mapping[str, Outer], *, ranks: Sequence[int] = RANKS, n_draws: int = 8, seed: int = 0
) -> pd.DataFrame:
    """How close LoRA's kernel is to FT's of the same weights, by rank and Gaussian draw of A.

    A is drawn with variance 1 and the kernel divided by r, so that its mean is FT's whatever the layers' sizes.

    Args:
        factors: Result of `layer_factors`.
        ranks: Ranks r.
        n_draws: Draws of A at each rank, all independent.
        seed: Seed of the draws.

    Returns:
        Columns "r", "draw", "error" (‖F_r / γ − F_W‖ / ‖F_W‖), "alignment" and "centred", the alignment of the kernels
        centred among the examples.
    """
    F_W = ft_kernel(factors)
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for r in ranks:
        for draw in range(n_draws):
            A = {name: _draw(r, x.a, generator) for name, x in factors.items()}
            F_r = lora_kernel(factors, A, r**-0.5)
            error = ((F_r - F_W).norm() / F_W.norm()).item()
            plain, centred = (alignment(F_r, F_W, centered=centered) for centered in (False, True))
            rows.append({"r": r, "draw": draw, "error": error, "alignment": plain, "centred": centred})
    return pd.DataFrame(rows)


def fresh_factors(model: nn.Module) -> dict[str, Tensor]:
    """A of every adapter in a model, by the name of the weight that it adapts.

    Args:
        model: A model with LoRA adapters of peft.

    Returns:
        Tensors (r, q); the name is that of the weight before the adapter was added.
    """
    end = ".lora_A.default.weight"
    return {
        name.removesuffix(end) + ".weight": p.detach() for name, p in model.named_parameters() if name.endswith(end)
    }


def _bare(name: str) -> str:
    """Name of a weight before its layer was wrapped in an adapter."""
    return name.replace(".base_layer.weight", ".weight")


def _draw(r: int, like: Tensor, generator: torch.Generator) -> Tensor:
    """Gaussian entries with mean 0 and variance 1, shape (r, q)."""
    return torch.randn(r, like.shape[-1], generator=generator, dtype=like.dtype)


def _gram(J: Tensor) -> Tensor:
    """(N, C, D) → (N, C, N, C)."""
    N, C, _ = J.shape
    rows = J.flatten(0, 1)
    return (rows @ rows.T).view(N, C, N, C)


def _trace_of_squares(x: Outer) -> float:
    """Σ tr(M²) over all pairs of rows, M = G_c(x)ᵀ G_d(x'), by tokens: tr(U W U W), U = g g'ᵀ and W = a' aᵀ."""
    total = 0.0
    for g, a in zip(x.g, x.a, strict=True):  # one example of the rows at a time, for want of memory
        UW = torch.einsum("tcp,mudp->cmdtu", g, x.g) @ torch.einsum("tq,muq->mut", a, x.a)[:, None]  # (C, N, C, T, T)
        total += (UW * UW.mT).double().sum().item()
    return total
