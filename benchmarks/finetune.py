"""How much faster is fine-tuning with dynamic padding and length grouping than with every batch padded to 128?

Both sides train the same model on the same examples through `training.fine_tune`, with the same batch size, on the same
device: one epoch of forward, backward and AdamW steps. Side A pads each batch to its own longest text and draws
batches of similar length; side B pads to 128 tokens and draws batches over all lengths, as the published code does.
The sides alternate; ratios are of the medians. Evaluation and checkpoints are not timed.

    python benchmarks/finetune.py [--data DIR] [--backbone minilm] [--device auto|cpu|cuda] [--n N] [--repeats R]
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
import transformers
from torch import Tensor
from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase, TrainerCallback

from lpft_utils.data.tasks import Split, load_task
from lpft_utils.models.backbones import load_tokenizer
from lpft_utils.models.classifier import load_classifier
from lpft_utils.models.encoding import Collator, encode
from lpft_utils.training.fine_tuning import fine_tune

ROOT = Path(__file__).resolve().parents[1]
PAD_TO = 128
TOLERANCE = 1e-4  # on logits, and relative on gradients
N_CHECK = 32
# Median and spread (of the logarithm) of the number of words, for synthetic texts where the real ones are absent.
WORDS = {"rte": (43, 0.6), "cola": (7, 0.45)}


class Clock(TrainerCallback):
    """Seconds from the first batch to the end of the last step, without evaluation and checkpoints."""

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: D102
        self.start = now()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: D102
        if state.global_step == state.max_steps:
            self.seconds = now() - self.start


class Counter:
    """A collator that counts what passes through it."""

    def __init__(self, collate: Collator) -> None:
        self.collate, self.examples, self.tokens = collate, 0, 0

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Pad and stack, as the collator does."""
        batch = self.collate(examples)
        self.examples += len(examples)
        self.tokens += batch["input_ids"].numel()
        return batch


def main() -> int:
    """Run the benchmark; the exit status is 1 if the two sides disagree."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", type=Path, help="folder with rte/ and cola/ (default: $LPFT_DATA, else ../shared/data)"
    )
    parser.add_argument("--backbone", default="minilm", help="backbone (default %(default)s)")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"], help="where to train")
    parser.add_argument("--n", type=int, help="training examples of each task (default: 512, on a GPU 2048)")
    parser.add_argument("--batch-size", type=int, default=16, help="examples in a step (default %(default)s)")
    parser.add_argument("--repeats", type=int, default=2, help="timed runs of each side (default %(default)s)")
    args = parser.parse_args()
    if args.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    on_gpu = torch.cuda.is_available()
    if on_gpu != (args.device == "cuda") and args.device != "auto":
        sys.exit(f"--device {args.device}: torch finds {'a' if on_gpu else 'no'} GPU here")
    n = args.n or (2048 if on_gpu else 512)

    device = f"{torch.cuda.get_device_name()}, bf16" if on_gpu else f"CPU, {torch.get_num_threads()} threads, float32"
    print(f"machine: {platform.processor() or platform.machine()}, {os.cpu_count()} cores; {platform.platform()}")
    print(f"device: {device}; torch {torch.__version__}, transformers {transformers.__version__}")
    print(f"model: {args.backbone}; batches of {args.batch_size}; one epoch of {n} examples, cut at {PAD_TO} tokens")
    print(f"method: both sides through fine_tune, {args.repeats} timed runs each, alternating, after one short warm-up")

    tokenizer = load_tokenizer(args.backbone)
    ratios, good = {}, True
    for task in ("rte", "cola"):
        split, source = load_split(task, args.data, n)
        encoded = encode(split, tokenizer, PAD_TO)
        lengths = np.asarray(encoded["length"])
        print(f"\n{task}: {source}; {len(encoded)} examples, {lengths.mean():.1f} tokens on average (2 classes)")
        good &= same_results(encoded, tokenizer, args.backbone)
        ratios[task], agree = compare_speed(encoded, tokenizer, args)
        good &= agree
    print()
    for task, ratio in ratios.items():
        print(f"padding_{task}: {ratio:.2f}")
    return 0 if good else 1


def load_split(task: str, data: Path | None, n: int) -> tuple[Split, str]:
    """`n` training examples drawn with seed 0: the real task if it is there, else texts of about its lengths."""
    rng = np.random.default_rng(0)
    for folder in (data, os.environ.get("LPFT_DATA"), ROOT.parent / "shared" / "data"):
        if folder and (Path(folder) / task / "train.jsonl").is_file():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # overlaps between splits do not matter here
                split = load_task(task, data_dir=folder).split("train")
            return split.take(np.sort(rng.permutation(len(split))[:n])), "the real task"
    if data is not None:
        sys.exit(f"no {task}/train.jsonl in {data}")
    words = " ".join(text for (text, *_) in load_task("synthetic", n_train=500).split("train").texts).split()
    median, spread = WORDS[task]
    counts = np.maximum(2, np.round(median * np.exp(spread * rng.normal(size=n)))).astype(int)
    texts = tuple((" ".join(rng.choice(words, count)),) for count in counts)
    return Split(texts, rng.integers(0, 2, n)), f"synthetic texts with about the word counts of {task} (it is absent)"


class PublishedCollator(Collator):
    """Pads every batch to one length, as the published code does."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(tokenizer)
        self.pad = DataCollatorWithPadding(tokenizer, padding="max_length", max_length=PAD_TO)


