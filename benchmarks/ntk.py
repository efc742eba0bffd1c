"""How fast is the exact NTK, against the published algorithm, `torch.func`, and the machine's own limit?

One classifier (MiniLM with a random head), N texts of T random tokens, C classes, all parameters but the word
embeddings, which are left out of every side. The word embeddings' own cost is printed for our side.

    python benchmarks/ntk.py                          # the three ratios, CPU
    python benchmarks/ntk.py --growth docs/ntk-growth # time and peak memory at N = 16, 32, 64, 128
    python benchmarks/ntk.py --others                 # DeBERTa-v3 and Mamba against BERT
    python benchmarks/ntk.py --device cuda --shape roberta-base --n 250 --tokens 128 --precision tf32 --only ours,floor

The published algorithm is run on one example (`--published`) and compared per example, which favours it: its Gram is
smaller. `torch.func` holds whole Jacobians and is run on fewer examples (`--func`); ours is timed again on as many.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import BertConfig, DebertaV2Config, MambaConfig, RobertaConfig

from lpft_utils.models.classifier import Classifier, ClassifierConfig, load_classifier
from lpft_utils.ntk import dense_kernel, kernel
from lpft_utils.ntk.gradients import Product

SIZES = (16, 32, 64, 128)


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=64, help="examples of our side (default %(default)s)")
    parser.add_argument("--tokens", type=int, default=64, help="T (default %(default)s)")
    parser.add_argument("--classes", type=int, default=3, help="C (default %(default)s)")
    parser.add_argument("--shape", default="minilm", choices=["minilm", "roberta-base"])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--precision", default="full", choices=["full", "tf32", "bf16"])
    parser.add_argument("--published", type=int, default=1, help="examples of the published algorithm")
    parser.add_argument("--func", type=int, default=32, help="examples of the torch.func loop")
    parser.add_argument("--only", default="ours,floor,func,published", help="sides to run (default %(default)s)")
    parser.add_argument("--growth", type=Path, help="measure growth instead and write PATH.json and PATH.svg")
    parser.add_argument("--others", action="store_true", help="DeBERTa-v3 and Mamba against BERT, all of one size")
    parser.add_argument("--peak", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.growth:
        growth(args)
        return
    if args.others:
        others(args)
        return
    model = make_model(args.shape, args.classes).to(args.device)
    inputs = make_inputs(args.n, args.tokens, args.device)
    if args.peak:
        print(json.dumps(peak(model, inputs, args.precision)))
        return
    name = torch.cuda.get_device_name() if args.device == "cuda" else platform.processor() or platform.machine()
    print(f"machine: {name}, {os.cpu_count()} cores, torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(f"{args.shape}, N = {args.n}, T = {args.tokens}, C = {args.classes}, precision {args.precision}")
    kernel(model, {k: t[:4] for k, t in inputs.items()}, parameters=no_words, precision=args.precision)  # warm up
    ours = best(lambda: kernel(model, inputs, parameters=no_words, precision=args.precision), args.device)
    with_words = best(lambda: kernel(model, inputs, precision=args.precision), args.device, 1)
    print(
        f"ours: {ours:.2f} s, {ours / args.n:.3f} s an example; with the word embeddings {with_words:.2f} s", flush=True
    )
    sides = args.only.split(",")
    if "published" in sides:
        from lpft_utils.studies.published_code import published_kernel

        few = {k: t[: args.published] for k, t in inputs.items()}
        theirs, F = timed(lambda: published_kernel(model, few), args.device)
        agree(F, model, few)
        print(f"published algorithm: {theirs / args.published:.1f} s an example ({args.published} run)", flush=True)
        print(f"ntk_vs_published: {theirs / args.published / (ours / args.n):.0f}")
    if "func" in sides:
        few = {k: t[: args.func] for k, t in inputs.items()}
        theirs, F = timed(lambda: dense_kernel(model, few, parameters=no_words), args.device)
        agree(F, model, few)
        mine = best(lambda: kernel(model, few, parameters=no_words, precision=args.precision), args.device)
        print(f"torch.func loop: {theirs:.2f} s for {args.func} examples, ours {mine:.2f} s", flush=True)
        print(f"ntk_vs_torch_func: {theirs / mine:.1f}")
    if "floor" in sides:
        rate = gemm_rate(args.device, args.precision)
        work = operations(model, args.n, args.tokens, args.classes)
        for what, amount in work.items():
            print(f"  {what}: {amount / 1e9:.0f} GFLOP, {amount / rate:.2f} s at the GEMM rate")
        share = gram_rate(model, args.n, args.classes, args.device, args.precision) / rate
        print(f"GEMM rate {rate / 1e9:.0f} GFLOP/s; our symmetric Gram reaches {100 * share:.0f} % of it")
        print(f"ntk_vs_floor: {ours / (sum(work.values()) / rate):.2f}")


def make_model(shape: str, n_classes: int) -> Classifier:
    """MiniLM with a random head, or RoBERTa-base's shape with random weights."""
    if shape == "minilm":
        return load_classifier("minilm", n_classes)
    torch.manual_seed(0)
    config = RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5)
    return Classifier(ClassifierConfig(config, num_labels=n_classes)).eval()


