"""What other processes do in the tests of the run store: end in the middle of something, or ask for the same run."""

import dataclasses
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

from lpft_utils.training.spec import RunSpec

DEATHS = ("training", "checkpoint", "last step", "evaluation", "writing", "manifest", "rename")

# One server that has imported the package; its children start in a moment and share no state with the tests.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["lpft_utils.runs.execute"])


def generate_little(original: Any) -> Any:
    """The generator of the task `synthetic`, for fewer texts, once for each set of options."""
    made: dict[Any, Any] = {}

    def generate(**options: Any) -> Any:
        key = tuple(sorted(options.items()))
        if key not in made:
            made[key] = original(n_train=300, n_validation=60, n_test=60, n_ood=60, **options)
        return made[key]

    return generate


def _die(*args: Any, **kwargs: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def run_until(death: str, fields: dict[str, Any], store: str) -> None:
    """`run(spec)` in a process that is killed (signal 9) at the given point."""
    import torch
    from transformers import Trainer

    from lpft_utils.data import synthetic
    from lpft_utils.runs import execute as pipeline
    from lpft_utils.runs import run as runs
    from lpft_utils.runs import store as store_module
    from lpft_utils.training import fine_tuning as training

    torch.set_num_threads(1)
    synthetic.generate = generate_little(synthetic.generate)
    if death in ("training", "last step"):
        original = training.Recorder.on_step_end
        share = 0.7 if death == "training" else 1.0

        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step >= share * state.max_steps:
                _die()
            original(self, args, state, control, **kwargs)

        training.Recorder.on_step_end = on_step_end
    elif death == "checkpoint":
        Trainer._save_rng_state = _die
    elif death == "evaluation":
        pipeline.feature_change = _die
    elif death == "writing":
        pipeline.np.savez_compressed = _die
    elif death == "manifest":
        store_module._sync = _die
    elif death == "rename":
        write = pipeline.write

        def write_and_wait(*args: Any) -> None:
            write(*args)
            Path.replace = _die  # whose next use takes the finished folder to its place

        pipeline.write = write_and_wait
    runs.run(RunSpec.from_dict(fields), store=Path(store))


def run_and_count(barrier: Any, fields: dict[str, Any], store: str, trained: Any, failures: Any) -> None:
    """`run(spec)` at the same moment as another process; counts how often anything was trained."""
    import torch

    from lpft_utils.data import synthetic
    from lpft_utils.runs import execute as pipeline
    from lpft_utils.runs import run as runs

    torch.set_num_threads(1)
    synthetic.generate = generate_little(synthetic.generate)
    spec = RunSpec.from_dict(fields)
    method = pipeline.METHODS[spec.method]

    def counted(setup):
        with trained.get_lock():
            trained.value += 1
        return method.run(setup)

    pipeline.METHODS[spec.method] = dataclasses.replace(method, run=counted)
    try:
        barrier.wait(120)
        for _ in range(2):
            assert runs.run(spec, store=Path(store)).accuracy() >= 0
    except BaseException:
        with failures.get_lock():
            failures.value += 1
        raise


def marked(spec: RunSpec, store: Path, keep: str, marks: Path) -> Any:
    """A run on a Ray cluster that says on which node it begins and ends."""
    import ray

    from lpft_utils.results.collected import collect_run

    name = f"{ray.get_runtime_context().get_node_id()}-{spec.key('')}-{time.time_ns()}"
    (marks / f"{name}-begun").touch()
    found = collect_run(spec, store, keep)
    (marks / f"{name}-done").touch()
    return found
