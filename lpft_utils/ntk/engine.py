"""The exact kernel, block by block.

    factors of block I, factors of block J  →  inner products parameter by parameter  →  K[I, J]

A block is as many examples as the memory bound allows; where the factors of all examples fit, none is computed twice. Blocks are shared
among the processes of `torch.distributed` where it is initialised, and kept in a folder where one is given, so that
an interrupted computation goes on where it stopped.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from tqdm.auto import tqdm

from lpft_utils.backbones import weights_fingerprint
from lpft_utils.errors import KernelError
from lpft_utils.ntk.factors import Batch, Features, Inputs, Plan, factors, frozen, model_features, plan, verify
from lpft_utils.ntk.gradients import gram, products
from lpft_utils.ntk.kernel import Kernel, load_kernel, read_tensors, write_tensors
from lpft_utils.ntk.memory import Sizes, cost, sizes

PRECISIONS = ("full", "tf32", "bf16")
ENGINE_VERSION = 1  # part of every spec; raise it when the numbers change
N_ERROR = 4  # examples on which the rounding error of reduced precision is measured


@dataclass(frozen=True)
class Problem:
    """A model, ready for the engine.

    Attributes:
        model: Evaluation mode, nothing requiring gradients.
        features: Computes φ.
        V: Cotangents, shape (C, H).
        bias: Whether the head has a bias.
        wanted: Parameters.
        device: Where the model is.
    """

    model: nn.Module
    features: Features
    V: Tensor
    bias: bool
    wanted: Plan
    device: torch.device

    def factors(self, inputs: Inputs) -> Batch:
        """Factors of a batch, moved to the model's device."""
        moved = {k: t.to(self.device) for k, t in inputs.items()}
        return factors(self.model, self.features, moved, self.V, self.wanted)


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
    folder: Path | None = None,
    progress: bool = False,
) -> Kernel:
    """The empirical NTK of f(x) = V φ(x; θ) + b, exact for every parameter asked for.

    Args:
        model: `Classifier`, or any module with a linear head; put where it is to be computed (CPU or CUDA).
        inputs: Padded tensors by name with first dimension N, given to φ by name; or one tensor.
        other: M further examples for the columns, such as the training set of a test × train kernel; None means `inputs`.
        V: Another head on the same φ, shape (C, H); default: the model's.
        features: Computes φ (B, H) from the model and a batch; default: `model.features(**batch)`.
        head: Name of the linear head in the model.
        parameters: Names, or a rule that says of a name whether it is wanted; default: those that require gradients
            (with peft: the adapter's). The head's own parameters are P and never part of F.
        groups: Label of a parameter name; F is then also given by label.
        dtype: Compute in this type on a converted copy of the model; default: the model's own.
        precision: Of the products of gradients: "full" (that of the model), "tf32" (CUDA only) or "bf16". The error of the last two
            is measured on a few examples against float64 and stated in `spec["error"]`.
        memory: Bytes that may be used beyond the model and the inputs; default: half of what is free.
        block_size: Examples in a block; default: as many as fit.
        folder: Keep finished blocks and the result here, and go on from them if they are of the same computation.
        progress: Whether to show a progress bar.

    Returns:
        The kernel, on the CPU, in the type of the computation.

    Raises:
        KernelError: If a parameter is wanted that the engine has no exact rule for (it is named), if the inputs do not fit the model, if
            the memory bound is too small, or if the folder holds another computation.
    """
    if precision not in PRECISIONS:
        raise KernelError(f"precision: expected one of {', '.join(PRECISIONS)}, got {precision!r}.")
    rows, compute = _inputs(inputs, features)
    columns = None if other is None else _inputs(other, features)[0]
    with prepared(model, compute, V, head, parameters, dtype) as problem:
        if precision == "tf32" and problem.device.type != "cuda":
            raise KernelError("precision: 'tf32' exists on CUDA only; use 'full' here, or 'bf16' to study its error.")
        longest = _longest(rows if columns is None else columns)
        one = {k: t[:1].to(problem.device) for k, t in longest.items()}
        verify(problem.model, problem.features, one, problem.V, problem.wanted)
        labels = {name: (groups(name) if groups else "F") for name in problem.wanted.names}
        spec = _spec(problem, labels, rows, columns, precision, folder is not None)
        found = _stored(folder, spec) if folder else None
        if isinstance(found, Kernel):
            return found
        result = _result_bytes(len(problem.V), rows, columns, len(set(labels.values())))
        measured = cost(problem.model, problem.features, one, problem.V, problem.wanted)
        n_columns = None if columns is None else _count(columns)
        plan_ = sizes(measured, _count(rows), n_columns, result, problem.device, memory, found or block_size)
        if folder:
            _begin(folder, spec, plan_.block)
        with _tf32(precision == "tf32"):
            parts = _blocks(problem, rows, columns, plan_, labels, precision, folder, progress)
        error = None if precision == "full" else _rounding(problem, rows, precision, parts)
    spec |= {"block_size": plan_.block, "memory": plan_.memory, "error": error}
    done = _assemble(parts, len(problem.V), spec, grouped=groups is not None, dtype=problem.V.dtype)
    if folder and _rank()[0] == 0:
        done.save(folder / "kernel.safetensors")
        for leftover in folder.glob("block-*.safetensors"):
            leftover.unlink()
    return done


