r"""Makes `kernels.parquet`: kernels at initialisation on the plan's tasks.

    LPFT_DATA=/folder/with/the/tasks \
        python book/reference/planned_kernels.py [TASK …]

For claims 4 to 6. The heads are those of the LP runs of `grid.yml`. A seed
that is in the file is not computed again, so an interrupted call goes on.
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from pathlib import Path

from lpft_utils.common.environment import environment
from lpft_utils.results.collected import collecting
from lpft_utils.results.kernel_tables import kernel_results
from lpft_utils.results.plan import load_plan
from lpft_utils.runs.grid import load_grid
from lpft_utils.runs.profiles import Profile
from lpft_utils.studies.initialisation import initialisations
from lpft_utils.training.spec import RunSpec

HERE = Path(__file__).parent
PLAN = HERE / "plan.yml"
GRID = HERE / "grid.yml"
SCRIPT = Path(__file__).name
OUT = HERE / "kernels.parquet"


def main(names: list[str]) -> None:
    """Compute what is missing, the first seeds of all tasks first."""
    tasks = load_plan(PLAN).tasks
    probes = [p.spec for p in load_grid(GRID) if p.spec.method == "lp"]
    probes = [spec for spec in probes if not names or spec.task in names]
    command = shlex.join(["python", f"book/reference/{SCRIPT}", *names])
    with collecting(OUT, PLAN, command) as (known, add):
        for spec in sorted(probes, key=lambda spec: spec.seed):
            n = tasks[spec.task].get("n_kernel")
            run = f"{spec.task}-kernels-s{spec.seed}"
            if not n or run in known:
                continue
            started = time.perf_counter()
            found = initialisations(as_profile(spec, n), spec.seed)
            frame = kernel_results([found]).assign(run=run)
            for name in ("task", "backbone", "seed"):
                frame[name] = getattr(spec, name)
            frame["spec"] = json.dumps(spec.to_dict() | {"n_kernel": n})
            frame["environment"] = json.dumps(environment())
            add(frame)
            seconds = time.perf_counter() - started
            print(f"{run}: {seconds:.0f} s", flush=True)


def as_profile(spec: RunSpec, n_kernel: int) -> Profile:
    """The settings of a run in the form that kernels want."""
    sizes = {
        name: getattr(spec, name) for name in ("n_train", "n_eval", "epochs")
    }
    return Profile(
        "reference",
        task=spec.task,
        backbone=spec.backbone,
        seeds=(spec.seed,),
        settings=sizes,
        ood=spec.ood,
        n_kernel=n_kernel,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
