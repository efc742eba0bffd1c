"""`run(spec)`: train, or return what is stored."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm

from lpft_utils.adapters import adapter_state, add_lora
from lpft_utils.backbones import folder_fingerprint, load_tokenizer, weights_fingerprint
from lpft_utils.classifier import Classifier, load_classifier
from lpft_utils.encoding import Collator, encode
from lpft_utils.errors import RunError
from lpft_utils.examples import Task, subsample
from lpft_utils.features import cached_features, extract_features, feature_change
from lpft_utils.methods import METHODS, Outcome, Setup
from lpft_utils.paths import run_store
from lpft_utils.specs import ADAPTED, RunSpec
from lpft_utils.store import MAX_FEATURES, Run, write_run
from lpft_utils.tasks import load_task
from lpft_utils.training import Probe

log = logging.getLogger(__name__)

N_PROBE = 24  # examples a split on which training is watched


def load_data(spec: RunSpec) -> Task:
    """The texts and labels of a spec: training subset drawn with its seed, evaluation splits the same for every seed.

    Args:
        spec: The run.

    Returns:
        The task with the splits that the run uses.

    Raises:
        TaskError: If the task cannot be loaded or has no training split.
    """
    options: dict[str, Any] = {"label_noise": spec.label_noise} if spec.task == "builtin" else {}
    task = load_task(spec.task, ood=spec.ood, **options)
    for needed in ("train", "validation", "test"):
        task.split(needed)
    small = subsample(subsample(task, n_train=spec.n_train, seed=spec.seed), n_eval=spec.n_eval, seed=0)
    drawn = [
        f"{len(s)} of {len(task.splits[k])} in {k}" for k, s in small.splits.items() if len(s) < len(task.splits[k])
    ]
    return replace(small, source=f"{task.source}; drawn: {', '.join(drawn)}" if drawn else task.source)


def run(spec: RunSpec, *, store: Path | None = None, progress: bool = False) -> Run:
    """Train as the spec says, or return the stored run of an equal spec on equal data.

    Interrupted at any point, the next call resumes at the last complete epoch or starts again. Two processes that ask
    for the same run do not train twice: the second waits for the first.

    Args:
        spec: What to run.
        store: The run store; default: `paths.run_store()`.
        progress: Whether to show progress bars.

    Returns:
        The stored run.

    Raises:
        RunError: If the stored run is damaged.
        TaskError: If the data cannot be used.
        ModelError: If the backbone cannot be loaded.
    """
    found = _run(spec, store, progress, wait=True)
    assert found is not None
    return found


def _run(spec: RunSpec, store: Path | None, progress: bool, *, wait: bool) -> Run | None:
    """What `run` does; without `wait`, None if another process trains this run at the moment."""
    store = (store or run_store()).expanduser().resolve()
    task = load_data(spec)
    key = spec.key(task.fingerprint + folder_fingerprint(spec.backbone))
    if (store / key).exists():
        return Run(store / key)
    scratch = store / ".scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    try:
        held = FileLock(scratch / f"{key}.lock").acquire(blocking=wait)  # released by the system when its holder dies
    except Timeout:
        return None
    with held:
        if not (store / key).exists():
            for leftover in store.glob(f".writing-{key}-*"):
                shutil.rmtree(leftover, ignore_errors=True)
            started = time.perf_counter()
            setup = prepare(spec, task, scratch / key, store / ".features", progress)
            outcome = METHODS[spec.method](setup)
            write_run(store, key, lambda folder: _write(folder, task, setup, outcome, started))
            shutil.rmtree(scratch / key, ignore_errors=True)
    return Run(store / key)


def run_seeds(spec: RunSpec, seeds: Sequence[int], *, store: Path | None = None, progress: bool = False) -> list[Run]:
    """The same spec for several seeds.

    Seeds that another process trains at the moment come last, so that two processes that ask for the same share the
    work.

    Args:
        spec: What to run; its own seed is ignored.
        seeds: Seeds.
        store: The run store; default: `paths.run_store()`.
        progress: Whether to show progress bars.

    Returns:
        Runs in the order of `seeds`.
    """
    bar = tqdm(seeds, desc=f"{spec.method} on {spec.task}", disable=not progress, leave=False)
    first = [_run(spec.replace(seed=seed), store, progress, wait=False) for seed in bar]
    return [
        found or run(spec.replace(seed=seed), store=store, progress=progress)
        for seed, found in zip(seeds, first, strict=True)
    ]


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
    probes = {}
    for name in ("train", "test"):
        n = min(N_PROBE, len(encoded[name]))
        probes[name] = Probe(encoded[name].select(range(n)), phi_0[name][:n], labels[name][:n])
    origin = {"backbone_fingerprint": fingerprint, "head_norm_init": _norm(model.head.weight)}
    return Setup(spec, model, encoded, labels, phi_0, collate, work, probes, origin, progress)


def environment() -> dict[str, str]:
    """Device, software versions and date, as text: where numbers come from."""
    packages = ("torch", "transformers", "peft", "datasets", "numpy", "scikit-learn", "lpft-utils")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    return {
        "device": device,
        "platform": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "date": datetime.now(UTC).date().isoformat(),
    }


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