@contextmanager
def prepared(
    model: nn.Module,
    features: Features,
    V: Tensor | None,
    head: str,
    parameters: Callable[[str], bool] | Iterable[str] | None,
    dtype: torch.dtype | None,
) -> Iterator[Problem]:
    """Freeze a model for the engine and restore it afterwards.

    Args:
        model: The model.
        features: Computes φ.
        V: Another head, or None.
        head: Name of the linear head.
        parameters: Wanted parameters, as in `kernel`.
        dtype: Type to convert a copy of the model to, or None.

    Yields:
        The problem.

    Raises:
        KernelError: If there is no such head, V does not fit it, or a parameter name is unknown.
    """
    linear = functools.reduce(lambda m, name: getattr(m, name, None), head.split("."), model)
    if V is None and not isinstance(linear, nn.Linear):
        raise KernelError(f"head: expected the name of a Linear layer of the model, got {head!r}; or pass V (C, H).")
    own = {id(p) for p in linear.parameters()} if isinstance(linear, nn.Module) else set()
    body = {name: p for name, p in model.named_parameters() if id(p) not in own}
    names = _wanted_names(body, parameters)
    first = next(iter(body.values()), None)
    if first is None:
        raise KernelError("model: expected parameters besides the head, got none.")
    if dtype is not None and dtype != first.dtype:
        model = copy.deepcopy(model).to(dtype)
        first = next(p for p in model.parameters())
    by_name = dict(model.named_parameters())
    weight = linear.weight if V is None and isinstance(linear, nn.Linear) else V
    assert weight is not None
    if weight.ndim != 2:
        raise KernelError(f"V: expected shape (C, H), got {tuple(weight.shape)}.")
    bias = not isinstance(linear, nn.Linear) or linear.bias is not None
    V_ = weight.detach().to(first.device, first.dtype)
    with frozen(model):
        wanted = plan(model, {name: by_name[name] for name in names})
        yield Problem(model, features, V_, bias, wanted, first.device)


def _wanted_names(
    body: Mapping[str, nn.Parameter], parameters: Callable[[str], bool] | Iterable[str] | None
) -> list[str]:
    if parameters is None:
        return [name for name, p in body.items() if p.requires_grad]
    if callable(parameters):
        return [name for name in body if parameters(name)]
    names = [parameters] if isinstance(parameters, str) else list(parameters)
    unknown = [name for name in names if name not in body]
    if unknown:
        raise KernelError(
            f"parameters: the model's body has no parameter {unknown[0]!r}; it has {', '.join(list(body)[:4])}, …."
        )
    return names


def _inputs(
    inputs: Inputs | Tensor, features: Callable[[nn.Module, Any], Tensor] | None
) -> tuple[dict[str, Tensor], Features]:
    """Inputs by name, and φ as a function of them."""
    if isinstance(inputs, Tensor):
        call = features or (lambda model, x: model.features(x))
        return {"x": inputs}, lambda model, batch: call(model, batch["x"])
    named = dict(inputs)
    counts = {name: len(t) for name, t in named.items()}
    if not named or len(set(counts.values())) != 1 or not next(iter(counts.values())):
        raise KernelError(f"inputs: expected tensors with one first dimension N ≥ 1, got {counts or 'none'}.")
    return named, features or model_features


def _count(inputs: Inputs) -> int:
    return len(next(iter(inputs.values())))


def lengths(inputs: Inputs) -> Tensor | None:
    """Index of the last token plus one for each example, shape (N,), or None without a mask."""
    mask = inputs.get("attention_mask")
    if mask is None or mask.ndim != 2:
        return None
    return (mask.long() * torch.arange(1, mask.shape[1] + 1, device=mask.device)).amax(1).clamp_min(1)


