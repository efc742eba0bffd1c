"""The kernel as a value: P kept factored, F as a tensor, saved as safetensors with the spec that gave it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lpft_utils.errors import KernelError


@dataclass
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


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: dict[str, str]) -> None:
    """Write a safetensors file beside its place and rename it when complete."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, partial, header)
    partial.replace(path)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and header of a safetensors file.

    Args:
        path: The file.

    Returns:
        Tensors by name, and the header.

    Raises:
        KernelError: If it cannot be read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise KernelError(
            f"Cannot read {path}: {error}. Expected a safetensors file; delete it to compute it again."
        ) from error


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
