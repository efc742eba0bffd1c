"""The exact kernel, block by block.

    factors of block I, factors of block J  →  inner products parameter by parameter  →  K[I, J]

A block is as many examples as the memory bound allows; where the factors of all examples fit, none is computed twice.
Blocks are shared among the processes of `torch.distributed` where it is initialised, and kept in a folder where one is
given, so that an interrupted computation goes on where it stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from tqdm import tqdm

from lpft_utils.common.errors import KernelError
from lpft_utils.common.tensors import read_tensors, write_tensors
from lpft_utils.common.validation import check_integer
from lpft_utils.ntk.examination import examine
from lpft_utils.ntk.factors import Batch, Inputs
from lpft_utils.ntk.gradients import Product, alike
from lpft_utils.ntk.inputs import by_length, chosen, count, named_inputs
from lpft_utils.ntk.memory import Sizes, sizes
from lpft_utils.ntk.problem import Problem, prepared
from lpft_utils.ntk.result import Kernel, begin, describe, stored

PRECISIONS = ("full", "tf32", "bf16")
SLOW = 10.0  # seconds; what takes less needs no explanation
N_ERROR = 4  # examples on which the rounding error of reduced precision is measured


def kernel(
    model: nn.Module,
    inputs: Inputs | Tensor,
    other: Inputs | Tensor | None = None,
    *,
    V: Tensor | None = None,
    features: Callable[[nn.Module, Any], Tensor] | None = None,
    head: str = "head",
    parameters: Callable[[str], bool] | Iterable[str] | None = None,
    groups: Callable[[str], str] | None = None,
    dtype: torch.dtype | None = None,
    precision: str = "full",
    memory: int | None = None,
    block_size: int | None = None,
    unsupported: str = "autograd",
    folder: Path | None = None,
) -> Kernel:
    """The empirical NTK of f(x) = V φ(x; θ) + b, exact for every parameter asked for.

    Args:
        model: `Classifier`, or any module with a linear head; put where it is to be computed (CPU or CUDA).
        inputs: Padded tensors by name with first dimension N, given to φ by name; or one tensor.
        other: M further examples for the columns, such as the training set of a test × train kernel; None means
            `inputs`.
        V: Another head on the same φ, shape (C, H); default: the model's.
        features: Computes φ (B, H) from the model and a batch; default: `model.features(**batch)`.
        head: Name of the linear head in the model.
        parameters: Names, or a rule that says of a name whether it is wanted; default: those that require gradients
            (with peft: the adapter's). The head's own parameters are P and never part of F.
        groups: Label of a parameter name; F is then also given by label.
        dtype: Compute in this type on a converted copy of the model; default: the model's own.
        precision: Of the products of gradients: "full" (that of the model), "tf32" (CUDA only) or "bf16". The error of
            the last two is measured on a few examples against float64 and stated in `spec["error"]`.
        memory: Bytes that may be used beyond the model and the inputs; default: half of what is free.
        block_size: Examples in a block; default: as many as fit.
        unsupported: What becomes of parameters whose gradients the engine cannot tell apart by example: "autograd"
            differentiates them exactly, one example at a time, which is slower; "error" names them.
        folder: Keep finished blocks and the result here, and go on from them if they are of the same computation.

    Returns:
        The kernel, on the CPU, in the type of the computation.

    Raises:
        KernelError: If φ does not depend on the parameters, a gradient is not finite, the inputs do not fit the model,
            the memory bound is too small, or the folder holds another computation.
    """
    if precision not in PRECISIONS:
        raise KernelError(f"precision: expected one of {', '.join(PRECISIONS)}, got {precision!r}.")
    for name, value in (("memory", memory), ("block_size", block_size)):
        if value is not None:
            check_integer(name, value, error=KernelError)
    folder = None if folder is None else Path(folder)
    rows, compute = named_inputs(inputs, features)
    columns = None if other is None else named_inputs(other, features)[0]
    sides = [rows] if columns is None else [rows, columns]
    with prepared(model, compute, V, head, parameters, dtype, unsupported) as problem, _tf32(False):
        if precision == "tf32" and problem.device.type != "cuda":
            raise KernelError("precision: 'tf32' exists on CUDA only; use 'full' here, or 'bf16' to study its error.")
        labels = _labels(problem.wanted, groups or (lambda _: "F"))
        spec = describe(problem, labels, rows, columns, precision, folder is not None)
        found = stored(folder, spec) if folder else None
        if isinstance(found, Kernel):
            return found
        start = time.perf_counter()
        examine(problem, *sides)
        plan_ = sizes(problem, sides, len(set(labels.values())), memory, found or block_size)
        if folder and _rank()[0] == 0:
            begin(folder, spec, plan_.block)
        parts = _blocks(problem, rows, columns, plan_, labels, precision, folder)
        if not found:  # of blocks that were stored it is not known
            problem.check_reached()
        _say_if_slow(problem, time.perf_counter() - start)
    spec |= {"block_size": plan_.block, "memory": plan_.memory, "error": None}
    spec |= {"alone": problem.alone, "autograd": sorted(problem.autograd), "trimmed": problem.trim}
    done = _assemble(parts, len(problem.V), spec, grouped=groups is not None, dtype=problem.V.dtype)
    if precision != "full":
        few, few_columns = (_spread(by_length(side)) for side in (rows, columns or rows))
        some = chosen(rows, few), chosen(columns or rows, few_columns)
        wanted = set(problem.wanted).__contains__  # not by name, since these few need not reach all of them
        exact = kernel(model, *some, V=V, features=compute, head=head, parameters=wanted, dtype=torch.float64)
        spec["error"] = ((done.F[few][:, :, few_columns] - exact.F).norm() / exact.F.norm()).item()
    if folder and _rank()[0] == 0:
        done.save(folder / "kernel.safetensors")
        for leftover in folder.glob("block-*.safetensors"):
            leftover.unlink()
    return done


def _labels(names: Iterable[str], groups: Callable[[str], str]) -> dict[str, str]:
    """Group of each parameter."""
    labels = {}
    for name in names:
        try:
            labels[name] = groups(name)
        except Exception as error:
            raise KernelError(f"groups: expected a label for {name!r}, got {type(error).__name__}: {error}.") from error
        if not isinstance(labels[name], str) or labels[name] in ("", "gram"):
            raise KernelError(
                f"groups: expected labels that are text, not empty and not 'gram', got {labels[name]!r} for {name!r}."
            )
    return labels


def _spread(order: Tensor) -> Tensor:
    return order[torch.linspace(0, len(order) - 1, min(N_ERROR, len(order))).long()]


def _say_if_slow(problem: Problem, seconds: float) -> None:
    """One line where the model's ways cost more than a tenth of the time."""
    if not problem.alone or problem.seconds < seconds / 10 or seconds < SLOW:
        return
    why = sorted(set(problem.autograd.values()))
    how = f"; {len(problem.autograd)} parameters were left to autograd ({'; '.join(why[:3])})" if why else ""
    tqdm.write(
        f"kernel: examples passed through the model one at a time, {100 * problem.seconds / seconds:.0f} % of "
        f"{seconds:.0f} s{how}."
    )


def _rank() -> tuple[int, int]:
    """This process and the number of processes."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


@contextmanager
def _tf32(on: bool) -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = on
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


@dataclass(eq=False)
class _Side:
    """The examples of the rows or of the columns in blocks from short to long, and the factors of some blocks."""

    problem: Problem
    inputs: Inputs
    plan: Sizes
    held: dict[int, list[Batch]] = field(default_factory=dict)
    checked: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.blocks = by_length(self.inputs).split(self.plan.block)

    def factors(self, index: int) -> list[Batch]:
        """Factors of a block, computed if they are not held, and the first time compared with autograd's."""
        if index not in self.held:
            problem, check = self.problem, index not in self.checked
            parts = self.blocks[index].split(self.plan.batch)
            self.held[index] = [problem.compute(self.inputs, part, check=check) for part in parts]
            self.checked.add(index)
        return self.held[index]

    def release(self, keep: set[int]) -> None:
        """Let go of all blocks but some."""
        self.held = {index: batches for index, batches in self.held.items() if index in keep}


def _blocks(
    problem: Problem,
    rows: Inputs,
    columns: Inputs | None,
    plan_: Sizes,
    labels: Mapping[str, str],
    precision: str,
    folder: Path | None,
) -> dict[str, Tensor]:
    """All blocks: by label (N, C, M, C), and "gram" (N, M), in float64."""
    left = _Side(problem, rows, plan_)
    right = left if columns is None else _Side(problem, columns, plan_)
    out = _empty(count(rows), count(right.inputs), len(problem.V), labels)
    workspace = torch.empty(plan_.chunk_bytes // problem.V.element_size(), dtype=problem.V.dtype, device=problem.device)
    mine = _my_pairs(left, right)
    # in a terminal, and where it takes longer than a moment
    with tqdm(
        total=len(mine) * len(labels), desc="kernel", unit="parameter", disable=None, delay=5, leave=False
    ) as bar:
        for i, j in mine:
            path = folder / f"block-{i:04d}-{j:04d}.safetensors" if folder else None
            if path is not None and path.exists():
                part = read_tensors(path)[0]
                bar.update(len(labels))
            else:
                x, y = _factors_of_pair(left, i, right, j)
                with _tf32(precision == "tf32"):
                    part = _pair(problem, x, y, labels, Product(precision), workspace, bar)
                if path is not None:
                    write_tensors(path, part, {})
            for label, value in part.items():
                _place(out[label], value, left.blocks[i], right.blocks[j], mirror=right is left and i != j)
    return _summed_over_processes(out, problem.device)


def _empty(N: int, M: int, C: int, labels: Mapping[str, str]) -> dict[str, Tensor]:
    parts = {label: torch.zeros(N, C, M, C, dtype=torch.float64) for label in labels.values()}
    return {**parts, "gram": torch.zeros(N, M, dtype=torch.float64)}


def _my_pairs(left: _Side, right: _Side) -> list[tuple[int, int]]:
    """Pairs of blocks that this process computes; of a symmetric kernel, those of one half."""
    pairs = [(i, j) for i in range(len(left.blocks)) for j in range(len(right.blocks)) if right is not left or j <= i]
    rank, world = _rank()
    return pairs[rank::world]


def _factors_of_pair(left: _Side, i: int, right: _Side, j: int) -> tuple[list[Batch], list[Batch] | None]:
    """Factors of the rows of a block and of its columns, None where these are the same examples."""
    if not left.plan.hold_all:
        left.release({i, j} if right is left else {i})
        right.release({i, j} if right is left else {j})
    return left.factors(i), None if right is left and i == j else right.factors(j)


def _place(out: Tensor, part: Tensor, rows: Tensor, columns: Tensor, mirror: bool) -> None:
    """Write a block, or its Gram of features, where its examples belong, and across the diagonal."""
    if out.ndim == 2:
        out[rows[:, None], columns] = part
        if mirror:
            out[columns[:, None], rows] = part.T
        return
    part = part.view(len(rows), out.shape[1], len(columns), out.shape[1])
    out[rows[:, None], :, columns[None, :]] = part.permute(0, 2, 1, 3)
    if mirror:
        out[columns[:, None], :, rows[None, :]] = part.permute(2, 0, 3, 1)


def _summed_over_processes(out: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Every process has zeros where others computed."""
    if _rank()[1] > 1:
        for value in out.values():
            moved = value.to(device)
            distributed.all_reduce(moved)
            value.copy_(moved)
    return out


def _pair(
    problem: Problem,
    x: list[Batch],
    y: list[Batch] | None,
    labels: Mapping[str, str],
    product: Product,
    workspace: Tensor,
    bar: Any,
) -> dict[str, Tensor]:
    """One block of the kernel by label, (N C, M C) in float64, on the CPU, and "gram" (N, M)."""
    phi = torch.cat([b.phi for b in x]).double()
    phi_other = phi if y is None else torch.cat([b.phi for b in y]).double()
    n, m, C = len(phi), len(phi_other), len(problem.V)
    part = {label: torch.zeros(n * C, m * C, dtype=torch.float64, device=problem.device) for label in labels.values()}
    batches = [*x, *(y or ())]
    for name, label in labels.items():
        found = [b.gradients.get(name) for b in batches]
        same = alike(found, [len(b.phi) for b in batches], problem.wanted[name].shape)
        if any(found[: len(x)]) and (y is None or any(found[len(x) :])):
            K = same[0].gram(same[: len(x)], None if y is None else same[len(x) :], product, workspace)
            if not K.isfinite().all():
                raise KernelError(f"The gradient with respect to {name!r} is not finite for some example, though φ is.")
            part[label] += K
        bar.update()
    part["gram"] = phi @ phi_other.T + float(problem.bias)
    return {label: value.cpu() for label, value in part.items()}


def _assemble(parts: dict[str, Tensor], C: int, spec: dict[str, Any], *, grouped: bool, dtype: torch.dtype) -> Kernel:
    gram = parts.pop("gram").to(dtype)
    F = torch.zeros(len(gram), C, gram.shape[1], C, dtype=torch.float64)
    for part in parts.values():
        F += part
    if not F.to(dtype).isfinite().all():
        raise KernelError("F: numbers beyond the range of float32; pass dtype=torch.float64, or a smaller V.")
    return Kernel(gram, F.to(dtype), {k: part.to(dtype) for k, part in parts.items()} if grouped else {}, spec)
