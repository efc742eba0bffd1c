"""`RunSpec`: everything that decides a run's numbers, and the name it is stored under."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lpft_utils.common.errors import RunError
from lpft_utils.common.names import nearest
from lpft_utils.common.validation import is_integer, is_number
from lpft_utils.training.methods import METHODS

POOLING_NAMES = ("auto", "first", "mean", "last")
# Part of every hash. Raise it when a change of the code changes the numbers that a spec gives, or what a key means.
STORE_VERSION = 2
# Fields that decide the numbers of every method; a method's record names the others that it uses.
COMMON_FIELDS = (
    "task", "method", "backbone", "seed", "ood", "n_train", "n_eval", "label_noise", "max_length", "pooling",
)  # fmt: skip


# What is expected of a number, of which fields, and how it is checked.
_BOUNDS: tuple[tuple[str, tuple[str, ...], Callable[[Any], bool]], ...] = (
    ("a positive integer", ("n_train", "n_eval", "max_length", "batch_size", "lp_steps", "lora_r"),
     lambda v: is_integer(v) and v > 0),
    ("an integer ≥ 0", ("seed", "n_monitor"), lambda v: is_integer(v) and v >= 0),
    ("a positive number", ("epochs", "learning_rate", "lora_alpha", "head_norm", "head_factor"),
     lambda v: is_number(v) and v > 0),
    ("a number ≥ 0", ("weight_decay", "head_weight_decay"), lambda v: is_number(v) and v >= 0),
    ("a share in [0, 1)", ("label_noise", "label_smoothing", "lora_dropout"), lambda v: is_number(v) and 0 <= v < 1),
)  # fmt: skip
_OPTIONAL = ("n_train", "n_eval", "learning_rate", "head_norm", "head_factor", "head_weight_decay")


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """One run: task, method, backbone, seed and settings.

    The seed draws the training subset (where `n_train` asks for one), the head of FT, the A of LoRA, the data order
    and dropout.
    Evaluation splits do not depend on it, so that runs of different seeds are compared on the same examples, except for
    generated texts, which are drawn anew.

    Attributes:
        task: Name that `load_task` knows.
        method: "lp", "ft", "lp_ft", "lora", "lp_lora", or another that was registered (`methods.register`).
        backbone: "minilm", "mpnet", "tiny", a local folder or a Hub id.
        seed: Seed, ≥ 0.
        ood: Tasks whose test sets are attached as out-of-distribution sets; None means the task's own.
        n_train: Training examples, drawn with `seed`; None means all.
        n_eval: Largest number of examples in each other split; None means all.
        label_noise: Share of wrong training labels, task `synthetic` only.
        max_length: Longest sequence, in tokens.
        pooling: "auto", "first", "mean" or "last".
        lp: How LP fits the head: "cv" (as published), "gd" (unregularised accelerated gradient steps), or a value of C.
        lp_steps: Gradient steps of `lp="gd"`.
        head_norm: ‖V‖_F that the head of LP is scaled to before FT or LoRA, b by the same factor: its direction stays,
            and the logits change by a temperature alone. None leaves the head as LP made it.
        head_factor: Factor on the head, random or LP's, before FT or LoRA, on b as well; not beside `head_norm`.
        epochs: Passes over the training examples in FT and LoRA.
        batch_size: Examples in a step.
        learning_rate: Initial learning rate of FT or LoRA; None becomes the default of the method's record.
        weight_decay: Decoupled weight decay of FT or LoRA (biases and layer norms have none).
        head_weight_decay: Weight decay of V alone; None means `weight_decay`.
        label_smoothing: Share of every target that is spread evenly over all classes in FT or LoRA.
        n_monitor: Examples of the training and of the test set on which FT or LoRA is monitored; 0 for none.
        lora_r: Rank of LoRA.
        lora_alpha: Scale α of LoRA; the adapter enters with the factor α / r.
        lora_dropout: Dropout on the adapter's input while training.
        lora_targets: Endings of the names of the adapted layers. None means query and value: `query`, `value` (BERT,
            RoBERTa), `q_lin`, `v_lin` (DistilBERT), `q_proj`, `v_proj` (Llama), and GPT-2's `c_attn`, where query, key
            and value are one matrix that is adapted as a whole.
    """

    task: str = "snippets"
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
    head_norm: float | None = None
    head_factor: float | None = None
    epochs: float = 10
    batch_size: int = 16
    learning_rate: float | None = None
    weight_decay: float = 0.0
    head_weight_decay: float | None = None
    label_smoothing: float = 0.0
    n_monitor: int = 16
    lora_r: int = 8
    lora_alpha: float = 8
    lora_dropout: float = 0.0
    lora_targets: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise RunError(f"method: there is no {self.method!r}; {nearest(str(self.method), METHODS)}.")
        if unknown := set(METHODS[self.method].fields) - set(self.__dataclass_fields__):
            raise RunError(f"method {self.method!r}: its record names {', '.join(sorted(unknown))}, no field of a run.")
        if self.learning_rate is None:
            object.__setattr__(self, "learning_rate", METHODS[self.method].learning_rate)
        if self.pooling not in POOLING_NAMES:
            raise RunError(f"pooling: expected one of {', '.join(POOLING_NAMES)}, got {self.pooling!r}.")
        if self.lp not in ("cv", "gd") and not (is_number(self.lp) and float(self.lp) > 0):
            raise RunError(f"lp: expected 'cv', 'gd' or a positive value of C, got {self.lp!r}.")
        for expected, names, fits in _BOUNDS:
            for name in names:
                value = getattr(self, name)
                if not (fits(value) or (value is None and name in _OPTIONAL)):
                    raise RunError(f"{name}: expected {expected}, got {value!r}.")
        if self.head_norm is not None and self.head_factor is not None:
            raise RunError(f"expected head_norm or head_factor, got both ({self.head_norm!r}, {self.head_factor!r}).")
        for name, example in (("ood", "['dynasent']"), ("lora_targets", "['query', 'value']")):
            value = getattr(self, name)
            if isinstance(value, (str, list)):
                value = (value,) if isinstance(value, str) else tuple(value)
                object.__setattr__(self, name, value)
            if value is not None and not (isinstance(value, tuple) and all(isinstance(v, str) and v for v in value)):
                raise RunError(f"{name}: expected names, such as {example}, got {value!r}.")
        if self.lora_targets == ():
            raise RunError("lora_targets: expected names of layers, such as ['query', 'value'], got ().")
        if self.label_noise and self.task != "synthetic":
            raise RunError(f"label_noise: only the task 'synthetic' can have it, not {self.task!r}.")

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
                raise RunError(f"A run has no field {name!r}; {nearest(name, known)}.")
        return cls(**fields)

    def replace(self, **changes: Any) -> RunSpec:
        """A copy with some fields changed; another method brings its own learning rate where this one had its own."""
        fields = self.to_dict()
        other = changes.get("method", self.method) != self.method
        if other and self.learning_rate == METHODS[self.method].learning_rate:
            fields["learning_rate"] = None
        return type(self).from_dict({**fields, **changes})

    def key(self, data_fingerprint: str) -> str:
        """Name of the run's folder: task, method, seed and a hash of everything that matters to its numbers.

        What a method ignores (for example the learning rate of LP) is left out of the hash, so that it does not cause
        a second, equal run.

        Args:
            data_fingerprint: `Task.fingerprint` of the data in use and the fingerprint of a local backbone's files, so
                that changed files mean a new run.

        Returns:
            For example "snippets-lp_ft-s0-1f3a5c7e9b".
        """
        relevant = {name: getattr(self, name) for name in (*COMMON_FIELDS, *METHODS[self.method].fields)}
        if self.head_weight_decay in (None, self.weight_decay):  # the latter is what None means
            relevant.pop("head_weight_decay", None)
        if self.head_factor is None:  # as before there was such a field
            relevant.pop("head_factor", None)
        if relevant.get("lp") != "gd":
            relevant.pop("lp_steps", None)
        numbers = {k: float(v) if isinstance(v, (int, float)) else v for k, v in relevant.items()}  # 3 and 3.0 are one
        text = json.dumps([STORE_VERSION, data_fingerprint, numbers], sort_keys=True)
        task = re.sub(r"[^A-Za-z0-9_.]+", "_", self.task).strip("_.")[-40:] or "task"
        return f"{task}-{self.method}-s{self.seed}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"
