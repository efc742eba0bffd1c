"""A plan, a grid and its results, all tiny: what `book/reference` has, in a folder of a test."""

import json
from pathlib import Path

import numpy as np
import yaml
from task_files import write_jsonl

from lpft_utils.results.collected import collect_run, collecting
from lpft_utils.results.kernel_tables import collect_kernels
from lpft_utils.runs.grid import load_grid

PUBLISHED = Path(__file__).parents[1] / "book" / "reference" / "published.csv"
SEEDS = [101, 102, 103]
BLOCK = {
    "tasks": {"toy": {}},
    "backbones": ["tiny"],
    "methods": ["lp", "ft", "lp_ft"],
    "seeds": SEEDS,
    "tuning_seeds": [1],
    "learning_rates": {"ft": [1e-3, 1e-2], "lp_ft": [3e-3]},
    "same_rate": {"lp_ft": "ft"},
    "settings": {"epochs": 2, "batch_size": 8, "n_monitor": 0, "lp": 1e3},
}
SWEEP = {k: v for k, v in BLOCK.items() if k != "same_rate"} | {
    "methods": ["lp_ft"], "seeds": SEEDS[:2], "learning_rates": {"lp_ft": [3e-3]},
    "vary": {"head_factor": [0.5, 1, 10]},
}  # fmt: skip
GRID = [BLOCK, SWEEP]


def endpoint(statistic, test="larger", margin=0, smallest=0.5, **more):
    return {
        "statistic": statistic, "tasks": ["toy", "later"], "test": test, "margin": margin, "smallest": smallest, **more
    }  # fmt: skip


BOTH = ["tuned", "same"]
PLAN = {
    "written": "2026-01-01",
    "tasks": {
        "toy": {"role": "primary", "backbones": ["tiny"], "n_kernel": 6},
        "later": {"role": "primary", "backbones": ["tiny"]},
    },
    "endpoints": [
        endpoint("1.lp"),
        endpoint("2.Diff", rates=BOTH),
        endpoint("3.trend", "trend", seeds=SEEDS[:2]),
        endpoint("4.F", "at least", 1),
        endpoint("5.rank", "within", 0.1),
        endpoint("6.classes"),
        endpoint("7.ECE", rates=BOTH),
        endpoint("8.test", "at least", 1, 1, rates=BOTH),
    ],
    "exclusions": [],
    "described": [9],
    "seeds": SEEDS,
    "tuning_seeds": [1],
    "learning_rates": {"ft": [1e-3, 1e-2], "lp_ft": [3e-3]},
    "stopping": "at the end",
}


def write_texts(folder):
    """The task "toy": sentences of a few words, whose first says the class most of the time."""
    rng = np.random.default_rng(0)
    words = "the movie was a long one and we saw it at home on some rainy evening".split()
    for name, n in (("train", 32), ("validation", 20), ("test", 24), ("ood_b", 20), ("ood_c", 20)):
        labels = rng.integers(2, size=n)
        first = np.where(rng.random(n) < 0.9, labels, 1 - labels)
        rows = [
            {"text": f"{('bad', 'good')[f]} {name} {' '.join(rng.choice(words, 3))}", "label": int(y)}
            for f, y in zip(first, labels, strict=True)
        ]
        write_jsonl(folder / "toy" / f"{name}.jsonl", rows)
    description = {"name": "toy", "label_names": ["no", "yes"], "columns": ["text", "label"]}
    (folder / "toy" / "dataset.json").write_text(json.dumps(description))


def write_settings(folder, grid=GRID, plan=PLAN):
    """The plan and the grid."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (("grid", grid), ("plan", plan)):
        (folder / f"{name}.yml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def do_runs(folder: Path, store: Path):
    """All runs of the grid, in this process."""
    scores = {}
    with collecting(folder / "runs.parquet", folder / "plan.yml", "lpft sweep grid.yml") as (_, add):
        for one in load_grid(folder / "grid.yml"):
            spec = one.settled(lambda spec: scores.get(spec))
            if spec not in scores:
                scores[spec], rows = collect_run(spec, store, "predictions")
                add(rows)


def do_kernels(folder: Path, store: Path):
    probes = [one.spec for one in load_grid(folder / "grid.yml") if one.spec.method == "lp"]
    with collecting(folder / "kernels.parquet", folder / "plan.yml", "kernels.py") as (_, add):
        for spec in probes:
            add(collect_kernels(spec, 6, f"toy-kernels-s{spec.seed}", store))
