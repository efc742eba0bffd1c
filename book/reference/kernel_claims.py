"""Makes `kernel-claims.json` and `.csv`: claims 3, 4, 5 on real tasks.

    LPFT_DATA=/folder/with/the/tasks python book/reference/kernel_claims.py

For chapters 5 and 6. Runs and kernels are stored, so an interrupted call goes
on where it was.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lpft_utils.results.reference import summarise, write_reference
from lpft_utils.runs.profiles import get_profile
from lpft_utils.runs.run import head_norm_sweep
from lpft_utils.studies.initialisation import initialisations

TASKS = ("cb", "rte")
# Texts are longer than those of the default task.
N_KERNEL = 24
SIZES = {"n_train": 120, "n_eval": 150, "epochs": 3}
HEAD_SIZES = {"n_train": 320, "n_eval": 200}  # of the LP that heads come from
# RTE takes a minute a run on one core: three of the five norms.
NORMS = {"rte": (0.5, 5.0, 50.0)}
INITIALISATIONS = ("ft", "lp_ft", "lora", "lp_lora")
OUT = Path(__file__).with_name("kernel-claims.json")


def main() -> None:
    """Run every task and write the results."""
    results = []
    for task in TASKS:
        laptop = get_profile("laptop", task=task)
        settings = {**laptop.settings, **HEAD_SIZES}
        setting = replace(
            laptop, settings=settings, n_kernel=N_KERNEL, sweep=SIZES
        )
        seeds = setting.seeds
        found = [
            initialisations(setting, seed, INITIALISATIONS) for seed in seeds
        ]
        own = [
            initialisations(setting, s, ("lp_ft",), own_head=True)
            for s in seeds
        ]
        norms = NORMS.get(task, setting.norms)
        sweep = head_norm_sweep(setting.sweep_spec(), norms, seeds)
        results.append(summarise(sweep, found, own))
        for verdict in results[-1].verdicts(task):
            print(task, verdict, flush=True)
        write_reference(OUT, results)
    print(f"written: {OUT}")


if __name__ == "__main__":
    main()