def take(inputs: Inputs, index: Tensor) -> dict[str, Tensor]:
    """Some examples, without the columns in which all of them are padding at the end."""
    chosen = {k: t[index] for k, t in inputs.items()}
    length = lengths(chosen)
    if length is None:
        return chosen
    T, longest = chosen["attention_mask"].shape[1], int(length.max())
    return {k: t[:, :longest] if t.ndim > 1 and t.shape[1] == T else t for k, t in chosen.items()}


def by_length(inputs: Inputs) -> Tensor:
    """Examples from short to long, so that batches have little padding."""
    length = lengths(inputs)
    return torch.arange(_count(inputs)) if length is None else length.cpu().argsort(stable=True)


def _longest(inputs: Inputs) -> dict[str, Tensor]:
    return take(inputs, by_length(inputs)[-1:])


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


def _blocks(
    problem: Problem,
    rows: Inputs,
    columns: Inputs | None,
    plan_: Sizes,
    labels: Mapping[str, str],
    precision: str,
    folder: Path | None,
    progress: bool,
) -> dict[str, Tensor]:
    """All blocks: by label (N C, M C) in float64, and "gram" (N, M)."""
    C = len(problem.V)
    order = by_length(rows)
    order_columns = order if columns is None else by_length(columns)
    left = order.split(plan_.block)
    right = order_columns.split(plan_.block)
    pairs = [(i, j) for i in range(len(left)) for j in range(len(right)) if columns is not None or j <= i]
    rank, world = _rank()
    mine = pairs[rank::world]
    N, M = len(order), len(order_columns)
    out = {label: torch.zeros(N, C, M, C, dtype=torch.float64) for label in dict.fromkeys(labels.values())}
    out["gram"] = torch.zeros(N, M, dtype=torch.float64)
    held: dict[tuple[bool, int], list[Batch]] = {}

    def block(side: bool, index: int) -> list[Batch]:
        """Factors of a block, kept while it is likely to be needed again."""
        key = (side and columns is not None, index)
        if key not in held:
            source, examples = (columns, right[index]) if key[0] else (rows, left[index])
            assert source is not None
            held[key] = [problem.factors(take(source, part)) for part in examples.split(plan_.batch)]
        return held[key]

    product = products(precision)
    bar = tqdm(total=len(mine) * len(labels), desc="kernel", unit="parameter", disable=not progress, leave=False)
    for i, j in mine:
        path = folder / f"block-{i:04d}-{j:04d}.safetensors" if folder else None
        if path is not None and path.exists():
            part = read_tensors(path)[0]
            bar.update(len(labels))
        else:
            if not plan_.hold_all:
                for key in [k for k in held if k not in ((False, i), (columns is not None, j))]:
                    del held[key]
            x = block(False, i)
            y = None if columns is None and i == j else block(True, j)
            part = _pair(problem, x, y, labels, product, plan_.chunk_bytes, bar)
            if path is not None:
                write_tensors(path, part, {})
        for label, value in part.items():
            shape = (len(left[i]), C, len(right[j]), C) if label != "gram" else (len(left[i]), len(right[j]))
            _place(out[label], value.view(shape), left[i], right[j], mirror=columns is None and i != j)
    bar.close()
    if world > 1:
        for value in out.values():
            moved = value.to(problem.device)
            distributed.all_reduce(moved)
            value.copy_(moved)
    return out


def _place(out: Tensor, part: Tensor, rows: Tensor, columns: Tensor, mirror: bool) -> None:
    if out.ndim == 2:
        out[rows[:, None], columns] = part
        if mirror:
            out[columns[:, None], rows] = part.T
        return
    out[rows[:, None], :, columns[None, :]] = part.permute(0, 2, 1, 3)
    if mirror:
        out[columns[:, None], :, rows[None, :]] = part.permute(2, 0, 3, 1)


def _pair(
    problem: Problem,
    x: list[Batch],
    y: list[Batch] | None,
    labels: Mapping[str, str],
    product: Callable[[Tensor, Tensor], Tensor],
    chunk_bytes: int,
    bar: Any,
) -> dict[str, Tensor]:
    """One block of the kernel by label, (N C, M C) in float64, on the CPU, and "gram" (N, M)."""
    phi = torch.cat([b.phi for b in x]).double()
    phi_other = phi if y is None else torch.cat([b.phi for b in y]).double()
    part = {"gram": (phi @ phi_other.T + float(problem.bias)).cpu()}
    n, m, C = len(phi), len(phi_other), len(problem.V)
    for label in dict.fromkeys(labels.values()):
        total = torch.zeros(n * C, m * C, dtype=torch.float64, device=problem.device)
        for name in (k for k, v in labels.items() if v == label):
            if name in x[0].gradients:
                left = [b.gradients[name] for b in x]
                right = None if y is None else [b.gradients[name] for b in y]
                total += gram(left, right, product, chunk_bytes)
            bar.update()
        part[label] = total.cpu()
    return part


