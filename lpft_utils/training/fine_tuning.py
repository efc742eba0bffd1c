"""Fine-tuning through `transformers.Trainer`, with a record of head norm, accuracy and feature change as it goes."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler, SequentialSampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import EvalPrediction

from lpft_utils.models.backbones import quiet_transformers
from lpft_utils.models.classifier import Classifier
from lpft_utils.models.encoding import Collator
from lpft_utils.models.features import evaluation_batch
from lpft_utils.training.recorder import Monitor, Recorder

log = logging.getLogger(__name__)


def fine_tune(
    model: Classifier,
    train: datasets.Dataset,
    validation: datasets.Dataset,
    collate: Collator,
    work: Path,
    *,
    epochs: float,
    batch_size: int,
    learning_rate: float,
    weight_decay: float = 0.0,
    head_weight_decay: float | None = None,
    label_smoothing: float = 0.0,
    seed: int = 0,
    monitors: Mapping[str, Monitor] | None = None,
    group_by_length: bool = True,
    accumulation: int = 1,
    callbacks: Sequence[TrainerCallback] = (),
    progress: bool = False,
) -> pd.DataFrame:
    """Train all of `model` that requires gradients, in place, and keep the epoch of the best validation accuracy.

    AdamW with linear decay, no warm-up and gradients clipped to norm 1 (the Trainer's defaults), as published. Batches
    hold texts of similar length and are padded to their own longest one; bf16 autocast on a GPU that has it. After an
    interruption the same call with the same `work` resumes at the last complete epoch and ends with the same weights.

    Args:
        model: The classifier, from whatever head it has now.
        train: Tokenised training examples.
        validation: Tokenised validation examples.
        collate: Pads a batch.
        work: Folder for checkpoints; deleted when training is complete.
        epochs: Passes over `train`.
        batch_size: Examples in a step.
        learning_rate: Peak (= initial) learning rate.
        weight_decay: Decoupled weight decay (biases and layer norms have none).
        head_weight_decay: Weight decay of V; None means `weight_decay`.
        label_smoothing: Share of every training target that is spread evenly over all classes; validation has none.
        seed: Seed of data order and dropout.
        monitors: Monitored examples by split name.
        group_by_length: False draws batches at random over all lengths, as the published code does.
        accumulation: Parts, a divisor of `batch_size`, into which every batch is cut for want of memory; the gradients
            of the parts add up to that of the batch (each part draws its own dropout).
        callbacks: Further callbacks of the Trainer, for example to measure time.
        progress: Whether to show a progress bar.

    Returns:
        History with one row for each recorded step: "step", "head_norm", "<monitor>_accuracy", "<monitor>_loss",
        "<monitor>_CS", "<monitor>_Diff", and "validation_accuracy", "validation_loss" at the ends of epochs. The
        attribute `attrs["best_step"]` names the step that was kept.
    """
    recorder = Recorder(model, monitors or {}, collate, progress)
    on_gpu = torch.cuda.is_available()
    arguments = TrainingArguments(
        output_dir=str(work),
        num_train_epochs=epochs,
        per_device_train_batch_size=batch_size // accumulation,
        gradient_accumulation_steps=accumulation,
        per_device_eval_batch_size=evaluation_batch(accumulation),
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        lr_scheduler_type="linear",
        warmup_steps=0,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
        train_sampling_strategy="group_by_length" if group_by_length else "random",
        length_column_name="length",
        remove_unused_columns=False,  # the sampler needs "length"; the collator drops it
        seed=seed,
        data_seed=seed,
        bf16=on_gpu and torch.cuda.is_bf16_supported(),
        use_cpu=not on_gpu,
        dataloader_pin_memory=on_gpu,
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = HeadTrainer(
        model=model,
        args=arguments,
        data_collator=collate,
        train_dataset=train,
        eval_dataset=validation.select(np.argsort(validation["length"], kind="stable")),  # little is spent on padding
        compute_loss_func=functools.partial(_loss, label_smoothing=label_smoothing),
        compute_metrics=_accuracy,
        callbacks=[recorder, *callbacks],
    )
    trainer.head_weight_decay = head_weight_decay
    trainer.remove_callback(PrinterCallback)  # the history has what it would print
    checkpoint = last_complete_checkpoint(work)
    if checkpoint is not None:
        log.info("Resuming an interrupted training at %s.", checkpoint.name)
    with _reproducible(), quiet_transformers():
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    model.eval()
    history = _tidy(trainer.state.log_history)
    history.attrs["best_step"] = int(trainer.state.best_global_step or trainer.state.global_step)
    shutil.rmtree(work, ignore_errors=True)
    return history


def last_complete_checkpoint(work: Path) -> Path | None:
    """Newest checkpoint that was written to its end, after removing those that were not.

    The trainer writes `trainer_state.json` last, so a checkpoint without a readable one was cut off while being
    written.

    Args:
        work: Folder of the checkpoints; need not exist.

    Returns:
        The checkpoint's folder, or None.
    """
    found = None
    for folder in sorted(work.glob("checkpoint-*"), key=lambda p: int(p.name.rpartition("-")[2])):
        try:
            state = json.loads((folder / "trainer_state.json").read_text())
        except (OSError, ValueError):
            log.info("%s was cut off while being written; it is removed.", folder)
            shutil.rmtree(folder, ignore_errors=True)
            continue
        best = state.get("best_model_checkpoint")
        if best is None or Path(best).is_dir():
            found = folder
    return found


def _accuracy(prediction: EvalPrediction) -> dict[str, float]:
    return {"accuracy": float(np.mean(np.argmax(prediction.predictions, axis=1) == prediction.label_ids))}


def _tidy(log_history: list[dict[str, Any]]) -> pd.DataFrame:
    rows = []
    for row in log_history:
        if row.get("recorded"):
            rows.append({k: v for k, v in row.items() if k != "recorded"})
        elif "eval_accuracy" in row:
            evaluated = {"validation_accuracy": row["eval_accuracy"], "validation_loss": row["eval_loss"]}
            rows.append({"step": row["step"], **evaluated})
    table = pd.DataFrame(rows).groupby("step").first()
    # In one order: a resumed training has its first rows from a checkpoint, whose keys are sorted.
    return table[sorted(table.columns)].reset_index()


@contextlib.contextmanager
def _reproducible() -> Iterator[None]:
    """Ask for deterministic kernels on a GPU, where the default ones may add in any order."""
    before, warn = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    if torch.cuda.is_available():
        torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn)


def _loss(outputs: Any, labels: Tensor, num_items_in_batch: Tensor | None = None, *, label_smoothing: float) -> Tensor:
    """Mean cross-entropy, with smoothed labels while training; of a part of a batch, its share of the mean.

    The Trainer's own `label_smoothing_factor` would smooth the validation loss as well, which then could not be
    compared with that of other runs.

    Args:
        outputs: The model's, with logits (B, C).
        labels: Class indices, shape (B,).
        num_items_in_batch: Examples in all parts of the batch; None in evaluation.
        label_smoothing: Share ε of every target that is spread evenly over all classes (Szegedy et al. 2016).

    Returns:
        The loss.
    """
    smoothing = label_smoothing if outputs.logits.requires_grad else 0.0
    mean = nn.functional.cross_entropy(outputs.logits, labels, label_smoothing=smoothing)
    return mean if num_items_in_batch is None else mean * (len(labels) / num_items_in_batch)


class HeadTrainer(Trainer):
    """A Trainer of `Classifier`.

    Attributes:
        head_weight_decay: Decoupled weight decay of V; None means that of all other weights. The bias b, like every
            bias, is not decayed.
    """

    head_weight_decay: float | None = None

    def _get_eval_sampler(self, eval_dataset: Dataset) -> Sampler:
        """The order of validation: as given, which is sorted by length.

        The Trainer's own sampler shuffles and then sorts within a quarter of the set or less: on a few hundred texts it
        pads as much as no sorting would.

        Args:
            eval_dataset: The validation set.

        Returns:
            Its indices, from first to last.
        """
        return SequentialSampler(eval_dataset)  # pyright: ignore[reportArgumentType]

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW as the Trainer makes it, with V in a group of its own where its weight decay differs."""
        if self.optimizer is not None:  # made before
            return self.optimizer  # pyright: ignore[reportReturnType]
        optimizer: Any = super().create_optimizer(model)
        if self.head_weight_decay is not None:
            V = self.model.head.weight  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
            for group in optimizer.param_groups:
                group["params"] = [p for p in group["params"] if p is not V]
            optimizer.add_param_group({"params": [V], "weight_decay": self.head_weight_decay})
        return optimizer
