"""The methods, one short function each: they train `setup.model` in place and say what they did.

LP trains V and b on fixed features. FT trains everything from V ~ N(0, 0.02²), b = 0. LP-FT is LP, then FT
from its head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import torch
from torch import Tensor

from lpft_utils.classifier import Classifier
from lpft_utils.encoding import Collator
from lpft_utils.probing import fit_head
from lpft_utils.specs import RunSpec
from lpft_utils.training import Probe, fine_tune


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
        probes: Examples on which training is watched.
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
    probes: dict[str, Probe]
    origin: dict[str, Any]
    progress: bool = False


@dataclass
class Outcome:
    """What a method did.

    Attributes:
        history: Recorded steps.
        about: Facts for the run's metrics, such as the C that LP chose or the step that FT kept.
    """

    history: pd.DataFrame
    about: dict[str, Any]


def lp(setup: Setup) -> Outcome:
    """Linear probing: fit V and b on pre-trained features and install them; φ stays as it is."""
    spec = setup.spec
    n_classes = len(setup.model.head.weight)
    phi, labels = setup.phi_0, setup.labels
    watch = {name: (phi[name], labels[name]) for name in phi if name != "train"}
    head = fit_head(phi["train"], labels["train"], n_classes, spec.lp, steps=spec.lp_steps, watch=watch)
    setup.model.set_head(head.V, head.b)
    return Outcome(head.history, {"lp": head.about})


def ft(setup: Setup) -> Outcome:
    """Fine-tuning: train φ, V and b from the head that the model has."""
    spec = setup.spec
    V_0 = setup.model.head.weight.detach().clone()
    history = fine_tune(
        setup.model,
        setup.encoded["train"],
        setup.encoded["validation"],
        setup.collate,
        setup.work,
        epochs=spec.epochs,
        batch_size=spec.batch_size,
        learning_rate=spec.learning_rate,
        weight_decay=spec.weight_decay,
        seed=spec.seed,
        probes=setup.probes,
        progress=setup.progress,
    )
    change = torch.linalg.matrix_norm(setup.model.head.weight.detach() - V_0).item()
    return Outcome(history, {"ft": {"best_step": history.attrs["best_step"], "head_change": change}})


def lp_ft(setup: Setup) -> Outcome:
    """LP, then FT from LP's head."""
    probed = lp(setup)
    tuned = ft(setup)
    return Outcome(tuned.history, {**probed.about, **tuned.about})


METHODS: dict[str, Callable[[Setup], Outcome]] = {"lp": lp, "ft": ft, "lp_ft": lp_ft}
