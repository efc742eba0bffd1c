"""What `run.run` does when nothing is stored: prepare, train, evaluate, write; and the model of a stored run."""

from __future__ import annotations

import hashlib
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from sklearn.metrics import matthews_corrcoef
from torch import Tensor

from lpft_utils.common.environment import environment
from lpft_utils.common.errors import RunError
from lpft_utils.common.tensors import weights_fingerprint
from lpft_utils.data.examples import Task
from lpft_utils.metrics.feature_change import feature_change
from lpft_utils.models.backbones import load_tokenizer
from lpft_utils.models.classifier import Classifier, load_classifier
from lpft_utils.models.encoding import Collator, encode
from lpft_utils.models.features import cached_features, evaluation_batch, extract_features
from lpft_utils.runs.store import MAX_FEATURES, Run
from lpft_utils.training.methods import METHODS, Outcome, Setup
from lpft_utils.training.recorder import Monitor
from lpft_utils.training.spec import RunSpec


def prepare(
    spec: RunSpec, task: Task, checkpoints: Path, cache: Path | None, progress: bool = False, accumulation: int = 1
) -> Setup:
    """What a method needs: the model, the tokenised texts, the pre-trained features. Arguments as those of `train`."""
    tokenizer = load_tokenizer(spec.backbone)
    model = load_classifier(spec.backbone, task.n_classes, pooling=spec.pooling, seed=spec.seed)
    model.to("cuda" if torch.cuda.is_available() else "cpu")  # pyright: ignore[reportArgumentType]
    encoded = {name: encode(split, tokenizer, spec.max_length) for name, split in task.splits.items()}
    labels = {name: torch.tensor(split.labels) for name, split in task.splits.items()}
    collate = Collator(tokenizer)
    fingerprint = weights_fingerprint(model.backbone)
    phi_0 = {
        name: cached_features(
            cache,
            f"{fingerprint}-{model.config.pooling}-{_fingerprint(encoded[name]['input_ids'])}",
            lambda name=name: extract_features(
                model, encoded[name], collate, batch_size=evaluation_batch(accumulation), progress=progress
            ),
        )
        for name in task.splits
    }
    monitors = {}
    for name in ("train", "test") if spec.n_monitor else ():
        n = min(spec.n_monitor, len(encoded[name]))
        monitors[name] = Monitor(encoded[name].select(range(n)), phi_0[name][:n], labels[name][:n])
    provenance = {"backbone_fingerprint": fingerprint, "head_norm_init": _norm(model.head.weight)}
    return Setup(
        spec, model, encoded, labels, phi_0, collate, checkpoints, monitors, provenance, progress, accumulation
    )


@dataclass(frozen=True)
class Record:
    """A training that is done: what it started from, what it did, and how long it took.

    Attributes:
        setup: What the method was given; `setup.model` is trained.
        outcome: What the method did.
        seconds: From loading the model to the last step.
    """

    setup: Setup
    outcome: Outcome
    seconds: float


def train(
    spec: RunSpec, task: Task, checkpoints: Path, cache: Path | None, progress: bool = False, accumulation: int = 1
) -> Record:
    """Train by the spec's method; nothing is written but checkpoints and pre-trained features.

    Args:
        spec: What to run.
        task: Its data.
        checkpoints: The checkpoint folder.
        cache: Folder of the feature cache, or None.
        progress: Whether to show progress bars.
        accumulation: Parts into which every batch is cut, for want of memory.

    Returns:
        The trained model and the record of its training.
    """
    started = time.perf_counter()
    setup = prepare(spec, task, checkpoints, cache, progress, accumulation)
    outcome = METHODS[spec.method].run(setup)
    return Record(setup, outcome, time.perf_counter() - started)


@dataclass(frozen=True)
class Evaluation:
    """A trained model on every split.

    Attributes:
        phi: Features by split, each of shape (N, H).
        logits: Logits by split, each of shape (N, C).
        metrics: By split accuracy, Matthews correlation (the paper's measure on CoLA; Matthews 1975, for C classes
            Gorodkin 2004), share of the most frequent class, loss and feature change; ‖V‖ at the end and, of gradient
            steps, at initialisation; and whether training diverged.
    """

    phi: dict[str, Tensor]
    logits: dict[str, Tensor]
    metrics: dict[str, Any]


