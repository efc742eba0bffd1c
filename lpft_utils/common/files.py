"""Files: written whole or not at all, and fingerprints of what they hold."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lpft_utils.common.errors import KernelError


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A place to write a file or folder, which is renamed to `path` when complete.

    If the block raises or is interrupted, nothing of it is left and what was at `path` is still there.

    Args:
        path: Where the file or folder belongs; its parents are created, what is there is replaced.

    Yields:
        The place to write to, of the same name (and so of the same ending), on the same file system.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".partial-", dir=path.parent) as folder:
        partial, old = Path(folder, path.name), Path(folder, f"{path.name}.old")
        yield partial
        if not (partial.is_dir() and path.is_dir()):
            partial.replace(path)
            return
        path.replace(old)  # a folder takes the place of none but an empty folder
        try:
            partial.replace(path)
        except BaseException:
            old.replace(path)
            raise


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
