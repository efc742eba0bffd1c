"""The kernel of a whole training set on the CPU by the sketch, and its error against exact blocks.

    python benchmarks/sketch.py [--data DIR] [--task rte] [--k 1024] [--errors]

`--errors` prints the error against k, with and without leading directions, on 64 examples. The last line is the error
of the whole set's sketch on the examples that were checked.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import numpy as np

from lpft_utils.data.examples import Split
from lpft_utils.data.tasks import load_task
from lpft_utils.models.backbones import load_tokenizer
from lpft_utils.models.classifier import load_classifier
from lpft_utils.models.encoding import Collator, encode, stack
from lpft_utils.ntk import kernel, sketch

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with the task (default: $LPFT_DATA, else ../shared/data)")
    parser.add_argument("--task", default="rte")
    parser.add_argument("--k", type=int, default=1024)
    parser.add_argument("--check", type=int, default=48, help="examples of the exact block (default %(default)s)")
    parser.add_argument("--errors", action="store_true", help="the error against k first")
    args = parser.parse_args()
    data = args.data or Path(os.environ.get("LPFT_DATA", ROOT.parent / "shared" / "data"))
    task = load_task(args.task, data_dir=data)
    parts = [task.split("train"), task.split("validation")]  # the public training set, which the paper cuts 9:1
    split = Split(sum((part.texts for part in parts), ()), np.concatenate([part.labels for part in parts]))
    tokenizer = load_tokenizer("minilm")
    inputs = stack(encode(split, tokenizer), Collator(tokenizer))
    model = load_classifier("minilm", task.n_classes)
    if args.errors:
        some = {k: t[:64] for k, t in inputs.items()}
        exact = kernel(model, some).F
        for pilot in (32, 0):
            for k in (64, 256, 1024, 4096):
                made = sketch(model, some, k, pilot=pilot, check=0)
                error = ((made.kernel().F - exact).norm() / exact.norm()).item()
                print(f"k = {k}, {'leading directions' if pilot else 'random only'}: error {error:.4f}", flush=True)
    start = time.perf_counter()
    made = sketch(model, inputs, args.k, check=args.check)
    sketched = time.perf_counter() - start
    start = time.perf_counter()
    F = made.kernel().F
    product = time.perf_counter() - start
    print(
        f"{args.task}: N = {len(split)}, C = {task.n_classes}, mean tokens "
        f"{inputs['attention_mask'].sum(1).float().mean():.1f}"
    )
    print(f"sketch {sketched:.0f} s, D = {made.spec['D']}, Z {made.Z.nbytes / 2**20:.0f} MiB")
    print(f"kernel {tuple(F.shape)}: {product:.1f} s, {F.nbytes / 2**20:.0f} MiB")
    print(f"sketch_error: {made.spec['error']:.4f}")


if __name__ == "__main__":
    main()
