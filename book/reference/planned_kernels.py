r"""Makes `kernels.parquet`: kernels at initialisation on the plan's tasks.

    LPFT_DATA=/folder/with/the/tasks \
        python book/reference/planned_kernels.py [TASK …]

For claims 4 to 6, with the first backbone of each task. The heads are those
of the LP runs of `grid.yml`. A seed that is in the file is not computed
again, so an interrupted call goes on.
"""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path

from lpft_utils.results.collected import collecting, read_collected
from lpft_utils.results.kernel_tables import collect_kernels
from lpft_utils.results.plan import load_plan
from lpft_utils.runs.grid import load_grid

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
    with collecting(OUT, PLAN, command) as (_, add):
        done = set(read_collected(OUT)["run"])
        for spec in sorted(probes, key=lambda spec: spec.seed):
            n = tasks[spec.task].get("n_kernel")
            other = spec.backbone != tasks[spec.task]["backbones"][0]
            run = f"{spec.task}-kernels-s{spec.seed}"
            if not n or other or run in done:
                continue
            started = time.perf_counter()
            add(collect_kernels(spec, n, run))
            seconds = time.perf_counter() - started
            print(f"{run}: {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
