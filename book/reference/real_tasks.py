"""Makes `real-tasks.json` and `.csv`: LP, FT and LP-FT on real tasks.

    LPFT_DATA=/folder/with/the/tasks python book/reference/real_tasks.py

For chapter 3. Took 40 minutes on two busy cores. Runs are stored, so an
interrupted call goes on where it was.
"""

from __future__ import annotations

from pathlib import Path

from lpft_utils.results.reference import summarise, write_reference
from lpft_utils.runs.profiles import get_profile
from lpft_utils.runs.run import run_seeds

TASKS: dict[str, list[str] | None] = {
    "cola": None,
    "sst5_3way": ["semeval_3way"],
}
SIZES = {"n_train": 300, "n_eval": 400}
METHODS = ("lp", "ft", "lp_ft")
OUT = Path(__file__).with_name("real-tasks.json")


def main() -> None:
    """Run every task and write the results."""
    results = []
    for task, ood in TASKS.items():
        setting = get_profile("laptop", task=task, ood=ood)
        specs = [setting.spec(method, **SIZES) for method in METHODS]
        runs = [r for spec in specs for r in run_seeds(spec, setting.seeds)]
        results.append(summarise({"": runs}))
        print(task, f"{len(runs)} runs", flush=True)
        write_reference(OUT, results)
    print(f"written: {OUT}")


if __name__ == "__main__":
    main()
