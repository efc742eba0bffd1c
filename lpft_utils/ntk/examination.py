"""How a model treats batches and padding, found out on a few examples before anything is computed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from lpft_utils.common.errors import KernelError
from lpft_utils.ntk.factors import Inputs, close, through_vector, weights
from lpft_utils.ntk.inputs import TOKENS, by_length, chosen, count
from lpft_utils.ntk.problem import Problem, some
from lpft_utils.ntk.tape import Tape

N_CHECK = 3  # examples on which a model is examined before anything is computed
TOKENS_CHECK = 1024  # that these have together at most
FIRST = torch.tensor([0])


@dataclass
class Seen:
    """What a model does with a few examples.

    Attributes:
        phi: Features, shape (n, H).
        gradients: Of one combination of the outputs of all, by parameter, seen through a vector; None where none is.
        dtype: The lowest precision on the way.
    """

    phi: Tensor
    gradients: list[Tensor | None]
    dtype: torch.dtype


def examine(problem: Problem, *sides: Inputs) -> None:
    """Find out, on a few examples of several lengths, how the model treats batches and padding.

    Args:
        problem: The model and what is wanted of it; `trim`, `alone`, `autograd` and `reached` are set.
        *sides: Inputs of the rows, and of the columns if they are others.

    Raises:
        KernelError: As `Problem.factors`, if φ is random, or if it depends on none of the parameters.
    """
    for inputs in sides:
        order = by_length(inputs)
        width = max(max(t.shape[1:2] or (1,)) for t in inputs.values())
        n = min(len(order), max(2, min(N_CHECK, TOKENS_CHECK // max(width, 1))))
        few = order[torch.linspace(0, len(order) - 1, n).long()]
        whole = problem.moved(chosen(inputs, few))
        singles = [{k: t[n : n + 1] for k, t in whole.items()} for n in range(len(few))]
        problem.trim = problem.trim and whole.keys() <= TOKENS
        alone = _seen(problem, singles)
        with torch.no_grad():
            again = torch.cat([problem.phi(x) for x in singles])
        if not close(again, alone.phi, alone.dtype):
            raise KernelError(
                "features: φ differs between two calls with the same inputs. Expected a function of the inputs, "
                "without dropout, other chance, or a state that a call changes."
            )
        problem.alone = problem.alone or not _like(problem, alone, [whole])
        cut = [problem.take(x, FIRST) for x in singles]
        if any(short[name].shape != x[name].shape for short, x in zip(cut, singles, strict=True) for name in x):
            problem.trim = _like(problem, alone, cut)
        problem.factors(problem.take(whole, torch.arange(len(few))), check=True)
    if problem.wanted and not problem.reached:
        raise KernelError(
            f"parameters: φ depends on none of the {len(problem.wanted)} parameters asked for "
            f"({some(problem.wanted)}). "
            "An adapter that sits around the model, such as prompt tuning, is reached only by a `features=` that "
            "goes through it."
        )


def _seen(problem: Problem, batches: Iterable[Inputs]) -> Seen:
    """φ of some batches, and one combination of its gradients."""
    batches, dtype = list(batches), torch.float64
    r = weights(sum(map(count, batches))).to(problem.V).split([count(x) for x in batches])
    parameters, w = list(problem.wanted.values()), weights(len(problem.V)).to(problem.V) @ problem.V
    phi: list[Tensor] = []
    total: list[Tensor | None] = [None] * len(parameters)
    for x, part in zip(batches, r, strict=True):  # one graph at a time
        with torch.enable_grad(), Tape({}, 1) as tape:
            phi.append(problem.phi(x))
        cotangent = (part[:, None] * w).to(phi[-1].dtype)
        dtype = min(dtype, tape.dtype, key=lambda kind: kind.itemsize)
        if phi[-1].requires_grad and parameters:
            found = torch.autograd.grad(phi[-1], parameters, cotangent, allow_unused=True)
            seen = [None if g is None else through_vector(g) for g in found]
            total = [a if g is None else g if a is None else a + g for a, g in zip(total, seen, strict=True)]
        phi[-1] = phi[-1].detach()
    return Seen(torch.cat(phi), total, dtype)


def _like(problem: Problem, expected: Seen, batches: Iterable[Inputs]) -> bool:
    """Whether the model does the same with the examples in another form; not where it cannot take it."""
    largest = max((g.norm().item() for g in expected.gradients if g is not None), default=0.0)
    try:
        found = _seen(problem, batches)
        # φ alone is not enough where a module is initialised to zero
        return close(expected.phi, found.phi, expected.dtype) and all(
            g is h is None or (g is not None and h is not None and close(g, h, expected.dtype, largest))
            for g, h in zip(expected.gradients, found.gradients, strict=True)
        )
    except Exception:  # whatever the model raises for a batch, or for so short a text
        return False
