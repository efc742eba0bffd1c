"""What a small run costs: its parts, the share of matrix products, and one process a core against two threads a run.

A run of FT on movie reviews (snippets, with the test sets of all four domains) in a fresh store, on idle cores:

    python benchmarks/run.py [--n-train 1000] [--n-eval 1000] [--epochs 3] [--task snippets] [--backbone minilm]
"""

from __future__ import annotations

import argparse
import concurrent.futures
import multiprocessing
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from lpft_utils.runs.execute import evaluate, train
from lpft_utils.runs.run import load_data, run
from lpft_utils.training.spec import RunSpec

PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "linear", "matmul", "scaled_dot_product", "flash_attention")
N_PROFILED = 128  # training texts of the profiled run: shares do not depend on their number


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", default="snippets", help="task (default %(default)s)")
    parser.add_argument("--backbone", default="minilm", help="backbone (default %(default)s)")
    parser.add_argument("--n-train", type=int, default=1000, help="training texts (default %(default)s)")
    parser.add_argument("--n-eval", type=int, default=1000, help="texts of every other split (default %(default)s)")
    parser.add_argument("--epochs", type=float, default=3, help="epochs (default %(default)s)")
    args = parser.parse_args()
    spec = RunSpec(method="ft", **vars(args))
    cores = os.cpu_count() or 1
    print(f"machine: {platform.processor() or platform.machine()}, {cores} cores; torch {torch.__version__}")
    texts = {name: len(split) for name, split in load_data(spec).splits.items()}
    print(f"run: FT, {args.backbone}, {args.epochs:g} epochs; texts: {texts}")

    with tempfile.TemporaryDirectory() as folder:
        parts = timed_parts(spec, Path(folder))
    total = sum(parts.values())
    print(f"\none run, {torch.get_num_threads()} threads: {total:.1f} s")
    for name, seconds in parts.items():
        print(f"  {name}: {seconds:.1f} s, {seconds / total:.0%}")
    print(f"share of matrix products: {product_share(spec.replace(n_train=N_PROFILED, epochs=1)):.0%} of the CPU time")

    together = {jobs: seconds_of_two(spec, jobs, cores // jobs) for jobs in (1, 2)}
    print(f"\ntwo runs, one after the other with {cores} threads: {together[1]:.1f} s")
    print(f"two runs side by side with {cores // 2} threads each: {together[2]:.1f} s")
    print(f"side_by_side: {together[1] / together[2]:.2f}")


def timed_parts(spec: RunSpec, folder: Path) -> dict[str, float]:
    """Seconds of training (with its validation after each epoch), of evaluation, and of everything before them."""
    task = load_data(spec)
    started = time.perf_counter()
    record = train(spec, task, folder / "checkpoints", folder / "features")
    trained = time.perf_counter()
    evaluate(record)
    done = time.perf_counter()
    tuning = record.outcome.about["train_seconds"]
    return {
        "loading, tokenising, pre-trained features": trained - started - tuning,
        "training and validation": tuning,
        "evaluation of the trained model": done - trained,
    }


def product_share(spec: RunSpec) -> float:
    """Share of matrix products in the CPU time of a smaller run's training."""
    with tempfile.TemporaryDirectory() as folder, profile(activities=[ProfilerActivity.CPU]) as profiler:
        train(spec, load_data(spec), Path(folder) / "checkpoints", Path(folder) / "features")
    times = {
        event.key.removeprefix("aten::").lstrip("_"): event.self_cpu_time_total for event in profiler.key_averages()
    }
    return sum(t for key, t in times.items() if key.startswith(PRODUCTS)) / sum(times.values())


def seconds_of_two(spec: RunSpec, jobs: int, threads: int) -> float:
    """Seconds of two runs of different seeds in fresh processes, `jobs` at a time."""
    context: Any = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        with concurrent.futures.ProcessPoolExecutor(jobs, context, torch.set_num_threads, (threads,)) as pool:
            list(pool.map(one_run, [spec.replace(seed=seed) for seed in (0, 1)], [Path(folder)] * 2))
        return time.perf_counter() - started


def one_run(spec: RunSpec, store: Path) -> None:
    """Do a run; nothing but numbers and predictions is kept, and nothing is sent back."""
    run(spec, store=store, keep="predictions")


if __name__ == "__main__":
    sys.exit(main())
