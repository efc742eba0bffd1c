"""The paper's experiments on any task: what they are, what they cost, and what the run store has of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd

from lpft_utils.common.errors import LpftError, TaskError
from lpft_utils.common.paths import run_store
from lpft_utils.common.table import Table
from lpft_utils.data.catalog import PAPER_TASKS
from lpft_utils.runs.grid import Planned
from lpft_utils.runs.paper_settings import DESCENT_TASKS, KERNEL_TASKS, SWEEP_METHODS, SWEEP_SEEDS, TABLE
from lpft_utils.runs.profiles import Profile, get_profile
from lpft_utils.runs.run import run
from lpft_utils.runs.schedule import Costs
from lpft_utils.runs.store import Run, find
from lpft_utils.studies.initialisation import INITIALISATIONS, Initialisation, initialisations, kernel_folder
from lpft_utils.training.spec import RunSpec

PAPER_METHODS = ("lp", "ft", "lp_ft", "lora", "lp_lora")


@dataclass(frozen=True)
class Experiments:
    """The paper's experiments on one task, as far as they were run.

    Attributes:
        setting: The profile with the task.
        runs: Runs by method, one per seed.
        descents: LP by gradient descent, one per seed.
        sweep: Runs by method and factor on the head (or its norm), one per seed.
        kernels: Kernels at the initialisations by method, one entry per seed.
    """

    setting: Profile
    runs: dict[str, list[Run]]
    descents: list[Run]
    sweep: dict[str, dict[float, list[Run]]]
    kernels: list[dict[str, Initialisation]]


def settings(profile: str, tasks: Sequence[str] = ()) -> list[Profile]:
    """The profile with each of the tasks.

    Args:
        profile: "smoke", "laptop" or "gpu".
        tasks: Tasks; by default the profile's own, of "gpu" all that the paper trains on.

    Returns:
        One profile per task.
    """
    chosen = tasks or (tuple(TABLE) if profile == "gpu" else (get_profile(profile).task,))
    return [get_profile(profile, task=task) for task in chosen]


def specs(setting: Profile) -> dict[str, list[RunSpec]]:
    """What the paper's tables and figures need on a task, beside kernels.

    Args:
        setting: The profile with the task.

    Returns:
        Specs for every seed, by what they are for: "methods", "LP by gradient descent", "head norm".
    """
    task, own = setting.task, setting.task not in PAPER_TASKS
    single = [setting.spec(method) for method in PAPER_METHODS]
    descent = [setting.spec("lp", lp="gd", lp_steps=10_000)] if own or task in DESCENT_TASKS else []
    swept: list[RunSpec] = []
    if own or task in SWEEP_METHODS:
        pair = SWEEP_METHODS.get(task, ("ft", "lp_ft"))
        swept = [setting.spec(m, **setting.sweep, head_factor=factor) for m in pair for factor in setting.factors]
        swept = swept or [setting.sweep_spec().replace(head_norm=norm) for norm in setting.norms]
    every = partial(_every_seed, setting.seeds)
    some = partial(_every_seed, setting.seeds[: SWEEP_SEEDS.get(task)])
    return {"methods": every(single), "LP by gradient descent": every(descent), "head norm": some(swept)}


def stored(setting: Profile, store: Path | None = None) -> Experiments:
    """What the run store has; nothing is trained, and runs are found without their data.

    Args:
        setting: The profile with the task.
        store: The run store; default: `paths.run_store()`.

    Returns:
        The experiments.
    """
    store = store or run_store()
    return _gather(setting, lambda spec: find(spec, store), lambda seed: _kernels_stored(setting, seed, store), store)


def run_all(setting: Profile, store: Path | None = None, progress: bool = False) -> Experiments:
    """Run what the store lacks: an interrupted call goes on where it was.

    Args:
        setting: The profile with the task.
        store: The run store; default: `paths.run_store()`.
        progress: Whether to show progress bars.

    Returns:
        The experiments.
    """
    kernels = _has_kernels(setting)
    return _gather(setting, lambda spec: run(spec, store=store, progress=progress), lambda _: kernels, store)


def run_every(chosen: Sequence[Profile], store: Path | None = None) -> dict[str, LpftError]:
    """`run_all` for each task; one that cannot be run, such as for want of data, does not stop the others.

    Args:
        chosen: Results of `settings`.
        store: The run store; default: `paths.run_store()`.

    Returns:
        The errors by task.
    """
    failed = {}
    for setting in chosen:
        try:
            run_all(setting, store, progress=True)
        except LpftError as error:
            failed[setting.task] = error
    return failed


def plan_table(chosen: Sequence[Profile], store: Path | None = None) -> Table:
    """What `run_all` has to do, and a rough estimate of what that costs.

    Args:
        chosen: Results of `settings`.
        store: The run store; default: `paths.run_store()`.

    Returns:
        One row per task and use; "hours" of a CPU's core, as `schedule.Costs` estimates them, and "GB" on disk, both
        unknown where the data or the backbone are not here.
    """
    rows, costs = [], Costs("all")
    for setting in chosen:
        for use, wanted in specs(setting).items():
            todo = [spec for spec in wanted if find(spec, store or run_store()) is None]
            row = {"task": setting.task, "for": use, "runs": len(wanted), "stored": len(wanted) - len(todo)}
            try:
                hours = sum(map(costs.seconds([Planned(spec) for spec in todo], {}), todo)) / 3600
                row |= {"hours": f"{hours:,.1f}", "GB": f"{sum(costs.of(spec).bytes for spec in todo) / 1e9:,.1f}"}
            except LpftError:
                row |= {"hours": "unknown", "GB": "unknown"}
            rows += [row] if wanted else []
        if _has_kernels(setting):
            n = sum(_kernels_stored(setting, seed, store or run_store()) for seed in setting.seeds)
            row = {"task": setting.task, "for": "kernels, all initialisations of a seed", "runs": len(setting.seeds)}
            rows.append(row | {"stored": n, "hours": "not estimated", "GB": "not estimated"})
    return Table(pd.DataFrame(rows))


def _gather(
    setting: Profile, get: Callable[[RunSpec], Run | None], kernels: Callable[[int], bool], store: Path | None
) -> Experiments:
    found = {use: [r for spec in wanted if (r := get(spec))] for use, wanted in specs(setting).items()}
    runs = {method: [r for r in found["methods"] if r.spec.method == method] for method in PAPER_METHODS}
    sweep: dict[str, dict[float, list[Run]]] = {}
    for r in found["head norm"]:
        place = r.spec.head_factor or r.spec.head_norm or 1.0
        sweep.setdefault(r.spec.method, {}).setdefault(place, []).append(r)
    by_seed = [initialisations(setting, seed, store=store) for seed in setting.seeds if kernels(seed)]
    return Experiments(setting, runs, found["LP by gradient descent"], sweep, by_seed)


def _has_kernels(setting: Profile) -> bool:
    return setting.task not in PAPER_TASKS or setting.task in KERNEL_TASKS


def _kernels_stored(setting: Profile, seed: int, store: Path) -> bool:
    if find(setting.spec("lp", seed=seed), store) is None:  # every kernel needs LP's head or its data
        return False
    try:
        folders = [kernel_folder(setting, method, seed, store=store) for method in INITIALISATIONS]
    except TaskError:  # kernels are named by the data, which are not here
        return False
    return all((folder / part / "kernel.safetensors").exists() for folder in folders for part in ("train", "test"))


def _every_seed(seeds: Sequence[int], wanted: Sequence[RunSpec]) -> list[RunSpec]:
    return [spec.replace(seed=seed) for spec in wanted for seed in seeds]
