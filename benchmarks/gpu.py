"""Is the GPU right, and how fast is it? Checks and measures everything that a GPU is for, without a network.

    python benchmarks/gpu.py                                        # one CUDA device, at most 8 minutes
    python benchmarks/gpu.py --device cpu --tiny --out /tmp/x.json  # its CPU form at tiny sizes, for the tests

Each check gives a value, which must not exceed its tolerance, and what it measured on the way; a check that fails is
recorded with its message and stops no other. The file is written after every check. The exit status is 1 if one failed.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import datasets
import numpy as np
import torch
from finetune import Clock, now
from ntk import gemm_rate, make_inputs, make_model, no_words, operations, timed
from torch import Tensor, nn
from transformers import RobertaConfig

from lpft_utils.common.environment import environment
from lpft_utils.common.errors import FetchError
from lpft_utils.common.files import whole
from lpft_utils.data.snippets import ARCHIVE
from lpft_utils.models.backbones import load_backbone, load_tokenizer, quiet_transformers
from lpft_utils.models.classifier import Classifier, ClassifierConfig
from lpft_utils.ntk import Kernel, dense_kernel, kernel, sketch
from lpft_utils.runs.profiles import get_profile
from lpft_utils.runs.run import run, run_key
from lpft_utils.runs.store import Run
from lpft_utils.training.fine_tuning import fine_tune
from lpft_utils.training.logistic import logistic_path
from lpft_utils.training.methods import METHODS
from lpft_utils.training.spec import RunSpec

ROOT = Path(__file__).resolve().parents[1]
N_CLASSES = 3
WARM_UP = 2  # training steps before the clock starts
MAX_SKETCH_ERROR = 0.2
FUNC_EXAMPLES = 16  # at most: torch.func holds 1 GB for each


class NotRunError(Exception):
    """A check cannot run here; the message says why. It has neither passed nor failed."""


@dataclass(frozen=True)
class Kit:
    """Where and how large: the device, whether sizes are tiny, when time is up, and a folder for what is written."""

    device: str
    tiny: bool
    deadline: float
    folder: Path

    def size(self, full: int, tiny: int) -> int:
        """One of two sizes."""
        return tiny if self.tiny else full

    def batch_sizes(self) -> tuple[int, ...]:
        """Batch sizes of training."""
        return (2,) if self.tiny else (16, 32)

    def model(self) -> Classifier:
        """RoBERTa-base's shape, or a tiny one, with random weights on the device."""
        if not self.tiny:
            return make_model("roberta-base", N_CLASSES).to(self.device)
        torch.manual_seed(0)
        shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
        config = RobertaConfig(vocab_size=20000, max_position_embeddings=514, **shape)
        return Classifier(ClassifierConfig(config, num_labels=N_CLASSES)).eval()

    def inputs(self, n: int) -> dict[str, Tensor]:
        """Random tokens on the device, T = 128 or 8."""
        return make_inputs(n, self.size(128, 8), self.device)

    def peak(self) -> float | None:
        """GiB of the GPU's peak memory since `reset_peak`."""
        return torch.cuda.max_memory_allocated() / 2**30 if self.device == "cuda" else None

    def reset_peak(self) -> None:
        """Forget the peak so far."""
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()

    def call(self, arguments: list[str], **variables: str) -> str:
        """Output of a Python process in the repository, which may take the time that is left."""
        command, variables = [sys.executable, *arguments], {**os.environ, **variables}
        left = self.deadline - time.perf_counter()
        try:
            done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=variables, timeout=left)
        except subprocess.TimeoutExpired:
            raise NotRunError("it did not end within the time budget") from None
        if done.returncode:
            raise RuntimeError(f"exit status {done.returncode}: {(done.stdout + done.stderr).strip()[-2000:]}")
        return done.stdout


