"""The run store: one plain folder per run, written whole or not at all, checked when it is read.

    <store>/<task>-<method>-s<seed>-<hash>/
        spec.json            the RunSpec
        metrics.json         accuracies, norms, feature change, seconds, software and device
        history.parquet      what was recorded while training
        predictions.npz      logits and labels by split
        features.safetensors pre-trained and tuned features by split (at most `MAX_FEATURES` examples each)
        model.safetensors    the weights that the method trained (LP: the head; LoRA: adapter and head)
        manifest.json        size and SHA-256 of every other file

Of `KEPT`, "all" keeps every file, "predictions" no features and no weights, and "summary" no predictions either. A run
is written into a temporary folder and renamed when complete, so no reader ever meets half a run.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.torch import load_file
from torch import Tensor

from lpft_utils.common.errors import RunError
from lpft_utils.common.files import whole
from lpft_utils.training.spec import RunSpec

MANIFEST = "manifest.json"
MAX_FEATURES = 1000
KEPT = ("summary", "predictions", "all")  # each keeps more than the one before


class Run:
    """A stored run, read from its folder when asked; every file is checked against the manifest on opening."""

    def __init__(self, folder: Path) -> None:
        """Open and check a run.

        Args:
            folder: The run's folder.

        Raises:
            RunError: If the folder is no run, or a file of it is missing or damaged; the message names the file.
        """
        self.folder = folder
        check(folder)
        self.spec = RunSpec.from_dict(json.loads((folder / "spec.json").read_text()))

    def __repr__(self) -> str:
        return f"Run({self.folder.name!r})"

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """Accuracies, norms, feature change, times, software and device."""
        return json.loads((self.folder / "metrics.json").read_text())

    @cached_property
    def history(self) -> pd.DataFrame:
        """What was recorded while training, one row per recorded step."""
        return pd.read_parquet(self.folder / "history.parquet")

    @cached_property
    def predictions(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Logits (N, C) and labels (N,) by split."""
        with np.load(self._file("predictions.npz"), allow_pickle=False) as arrays:
            names = [name.removesuffix("/logits") for name in arrays.files if name.endswith("/logits")]
            return {name: (arrays[f"{name}/logits"], arrays[f"{name}/labels"]) for name in names}

    @cached_property
    def features(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Pre-trained φ_0 and tuned φ by split, each of shape (n, H); n is the split's size or `MAX_FEATURES`."""
        arrays = load_file(self._file("features.safetensors"))
        names = [name.removesuffix("/phi_0") for name in arrays if name.endswith("/phi_0")]
        return {name: (arrays[f"{name}/phi_0"], arrays[f"{name}/phi"]) for name in names}

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """The weights that the method trained, by name: LP's head, LoRA's adapter and head, FT's everything."""
        return load_file(self._file("model.safetensors"))

    @property
    def kept(self) -> str:
        """How much of the run is stored, one of `KEPT`."""
        files = [(self.folder / name).exists() for name in ("predictions.npz", "model.safetensors")]
        return KEPT[sum(files)]

    @property
    def diverged(self) -> bool:
        """Whether a loss, a norm or a logit was infinite or NaN: such a run is counted, and kept out of means."""
        return self.metrics["diverged"]

    @property
    def V(self) -> Tensor:  # noqa: N802
        """Head weights after training, shape (C, H)."""
        return self.weights["head.weight"]

    def accuracy(self, split: str = "test") -> float:
        """Accuracy on a split.

        Args:
            split: Split name.

        Returns:
            Share of correct predictions.

        Raises:
            RunError: If the run has no such split.
        """
        accuracy = self.metrics["accuracy"]
        if split not in accuracy:
            raise RunError(f"{self.folder.name} has the splits {', '.join(accuracy)}, not {split!r}.")
        return accuracy[split]

    def _file(self, name: str) -> Path:
        if not (self.folder / name).exists():
            raise RunError(
                f"{self.folder} is stored without {name}: it was kept as {self.kept!r}. "
                "`run` with keep='all' trains it again and keeps everything."
            )
        return self.folder / name


def converged(runs: Iterable[Run]) -> list[Run]:
    """The runs that did not diverge: what means are taken over."""
    return [run for run in runs if not run.diverged]


def write_run(store: Path, key: str, fill: Callable[[Path], None]) -> Path:
    """Write a run whole or not at all; a run that is there gives way.

    Args:
        store: The run store.
        key: Folder name of the run.
        fill: Writes the run's files into the folder that it is given.

    Returns:
        The run's folder.

    Raises:
        RunError: If something else is in its place.
        OSError: If the folder cannot be written, for example because the disk is full.
    """
    final = store / key
    if final.exists() and not (final / MANIFEST).exists():
        raise RunError(f"{final} is in the way: expected a run or nothing there. Move it elsewhere.")
    with whole(final) as partial:
        partial.mkdir()
        fill(partial)
        files = sorted(path for path in partial.iterdir() if path.is_file())
        manifest = {path.name: {"bytes": path.stat().st_size, "sha256": _sha256(path)} for path in files}
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=1))
        for path in (*files, partial / MANIFEST):
            _sync(path)
    return final


def check(folder: Path) -> None:
    """Check every file of a run against its manifest.

    Args:
        folder: The run's folder.

    Raises:
        RunError: If a file is missing or damaged; the message names it and says what to do.
    """
    mend = f"Delete the folder {folder} and ask for the run again."
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise RunError(f"{folder / MANIFEST} cannot be read ({error}), so this is no complete run. {mend}") from error
    for name, expected in manifest.items():
        path = folder / name
        if not path.is_file():
            raise RunError(f"{path} is missing. {mend}")
        if _sha256(path) != expected["sha256"]:
            raise RunError(f"{path} is damaged: its content differs from what was written. {mend}")


def list_runs(store: Path) -> list[Run]:
    """All complete runs of a store, in the order of their names.

    Args:
        store: The run store; need not exist.

    Returns:
        The runs.

    Raises:
        RunError: If one is damaged.
    """
    folders = sorted(path.parent for path in store.glob(f"[!.]*/{MANIFEST}"))
    return [Run(folder) for folder in folders]


def find(spec: RunSpec, store: Path) -> Run | None:
    """The stored run of a spec, found without its data.

    Args:
        spec: The run.
        store: The run store; need not exist.

    Returns:
        The run, or None.

    Raises:
        RunError: If there are several, made on different data or weights, or the run is damaged.
    """
    key = spec.key("")
    found = [
        path.parent
        for path in sorted(store.glob(f"{key.rpartition('-')[0]}-*/spec.json"))
        if RunSpec.from_dict(json.loads(path.read_text())).key("") == key
    ]
    if len(found) > 1:
        raise RunError(
            f"expected one run of these settings, got {', '.join(folder.name for folder in found)} in {store}, made on "
            "different data or weights. Delete all but the one that you mean."
        )
    return Run(found[0]) if found else None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