def make_inputs(n: int, tokens: int, device: str) -> dict[str, Tensor]:
    """Random token ids without padding: the worst case."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, 20000, (n, tokens), generator=generator).to(device)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def others(args: argparse.Namespace) -> None:
    """Seconds of models that pass through the engine one example at a time, or by other rules, per weight of BERT's."""
    size = {"vocab_size": 20001, "hidden_size": 384, "num_hidden_layers": 6}
    attention = {"num_attention_heads": 12, "intermediate_size": 1536}
    relative = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "share_att_key": True}
    configs = {
        "BERT": BertConfig(**size, **attention),
        "DeBERTa-v3": DebertaV2Config(**size, **attention, **relative, position_buckets=256, norm_rel_ebd="layer_norm"),
        "Mamba": MambaConfig(**size),
    }
    inputs, base = make_inputs(args.n, args.tokens, args.device), 0.0
    for name, config in configs.items():
        torch.manual_seed(0)
        pooling = "last" if name == "Mamba" else "first"
        model = Classifier(ClassifierConfig(config, num_labels=args.classes, pooling=pooling)).eval().to(args.device)
        parameters = [n for n, p in model.backbone.named_parameters(prefix="backbone") if p.shape[0] != 20001]
        seconds = best(lambda: kernel(model, inputs, parameters=parameters), args.device, 1)  # noqa: B023
        made = kernel(model, {k: t[:2] for k, t in inputs.items()}, parameters=parameters)
        millions = made.spec["parameters"] / 1e6
        base = base or seconds / millions
        print(
            f"{name}: {seconds:.1f} s, {millions:.1f} million parameters, {seconds / millions / base:.2f} times BERT's "
            f"time for each; one example at a time: {made.spec['alone']}, by autograd: {len(made.spec['autograd'])}",
            flush=True,
        )


def words(name: str) -> bool:
    """Whether a parameter is the word embeddings."""
    return "word_embeddings" in name


def no_words(name: str) -> bool:
    """All parameters but the word embeddings."""
    return not words(name)


def timed(run: Callable[[], Tensor], device: str) -> tuple[float, Tensor]:
    """Seconds of one call, and its result."""
    synchronise(device)
    start = time.perf_counter()
    result = run()
    synchronise(device)
    return time.perf_counter() - start, result


def best(run: Callable[[], object], device: str, repeats: int = 3) -> float:
    """Seconds of the fastest of some calls."""
    return min(timed(lambda: run() and torch.empty(0), device)[0] for _ in range(repeats))


def synchronise(device: str) -> None:
    """Wait for the GPU."""
    if device == "cuda":
        torch.cuda.synchronize()


