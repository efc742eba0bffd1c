"""One architecture for each rule of the engine, with the models and the oracle of `benchmarks/coverage.py`."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from lpft_utils.common.errors import KernelError

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


def script(name: str, module: str):
    """A file of benchmarks/, under a name that no other module has: `coverage` is a package as well."""
    spec = importlib.util.spec_from_file_location(module, FOLDER / f"{name}.py")
    loaded = sys.modules[module] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


script("_tiny_models", "_tiny_models")
coverage = script("coverage", "benchmark_coverage")

CASES = {  # what it stands for
    "bert": "Linear, Embedding, LayerNorm",
    "gpt2": "Conv1D",
    "qwen3": "RMS norm on heads, (B, heads, T, ·)",
    "gemma3_text": "scaled embedding, 1 + weight in the norm",
    "t5 encoder": "a bias computed once for the batch; a norm without a known class",
    "deberta-v3": "relative positions computed once for the batch",
    "bart": "position ids that are not the layer's input",
    "opt": "embedding with an offset",
    "xlnet": "(T, B, ·)",
    "mixtral": "router and experts as three-dimensional tensors",
    "mamba": "depthwise convolution; A_log and D",
    "vit": "convolution of patches; class token",
    "yoso": "φ depends on padding",
    "switch_transformers": "experts that only some texts use",
    "bert + dora": "magnitudes",
    "bert + loha": "weights that are products",
    "bert + prompt tuning": "tokens made of parameters",
    "bert + lora on embeddings": "adapters on an embedding",
}

IN_FLOAT32 = {
    "switch_transformers"
}  # its router turns its own weights into float32, so that its casts cannot be lifted


@pytest.mark.parametrize("name", CASES)
def test_every_parameter_agrees_with_plain_autograd(name):
    record = coverage.measure(coverage.make(name), everything=False)
    assert record["outcome"] == "exact", record["message"]
    assert record["parameters"] > 0 and record["unreached"] < record["tensors"] / 2
    assert not record["float32"] or name in IN_FLOAT32 or record["error_lifted"] <= 1e-10


def test_what_the_engine_does_is_told_apart(monkeypatch):
    case, right = coverage.make("bert + lora"), coverage.kernel

    def slightly_wrong(*args, **options):
        found = right(*args, **options)
        next(iter(found.groups.values())).mul_(1 + 1e-8)
        return found

    def raising(error):
        def instead(*args, **options):
            raise error

        return instead

    for engine, outcome in (
        (right, "exact"),
        (slightly_wrong, "wrong"),
        (raising(KernelError("no rule")), "clear error"),
        (raising(IndexError("0")), "unclear error"),
    ):
        monkeypatch.setattr(coverage, "kernel", engine)
        assert coverage.measure(case, everything=False)["outcome"] == outcome


def test_a_kernel_with_nan_is_wrong(monkeypatch):
    case, right = coverage.make("bert + lora"), coverage.kernel

    def spoiled(*args, **options):
        found = right(*args, **options)
        next(iter(found.groups.values())).view(-1)[0] = torch.nan
        return found

    monkeypatch.setattr(coverage, "kernel", spoiled)
    assert coverage.measure(case, everything=False)["outcome"] == "wrong"