def _rounding(problem: Problem, rows: Inputs, precision: str, parts: Mapping[str, Tensor]) -> float:
    """Relative Frobenius error of F on a few examples against float64 throughout."""
    few = by_length(rows)[:N_ERROR]
    model = copy.deepcopy(problem.model).double()
    batch = {k: t[few].to(problem.device) for k, t in rows.items()}
    wanted = plan(model, {name: dict(model.named_parameters())[name] for name in problem.wanted.names})
    totals = []
    for m, V, product, w in (
        (problem.model, problem.V, products(precision), problem.wanted),
        (model, problem.V.double(), products("full"), wanted),
    ):
        with _tf32(precision == "tf32"):
            got = factors(m, problem.features, batch, V, w)
            totals.append(
                sum((gram([g], None, product, 1 << 28).double() for g in got.gradients.values()), torch.tensor(0.0))
            )
    return ((totals[0] - totals[1]).norm() / totals[1].norm()).item()


def _assemble(parts: dict[str, Tensor], C: int, spec: dict[str, Any], *, grouped: bool, dtype: torch.dtype) -> Kernel:
    gram_ = parts.pop("gram").to(dtype)
    F = None
    for part in parts.values():
        F = part.clone() if F is None else F.add_(part)
    if F is None:
        F = torch.zeros(gram_.shape[0], C, gram_.shape[1], C, dtype=torch.float64)
    groups = {label: part.to(dtype) for label, part in parts.items()} if grouped else {}
    return Kernel(gram_, F.to(dtype), groups, spec)


def _result_bytes(C: int, rows: Inputs, columns: Inputs | None, n_groups: int) -> int:
    entries = _count(rows) * C * _count(rows if columns is None else columns) * C
    return entries * (8 * (n_groups + 1) + 16)  # float64 sums by group, the total, and one block on its way


def _spec(
    problem: Problem, labels: Mapping[str, str], rows: Inputs, columns: Inputs | None, precision: str, identify: bool
) -> dict[str, Any]:
    """What decides the numbers; with fingerprints of weights and inputs only where something is stored."""
    spec: dict[str, Any] = {
        "engine": ENGINE_VERSION,
        "model": type(problem.model).__name__,
        "N": _count(rows),
        "M": _count(rows if columns is None else columns),
        "symmetric": columns is None,
        "C": len(problem.V),
        "H": problem.V.shape[1],
        "bias": problem.bias,
        "parameters": sum(shape.numel() for shape in problem.wanted.shapes.values()),
        "names": hashlib.sha256(json.dumps(dict(labels), sort_keys=True).encode()).hexdigest()[:16],
        "dtype": str(problem.V.dtype).removeprefix("torch."),
        "precision": precision,
    }
    if identify:
        digest = hashlib.sha256(weights_fingerprint(problem.model).encode())
        for tensors in (rows, columns or {}, {"V": problem.V}):
            for name, t in sorted(tensors.items()):
                digest.update(name.encode() + str(tuple(t.shape)).encode() + t.cpu().contiguous().numpy().tobytes())
        spec["fingerprint"] = digest.hexdigest()[:16]
    return spec


def _stored(folder: Path, spec: Mapping[str, Any]) -> Kernel | int | None:
    """The finished kernel, the block size of an unfinished one, or None if the folder is empty."""
    if (folder / "kernel.safetensors").exists():
        found = load_kernel(folder / "kernel.safetensors")
        _compare(folder, found.spec, spec)
        return found
    if (folder / "spec.json").exists():
        begun = json.loads((folder / "spec.json").read_text())
        _compare(folder, begun, spec)
        return int(begun["block_size"])
    return None


def _compare(folder: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    different = [name for name in new if old.get(name) != new[name]]
    if different:
        what = ", ".join(f"{name} {old.get(name)} there, {new[name]} asked for" for name in different)
        raise KernelError(f"{folder} holds another kernel ({what}). Choose another folder, or delete it.")


def _begin(folder: Path, spec: Mapping[str, Any], block_size: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if _rank()[0] == 0:
        (folder / "spec.json").write_text(json.dumps({**spec, "block_size": block_size}, indent=1))