def main(argv: list[str] | None = None) -> int:
    """Run the checks; the exit status is 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--tiny", action="store_true", help="tiny sizes: does everything run?")
    parser.add_argument("--budget", type=float, default=480, help="seconds; what is left then is not run (%(default)s)")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "gpu.json", help="file to write (%(default)s)")
    args = parser.parse_args(argv)
    start = time.perf_counter()
    if args.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # training would choose the GPU
    elif not torch.cuda.is_available():
        # Nothing failed, and `make bench` goes on.
        print("gpu.py: torch finds no CUDA device, so nothing was checked or written; see --device cpu --tiny")
        return 0
    report = {**environment(), "cuda": torch.version.cuda if args.device == "cuda" else None, "cores": os.cpu_count()}
    report |= {"tiny": args.tiny, "budget": args.budget, "checks": {}}
    with tempfile.TemporaryDirectory() as folder:
        kit = Kit(args.device, args.tiny, start + args.budget, Path(folder))
        for name, check in CHECKS.items():
            entry = report["checks"][name] = attempt(check, kit)
            print(f"{name}: {json.dumps(entry, ensure_ascii=False)}", flush=True)
            report["seconds"] = time.perf_counter() - start
            with whole(args.out) as partial:
                partial.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    verdicts = [entry["passed"] for entry in report["checks"].values()]
    passed, failed, not_run = (sum(v is verdict for v in verdicts) for verdict in (True, False, None))
    print(f"{passed} passed, {failed} failed, {not_run} not run in {report['seconds']:.0f} s: {args.out}")
    return 1 if failed else 0


def attempt(check: Callable[[Kit], dict[str, Any]], kit: Kit) -> dict[str, Any]:
    """The record of one check, whatever happens in it."""
    start = time.perf_counter()
    try:
        if start >= kit.deadline:
            raise NotRunError("the time budget was spent")
        entry = check(kit)
        if not math.isfinite(entry["value"]):
            raise ArithmeticError(f"expected a finite value, got {entry['value']}")
        entry["passed"] = entry["value"] <= entry["tolerance"]
    except NotRunError as reason:
        entry = {"value": None, "tolerance": None, "passed": None, "message": f"not run: {reason}"}
    except Exception as error:
        message = f"{type(error).__name__}: {error}"
        entry = {"value": None, "tolerance": None, "passed": False, "message": message}
    gc.collect()
    if kit.device == "cuda":
        torch.cuda.empty_cache()
    return {**entry, "seconds": time.perf_counter() - start}


def relative(x: Tensor, y: Tensor) -> float:
    """‖x − y‖ / ‖y‖."""
    return ((x.cpu().double() - y.cpu().double()).norm() / y.cpu().double().norm()).item()


def cuda_tests(kit: Kit) -> dict[str, Any]:
    """The tests that a machine without CUDA skips; the value counts those that did not pass."""
    if importlib.util.find_spec("pytest") is None:
        raise NotRunError("pytest is not installed: pip install -e '.[test]'")
    where = "tests/training/test_logistic.py" if kit.tiny else "tests"
    options = ["-n", "0", "-q", "-k", "cuda or on_a_gpu", "--ignore", "tests/test_gpu_kit.py", "-p", "no:cacheprovider"]
    summary = kit.call(["-m", "pytest", *options, where]).strip().splitlines()[-1]
    counts = {word: int(n) for n, word in re.findall(r"(\d+) (passed|skipped|deselected)", summary)}
    if kit.device == "cuda" and not counts.get("passed"):
        raise RuntimeError(f"expected tests to pass, got: {summary}")
    return {"value": counts.get("skipped", 0) if kit.device == "cuda" else 0, "tolerance": 0, "counts": counts}


def training(kit: Kit) -> dict[str, Any]:
    """LP-FT of the smoke profile in float32, without dropout, against a process that sees no GPU.

    Logits are compared, not weights: those without an effect, such as the keys' biases, have gradients of rounding
    errors alone, which Adam enlarges to full steps.
    """
    phi, backbone = load_backbone("tiny"), kit.folder / "backbone"
    for module in phi.modules():
        if isinstance(module, nn.Dropout):  # masks differ between devices
            module.p = 0.0
    phi.config.update({"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0})
    with quiet_transformers():
        phi.save_pretrained(backbone)
    load_tokenizer("tiny").save_pretrained(backbone)
    spec: RunSpec = get_profile("smoke", task="synthetic", backbone=str(backbone)).spec("lp_ft")
    command = [
        "run",
        "--profile",
        "smoke",
        "--task",
        spec.task,
        "--method",
        spec.method,
        "--backbone",
        spec.backbone,
        "--seed",
        "0",
    ]
    here, there = kit.folder / "runs", kit.folder / "cpu-runs"
    kit.call(["-c", "from lpft_utils.cli import main; main()", *command], CUDA_VISIBLE_DEVICES="", LPFT_RUNS=str(there))
    expected = Run(there / run_key(spec))
    with without_bf16():
        found = run(spec, store=here)
    logits = [torch.tensor(r.predictions["test"][0]) for r in (found, expected)]
    devices = [r.metrics["environment"]["device"] for r in (found, expected)]
    return {"value": relative(*logits), "tolerance": 1e-3, "devices": devices}


def without_bf16() -> Any:
    """A context in which fine-tuning does not find bf16."""
    return mock.patch("torch.cuda.is_bf16_supported", return_value=False)


def linear_probe(kit: Kit) -> dict[str, Any]:
    """The path over C on the device against the CPU's; each fit is certified to 1e-8 of its minimum."""
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(kit.size(2000, 60), kit.size(768, 8), generator=generator)
    y = (X[:, :N_CLASSES] + torch.randn(len(X), N_CLASSES, generator=generator)).argmax(1)
    cpu_seconds, cpu = timed(lambda: logistic_path(X, y, N_CLASSES), "cpu")
    logistic_path(X[:60].to(kit.device), y[:60], N_CLASSES)  # warm up
    seconds, path = timed(lambda: logistic_path(X.to(kit.device), y, N_CLASSES), kit.device)
    if path.V.device.type != kit.device or path.best_C != cpu.best_C:
        raise RuntimeError(f"expected C = {cpu.best_C} on {kit.device}, got {path.best_C} on {path.V.device}")
    error = float(np.max(np.abs(path.objective / cpu.objective - 1)))
    times = {"fit_seconds": seconds, "cpu_seconds": cpu_seconds}
    return {"value": error, "tolerance": 2e-8, "head_difference": relative(path.V, cpu.V), **times}


