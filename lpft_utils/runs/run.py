"""`run(spec)`: train, or return what is stored."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from tqdm import tqdm

from lpft_utils.common.paths import run_store
from lpft_utils.data.examples import Task, subsample
from lpft_utils.data.tasks import load_task
from lpft_utils.models.backbone_files import folder_fingerprint
from lpft_utils.runs.store import Run, write_run
from lpft_utils.training.spec import RunSpec

log = logging.getLogger(__name__)


def load_data(spec: RunSpec) -> Task:
    """The texts and labels of a spec: training subset drawn with its seed, evaluation splits the same for every seed.

    Generated texts are drawn anew for every seed, all splits: what is compared over seeds then generalises over texts.

    Args:
        spec: The run.

    Returns:
        The task with the splits that the run uses.

    Raises:
        TaskError: If the task cannot be loaded or has no training split.
    """
    options: dict[str, Any] = {"label_noise": spec.label_noise, "seed": spec.seed} if spec.task == "synthetic" else {}
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


def run_key(spec: RunSpec) -> str:
    """The folder name of a spec's run, whether it is stored or not; nothing is trained.

    Args:
        spec: The run.

    Returns:
        The name, which depends on the spec, the data and the files of a local backbone.
    """
    return _key(spec, load_data(spec))


def _key(spec: RunSpec, task: Task) -> str:
    return spec.key(task.fingerprint + folder_fingerprint(spec.backbone))


def _run(spec: RunSpec, store: Path | None, progress: bool, *, wait: bool) -> Run | None:
    """What `run` does; without `wait`, None if another process trains this run at the moment."""
    store = (store or run_store()).expanduser().resolve()
    task = load_data(spec)
    key = _key(spec, task)
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
            for leftover in store.glob(f".partial-*/{key}"):  # of a process that was killed
                shutil.rmtree(leftover.parent, ignore_errors=True)
            from lpft_utils.runs import execute  # not above: a reader of stored runs need not wait for transformers

            record = execute.train(spec, task, scratch / key, store / ".features", progress)
            evaluation = execute.evaluate(record)
            write_run(store, key, lambda folder: execute.write(folder, task, record, evaluation))
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
