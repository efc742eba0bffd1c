"""`run(spec)`: train, or return what is stored; the same for several seeds or head norms."""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from filelock import FileLock, Timeout
from tqdm import tqdm

from lpft_utils.common.errors import RunError, TaskWarning
from lpft_utils.common.paths import run_store
from lpft_utils.data.examples import Task, subsample
from lpft_utils.data.tasks import load_task
from lpft_utils.models.backbone_files import folder_fingerprint
from lpft_utils.runs.store import KEPT, Run, write_run
from lpft_utils.training.logistic import FOLDS
from lpft_utils.training.methods import METHODS
from lpft_utils.training.spec import RunSpec

if TYPE_CHECKING:
    from lpft_utils.runs.execute import Evaluation, Record

log = logging.getLogger(__name__)


def load_data(spec: RunSpec, load: Callable[..., Task] = load_task) -> Task:
    """The texts and labels of a spec: training subset drawn with its seed, evaluation splits the same for every seed.

    Generated texts are drawn anew for every seed, all splits: what is compared over seeds then generalises over texts.

    Args:
        spec: The run.
        load: `load_task`, or a version of it that remembers tasks.

    Returns:
        The task with the splits that the run uses.

    Raises:
        TaskError: If the task cannot be loaded or has no training split.

    Warns:
        TaskWarning: If a class has fewer training examples than there are folds.
    """
    options: dict[str, Any] = {"label_noise": spec.label_noise, "seed": spec.seed} if spec.task == "synthetic" else {}
    task = load(spec.task, ood=spec.ood, **options)
    for needed in ("train", "validation", "test"):
        task.split(needed)
    small = subsample(subsample(task, n_train=spec.n_train, seed=spec.seed), n_eval=spec.n_eval, seed=0)
    counts = torch.tensor(small.splits["train"].labels).bincount(minlength=task.n_classes).tolist()
    if few := ", ".join(f"{c} ({n})" for c, n in zip(task.label_names, counts, strict=True) if n < FOLDS):
        said = f"Task {task.name!r}: fewer than {FOLDS} training examples of {few}: accuracy there says little."
        warnings.warn(said, TaskWarning, stacklevel=2)
    drawn = [
        f"{len(s)} of {len(task.splits[k])} in {k}" for k, s in small.splits.items() if len(s) < len(task.splits[k])
    ]
    return replace(small, source=f"{task.source}; drawn: {', '.join(drawn)}" if drawn else task.source)


def run(spec: RunSpec, *, store: Path | None = None, keep: str = "all", progress: bool = False) -> Run:
    """Train as the spec says, or return the stored run of an equal spec on equal data.

    Interrupted at any point, the next call resumes at the last complete epoch or starts again. Two processes that ask
    for the same run do not train twice: the second waits for the first.

    Args:
        spec: What to run.
        store: The run store; default: `paths.run_store()`.
        keep: How much of it to store, one of `store.KEPT`; a run that is stored with less is trained again.
        progress: Whether to show progress bars.

    Returns:
        The stored run.

    Raises:
        RunError: If the stored run is damaged, or a single example does not fit into the GPU's memory.
        TaskError: If the data cannot be used.
        ModelError: If the backbone cannot be loaded.
    """
    found = _run(spec, store, progress, keep=keep, wait=True)
    assert found is not None
    return found


def run_key(spec: RunSpec, task: Task | None = None) -> str:
    """The folder name of a spec's run, whether it is stored or not; nothing is trained.

    Args:
        spec: The run.
        task: Its data, if they are loaded already.

    Returns:
        The name, which depends on the spec, the data and the files of a local backbone.
    """
    return spec.key((task or load_data(spec)).fingerprint + folder_fingerprint(spec.backbone))


def _run(spec: RunSpec, store: Path | None, progress: bool, *, wait: bool, keep: str = "all") -> Run | None:
    """What `run` does; without `wait`, None if another process trains this run at the moment."""
    store = (store or run_store()).expanduser().resolve()
    task = load_data(spec)
    key = run_key(spec, task)
    if found := _stored(store / key, keep):
        return found
    scratch = store / ".scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    try:
        held = FileLock(scratch / f"{key}.lock").acquire(blocking=wait)  # released by the system when its holder dies
    except Timeout:
        return None
    with held:
        if not _stored(store / key, keep):
            for leftover in store.glob(f".partial-*/{key}"):  # of a process that was killed
                shutil.rmtree(leftover.parent, ignore_errors=True)
            from lpft_utils.runs import execute  # not above: a reader of stored runs need not wait for transformers

            record, evaluation = _train(spec, task, scratch / key, store / ".features", progress)
            write_run(store, key, lambda folder: execute.write(folder, task, record, evaluation, keep))
            shutil.rmtree(scratch / key, ignore_errors=True)
    return Run(store / key)


def _stored(folder: Path, keep: str) -> Run | None:
    """The run of a folder, if there is one that keeps as much as is asked for."""
    found = Run(folder) if folder.exists() else None
    return found if found and KEPT.index(found.kept) >= KEPT.index(keep) else None


def _train(spec: RunSpec, task: Task, work: Path, cache: Path, progress: bool) -> tuple[Record, Evaluation]:
    """Train and evaluate; where the GPU's memory is too small, again with every batch in more and smaller parts."""
    from lpft_utils.runs import execute

    for parts in (n for n in range(1, spec.batch_size + 1) if spec.batch_size % n == 0):
        checkpoints = work / f"parts-{parts}" if parts > 1 else work  # a training has as many parts in all its epochs
        try:
            record = execute.train(spec, task, checkpoints, cache, progress, parts)
            return record, execute.evaluate(record)
        except torch.OutOfMemoryError as error:
            reason = str(error).partition("\n")[0]
        record = None  # its model must not be there while the next one trains
        torch.cuda.empty_cache()
        log.warning(
            "Out of memory with batches of %d in parts of %d: %s", spec.batch_size, spec.batch_size // parts, reason
        )
    raise RunError(
        f"{spec.method} on {spec.task}: not even one example at a time fits into the GPU's memory ({reason}). Expected "
        "a smaller backbone, a smaller max_length, or a GPU with more memory that no other process uses."
    )


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


def head_norm_sweep(
    spec: RunSpec, norms: Sequence[float], seeds: Sequence[int], *, store: Path | None = None
) -> dict[float, list[Run]]:
    """Fine-tuning from LP's head scaled to several norms: its direction stays, ‖V0‖ is swept.

    Args:
        spec: What to run, of a method that scales LP's head; its own seed and head norm are ignored.
        norms: Values of ‖V0‖_F, all positive and different.
        seeds: Seeds.
        store: The run store; default: `paths.run_store()`.

    Returns:
        Runs by norm, in the order of `norms`; each list in the order of `seeds`.

    Raises:
        RunError: If the method has no head of LP to scale, a norm is not positive or there twice, or there is none.
    """
    scalable = [name for name, method in METHODS.items() if "head_norm" in method.fields]
    if spec.method not in scalable:
        raise RunError(f"expected a spec of method {' or '.join(scalable)}, got {spec.method!r}.")
    specs = {float(norm): spec.replace(head_norm=float(norm)) for norm in norms}  # all are checked before any run
    if not specs or len(specs) < len(norms):
        raise RunError(f"expected one or more different norms, got {list(norms)}.")
    return {norm: run_seeds(scaled, seeds, store=store) for norm, scaled in specs.items()}
