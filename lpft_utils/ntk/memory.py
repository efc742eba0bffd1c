"""How large blocks may be, from what one example costs and a bound on memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import psutil
import torch
from torch import Tensor

from lpft_utils.common.errors import KernelError
from lpft_utils.ntk.factors import Inputs
from lpft_utils.ntk.gradients import Dense
from lpft_utils.ntk.inputs import by_length, count
from lpft_utils.ntk.problem import Problem

# Share of the bound that is planned for; the rest is for what is not counted: fragments, buffers of the libraries.
PLANNED = 0.7
GRAPH = 4  # what autograd saves, in factors, where it cannot be measured
CHUNK = {"cpu": 256 << 20, "cuda": 4 << 30}  # bytes of gradients formed at one time
TOKENS = {"cpu": 1024, "cuda": 16384}  # in one forward pass; more does not make products faster


@dataclass(frozen=True)
class Cost:
    """Bytes that one example takes.

    Attributes:
        factors: Inputs and output gradients of layers.
        graph: What autograd saves for the backward passes.
        tokens: Its tokens.
    """

    factors: int
    graph: int
    tokens: int


@dataclass(frozen=True)
class Sizes:
    """What the engine holds at one time.

    Attributes:
        block: Examples whose factors are kept together.
        batch: Examples in one forward pass.
        chunk_bytes: Bytes of gradients formed at one time.
        hold_all: Whether the factors of all examples are kept, so that none is computed twice.
        memory: The bound, in bytes.
    """

    block: int
    batch: int
    chunk_bytes: int
    hold_all: bool
    memory: int


def available(device: torch.device) -> int:
    """Bytes that the engine may take if no bound is given: half of what is free."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    return free // 2


def cost(problem: Problem, side: Inputs) -> Cost:
    """Measure the longest example of the rows or the columns.

    Args:
        problem: The model and what is wanted of it.
        side: Inputs.

    Returns:
        Its cost.
    """
    one = problem.take(side, by_length(side)[-1:])
    own = {p.untyped_storage().data_ptr() for p in problem.model.parameters()}
    saved: dict[int, int] = {}

    def count(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return t

    try:
        with torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
            batch = problem.factors(one)
    except (RuntimeError, NotImplementedError):  # not every model allows such hooks
        batch = problem.factors(one)
        saved = {0: GRAPH * batch.nbytes()}
    copied = max((g.rows.nbytes for g in batch.gradients.values() if isinstance(g, Dense)), default=0)
    tokens = next((t.shape[1] for t in one.values() if t.ndim > 1), 1)
    return Cost(batch.nbytes() + copied, sum(saved.values()), max(tokens, 1))


def sizes(problem: Problem, sides: Sequence[Inputs], n_groups: int, memory: int | None, block: int | None) -> Sizes:
    """Plan blocks under a bound.

    Args:
        problem: The model and what is wanted of it.
        sides: The rows, and the columns if they are others.
        n_groups: In how many parts F is asked for.
        memory: Bound in bytes, beyond the model and the inputs; None means half of what is free.
        block: Block size asked for; None means the largest that fits.

    Returns:
        The plan.

    Raises:
        KernelError: If not even blocks of one example fit.
    """
    device, costs = problem.device, [cost(problem, side) for side in sides]
    entries = count(sides[0]) * count(sides[-1]) * len(problem.V) ** 2
    result = entries * (8 * (n_groups + 1) + 16)  # float64 sums by group, the total, and one block on its way
    bound = available(device) if memory is None else memory
    checked = sum(p.numel() * p.element_size() for p in problem.wanted.values())  # autograd's gradient, to compare with
    budget = int(PLANNED * bound) - result - checked
    chunk = max(1, min(CHUNK.get(device.type, CHUNK["cuda"]), budget // 4))
    # Factors as they come and as they are kept, and twice to compare them with autograd.
    per_pass = max(one.graph + 4 * one.factors for one in costs)
    tokens = TOKENS.get(device.type, TOKENS["cuda"]) // max(one.tokens for one in costs)
    batch = max(1, min(tokens, budget // 4 // max(per_pass, 1)))
    left = budget - chunk - batch * per_pass
    all_factors = sum(count(side) * one.factors for side, one in zip(sides, costs, strict=True))
    two = sum(one.factors for one in costs) * (3 - len(costs))  # one example of the rows and one of the columns
    if left < two and all_factors > left:
        need = int((result + checked + 4 * per_pass + two) / PLANNED) + 1
        raise KernelError(
            f"memory: expected at least {need / 2**20:.0f} MiB for blocks of one example, got {bound / 2**20:.0f} "
            "MiB. Give more, fewer or shorter examples, or fewer parameters."
        )
    largest = max(count(side) for side in sides)
    hold_all = all_factors <= left
    fitting = largest if hold_all else max(1, left // max(two, 1))
    if block is not None and block > fitting:
        raise KernelError(f"block_size: {fitting} examples fit into {bound / 2**20:.0f} MiB, got {block}.")
    chosen = min(largest, block or fitting)
    return Sizes(chosen, min(batch, chosen), chunk, hold_all, bound)
