"""The methods: one record each, and the three ways to train that they combine.

LP trains V and b on fixed features. FT trains everything from V ~ N(0, 0.02²), b = 0. LoRA trains an adapter on query
and value, V and b, from the same head. LP-FT and LP-LoRA are LP, then FT or LoRA from its head.

A new method is one record and, where it trains something new, one function: `register` it, and specs, profiles,
kernels, stored runs, figures and tables know it. torch, the Trainer and peft take seconds to import, so the functions
that need them import them: names and labels are there at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lpft_utils.common.errors import ParameterError

if TYPE_CHECKING:
    import datasets
    import pandas as pd
    from torch import Tensor

    from lpft_utils.models.classifier import Classifier
    from lpft_utils.models.encoding import Collator
    from lpft_utils.training.recorder import Monitor
    from lpft_utils.training.spec import RunSpec

LP_FIELDS = ("lp", "lp_steps")
TUNING_FIELDS = (
    "epochs", "batch_size", "learning_rate", "weight_decay", "head_weight_decay", "label_smoothing", "n_monitor",
)  # fmt: skip
LORA_FIELDS = ("lora_r", "lora_alpha", "lora_dropout", "lora_targets")


@dataclass(frozen=True, kw_only=True)
class Method:
    """All that the package knows about a method.

    Attributes:
        name: Its name in specs and on the command line.
        label: Its name for readers.
        head: The head at initialisation: "random" or "lp".
        trains: Makes exactly what the method trains require gradients, after adding an adapter where it has one. What
            requires gradients is counted, stored, and differentiated in the kernel.
        run: Trains `setup.model` in place: `lp`, `ft` or `lp_ft`, or a function of the method's own.
        fields: Fields of `RunSpec` that it uses beside those of every method; no other decides its runs' names.
        learning_rate: Rate that a spec has by default; None for LP.
        color: Colour in figures, as hexadecimal digits.
        marker: Marker in figures, as matplotlib names it.
        line: Line style in figures, as matplotlib names it.
    """

    name: str
    label: str
    head: str = "random"
    trains: Callable[[Classifier, RunSpec], None]
    run: Callable[[Setup], Outcome]
    fields: tuple[str, ...]
    learning_rate: float | None
    color: str
    marker: str
    line: Any

    def style(self, *keys: str) -> dict[str, Any]:
        """Keyword arguments of matplotlib for the method, among "color", "marker", "linestyle" and "label"."""
        found = {"color": self.color, "marker": self.marker, "linestyle": self.line, "label": self.label}
        return {key: found[key] for key in ("color", *keys)}


@dataclass
class Setup:
    """Everything that a method needs.

    Attributes:
        spec: What to run.
        model: Pre-trained φ with a random head.
        encoded: Tokenised examples by split.
        labels: Class indices by split, each of shape (N,).
        phi_0: Pre-trained features by split, each of shape (N, H).
        collate: Pads a batch.
        checkpoints: The checkpoint folder.
        monitors: Examples on which training is monitored.
        provenance: Fingerprint of the backbone and ‖V‖ before anything is trained, for the run's metrics.
        progress: Whether to show progress bars.
        accumulation: Parts into which every batch is cut, for want of memory; a divisor of the batch size.
    """

    spec: RunSpec
    model: Classifier
    encoded: dict[str, datasets.Dataset]
    labels: dict[str, Tensor]
    phi_0: dict[str, Tensor]
    collate: Collator
    checkpoints: Path
    monitors: dict[str, Monitor]
    provenance: dict[str, Any]
    progress: bool = False
    accumulation: int = 1

    def choose_trained(self) -> None:
        """Make what the method trains require gradients, and nothing else."""
        METHODS[self.spec.method].trains(self.model, self.spec)


@dataclass
class Outcome:
    """What a method did.

    Attributes:
        history: Recorded steps.
        about: Facts for the run's metrics: how LP chose its head ("lp"), what the tuning stage kept ("ft", for LoRA as
            well: best_step and head_change), the factor on the head ("head_scale", where the spec scales it),
            "trainable_parameters", "train_seconds", and "peak_memory" in bytes (None without a GPU).
    """

    history: pd.DataFrame
    about: dict[str, Any]


def lp(setup: Setup) -> Outcome:
    """Linear probing: fit V and b to the pre-trained features and install them; φ stays as it is."""
    from lpft_utils.training.probing import fit_head

    spec, phi, labels = setup.spec, setup.phi_0, setup.labels
    monitor = {name: (phi[name], labels[name]) for name in phi if name != "train"}
    n_classes = len(setup.model.head.weight)
    head = fit_head(phi["train"], labels["train"], n_classes, spec.lp, steps=spec.lp_steps, monitor=monitor)
    setup.model.set_head(head.V, head.b)
    setup.choose_trained()
    n_trained = setup.model.num_parameters(only_trainable=True)
    return Outcome(head.history, {"lp": head.about, "trainable_parameters": n_trained})


def ft(setup: Setup) -> Outcome:
    """Fine-tuning from the head that the model has: V ~ N(0, 0.02²), b = 0."""
    scale = scale_head(setup.model, setup.spec)
    setup.choose_trained()
    tuned = tune(setup)
    return Outcome(tuned.history, {**scale, **tuned.about})


def lp_ft(setup: Setup) -> Outcome:
    """Linear probing, then fine-tuning from its head."""
    from lpft_utils.training.probing import fit_head

    spec, model = setup.spec, setup.model
    phi, y = setup.phi_0["train"], setup.labels["train"]  # pre-trained features, (N, H) and (N,)
    head = fit_head(phi, y, len(model.head.weight), spec.lp, steps=spec.lp_steps)  # logistic regression
    model.set_head(head.V, head.b)  # install the head …
    scale = scale_head(model, spec)
    setup.choose_trained()
    tuned = tune(setup)  # … and fine-tune from it
    return Outcome(tuned.history, {"lp": head.about, **scale, **tuned.about})


def scale_head(model: Classifier, spec: RunSpec) -> dict[str, float]:
    """Scale V and b as the spec says: the direction stays. Returns the factor as a fact for the run's metrics."""
    norm = spec.head_norm
    if spec.head_factor is not None:
        norm = spec.head_factor * model.head.weight.detach().norm().item()
    return {} if norm is None else {"head_scale": model.scale_head(norm)}


