"""How large blocks may be, from what one example costs and a bound on memory."""

from __future__ import annotations

from dataclasses import dataclass

import psutil
import torch
from torch import Tensor, nn

from lpft_utils.common.errors import KernelError
from lpft_utils.ntk.factors import Features, Inputs, Plan, factors

# Share of the bound that is planned for; the rest is for what is not counted: fragments, buffers of the libraries.
PLANNED = 0.7
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


def cost(model: nn.Module, features: Features, inputs: Inputs, V: Tensor, wanted: Plan) -> Cost:
    """Measure one example.

    Args:
        model: The model, `frozen`.
        features: Computes φ.
        inputs: The longest example, first dimension 1.
        V: Cotangents, shape (C, H).
        wanted: Parameters.

    Returns:
        Its cost.
    """
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    saved: dict[int, int] = {}

    def count(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
        batch = factors(model, features, inputs, V, wanted)
    tokens = next((t.shape[1] for t in inputs.values() if t.ndim > 1), 1)
    return Cost(batch.nbytes(), sum(saved.values()), tokens)


def sizes(
    one: Cost, rows: int, columns: int | None, result: int, device: torch.device, memory: int | None, block: int | None
) -> Sizes:
    """Plan blocks under a bound.

    Args:
        one: Cost of the longest example.
        rows: N.
        columns: M, or None for a symmetric kernel.
        result: Bytes of the result.
        device: Where it is computed.
        memory: Bound in bytes, beyond the model and the inputs; None means half of what is free.
        block: Block size asked for; None means the largest that fits.

    Returns:
        The plan.

    Raises:
        KernelError: If not even blocks of one example fit.
    """
    bound = available(device) if memory is None else memory
    budget = int(PLANNED * bound) - result
    chunk = max(1, min(CHUNK.get(device.type, CHUNK["cuda"]), budget // 4))
    per_pass = one.graph + 2 * one.factors
    batch = max(1, min(TOKENS.get(device.type, TOKENS["cuda"]) // one.tokens, budget // 4 // max(per_pass, 1)))
    left = budget - chunk - batch * per_pass
    total = rows + (columns or 0)
    largest = max(rows, columns or 0)
    if left < 2 * one.factors and total * one.factors > left:
        need = int((result + 4 * per_pass + 2 * one.factors) / PLANNED) + 1
        raise KernelError(
            f"memory: expected at least {need / 2**20:.0f} MiB for blocks of one example, got {bound / 2**20:.0f} "
            f"MiB. Give "
            "more, fewer or shorter examples, or fewer parameters."
        )
    hold_all = total * one.factors <= left
    fitting = largest if hold_all else max(1, left // (2 * max(one.factors, 1)))
    if block is not None and block > fitting:
        raise KernelError(f"block_size: {fitting} examples fit into {bound / 2**20:.0f} MiB, got {block}.")
    chosen = min(largest, block or fitting)
    return Sizes(chosen, min(batch, chosen), chunk, hold_all, bound)
