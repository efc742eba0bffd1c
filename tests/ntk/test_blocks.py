"""Blocks: memory, resuming, several processes."""

import json
import os
import socket
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from small_models import classifier, relative, tokens

from lpft_utils.common.errors import KernelError
from lpft_utils.common.tensors import write_tensors
from lpft_utils.ntk import engine, kernel

PEAK = """
import sys, torch
from pathlib import Path
from transformers import BertConfig
from lpft_utils.models.classifier import Classifier, ClassifierConfig
from lpft_utils.ntk import kernel

def peak():
    # not `resource.getrusage`, which counts the process that started this one too
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])

torch.set_num_threads(1)
torch.manual_seed(0)
config = BertConfig(vocab_size=500, hidden_size=128, num_hidden_layers=4, num_attention_heads=4, intermediate_size=512)
model = Classifier(ClassifierConfig(config, num_labels=3)).eval()

def texts(n, length):
    ids = torch.randint(5, 500, (n, length))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

sides = [texts(int(n), int(length)) for n, length in (side.split("x") for side in sys.argv[2:])]
kernel(model, texts(2, 16), memory=150 << 20)
# Linux counts the peak since the process began: what the warm-up left is the ground on which the rest is built.
ground = peak()
made = kernel(model, *sides, memory=int(sys.argv[1]) << 20)
print((peak() - ground) / 1024, made.spec["block_size"], made.F.double().norm().item())
"""


def peak_of(megabytes: int, *sides: str) -> tuple[float, int, float]:
    """MiB above the ground, block size, norm of the kernel of texts × tokens."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(megabytes), *(sides or ["64x48"])],
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    peak, block, norm = done.stdout.split()
    return float(peak), int(block), float(norm)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory as Linux counts it")
def test_peak_memory_stays_under_the_bound_and_the_bound_matters():
    small_peak, small_block, small_norm = peak_of(200)
    large_peak, large_block, large_norm = peak_of(3000)
    assert small_peak <= 200
    assert large_peak <= 3000
    assert small_block < large_block == 64
    assert small_peak < large_peak  # otherwise the smaller bound was no bound
    assert small_norm == pytest.approx(large_norm, rel=1e-5)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory as Linux counts it")
@pytest.mark.parametrize("sides", [("12x480", "12x4"), ("12x4", "12x480")])
def test_the_bound_holds_where_one_side_is_much_longer(sides):
    peak, block, _ = peak_of(640, *sides)
    assert peak <= 640
    assert block < 12  # the bound was one


def test_an_interrupted_computation_goes_on_where_it_stopped(tmp_path, monkeypatch):
    model, inputs = classifier("bert"), tokens((9, 4, 6, 1, 9, 5))
    whole = kernel(model, inputs)
    done = []
    pair = engine._pair

    def stop_after_two(*args):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(1)
        return pair(*args)

    monkeypatch.setattr(engine, "_pair", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        kernel(model, inputs, block_size=2, folder=tmp_path / "k")
    assert len(list((tmp_path / "k").glob("block-*"))) == 2
    left = []
    monkeypatch.setattr(engine, "_pair", lambda *args: left.append(1) or pair(*args))
    resumed = kernel(model, inputs, folder=tmp_path / "k")  # keeps the block size that was begun with
    assert len(left) == 4  # six blocks in the lower half, two were there
    assert relative(resumed.F, whole.F) < 1e-12
    assert sorted(p.name for p in (tmp_path / "k").iterdir()) == ["kernel.safetensors", "spec.json"]


def test_a_finished_kernel_is_read_and_not_computed_again(tmp_path, monkeypatch):
    model, inputs = classifier("bert"), tokens()
    first = kernel(model, inputs, folder=tmp_path, groups=lambda name: name.split(".")[1])
    monkeypatch.setattr(engine, "_pair", lambda *_: pytest.fail("computed again"))
    again = kernel(model, inputs, folder=tmp_path, groups=lambda name: name.split(".")[1])
    assert torch.equal(first.F, again.F) and again.groups.keys() == first.groups.keys()


@pytest.mark.parametrize("change", ["weights", "inputs", "head", "parameters", "groups", "precision"])
def test_a_folder_of_another_kernel_is_refused(tmp_path, change):
    model, inputs, options = classifier("bert"), tokens(), {}
    kernel(model, inputs, folder=tmp_path)
    if change == "weights":
        with torch.no_grad():
            model.backbone.embeddings.LayerNorm.bias[0] += 1e-3
    if change == "inputs":
        inputs["input_ids"][0, 0] += 1
    options = {
        "head": {"V": 2 * model.head.weight.detach()},
        "parameters": {"parameters": lambda name: name.endswith("bias")},
        "groups": {"groups": lambda name: name},
        "precision": {"precision": "bf16"},
    }.get(change, {})
    with pytest.raises(KernelError, match="holds another kernel"):
        kernel(model, inputs, folder=tmp_path, **options)


def test_a_damaged_block_is_an_error_and_not_a_number(tmp_path, monkeypatch):
    model, inputs = classifier("bert"), tokens()
    monkeypatch.setattr(engine, "_pair", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        kernel(model, inputs, block_size=2, folder=tmp_path)
    monkeypatch.undo()
    (tmp_path / "block-0000-0000.safetensors").write_bytes(b"cut short")
    with pytest.raises(KernelError, match="Cannot read"):
        kernel(model, inputs, folder=tmp_path)


def test_a_block_that_does_not_fit_says_what_does():
    with pytest.raises(KernelError, match="block_size: [0-9]+ examples fit"):
        kernel(classifier("bert"), tokens((9,) * 40), memory=3 << 20, block_size=40)


def test_half_written_files_never_have_the_name_of_a_whole_one(tmp_path, monkeypatch):
    def fail(*_args, **_kwargs):
        raise OSError("disk full")

    monkeypatch.setattr("lpft_utils.common.tensors.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        write_tensors(tmp_path / "block.safetensors", {"x": torch.ones(2)}, {})
    assert not (tmp_path / "block.safetensors").exists()


SHARED = """
import sys, torch
from torch import distributed
from lpft_utils.ntk import kernel
from small_models import classifier, tokens

rank, port, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
torch.set_num_threads(1)
distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
made = kernel(classifier("bert"), tokens((9, 4, 6, 1, 9, 5)), block_size=2)
torch.save({"F": made.F, "gram": made.gram}, f"{out}/{rank}.pt")
distributed.destroy_process_group()
"""


def test_two_processes_share_the_blocks_and_both_have_the_kernel(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "tests")}
    workers = [
        subprocess.Popen([sys.executable, "-c", SHARED, str(rank), port, str(tmp_path)], cwd=ROOT, env=environment)
        for rank in range(2)
    ]
    assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
    alone = kernel(classifier("bert"), tokens((9, 4, 6, 1, 9, 5)))
    for rank in range(2):
        got = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert relative(got["F"], alone.F) < 1e-12
        assert relative(got["gram"], alone.gram) < 1e-12


def test_the_spec_of_a_begun_kernel_names_its_block_size(tmp_path):
    kernel(classifier("bert"), tokens(), block_size=2, folder=tmp_path)
    assert json.loads((tmp_path / "spec.json").read_text())["block_size"] == 2