def small_kernel(dtype: torch.dtype, tolerance: float) -> Callable[[Kit], dict[str, Any]]:
    """F and the Gram of MiniLM's features on the device against the CPU's."""

    def check(kit: Kit) -> dict[str, Any]:
        on_cpu, on_device = (kernel(*side, dtype=dtype) for side in small_problem(kit))
        error = max(relative(on_device.F, on_cpu.F), relative(on_device.gram, on_cpu.gram))
        return {"value": error, "tolerance": tolerance}

    return check


def small_problem(kit: Kit) -> Iterator[tuple[Classifier, dict[str, Tensor]]]:
    """MiniLM, or the tiny model, and a few texts of unequal length: on the CPU, then on the device."""
    model = kit.model().cpu() if kit.tiny else make_model("minilm", N_CLASSES)
    inputs = make_inputs(kit.size(12, 3), kit.size(32, 8), "cpu")
    inputs["attention_mask"][1, 5:] = 0
    yield model, inputs
    yield model.to(kit.device), {k: t.to(kit.device) for k, t in inputs.items()}


def small_sketch(kit: Kit) -> dict[str, Any]:
    """The sketch with the same projections on the device and on the CPU.

    Without leading directions, which need not be the same on two devices where singular values almost coincide.
    """
    on_cpu, on_device = (sketch(*side, k=64, pilot=0, check=0).kernel().F for side in small_problem(kit))
    return {"value": relative(on_device, on_cpu), "tolerance": 1e-4}


class WarmClock(Clock):
    """Seconds of the steps after `WARM_UP`, and the type that the backbone's products are computed in."""

    def __init__(self, model: Classifier) -> None:
        self.dtypes: set[str] = set()
        last = [m for m in model.backbone.modules() if isinstance(m, nn.Linear)][-1]
        last.register_forward_hook(lambda module, x, out: self.dtypes.add(str(out.dtype).removeprefix("torch.")))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: D102
        if state.global_step == WARM_UP:
            self.start = now()
        super().on_step_end(args, state, control, **kwargs)


def throughput(method: str) -> Callable[[Kit], dict[str, Any]]:
    """Examples a second and peak memory of `fine_tune`, in float32 and as it trains by itself (bf16 on a GPU).

    The value is the largest difference between their validation losses; the rate is so small that dropout, which
    differs, hardly moves the weights.
    """

    def check(kit: Kit) -> dict[str, Any]:
        rows = [train_once(kit, method, n, forced) for n in kit.batch_sizes() for forced in (True, False)]
        expected = [["float32"], ["bfloat16" if kit.device == "cuda" else "float32"]] * len(kit.batch_sizes())
        if [row["precision"] for row in rows] != expected:
            raise RuntimeError(f"precision: expected {expected}, got {rows}")
        losses = np.array([row["validation_loss"] for row in rows]).reshape(-1, 2)
        return {"value": float(np.abs(losses[:, 0] - losses[:, 1]).max()), "tolerance": 0.02, "rows": rows}

    return check


