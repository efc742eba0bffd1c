"""Makes `five-methods.json` and `.csv`: all five methods on CB and RTE.

    LPFT_DATA=/folder/with/the/tasks python book/reference/five_methods.py

Sizes are smaller than those of the laptop profile, because texts are longer
than those of the default task. Runs are stored, so an interrupted call
goes on where it was.
"""

from __future__ import annotations

from pathlib import Path

from lpft_utils.results.reference import summarise, write_reference
from lpft_utils.runs.profiles import get_profile
from lpft_utils.runs.run import run_seeds

TASKS = ("cb", "rte")
SIZES = {"n_train": 120, "n_eval": 150, "epochs": 3}
METHODS = ("lp", "ft", "lp_ft", "lora", "lp_lora")
OUT = Path(__file__).with_name("five-methods.json")


def main() -> None:
    """Run every task and write the results."""
    results = []
    for task in TASKS:
        setting = get_profile("laptop", task=task)
        specs = [setting.spec(method, **SIZES) for method in METHODS]
        runs = [r for spec in specs for r in run_seeds(spec, setting.seeds)]
        results.append(summarise({"": runs}))
        print(task, f"{len(runs)} runs", flush=True)
        write_reference(OUT, results)
    print(f"written: {OUT}")


if __name__ == "__main__":
    main()