def same_results(encoded: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, backbone: str) -> bool:
    """Whether logits and gradients of the same examples agree under both paddings (float32, no dropout)."""
    model = load_classifier(backbone, 2)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    chosen = sorted(range(min(N_CHECK, len(encoded))), key=lambda i: encoded[i]["length"])
    batches = [[encoded[i] for i in chosen[k : k + 8]] for k in range(0, len(chosen), 8)]  # of like length
    logits, gradients = [], []
    for collate in (Collator(tokenizer), PublishedCollator(tokenizer)):
        model.zero_grad()
        outputs = [model(**{k: v.to(model.device) for k, v in collate(batch).items()}) for batch in batches]
        sum(out.loss for out in outputs).backward()
        logits.append(torch.cat([out.logits.detach() for out in outputs]))
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    logit_gap = (logits[0] - logits[1]).abs().max().item()
    gradient_gap = ((gradients[0] - gradients[1]).norm() / gradients[1].norm()).item()
    good = logit_gap <= TOLERANCE and gradient_gap <= TOLERANCE
    print(
        f"  {'ok  ' if good else 'FAIL'} same results under both paddings for {len(chosen)} examples: logits differ by "
        f"at most {logit_gap:.1e}, the gradient by {gradient_gap:.1e} of its norm"
    )
    return good


def compare_speed(
    encoded: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, args: argparse.Namespace
) -> tuple[float, bool]:
    """Ratio of median throughputs, and whether both sides trained on every example once in every run."""
    sides: dict[str, tuple[Callable[[], Collator], bool]] = {
        "dynamic, grouped by length": (lambda: Collator(tokenizer), True),
        f"padded to {PAD_TO}": (lambda: PublishedCollator(tokenizer), False),
    }
    warm_up = encoded.select(range(min(len(encoded), 2 * args.batch_size)))
    for make, grouped in sides.values():
        train_once(warm_up, make(), grouped, args)
    speeds: dict[str, list[float]] = {side: [] for side in sides}
    good = True
    for _ in range(args.repeats):
        for side, (make, grouped) in sides.items():
            seconds, counter = train_once(encoded, make(), grouped, args)
            good &= counter.examples == len(encoded) + 1  # one more to evaluate
            speeds[side].append(len(encoded) / seconds)
            print(
                f"  {side}: {speeds[side][-1]:.1f} examples/s ({seconds:.1f} s, "
                f"{counter.tokens / counter.examples:.0f} tokens an example with padding)",
                flush=True,
            )
    print(f"  {'ok  ' if good else 'FAIL'} both sides trained on each of the {len(encoded)} examples once in every run")
    ours, theirs = (statistics.median(values) for values in speeds.values())
    print(f"  medians: {ours:.1f} against {theirs:.1f} examples/s")
    return ours / theirs, good


def train_once(
    encoded: datasets.Dataset, collate: Collator, grouped: bool, args: argparse.Namespace
) -> tuple[float, Counter]:
    """Seconds of one epoch, and what passed through the collator."""
    clock, counter = Clock(), Counter(collate)
    with tempfile.TemporaryDirectory() as work:
        fine_tune(
            load_classifier(args.backbone, 2),
            encoded,
            encoded.select([0]),
            counter,  # pyright: ignore[reportArgumentType]
            Path(work) / "checkpoints",
            epochs=1,
            batch_size=args.batch_size,
            learning_rate=5e-5,
            group_by_length=grouped,
            callbacks=[clock],
        )
    return clock.seconds, counter


def now() -> float:
    """Seconds, once the device has done what it was asked for."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    sys.exit(main())