def train_once(kit: Kit, method: str, batch_size: int, forced: bool) -> dict[str, Any]:
    """One epoch: what it took, and the validation loss at its end."""
    steps, model = kit.size(40, 4), kit.model()
    METHODS[method].trains(model, RunSpec(method=method))
    tokens = {k: t.cpu().tolist() for k, t in kit.inputs(steps * batch_size).items()}
    n = len(tokens["input_ids"])
    labels = [i % N_CLASSES for i in range(n)]
    encoded = datasets.Dataset.from_dict({**tokens, "labels": labels, "length": [kit.size(128, 8)] * n})
    clock = WarmClock(model)
    kit.reset_peak()
    settings: dict[str, Any] = {"epochs": 1, "batch_size": batch_size, "learning_rate": 1e-7, "callbacks": [clock]}
    with without_bf16() if forced else nullcontext():
        history = fine_tune(model, encoded, encoded.select(range(batch_size)), collate, kit.folder / "work", **settings)  # pyright: ignore[reportArgumentType]
    speed = (steps - WARM_UP) * batch_size / clock.seconds
    loss = float(history["validation_loss"].dropna().iloc[-1])
    found = {"examples_per_second": speed, "peak_GiB": kit.peak(), "validation_loss": loss}
    return {"batch_size": batch_size, "precision": sorted(clock.dtypes), **found}


