"""`benchmarks/gpu.py` in its CPU form at tiny sizes, and what it does with failures, a spent budget and no GPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "benchmarks" / "gpu.py"

# In a process of its own: `ntk` is a module of benchmarks/, and a folder of tests/.
STUBS = f"""
import json, sys, time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, {str(SCRIPT.parent)!r})
import gpu

def raising(kit):
    raise ValueError("no such number")

def soon(kit):
    return replace(kit, deadline=time.perf_counter() + 0.5)

gpu.CHECKS.clear()
gpu.CHECKS |= {{
    "raises": raising,
    "too large": lambda kit: {{"value": 2.0, "tolerance": 1.0}},
    "not finite": lambda kit: {{"value": float("nan"), "tolerance": 1.0}},
    "too long": lambda kit: soon(kit).call(["-c", "import time; time.sleep(60)"]),
    "good": lambda kit: {{"value": 1.0, "tolerance": 1.0}},
}}
folder = Path(sys.argv[1])
options = ["--device", "cpu", "--tiny", "--out"]
status = {{"failures": gpu.main([*options, str(folder / "failures.json")])}}
del gpu.CHECKS["raises"], gpu.CHECKS["too large"], gpu.CHECKS["not finite"]
status["no time"] = gpu.main([*options, str(folder / "no-time.json"), "--budget", "0"])
gpu.torch.cuda.is_available = lambda: False
status["no GPU"] = gpu.main(["--out", str(folder / "no-gpu.json")])
(folder / "status.json").write_text(json.dumps(status))
"""


def test_every_check_passes_at_tiny_sizes_on_the_cpu(tmp_path):
    out = tmp_path / "docs" / "gpu.json"
    command = [sys.executable, SCRIPT, "--device", "cpu", "--tiny", "--out", out]
    done = subprocess.run(command, capture_output=True, text=True, timeout=570, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(out.read_text(encoding="utf-8"))
    assert {"device", "date", "python", "torch", "transformers", "cuda", "cores", "seconds", "checks"} <= set(report)
    assert report["device"].startswith("CPU") and report["tiny"]
    checks = report["checks"]
    assert all({"value", "tolerance", "passed", "seconds"} <= set(entry) for entry in checks.values())
    book = checks.pop("smoke book")
    assert book["passed"] is None and book["message"].startswith("not run: ")
    assert len(checks) == 13 and all(entry["passed"] is True for entry in checks.values())
    assert all(0 <= entry["value"] <= entry["tolerance"] for entry in checks.values())
    assert [row["batch_size"] for row in checks["speed of LoRA"]["rows"]] == [2, 2]
    # Errors of zero would mean that both sides were one and the same computation.
    for name in ("large kernel, full precision", "large kernel, tf32", "kernel against torch.func", "large sketch"):
        assert checks[name]["value"] > 0
    assert checks["large kernel, tf32"]["precision"] == "bf16"  # what a CPU has instead
    assert checks["large kernel, full precision"]["share_of_rate"] > 0


@pytest.fixture(scope="module")
def stubbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of three calls, whose checks are stubs."""
    folder = tmp_path_factory.mktemp("kit")
    done = subprocess.run([sys.executable, "-c", STUBS, folder], capture_output=True, text=True, timeout=570)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder / "output").write_text(done.stdout, encoding="utf-8")
    return folder


def read(folder: Path, name: str) -> dict:
    return json.loads((folder / name).read_text(encoding="utf-8"))


def test_a_failure_is_recorded_and_stops_no_other_check(stubbed):
    checks = read(stubbed, "failures.json")["checks"]
    assert read(stubbed, "status.json")["failures"] == 1
    assert {name: entry["passed"] for name, entry in checks.items()} == {
        "raises": False, "too large": False, "not finite": False, "too long": None, "good": True,
    }  # fmt: skip
    assert checks["raises"]["message"] == "ValueError: no such number"
    assert checks["not finite"]["value"] is None and "finite value, got nan" in checks["not finite"]["message"]
    assert checks["too large"]["value"] == 2.0


def test_what_the_budget_leaves_no_time_for_is_not_run(stubbed):
    checks = read(stubbed, "failures.json")["checks"]
    assert checks["too long"]["message"] == "not run: it did not end within the time budget"
    assert read(stubbed, "status.json")["no time"] == 0
    spent = read(stubbed, "no-time.json")["checks"]
    assert [entry["message"] for entry in spent.values()] == ["not run: the time budget was spent"] * 2
    assert "0 passed, 0 failed, 2 not run" in (stubbed / "output").read_text(encoding="utf-8")


def test_without_a_gpu_it_says_so_and_writes_nothing(stubbed):
    assert "torch finds no CUDA device, so nothing was checked" in (stubbed / "output").read_text(encoding="utf-8")
    assert read(stubbed, "status.json")["no GPU"] == 0
    assert not (stubbed / "no-gpu.json").exists()
