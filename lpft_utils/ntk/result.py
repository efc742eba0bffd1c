"""The kernel as a value: P kept factored, F as a tensor, saved as safetensors with the spec that gave it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lpft_utils.common.errors import KernelError
from lpft_utils.common.tensors import read_tensors, weights_fingerprint, write_tensors
from lpft_utils.ntk.factors import Inputs
from lpft_utils.ntk.inputs import count
from lpft_utils.ntk.problem import Problem


@dataclass(repr=False)
class Kernel:
    """The empirical NTK of f = V φ + b between N examples and M others, K = P + F.

    Attributes:
        gram: ⟨φ(x), φ(x')⟩, +1 if the head has a bias, shape (N, M). P = gram ⊗ I_C.
        F: V Θ_φ(x, x') Vᵀ, shape (N, C, M, C).
        groups: F by group of parameters, each of shape (N, C, M, C); they sum to F. Empty if no groups were asked for.
        spec: What was computed, and how.
    """

    gram: Tensor
    F: Tensor
    groups: dict[str, Tensor] = field(default_factory=dict)
    spec: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        N, C, M, _ = self.F.shape
        of = f", {self.spec['parameters']:,} parameters" if "parameters" in self.spec else ""
        groups = f", groups {', '.join(self.groups)}" if self.groups else ""
        return f"Kernel(N={N}, C={C}, M={M}{of}{groups}, {self.F.dtype}, {self.F.device})"

    @property
    def n_classes(self) -> int:
        """C."""
        return self.F.shape[1]

    @property
    def P(self) -> Tensor:
        """The pre-train-effective part as a tensor, shape (N, C, M, C)."""
        identity = torch.eye(self.n_classes, dtype=self.gram.dtype, device=self.gram.device)
        return torch.einsum("nm,cd->ncmd", self.gram, identity)

    @property
    def K(self) -> Tensor:
        """P + F, shape (N, C, M, C)."""
        return self.P + self.F

    def scaled(self, factor: float) -> Kernel:
        """The kernel for the head `factor` · V on the same φ: F grows with its square, P does not change."""
        groups = {name: factor**2 * part for name, part in self.groups.items()}
        return Kernel(self.gram, factor**2 * self.F, groups, {**self.spec, "scaled": factor})

    def save(self, path: Path) -> None:
        """Write one safetensors file with the spec in its header; whole or not at all."""
        tensors = {"gram": self.gram, "F": self.F} | {f"groups/{k}": v for k, v in self.groups.items()}
        write_tensors(path, tensors, {"spec": json.dumps(self.spec)})


def load_kernel(path: Path) -> Kernel:
    """Read what `Kernel.save` wrote.

    Args:
        path: The file.

    Returns:
        The kernel.

    Raises:
        KernelError: If it is no such file.
    """
    tensors, header = read_tensors(Path(path))
    if not {"gram", "F"} <= tensors.keys() or "spec" not in header:
        raise KernelError(f"{path} holds no kernel: expected tensors 'gram' and 'F' and a spec, got {sorted(tensors)}.")
    groups = {name.removeprefix("groups/"): t for name, t in tensors.items() if name.startswith("groups/")}
    return Kernel(tensors["gram"], tensors["F"], groups, json.loads(header["spec"]))


ENGINE_VERSION = 2  # part of every spec; raise it when the numbers change


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
        "parameters": sum(p.numel() for p in problem.wanted.values()),
        "names": hashlib.sha256(json.dumps(dict(labels), sort_keys=True).encode()).hexdigest()[:16],
        "dtype": str(problem.V.dtype).removeprefix("torch."),
        "precision": precision,
    }
    if identify:
        digest = hashlib.sha256(weights_fingerprint(problem.model).encode())
        for tensors in (rows, columns or {}, {"V": problem.V}, dict(problem.model.named_buffers())):
            for name, t in sorted(tensors.items()):
                data = t.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
                digest.update(name.encode() + str((t.dtype, tuple(t.shape))).encode() + data)
        spec["fingerprint"] = digest.hexdigest()[:16]
        with torch.no_grad():  # sees another `features`, and what the model keeps outside its weights
            spec["phi"] = problem.phi(problem.moved({k: t[:1] for k, t in rows.items()})).norm().item()
    return spec


def stored(folder: Path, spec: Mapping[str, Any]) -> Kernel | int | None:
    """The finished kernel, the block size of an unfinished one, or None if the folder is empty."""
    if (folder / "kernel.safetensors").exists():
        found = load_kernel(folder / "kernel.safetensors")
        _compare(folder, found.spec, spec)
        return found
    if (folder / "spec.json").exists():
        try:
            begun = json.loads((folder / "spec.json").read_text())
        except ValueError as error:
            raise KernelError(f"{folder / 'spec.json'} is damaged. Delete the folder to start again.") from error
        _compare(folder, begun, spec)
        return int(begun["block_size"])
    return None


def _compare(folder: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    different = [name for name in new if old.get(name) != new[name]]
    if "phi" in different and math.isclose(old.get("phi", 0.0), new["phi"], rel_tol=1e-4):  # rounding
        different.remove("phi")
    if different:
        what = ", ".join(f"{name} {old.get(name)} there, {new[name]} asked for" for name in different)
        raise KernelError(f"{folder} holds another kernel ({what}). Choose another folder, or delete it.")


def begin(folder: Path, spec: Mapping[str, Any], block_size: int) -> None:
    """Note in a folder what is computed there, before the first block."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spec.json").write_text(json.dumps({**spec, "block_size": block_size}, indent=1))
