"""Tensors in files, and fingerprints of weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lpft_utils.common.errors import KernelError
from lpft_utils.common.files import whole


@torch.no_grad()
def weights_fingerprint(model: nn.Module) -> str:
    """First 16 hex digits of the SHA-256 over a module's parameter names and values: the identity of a backbone."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        digest.update(name.encode())
        digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: dict[str, str]) -> None:
    """Write a safetensors file, whole or not at all."""
    with whole(path) as partial:
        save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, partial, header)


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
