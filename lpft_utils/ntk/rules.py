"""What the engine knows of a module: a rule for the gradient of each of its parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lpft_utils.ntk.gradients import Dense, Gradient, Outer, Rows

# gradient of one use of a parameter, from the layer's input (B, T, …) and output gradient (B, T, C, …)
Rule = Callable[[nn.Module, Tensor, Tensor], Gradient]


def _times_normalised(module: nn.Module, a: Tensor, g: Tensor) -> Gradient:
    if isinstance(module, nn.LayerNorm):
        normal = nn.functional.layer_norm(a, module.normalized_shape, eps=module.eps)
    else:  # RMS norm; the name of epsilon differs between families
        epsilon = getattr(module, "variance_epsilon", None) or getattr(module, "eps", None)
        if epsilon is None:
            epsilon = torch.finfo(a.dtype).eps
        normal = a * torch.rsqrt(a.square().mean(-1, keepdim=True) + epsilon)
    return Dense(torch.einsum("btcp,btp->bcp", g, normal))


def _sum_tokens(_: nn.Module, __: Tensor, g: Tensor) -> Gradient:
    return Dense(g.sum(1))


def _outer(module: nn.Module, a: Tensor, g: Tensor) -> Gradient:
    return Outer(g, a, transposed=isinstance(module, Conv1D))


def _rows(module: nn.Module, a: Tensor, g: Tensor) -> Gradient:
    padding = getattr(module, "padding_idx", None)
    if padding is not None:
        g = g * (a != padding)[:, :, None, None]  # torch gives the padding row no gradient
    return Rows(g, a)


def _scaling(module: nn.Module, a: Tensor, g: Tensor) -> Gradient:
    """IA³'s vector l: the layer computes W (l ∘ a), or l ∘ (W a)."""
    layer: Any = module
    base = layer.get_base_layer()
    if layer.is_feedforward:
        g, unscaled = g @ (base.weight.T if isinstance(base, Conv1D) else base.weight), a
    else:
        unscaled = base(a)
    return Dense(torch.einsum("btcp,btp->bcp", g, unscaled))


def rules(module: nn.Module) -> dict[str, Rule]:
    """What the engine knows about a module: parameter name → rule for its per-example gradient.

    Args:
        module: Any module.

    Returns:
        Empty for modules that it does not know.
    """
    if isinstance(module, (nn.Linear, Conv1D)):
        return {"weight": _outer, "bias": _sum_tokens}
    if isinstance(module, nn.Embedding):
        # Rows rescaled in the forward pass, or by frequency in the backward one, would not be the plain gradient.
        return {} if module.max_norm is not None or module.scale_grad_by_freq else {"weight": _rows}
    if isinstance(module, nn.LayerNorm) and len(module.normalized_shape) == 1:
        return {"weight": _times_normalised, "bias": _sum_tokens}
    if isinstance(module, nn.RMSNorm) or type(module).__name__.endswith("RMSNorm"):
        return {"weight": _times_normalised}
    layer: Any = module
    if _is_ia3(module) and isinstance(layer.get_base_layer(), (nn.Linear, Conv1D)):
        active = [name for name in layer.active_adapters if name in layer.ia3_l]
        in_use = len(active) == 1 and not layer.disable_adapters and not layer.merged
        return {f"ia3_l.{active[0]}": _scaling} if in_use else {}
    return {}


def _is_ia3(module: nn.Module) -> bool:
    """Whether it is a layer of IA³, told without importing peft, which takes seconds."""
    return any(kind.__module__.startswith("peft.") and kind.__name__ == "IA3Layer" for kind in type(module).__mro__)
