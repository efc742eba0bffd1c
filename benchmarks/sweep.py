"""What does a sweep cost beside its trainings, and how long does it take to list and aggregate what it has done?

Scheduling: a grid of N runs whose training is a stub that returns at once, in processes of this machine, from the
checked grid to the written results. Aggregation: the results of M runs are read, the runs that need not be done again
are found among them, and every metric is averaged over seeds; and as a check the runs of that store are listed.
Every number is of this machine at this moment: run it where nothing else runs.

    python benchmarks/sweep.py [--runs 1000] [--stored 10000] [--jobs J]
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import yaml

from lpft_utils.results.collected import collecting, read_collected, scores, write_collected
from lpft_utils.runs.engines import Local
from lpft_utils.runs.grid import Score, load_grid
from lpft_utils.runs.schedule import Costs, sweep
from lpft_utils.training.spec import RunSpec

SCHEDULING_MS, AGGREGATION_S = 20, 2  # what is asked for
METRICS = ("accuracy", "loss", "CS", "Diff", "FDR", "NormF", "confidence", "ECE", "MCE", "NLL")
SPLITS = ("train", "validation", "test", "ood_a", "ood_b")
STEPS = 12


def main() -> int:
    """Run the benchmark; the exit status is 1 if a run is missing, or there twice, or a mean is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1000, help="trivial runs to schedule (default %(default)s)")
    parser.add_argument("--stored", type=int, default=10_000, help="runs to aggregate (default %(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (default %(default)s)")
    args = parser.parse_args()
    print(f"machine: {platform.processor() or platform.machine()}, {os.cpu_count()} cores; {platform.platform()}")
    with tempfile.TemporaryDirectory() as folder:
        good = scheduling(Path(folder), args.runs, args.jobs)
        good &= aggregation(Path(folder), args.stored)
    return 0 if good else 1


def scheduling(folder: Path, n: int, jobs: int) -> bool:
    """Print milliseconds a run; whether every run was done once."""
    grid = folder / "grid.yml"
    block = {"tasks": {"synthetic": {}}, "backbones": ["tiny"], "methods": ["ft"], "seeds": list(range(10))}
    grid.write_text(yaml.safe_dump({**block, "vary": {"batch_size": list(range(1, n // 10 + 1))}}), encoding="utf-8")
    planned, costs = load_grid(grid), Costs("predictions")
    costs.check(planned)
    keys = {one.spec: costs.of(one.spec).key for one in planned}
    engine = Local(functools.partial(stub, keys=folder / "keys"), jobs)
    (folder / "keys").mkdir()
    for spec, key in keys.items():
        (folder / "keys" / spec.key("")).write_text(key)
    with contextlib.closing(engine):
        sweep(planned[:jobs], engine, costs, {}, lambda rows: None)  # the server of processes has started
        started, processor = time.perf_counter(), time.process_time()
        with collecting(folder / "results.parquet", None, "benchmark") as (known, collect):
            report = sweep(planned, engine, costs, known, collect)
        took, processor = time.perf_counter() - started, time.process_time() - processor
    found = read_collected(folder / "results.parquet")
    good = report.done == len(planned) == found["run"].nunique() and not report.failed
    print(f"  {'ok  ' if good else 'FAIL'} {report.done} of {len(planned)} runs done, each once, by {jobs} processes")
    print(f"  {took:.1f} s in all, {1000 * processor / len(planned):.1f} ms of this process for a run")
    print(f"scheduling_ms_a_run: {1000 * took / len(planned):.1f}")
    print(f"scheduling_against_{SCHEDULING_MS}_ms: {SCHEDULING_MS * len(planned) / 1000 / took:.2f}")
    return good


def stub(spec: RunSpec, keys: Path) -> tuple[Score, pd.DataFrame]:
    """A run without training: its score and as many rows as a real one has."""
    key = (keys / spec.key("")).read_text()
    return Score(key, 0.5, False, 0.0), rows_of(key, spec.seed, spec.batch_size)


def rows_of(key: str, seed: int, setting: int) -> pd.DataFrame:
    """Made-up rows of a run; the value is its seed everywhere."""
    curve = [("", "train_loss", float(step)) for step in range(STEPS)]
    values = [(split, metric, float("nan")) for metric in METRICS for split in SPLITS]
    frame = pd.DataFrame([("", "seconds", float("nan")), ("", "diverged", float("nan")), *values, *curve])
    frame.columns = ["split", "metric", "step"]
    fixed = {"run": key, "task": "made up", "backbone": "none", "method": f"m{setting % 5}", "seed": seed}
    origin = {"spec": f'{{"key": "{key}"}}', "environment": "{}", "plan": "", "command": ""}
    return frame.assign(**fixed, **origin, value=float(seed))


def aggregation(folder: Path, n: int) -> bool:
    """Print seconds to list and aggregate; whether counts and means are right."""
    file, store = folder / "aggregated.parquet", folder / "store"
    one = rows_of("", 0, 0)
    frame = pd.concat([one] * n, ignore_index=True)
    run = pd.Series(range(n)).repeat(len(one)).to_numpy()
    frame = frame.assign(
        run=[f"run-{i}" for i in run], spec=[f'{{"number": {i}}}' for i in run], seed=run % 10, value=run % 10 / 1.0
    )
    write_collected(file, frame)
    for i in range(n):
        (store / f"run-{i}").mkdir(parents=True)
        (store / f"run-{i}" / "manifest.json").touch()
    started = time.perf_counter()
    stored = {path.parent.name for path in store.glob("[!.]*/manifest.json")}
    found = read_collected(file)
    done = scores(found)
    final = found[found["step"].isna()]
    means = final.groupby(["task", "method", "split", "metric"], observed=True)["value"].agg(["mean", "std", "count"])
    took = time.perf_counter() - started
    good = len(done) == n and stored == set(done) and bool((means["mean"] == 4.5).all() and (means["count"] == n).all())
    size = file.stat().st_size / 1e6
    print(
        f"  {'ok  ' if good else 'FAIL'} {len(done)} runs listed, {len(found)} rows ({size:.1f} MB), {len(means)} means"
    )
    print(f"aggregation_s: {took:.2f}")
    print(f"aggregation_against_{AGGREGATION_S}_s: {AGGREGATION_S / took:.2f}")
    return good


if __name__ == "__main__":
    sys.exit(main())
