"""What `runs.run` does when nothing is stored (load, train, evaluate, write), and the trained model of a stored run."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from lpft_utils.common.environment import environment
from lpft_utils.common.errors import RunError
from lpft_utils.common.files import weights_fingerprint
from lpft_utils.data.examples import Task
from lpft_utils.metrics.feature_change import feature_change
from lpft_utils.models.adapters import adapter_state, add_lora
from lpft_utils.models.backbones import load_tokenizer
from lpft_utils.models.classifier import Classifier, load_classifier
from lpft_utils.models.encoding import Collator, encode
from lpft_utils.models.features import cached_features, extract_features
from lpft_utils.runs.store import MAX_FEATURES, Run
from lpft_utils.training.methods import METHODS, Outcome, Setup
from lpft_utils.training.recorder import Monitor
from lpft_utils.training.spec import ADAPTED, RunSpec


def train(spec: RunSpec, task: Task, work: Path, cache: Path | None, progress: bool = False) -> Callable[[Path], None]:
    """Train and keep everything in memory.

    Args:
        spec: What to run.
        task: Its data.
        work: Folder for checkpoints.
        cache: Folder of the feature cache, or None.
        progress: Whether to show progress bars.

    Returns:
        Function that evaluates the trained model and writes the run's files into a folder.
    """
    started = time.perf_counter()
    setup = prepare(spec, task, work, cache, progress)
    outcome = METHODS[spec.method](setup)
    return lambda folder: _write(folder, task, setup, outcome, started)


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
    other_weights = RunError(
        f"{stored.folder.name} was trained on other weights of {spec.backbone!r} (fingerprint {expected}, here "
        f"{found}). Run the spec again with this backbone."
    )
    if found != expected and spec.method not in ("ft", "lp_ft"):  # these two have stored every weight
        raise other_weights
    if spec.method in ADAPTED:
        add_lora(model, r=spec.lora_r, alpha=spec.lora_alpha, dropout=spec.lora_dropout, targets=spec.lora_targets)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    if unexpected:
        raise RunError(f"{stored.folder.name}: backbone {spec.backbone!r} has no weights named {unexpected[:3]}.")
    if missing and found != expected:
        raise other_weights
    return model.eval()


def prepare(spec: RunSpec, task: Task, work: Path, cache: Path | None, progress: bool = False) -> Setup:
    """Load the model, tokenise the texts and compute the pre-trained features.

    Args:
        spec: What to run.
        task: Its data.
        work: Folder for checkpoints.
        cache: Folder of the feature cache, or None.
        progress: Whether to show progress bars.

    Returns:
        What a method needs.
    """
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
            lambda name=name: extract_features(model, encoded[name], collate, progress=progress),
        )
        for name in task.splits
    }
    monitors = {}
    for name in ("train", "test") if spec.n_monitor else ():
        n = min(spec.n_monitor, len(encoded[name]))
        monitors[name] = Monitor(encoded[name].select(range(n)), phi_0[name][:n], labels[name][:n])
    origin = {"backbone_fingerprint": fingerprint, "head_norm_init": _norm(model.head.weight)}
    return Setup(spec, model, encoded, labels, phi_0, collate, work, monitors, origin, progress)


def _write(folder: Path, task: Task, setup: Setup, outcome: Outcome, started: float) -> None:
    """Evaluate the trained model on every split and write the run's files."""
    spec, model, labels, phi_0 = setup.spec, setup.model, setup.labels, setup.phi_0
    frozen = spec.method == "lp"  # then φ = φ_0, to the last bit
    phi = phi_0 if frozen else {k: extract_features(model, e, setup.collate) for k, e in setup.encoded.items()}
    head = model.head
    with torch.no_grad():
        logits = {name: head(p.to(head.weight)).cpu() for name, p in phi.items()}
    metrics = {
        "accuracy": {k: (z.argmax(1) == labels[k]).double().mean().item() for k, z in logits.items()},
        "loss": {k: torch.nn.functional.cross_entropy(z, labels[k]).item() for k, z in logits.items()},
        "head_norm": _norm(head.weight),
        "change": {k: feature_change(phi_0[k], phi[k], labels[k]) for k in phi},
        **outcome.about,
        "task": {
            "source": task.source,
            "synthetic": task.synthetic,
            "label_names": list(task.label_names),
            "fingerprint": task.fingerprint,
            "sizes": {k: len(split) for k, split in task.splits.items()},
        },
        **setup.origin,
        "seconds": time.perf_counter() - started,
        "environment": environment(),
    }
    (folder / "spec.json").write_text(json.dumps(spec.to_dict(), indent=1))
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=1))
    outcome.history.to_parquet(folder / "history.parquet")
    arrays = {f"{k}/logits": z.numpy() for k, z in logits.items()}
    arrays |= {f"{k}/labels": y.numpy() for k, y in labels.items()}
    np.savez(folder / "predictions.npz", **arrays)  # pyright: ignore[reportArgumentType]
    kept: dict[str, Tensor] = {}
    for k in phi:
        kept[f"{k}/phi_0"] = phi_0[k][:MAX_FEATURES].clone()
        kept[f"{k}/phi"] = phi[k][:MAX_FEATURES].clone()
    save_file(kept, folder / "features.safetensors")
    trained = adapter_state(model) if frozen or spec.method in ADAPTED else model.state_dict()
    trained = {k: v.detach().cpu().contiguous() for k, v in trained.items()}
    save_file(trained, folder / "model.safetensors")


def _fingerprint(token_ids: list[list[int]]) -> str:
    """First 16 hex digits of the SHA-256 over token ids."""
    return hashlib.sha256(json.dumps(list(token_ids)).encode()).hexdigest()[:16]


def _norm(V: Tensor) -> float:
    """‖V‖_F, "Norm(C)" of the paper's tables."""
    return torch.linalg.matrix_norm(V.detach().float()).item()