def evaluate(record: Record) -> Evaluation:
    """Features, logits and metrics of the trained model on every split.

    Args:
        record: The training.

    Returns:
        The evaluation. A run with a loss, norm or logit that is infinite or NaN is marked as diverged.
    """
    setup, model, labels = record.setup, record.setup.model, record.setup.labels
    frozen = not any(p.requires_grad for p in model.backbone.parameters())  # then φ = φ_0, to the last bit
    size = evaluation_batch(setup.accumulation)
    phi = setup.phi_0
    if not frozen:
        phi = {k: extract_features(model, e, setup.collate, batch_size=size) for k, e in setup.encoded.items()}
    with torch.no_grad():
        logits = {name: model.head(p.to(model.head.weight)).cpu() for name, p in phi.items()}
    norm, norms = _norm(model.head.weight), record.outcome.history.get("head_norm")
    metrics = {
        "accuracy": {k: (z.argmax(1) == labels[k]).double().mean().item() for k, z in logits.items()},
        "MCC": {k: float(matthews_corrcoef(labels[k], z.argmax(1))) for k, z in logits.items()},
        "majority": {k: y.bincount().max().item() / len(y) for k, y in labels.items()},
        "loss": {k: torch.nn.functional.cross_entropy(z, labels[k]).item() for k, z in logits.items()},
        "head_norm": norm,
        **({"head_norm_0": float(norms.iloc[0])} if norms is not None else {}),
        "change": {k: feature_change(setup.phi_0[k], phi[k], labels[k]) for k in phi},
        "diverged": not (
            math.isfinite(norm)
            and all(bool(torch.isfinite(z).all()) for z in logits.values())
            and _finite_where_recorded(record.outcome)
        ),
    }
    return Evaluation(phi, logits, metrics)


def write(folder: Path, task: Task, record: Record, evaluation: Evaluation, keep: str = "all") -> None:
    """Write the files of a run.

    Args:
        folder: An empty folder.
        task: The data.
        record: The training.
        evaluation: Its evaluation.
        keep: Which files, one of `store.KEPT`.
    """
    setup, outcome, phi, logits = record.setup, record.outcome, evaluation.phi, evaluation.logits
    metrics = {
        **evaluation.metrics,
        **outcome.about,
        "task": {
            "source": task.source,
            "synthetic": task.synthetic,
            "label_names": list(task.label_names),
            "fingerprint": task.fingerprint,
            "test_is_validation": task.test_is_validation,
            "sizes": {k: len(split) for k, split in task.splits.items()},
        },
        **setup.provenance,
        "seconds": record.seconds,
        "accumulation": setup.accumulation,
        "environment": environment(),
    }
    (folder / "spec.json").write_text(json.dumps(setup.spec.to_dict(), indent=1))
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=1))
    outcome.history.to_parquet(folder / "history.parquet")
    if keep == "summary":
        return
    arrays = {f"{k}/logits": z.numpy() for k, z in logits.items()}
    arrays |= {f"{k}/labels": y.numpy() for k, y in setup.labels.items()}
    np.savez_compressed(folder / "predictions.npz", **arrays)  # pyright: ignore[reportArgumentType]
    if keep == "predictions":
        return
    features = {f"{k}/{name}": x[k] for k in phi for name, x in (("phi_0", setup.phi_0), ("phi", phi))}
    save_file({k: x[:MAX_FEATURES].clone() for k, x in features.items()}, folder / "features.safetensors")
    state = setup.model.state_dict()
    fixed = {name for name, p in setup.model.named_parameters() if not p.requires_grad}
    trained = {k: v.detach().cpu().contiguous() for k, v in state.items() if k not in fixed}  # and every buffer
    save_file(trained, folder / "model.safetensors")


def load_model(stored: Run) -> Classifier:
    """The classifier of a run, with its trained weights, in evaluation mode.

    Args:
        stored: A run.

    Returns:
        The classifier.

    Raises:
        RunError: If the backbone's weights on this machine are not those that the run started from.
    """
    spec, weights = stored.spec, stored.weights
    n_classes = weights["head.weight"].shape[0]
    model = load_classifier(
        spec.backbone, n_classes, pooling=spec.pooling, head_bias="head.bias" in weights, seed=spec.seed
    )
    found, expected = weights_fingerprint(model.backbone), stored.metrics["backbone_fingerprint"]
    METHODS[spec.method].trains(model, spec)
    fixed = [name for name, p in model.named_parameters() if not p.requires_grad]
    if found != expected and fixed:  # a method that trains every weight has stored every weight
        raise RunError(
            f"{stored.folder.name} was trained on other weights of {spec.backbone!r} (fingerprint {expected}, here "
            f"{found}). Run the spec again with this backbone."
        )
    missing, unexpected = model.load_state_dict(weights, strict=False)
    if unexpected or set(missing) - set(fixed):
        names = (unexpected or sorted(set(missing) - set(fixed)))[:3]
        raise RunError(
            f"{stored.folder.name}: its weights do not fit {spec.method!r} on {spec.backbone!r} ({', '.join(names)}). "
            "Run the spec again."
        )
    return model.eval()


def _finite_where_recorded(outcome: Outcome) -> bool:
    """Whether every loss and norm in the history is finite where it was recorded: an empty cell was not."""
    columns = [name for name in outcome.history if name == "head_norm" or str(name).endswith("_loss")]
    return all(np.isfinite(outcome.history[name].dropna()).all() for name in columns)


def _fingerprint(token_ids: list[list[int]]) -> str:
    """First 16 hex digits of the SHA-256 over token ids."""
    return hashlib.sha256(json.dumps(list(token_ids)).encode()).hexdigest()[:16]


def _norm(V: Tensor) -> float:
    """‖V‖_F, "Norm(C)" of the paper's tables."""
    return torch.linalg.matrix_norm(V.detach().float()).item()
