"""Makes `real-tasks.json`: LP, FT and LP-FT on real tasks, for chapter 3.

    LPFT_DATA=/folder/with/the/tasks python book/reference/real_tasks.py

Took 40 minutes on two busy cores. Runs are stored, so an interrupted call
goes on where it was.
"""

from __future__ import annotations

import json
from pathlib import Path

from lpft_utils.results.reference import summarise
from lpft_utils.runs.profiles import get_profile
from lpft_utils.runs.run import run_seeds

TASKS: dict[str, list[str] | None] = {
    "cola": None,
    "sst5_3way": ["semeval_3way"],
}
N_TRAIN = 300
METHODS = ("lp", "ft", "lp_ft")
OUT = Path(__file__).with_name("real-tasks.json")


def main() -> None:
    """Run every task and write the summary."""
    results = []
    for task, ood in TASKS.items():
        setting = get_profile("laptop", task=task, ood=ood, n_train=N_TRAIN)
        specs = {method: setting.spec(method) for method in METHODS}
        runs = {
            m: run_seeds(spec, setting.seeds) for m, spec in specs.items()
        }
        results.append(summarise(runs))
        print(task, json.dumps(results[-1]["accuracy"]), flush=True)
        OUT.write_text(json.dumps(results, indent=1) + "\n")
    print(f"written: {OUT}")


if __name__ == "__main__":
    main()
