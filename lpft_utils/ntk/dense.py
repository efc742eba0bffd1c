"""The kernel as its definition reads: whole Jacobians by `torch.func`, one example at a time, and one matrix product.

For tiny models and tests: it needs N C times the number of parameters in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev
from torch.nn.attention import SDPBackend, sdpa_kernel

from lpft_utils.ntk.factors import Inputs
from lpft_utils.ntk.inputs import count, named_inputs
from lpft_utils.ntk.problem import prepared


class _Features(nn.Module):
    """φ as a module, so that `functional_call` can replace its parameters."""

    def __init__(self, model: nn.Module, features: Callable[[nn.Module, Inputs], Tensor]) -> None:
        super().__init__()
        self.model = model
        self.compute = features

    def forward(self, batch: Inputs) -> Tensor:
        return self.compute(self.model, batch)


def jacobian(
    model: nn.Module,
    inputs: Inputs | Tensor,
    *,
    V: Tensor | None = None,
    features: Callable[[nn.Module, Any], Tensor] | None = None,
    head: str = "head",
    parameters: Callable[[str], bool] | Iterable[str] | None = None,
) -> Tensor:
    """∂(V φ)/∂θ of every example.

    Args:
        model: As in `kernel`.
        inputs: As in `kernel`.
        V: As in `kernel`; the identity gives the Jacobian of φ itself.
        features: As in `kernel`.
        head: As in `kernel`.
        parameters: As in `kernel`.

    Returns:
        Shape (N, C, number of parameters).
    """
    rows, compute = named_inputs(inputs, features)
    out = []
    # fused attention has no batching rule, and warns that it is slow
    with prepared(model, compute, V, head, parameters, None) as problem, sdpa_kernel(SDPBackend.MATH):
        theta = {f"model.{name}": p for name, p in problem.wanted.items()}
        phi = _Features(problem.model, compute)
        for n in range(count(rows)):
            x = {name: t[n : n + 1] for name, t in rows.items()}

            def f(values: dict[str, Tensor], x: Inputs = x) -> Tensor:
                return functional_call(phi, values, (x,))[0] @ problem.V.T

            J = jacrev(f)(theta) if theta else {}
            none = problem.V.new_zeros(len(problem.V), 0)
            out.append(torch.cat([none, *(J[name].flatten(1) for name in theta)], 1).detach())
    return torch.stack(out)


def dense_kernel(model: nn.Module, inputs: Inputs | Tensor, **options: Any) -> Tensor:
    """F from whole Jacobians.

    Args:
        model: As in `kernel`.
        inputs: As in `kernel`.
        **options: As in `jacobian`.

    Returns:
        Shape (N, C, N, C).
    """
    J = jacobian(model, inputs, **options)
    return torch.einsum("ncp,mdp->ncmd", J, J)