def collate(examples: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Texts of one length need no padding."""
    return {k: torch.tensor([e[k] for e in examples]) for k in ("input_ids", "attention_mask", "labels")}


def large_kernel(precision: str, tolerance: float) -> Callable[[Kit], dict[str, Any]]:
    """F at RoBERTa-base's shape without word embeddings: error, time, memory, share of the rate of matrix products.

    The value is the larger error of two parts, the layers and the other embeddings, which with random weights are most
    of F. The error is that against full precision; that of full precision is against float64 on 4 examples.
    """

    def check(kit: Kit) -> dict[str, Any]:
        used = "bf16" if precision == "tf32" and kit.device == "cpu" else precision  # a CPU has no tf32
        model, inputs = kit.model(), kit.inputs(kit.size(250, 6))
        few = {k: t[:4] for k, t in inputs.items()}

        def compute(inputs: dict[str, Tensor], **options: Any) -> Kernel:
            return kernel(model, inputs, parameters=no_words, groups=part, **options)

        compute(few, precision=used)  # warm up
        kit.reset_peak()
        seconds, K = timed(lambda: compute(inputs, precision=used), kit.device)
        found = {"precision": used, "N": len(K.gram), "kernel_seconds": seconds, "peak_GiB": kit.peak()}
        exact = compute(few, dtype=torch.float64) if used == "full" else compute(inputs)
        n = len(exact.gram)
        errors = {name: relative(F[:n, :, :n], exact.groups[name]) for name, F in K.groups.items()}
        rate = product_rate(kit.device, used)
        work = sum(operations(model, len(K.gram), kit.size(128, 8), N_CLASSES).values())
        shares = {"TFLOP": work / 1e12, "rate_TFLOP_per_second": rate / 1e12, "share_of_rate": work / seconds / rate}
        return {"value": max(errors.values()), "tolerance": tolerance, "errors": errors, **found, **shares}

    return check


def part(name: str) -> str:
    """The part of the model that a parameter belongs to."""
    return "embeddings" if "embeddings" in name else "layers"


def in_layers(name: str) -> bool:
    """All parameters but embeddings of every kind."""
    return part(name) == "layers"


def product_rate(device: str, precision: str) -> float:
    """FLOP/s of large products; `gemm_rate` leaves tf32 on, in which nothing else may be computed."""
    try:
        return gemm_rate(device, precision)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False


def adapter_kernel(kit: Kit) -> dict[str, Any]:
    """The kernel of LoRA's factors at the same shape, both away from zero; its error against float64 on 4 examples."""
    model, inputs = kit.model(), kit.inputs(kit.size(250, 6))
    METHODS["lora"].trains(model, RunSpec(method="lora"))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.copy_(0.02 * torch.randn(p.shape, generator=generator))
    few = {k: t[:4] for k, t in inputs.items()}
    exact = kernel(model, few, dtype=torch.float64)
    kit.reset_peak()
    seconds, K = timed(lambda: kernel(model, inputs), kit.device)
    found = {"N": len(K.gram), "parameters": K.spec["parameters"], "kernel_seconds": seconds, "peak_GiB": kit.peak()}
    return {"value": relative(K.F[:4, :, :4], exact.F), "tolerance": 1e-4, **found}


def torch_func(kit: Kit) -> dict[str, Any]:
    """Our kernel of the layers alone against whole Jacobians by `torch.func`, on as many examples as fit."""
    model = kit.model()
    n = kit.size(FUNC_EXAMPLES, 3)
    if kit.device == "cuda":
        one = 4 * N_CLASSES * sum(p.numel() for name, p in model.backbone.named_parameters() if in_layers(name))
        n = max(1, min(n, torch.cuda.mem_get_info()[0] // (3 * one)))  # each is held twice for a moment
    inputs = kit.inputs(n)
    one_example = {k: t[:1] for k, t in inputs.items()}
    dense_kernel(model, one_example, parameters=in_layers)  # warm up
    kernel(model, one_example, parameters=in_layers)
    ours, K = timed(lambda: kernel(model, inputs, parameters=in_layers), kit.device)
    kit.reset_peak()
    theirs, F = timed(lambda: dense_kernel(model, inputs, parameters=in_layers), kit.device)
    times = {"seconds_per_example": ours / n, "torch_func_seconds_per_example": theirs / n, "ratio": theirs / ours}
    return {"value": relative(K.F, F), "tolerance": 1e-4, "N": n, **times, "torch_func_peak_GiB": kit.peak()}


def large_sketch(kit: Kit) -> dict[str, Any]:
    """The sketch of a training set of RTE's size; the value is its error against exact blocks, as it states it."""
    model, inputs = kit.model(), kit.inputs(kit.size(2490, 6))
    kit.reset_peak()
    seconds, made = timed(lambda: sketch(model, inputs, kit.size(1024, 64), check=kit.size(16, 4)), kit.device)
    found = {"k": made.spec["k"], "N": len(made.Z), "sketch_seconds": seconds, "peak_GiB": kit.peak()}
    return {"value": made.spec["error"], "tolerance": MAX_SKETCH_ERROR, **found}


def smoke_book(kit: Kit) -> dict[str, Any]:
    """The whole book in profile smoke, in folders of its own; the value counts pages that are missing."""
    if kit.tiny:
        raise NotRunError("the tiny form leaves the book to the book's own tests")
    if lacking := [name for name in ("papermill", "jupyter_book") if importlib.util.find_spec(name) is None]:
        raise NotRunError(f"{', '.join(lacking)} not installed: pip install -e '.[book]'")
    try:
        ARCHIVE.read()
    except FetchError as error:
        raise NotRunError(str(error)) from error
    build = kit.folder / "build"
    program = (
        "import sys; from pathlib import Path; from lpft_utils.publishing.publish import publish; "
        "publish(Path(sys.argv[1]), {'profile': 'smoke'}, build=Path(sys.argv[2]), jobs=2)"
    )
    output = kit.call(["-c", program, str(ROOT), str(build)], LPFT_RUNS=str(kit.folder / "book-runs"))
    page = build / "html" / "index.html"
    return {"value": int(not page.is_file()), "tolerance": 0, "done": re.findall(r".* done in .* s", output)}


CHECKS: dict[str, Callable[[Kit], dict[str, Any]]] = {
    "CUDA tests": cuda_tests,
    "training equals the CPU's": training,
    "linear probe equals the CPU's": linear_probe,
    "kernel equals the CPU's, float32": small_kernel(torch.float32, 1e-4),
    "kernel equals the CPU's, float64": small_kernel(torch.float64, 1e-10),
    "sketch equals the CPU's": small_sketch,
    "speed of FT": throughput("ft"),
    "speed of LoRA": throughput("lora"),
    "large kernel, full precision": large_kernel("full", 1e-4),
    "large kernel, tf32": large_kernel("tf32", 2e-2),
    "LoRA's kernel": adapter_kernel,
    "kernel against torch.func": torch_func,
    "large sketch": large_sketch,
    "smoke book": smoke_book,
}

if __name__ == "__main__":
    sys.exit(main())
