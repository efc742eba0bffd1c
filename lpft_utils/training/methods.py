"""The methods, one short function each: they train `setup.model` in place and say what they did.

LP trains V and b on fixed features. FT trains everything from V ~ N(0, 0.02²), b = 0. LoRA trains an adapter on query
and value, V and b, from the same start. LP-FT and LP-LoRA are LP, then FT or LoRA from its head.

The Trainer and peft, which take seconds to import, are imported by the method that needs them: a chapter that shows
this code beside stored runs does not wait for them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor, nn

from lpft_utils.training.probing import fit_head
from lpft_utils.training.spec import RunSpec

if TYPE_CHECKING:
    import datasets

    from lpft_utils.models.classifier import Classifier
    from lpft_utils.models.encoding import Collator
    from lpft_utils.training.recorder import Monitor


@dataclass
class Setup:
    """Everything that a method needs.

    Attributes:
        spec: What to run.
        model: Pre-trained φ with a fresh head.
        encoded: Tokenised examples by split.
        labels: Class indices by split, each of shape (N,).
        phi_0: Pre-trained features by split, each of shape (N, H).
        collate: Pads a batch.
        work: Folder for checkpoints.
        monitors: Examples on which training is monitored.
        origin: Fingerprint of the backbone and ‖V‖ before anything is trained, for the run's metrics.
        progress: Whether to show progress bars.
    """

    spec: RunSpec
    model: Classifier
    encoded: dict[str, datasets.Dataset]
    labels: dict[str, Tensor]
    phi_0: dict[str, Tensor]
    collate: Collator
    work: Path
    monitors: dict[str, Monitor]
    origin: dict[str, Any]
    progress: bool = False


@dataclass
class Outcome:
    """What a method did.

    Attributes:
        history: Recorded steps.
        about: Facts for the run's metrics: how LP chose its head ("lp"), what the tuning stage kept ("ft", for LoRA as
            well: best_step and head_change), the factor on LP's head ("head_scale", where `head_norm` is set),
            "trainable_parameters", "train_seconds", and "peak_memory" in bytes (None without a GPU).
    """

    history: pd.DataFrame
    about: dict[str, Any]


def lp(setup: Setup) -> Outcome:
    """Linear probing: fit V and b on pre-trained features and install them; φ stays as it is."""
    spec = setup.spec
    n_classes = len(setup.model.head.weight)
    phi, labels = setup.phi_0, setup.labels
    monitor = {name: (phi[name], labels[name]) for name in phi if name != "train"}
    head = fit_head(phi["train"], labels["train"], n_classes, spec.lp, steps=spec.lp_steps, monitor=monitor)
    setup.model.set_head(head.V, head.b)
    return Outcome(head.history, {"lp": head.about, "trainable_parameters": trainable_parameters(setup.model.head)})


def ft(setup: Setup) -> Outcome:
    """Fine-tuning: train φ, V and b from the head that the model has."""
    return _tune(setup)


def lora(setup: Setup) -> Outcome:
    """LoRA: freeze φ, add an adapter that changes nothing yet, and train it with V and b from the head at hand."""
    from lpft_utils.models.adapters import add_lora

    spec = setup.spec
    add_lora(
        setup.model,
        r=spec.lora_r,
        alpha=spec.lora_alpha,
        dropout=spec.lora_dropout,
        targets=spec.lora_targets,
        seed=spec.seed,
    )
    return _tune(setup)


def lp_ft(setup: Setup) -> Outcome:
    """LP, then FT from LP's head."""
    return _then(lp(setup), ft, setup)


def lp_lora(setup: Setup) -> Outcome:
    """LP, then LoRA from LP's head."""
    return _then(lp(setup), lora, setup)


METHODS: dict[str, Callable[[Setup], Outcome]] = {"lp": lp, "ft": ft, "lp_ft": lp_ft, "lora": lora, "lp_lora": lp_lora}


def trainable_parameters(model: nn.Module) -> int:
    """How many numbers training changes.

    Args:
        model: Any module.

    Returns:
        Number of entries of all parameters that require gradients.
    """
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def _then(probed: Outcome, tune: Callable[[Setup], Outcome], setup: Setup) -> Outcome:
    """Tune from LP's head, at the norm that the spec asks for."""
    about = dict(probed.about)
    if setup.spec.head_norm is not None:
        about["head_scale"] = setup.model.scale_head(setup.spec.head_norm)
    tuned = tune(setup)
    return Outcome(tuned.history, {**about, **tuned.about})


def _tune(setup: Setup) -> Outcome:
    """Train whatever requires gradients."""
    from lpft_utils.training.fine_tuning import fine_tune

    spec, model = setup.spec, setup.model
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
        setup.work,
        epochs=spec.epochs,
        batch_size=spec.batch_size,
        learning_rate=spec.learning_rate,
        weight_decay=spec.weight_decay,
        head_weight_decay=spec.head_weight_decay,
        label_smoothing=spec.label_smoothing,
        seed=spec.seed,
        monitors=setup.monitors,
        progress=setup.progress,
    )
    change = torch.linalg.matrix_norm(model.head.weight.detach() - V_0).item()
    return Outcome(
        history,
        {
            "ft": {"best_step": history.attrs["best_step"], "head_change": change},
            "trainable_parameters": trainable_parameters(model),
            "train_seconds": time.perf_counter() - started,  # of this process: less after an interruption
            "peak_memory": torch.cuda.max_memory_allocated() if on_gpu else None,  # bytes
        },
    )
