"""What identifies a kernel, and what a folder holds of one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lpft_utils.backbones import weights_fingerprint
from lpft_utils.errors import KernelError
from lpft_utils.ntk.factors import Inputs
from lpft_utils.ntk.inputs import count
from lpft_utils.ntk.problem import Problem
from lpft_utils.ntk.result import Kernel, load_kernel

ENGINE_VERSION = 1  # part of every spec; raise it when the numbers change


def describe(
    problem: Problem, labels: Mapping[str, str], rows: Inputs, columns: Inputs | None, precision: str, identify: bool
) -> dict[str, Any]:
    """What decides the numbers; with fingerprints of weights and inputs only where something is stored."""
    spec: dict[str, Any] = {
        "engine": ENGINE_VERSION,
        "model": type(problem.model).__name__,
        "N": count(rows),
        "M": count(rows if columns is None else columns),
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


def stored(folder: Path, spec: Mapping[str, Any]) -> Kernel | int | None:
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


def begin(folder: Path, spec: Mapping[str, Any], block_size: int) -> None:
    """Note in a folder what is computed there, before the first block."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spec.json").write_text(json.dumps({**spec, "block_size": block_size}, indent=1))