def head_alone(model: Classifier, spec: RunSpec) -> None:
    """LP trains V and b."""
    model.requires_grad_(False)
    model.head.requires_grad_(True)


def everything(model: Classifier, spec: RunSpec) -> None:
    """FT trains φ, V and b."""
    model.requires_grad_(True)


def low_rank(model: Classifier, spec: RunSpec) -> None:
    """LoRA freezes φ, adds an adapter that changes nothing yet, and trains it with V and b."""
    from lpft_utils.models.adapters import add_lora

    options = {"r": spec.lora_r, "alpha": spec.lora_alpha, "dropout": spec.lora_dropout, "targets": spec.lora_targets}
    add_lora(model, **options, seed=spec.seed)


def tune(setup: Setup) -> Outcome:
    """Train whatever requires gradients, from the weights that the model has."""
    import torch

    from lpft_utils.training.fine_tuning import fine_tune

    spec, model = setup.spec, setup.model
    settings = {name: getattr(spec, name) for name in TUNING_FIELDS if name != "n_monitor"}
    V_0 = model.head.weight.detach().clone()
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    history = fine_tune(
        model,
        setup.encoded["train"],
        setup.encoded["validation"],
        setup.collate,
        setup.checkpoints,
        **settings,
        seed=spec.seed,
        monitors=setup.monitors,
        accumulation=setup.accumulation,
        progress=setup.progress,
    )
    change = torch.linalg.matrix_norm(model.head.weight.detach() - V_0).item()
    return Outcome(
        history,
        {
            "ft": {"best_step": history.attrs["best_step"], "head_change": change},
            "trainable_parameters": model.num_parameters(only_trainable=True),
            "train_seconds": time.perf_counter() - started,  # of this process: less after an interruption
            "peak_memory": torch.cuda.max_memory_allocated() if on_gpu else None,  # bytes
        },
    )


def register(method: Method) -> Method:
    """Make a method known to the whole package.

    Args:
        method: Its record.

    Returns:
        The same record.

    Raises:
        ParameterError: If there is one of this name, or its head is unknown.
    """
    if method.name in METHODS:
        raise ParameterError(f"method {method.name!r} is registered already; expected a new name.")
    if method.head not in ("random", "lp"):
        raise ParameterError(f"head of {method.name!r}: expected 'random' or 'lp', got {method.head!r}.")
    METHODS[method.name] = method
    return method


# Colours are those of seaborn's colour-blind palette. The rates suit the default backbone: on validation texts of a
# seed that the book does not use, FT was better with 1e-4 than with 5e-5, and LoRA with 5e-3 than with 1e-3 or 2e-3;
# 1e-2 was as good, but unsteady.
METHODS: dict[str, Method] = {method.name: method for method in (
    Method(
        name="lp", label="LP", head="lp", trains=head_alone, run=lp, fields=LP_FIELDS, learning_rate=None,
        color="#0173b2", marker="s", line=":",
    ),
    Method(
        name="ft", label="FT", trains=everything, run=ft, fields=("head_factor", *TUNING_FIELDS),
        learning_rate=1e-4,
        color="#d55e00", marker="o", line="-",
    ),
    Method(
        name="lp_ft", label="LP-FT", head="lp", trains=everything, run=lp_ft,
        fields=(*LP_FIELDS, "head_norm", "head_factor", *TUNING_FIELDS), learning_rate=1e-4,
        color="#029e73", marker="^", line="--",
    ),
    Method(
        name="lora", label="LoRA", trains=low_rank, run=ft,
        fields=("head_factor", *TUNING_FIELDS, *LORA_FIELDS), learning_rate=5e-3,
        color="#cc78bc", marker="D", line="-.",
    ),
    Method(
        name="lp_lora", label="LP-LoRA", head="lp", trains=low_rank, run=lp_ft,
        fields=(*LP_FIELDS, "head_norm", "head_factor", *TUNING_FIELDS, *LORA_FIELDS), learning_rate=5e-3,
        color="#ca9161", marker="v", line=(0, (3, 1, 1, 1)),
    ),
)}  # fmt: skip