def agree(F: Tensor, model: Classifier, inputs: dict[str, Tensor]) -> None:
    """A faster kernel that is another kernel would be no result."""
    mine = kernel(model, inputs, parameters=no_words).F
    error = ((F.cpu() - mine).norm() / mine.norm()).item()
    if error > 1e-4:
        sys.exit(f"The kernels differ: {error:.1e} relative.")
    print(f"  same kernel to {error:.0e}")


def operations(model: Classifier, n: int, tokens: int, n_classes: int) -> dict[str, float]:
    """Floating-point operations of the matrix products that no exact method can do without.

    In the last layer only the pooled token carries a gradient below keys and values; it is counted as the engine does
    it.
    """
    forward = backward = gradients = gram = 0.0
    layers = [name for name, _ in model.named_modules() if name.endswith("attention.self")]
    last = layers[-1].removesuffix("attention.self")
    for name, module in model.backbone.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        size = module.weight.numel()
        single = f"backbone.{name}".startswith(last) and not name.endswith(("key", "value"))
        carried = 1 if single else tokens  # tokens with a gradient
        forward += 2.0 * n * tokens * size
        backward += 2.0 * n * carried * size * n_classes
        if single:
            gram += n * n * (module.in_features + n_classes**2 * module.out_features)
        else:
            gradients += 2.0 * n * tokens * size * n_classes
            gram += (n * n_classes) ** 2 * size
    return {"forward": forward, "backward passes": backward, "gradients": gradients, "Gram (half)": gram}


def gemm_rate(device: str, precision: str) -> float:
    """FLOP/s of large square products in this precision."""
    n = 2048 if device == "cpu" else 8192
    a, b = torch.randn(n, n, device=device), torch.randn(n, n, device=device)
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    product = Product(precision)
    product(a, b)
    repeats = 5 if device == "cpu" else 20
    seconds = min(timed(lambda: product(a, b), device)[0] for _ in range(repeats))
    return 2.0 * n**3 / seconds


def gram_rate(model: Classifier, n: int, n_classes: int, device: str, precision: str) -> float:
    """FLOP/s of the symmetric Gram of one layer's gradients, counting half of the full product."""
    size = min(model.config.hidden_size**2, (1 << 30) // (4 * n * n_classes))
    X = torch.randn(n * n_classes, size, device=device)
    product = Product(precision)
    product.symmetric(X)
    seconds = min(timed(lambda: product.symmetric(X), device)[0] for _ in range(5))
    return len(X) ** 2 * size / seconds


def peak(model: Classifier, inputs: dict[str, Tensor], precision: str) -> dict[str, float]:
    """Seconds, and MiB of peak memory above that of the loaded model."""
    kernel(model, {k: t[:2] for k, t in inputs.items()}, parameters=no_words, memory=1 << 30)
    ground = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds, _ = timed(lambda: kernel(model, inputs, parameters=no_words, precision=precision, memory=4 << 30).F, "cpu")
    return {"seconds": seconds, "MiB": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - ground) / 1024}


def growth(args: argparse.Namespace) -> None:
    """Time and peak memory against N, each N in a process of its own, under a bound of 4 GiB."""
    rows = []
    for n in SIZES:
        command = [sys.executable, __file__, "--peak", "--n", str(n), "--tokens", str(args.tokens), "--classes"]
        done = subprocess.run([*command, str(args.classes)], capture_output=True, text=True, check=True)
        rows.append({"N": n, **json.loads(done.stdout.splitlines()[-1])})
        print("N = {N}: {seconds:.1f} s, {MiB:.0f} MiB".format(**rows[-1]), flush=True)
    args.growth.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 3), layout="constrained")
    for axes, key, label in zip(
        figure.subplots(1, 2), ("seconds", "MiB"), ("seconds", "peak memory, MiB"), strict=True
    ):
        axes.loglog([r["N"] for r in rows], [r[key] for r in rows], "o-")
        axes.set(xlabel="N", ylabel=label)
        axes.grid(visible=True, which="both", alpha=0.3)
    figure.savefig(args.growth.with_suffix(".svg"))


if __name__ == "__main__":
    main()
