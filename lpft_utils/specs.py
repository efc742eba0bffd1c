"""`RunSpec`: everything that decides a run's numbers, and the name it is stored under."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from lpft_utils.errors import RunError

METHOD_NAMES = ("lp", "ft", "lp_ft")
POOLING_NAMES = ("auto", "first", "mean", "last")
# Part of every hash. Raise it when a change of the code changes the numbers that a spec gives.
STORE_VERSION = 1


def _is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a finite number; True and False are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """One run: task, method, backbone, seed and settings.

    The seed draws the training subset (where `n_train` asks for one), the head of FT, the data order and dropout.
    Evaluation splits do not depend on it, so that runs of different seeds are compared on the same examples.

    Attributes:
        task: Name that `load_task` knows.
        method: "lp", "ft" or "lp_ft".
        backbone: "minilm", "tiny", a local folder or a Hub id.
        seed: Seed, ≥ 0.
        ood: Tasks whose test sets are attached as out-of-distribution sets; None means the task's own.
        n_train: Training examples, drawn with `seed`; None means all.
        n_eval: Largest number of examples in each other split; None means all.
        label_noise: Share of wrong training labels, built-in task only.
        max_length: Longest sequence, in tokens.
        pooling: "auto", "first", "mean" or "last".
        lp: How LP fits the head: "cv" (as published), "gd" (unregularised accelerated gradient steps), or a value of C.
        lp_steps: Gradient steps of `lp="gd"`.
        epochs: Passes over the training examples in FT.
        batch_size: Examples in a step.
        learning_rate: Initial learning rate of FT.
        weight_decay: Decoupled weight decay of FT.
    """

    task: str = "builtin"
    method: str = "lp_ft"
    backbone: str = "minilm"
    seed: int = 0
    ood: tuple[str, ...] | None = None
    n_train: int | None = None
    n_eval: int | None = None
    label_noise: float = 0.0
    max_length: int = 128
    pooling: str = "auto"
    lp: str | float = "cv"
    lp_steps: int = 10_000
    epochs: float = 10
    batch_size: int = 16
    learning_rate: float = 5e-5
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.ood, list):
            object.__setattr__(self, "ood", tuple(self.ood))
        if self.method not in METHOD_NAMES:
            near = difflib.get_close_matches(str(self.method).replace("-", "_"), METHOD_NAMES, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise RunError(f"method: expected one of {', '.join(METHOD_NAMES)}, got {self.method!r}.{hint}")
        if self.pooling not in POOLING_NAMES:
            raise RunError(f"pooling: expected one of {', '.join(POOLING_NAMES)}, got {self.pooling!r}.")
        if self.lp not in ("cv", "gd") and not (_is_number(self.lp) and self.lp > 0):
            raise RunError(f"lp: expected 'cv', 'gd' or a positive value of C, got {self.lp!r}.")
        for name in ("n_train", "n_eval", "max_length", "batch_size", "lp_steps"):
            value = getattr(self, name)
            if value is None and name in ("n_train", "n_eval"):
                continue
            if not (_is_number(value) and isinstance(value, int) and value > 0):
                raise RunError(f"{name}: expected a positive integer, got {value!r}.")
        for name in ("epochs", "learning_rate"):
            value = getattr(self, name)
            if not (_is_number(value) and value > 0):
                raise RunError(f"{name}: expected a positive number, got {value!r}.")
        if not (_is_number(self.weight_decay) and self.weight_decay >= 0):
            raise RunError(f"weight_decay: expected a number ≥ 0, got {self.weight_decay!r}.")
        if not (_is_number(self.seed) and isinstance(self.seed, int) and self.seed >= 0):
            raise RunError(f"seed: expected an integer ≥ 0, got {self.seed!r}.")
        if not 0 <= self.label_noise < 1:
            raise RunError(f"label_noise: expected a share in [0, 1), got {self.label_noise!r}.")
        if self.label_noise and self.task != "builtin":
            raise RunError(f"label_noise: only the built-in task can have it, not {self.task!r}.")

    def to_dict(self) -> dict[str, Any]:
        """As plain types for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> RunSpec:
        """The inverse of `to_dict`.

        Args:
            fields: Field values by name.

        Returns:
            The spec.

        Raises:
            RunError: If a field is unknown or has a bad value.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for name in fields:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise RunError(f"Unknown field {name!r} of a run.{hint} Known: {', '.join(known)}.")
        return cls(**fields)

    def replace(self, **changes: Any) -> RunSpec:
        """A copy with some fields changed."""
        return type(self).from_dict({**self.to_dict(), **changes})

    def key(self, data_fingerprint: str) -> str:
        """Name of the run's folder: task, method, seed and a hash of everything that matters to its numbers.

        What a method ignores (for example the learning rate of LP) is left out of the hash, so that it does not cause
        a second, equal run.

        Args:
            data_fingerprint: `Task.fingerprint` of the data in use and the fingerprint of a local backbone's files, so
                that changed files mean a new run.

        Returns:
            For example "builtin-lp_ft-s0-1f3a5c7e9b".
        """
        ignored = {
            "lp": ("epochs", "batch_size", "learning_rate", "weight_decay"),
            "ft": ("lp", "lp_steps"),
            "lp_ft": (),
        }[self.method]
        relevant = {k: v for k, v in self.to_dict().items() if k not in ignored}
        if relevant.get("lp") != "gd":
            relevant.pop("lp_steps", None)
        numbers = {k: float(v) if isinstance(v, (int, float)) else v for k, v in relevant.items()}  # 3 and 3.0 are one
        text = json.dumps([STORE_VERSION, data_fingerprint, numbers], sort_keys=True)
        task = re.sub(r"[^A-Za-z0-9_.]+", "_", self.task).strip("_.")[-40:] or "task"
        return f"{task}-{self.method}-s{self.seed}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"
