"""Sweeps that are killed, doubled, or spread over a cluster that loses a node: the rows are those of a quiet sweep."""

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml
from conftest import ROOT
from processes import marked

from lpft_utils.results.collected import read_collected, write_collected
from lpft_utils.runs.engines import Ray
from lpft_utils.runs.grid import load_grid
from lpft_utils.runs.schedule import Costs, sweep
from lpft_utils.runs.store import list_runs

pytestmark = pytest.mark.slow
BLOCK = {
    "tasks": {"synthetic": {}}, "backbones": ["tiny"], "methods": ["lp", "ft", "lp_ft"], "seeds": [11, 12],
    "tuning_seeds": [1], "learning_rates": {"ft": [1e-3, 1e6], "lp_ft": [1e-3]}, "same_rate": {"lp_ft": "ft"},
    "settings": {"n_train": 64, "n_eval": 24, "epochs": 3, "batch_size": 8, "lp": 1.0},
}  # fmt: skip
N_RUNS = 9  # 3 of tuning, one of which diverges; LP, FT and LP-FT of two seeds, whose two rates are one
TIMES = ("seconds", "train_seconds")


def command(folder: Path, *options: str) -> subprocess.Popen:
    (folder / "grid.yml").write_text(yaml.safe_dump(BLOCK), encoding="utf-8")
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "LPFT_RUNS": str(folder / "store"),
        "OMP_NUM_THREADS": "1",
    }
    program = "from lpft_utils.cli import main; main()"
    arguments = [sys.executable, "-c", program, "sweep", str(folder / "grid.yml"), "--jobs", "2", *options]
    return subprocess.Popen(
        arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def finish(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output
    return output


def rows(file: Path) -> pd.DataFrame:
    """The rows of a file without times and origins, in one order; every run is there once."""
    frame = read_collected(file)
    frame = frame[~frame["metric"].isin(TIMES)].drop(columns=["environment", "plan", "command"])
    keys = ["run", "split", "metric", "step"]
    frame = frame.astype({name: str for name in frame if name not in ("seed", "step", "value")})
    assert not frame.duplicated(keys).any(), "a run is there twice"
    return frame.sort_values(keys, ignore_index=True)


@pytest.fixture(scope="module")
def quiet(tmp_path_factory) -> pd.DataFrame:
    folder = tmp_path_factory.mktemp("quiet")
    output = finish(command(folder))
    assert f"{N_RUNS} runs done, 1 of them diverged, 0 failed" in output
    found = rows(folder / "store" / ".results.parquet")
    assert found["run"].nunique() == N_RUNS and len(found) > 50 * N_RUNS
    return found


def runs_in(store: Path) -> int:
    return len(list(store.glob("[!.]*/manifest.json")))


def wait_until(condition, process=None) -> None:
    end = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < end and (process is None or process.poll() is None)
        time.sleep(0.01)


def test_a_sweep_killed_in_every_phase_goes_on_where_it_was(quiet, tmp_path):
    """Killed with its processes: before the first run, while tuning, while evaluating; then without them."""
    store, stored = tmp_path / "store", 0
    for number, alone in ((0, False), (2, False), (5, False), (7, True)):
        process = command(tmp_path)
        wait_until(lambda n=number: (store / ".scratch").exists() and runs_in(store) >= n, process)
        if alone:
            os.kill(process.pid, signal.SIGKILL)  # its processes finish what they do, and end
        else:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert len(list_runs(store)) >= max(stored, number)  # every one is whole
        stored = runs_in(store)
    before = {path: path.stat().st_mtime_ns for path in store.glob("[!.]*/manifest.json")}
    finish(command(tmp_path))
    pd.testing.assert_frame_equal(rows(store / ".results.parquet"), quiet, check_exact=True)
    assert all(path.stat().st_mtime_ns == when for path, when in before.items()), "a run was done again"
    assert not list(store.glob(".partial-*")) and runs_in(store) == N_RUNS


def test_two_sweeps_at_once_do_every_run_once(quiet, tmp_path):
    both = [command(tmp_path, "--results", str(tmp_path / f"{name}.parquet")) for name in "ab"]
    for process in both:
        finish(process)
    for name in "ab":
        pd.testing.assert_frame_equal(rows(tmp_path / f"{name}.parquet"), quiet, check_exact=True)
    assert runs_in(tmp_path / "store") == N_RUNS


def test_committed_rows_are_enough_to_go_on(quiet, tmp_path):
    """The store is lost, a file with the rows of some runs is there: only the others are done."""
    finish(command(tmp_path, "--results", str(tmp_path / "all.parquet")))
    frame = read_collected(tmp_path / "all.parquet")
    some = sorted(set(frame["run"]))[::2]
    frame[frame["run"].isin(some)].to_parquet(tmp_path / "some.parquet", index=False)
    (tmp_path / "store").rename(tmp_path / "lost")
    output = finish(command(tmp_path, "--results", str(tmp_path / "some.parquet")))
    assert f"{N_RUNS - len(some)} runs done" in output and runs_in(tmp_path / "store") == N_RUNS - len(some)
    pd.testing.assert_frame_equal(rows(tmp_path / "some.parquet"), quiet, check_exact=True)


def test_a_process_that_is_killed_in_the_middle_of_a_run_is_replaced(quiet, tmp_path):
    process = command(tmp_path)
    wait_until(lambda: list((tmp_path / "store" / ".scratch").glob("*-ft-*/checkpoint-*")), process)
    children = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            pid, parent = int(path.parent.name), int(path.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(pid)
    server = next(pid for pid in children[process.pid] if pid in children)
    os.kill(children[server][0], signal.SIGKILL)
    output = finish(process)
    assert "0 failed" in output
    pd.testing.assert_frame_equal(rows(tmp_path / "store" / ".results.parquet"), quiet, check_exact=True)


# ---- a cluster ----


def test_a_node_of_a_ray_cluster_that_dies_loses_no_run_and_doubles_none(quiet, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'lpft-utils[ray]'")
    from ray.cluster_utils import Cluster

    store = tmp_path / "store"
    (tmp_path / "grid.yml").write_text(yaml.safe_dump(BLOCK), encoding="utf-8")
    planned, costs = load_grid(tmp_path / "grid.yml"), Costs("predictions")
    paths = [str(ROOT), str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))  # of the nodes
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    second = cluster.add_node(num_cpus=1)
    cluster.connect()
    try:
        cluster.wait_for_nodes()
        assert ray.cluster_resources()["CPU"] == 2
        marks = tmp_path / "marks"
        marks.mkdir()
        engine = Ray(functools.partial(marked, store=store, keep="predictions", marks=marks))
        assert engine.jobs == 2
        killed = []

        def kill():
            wait_until(lambda: sum(mark.name.startswith(second.node_id) for mark in marks.glob("*-begun")) >= 2)
            cluster.remove_node(second, allow_graceful=False)
            killed.append(runs_in(store))

        thread = threading.Thread(target=kill)
        thread.start()
        frames = []
        with contextlib.closing(engine):
            report = sweep(planned, engine, costs, {}, frames.append)
        thread.join()
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert killed and killed[0] < N_RUNS, "the node was killed after the sweep: the test would prove nothing"
    cut = [mark.name for mark in marks.glob("*-begun") if not (marks / mark.name.replace("-begun", "-done")).exists()]
    assert cut and all(name.startswith(second.node_id) for name in cut), "no run was cut off"
    assert (report.done, report.diverged, report.failed) == (N_RUNS, 1, [])
    found = pd.concat(frames, ignore_index=True).assign(plan="", command="")
    write_collected(tmp_path / "results.parquet", found)
    pd.testing.assert_frame_equal(rows(tmp_path / "results.parquet"), quiet, check_exact=True)
    print(json.dumps({"runs in the store when the node died": killed[0], "runs that were cut off": len(cut)}))
