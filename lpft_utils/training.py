"""Fine-tuning through `transformers.Trainer`, with a record of head norm, accuracy and feature change as it goes."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PrinterCallback, TrainerCallback, TrainingArguments
from transformers.trainer_utils import EvalPrediction

from lpft_utils.backbones import quiet_transformers
from lpft_utils.classifier import Classifier
from lpft_utils.encoding import Collator
from lpft_utils.features import cosine_similarity, extract_features, feature_difference
from lpft_utils.trainer import HeadTrainer

log = logging.getLogger(__name__)

PROBE_BATCH = 8  # few texts of similar length: a single batch of all would be padded to about twice their tokens


@dataclass(frozen=True)
class Probe:
    """A few fixed examples on which training is watched.

    Attributes:
        encoded: Tokenised examples, n of them.
        phi_0: Their pre-trained features, shape (n, H).
        labels: Class indices, shape (n,).
    """

    encoded: datasets.Dataset
    phi_0: Tensor
    labels: Tensor


def record_steps(total: int) -> set[int]:
    """Steps at which training is recorded: 0, powers of 2, every quarter of the training, and the last.

    Early on much happens in few steps. Each record is a forward pass on the watched texts, so there are few.

    Args:
        total: Optimiser steps of the whole training.

    Returns:
        Steps, from 0 to `total`.
    """
    powers = {2**k for k in range(max(total, 1).bit_length()) if 2**k <= total}
    return {0, total, *powers, *(round(total * k / 4) for k in range(1, 4))}


class Recorder(TrainerCallback):
    """Writes a row of measurements into the trainer's history at the steps of `record_steps`.

    The rows live in `state.log_history`, which is part of every checkpoint: a resumed training has the rows of the
    interrupted one. Measuring draws no random numbers, so a recorded training equals an unrecorded one.
    """

    def __init__(
        self, model: Classifier, probes: Mapping[str, Probe], collate: Collator, progress: bool = False
    ) -> None:
        """Remember what to measure.

        Args:
            model: The model in training.
            probes: Fixed examples by split name.
            collate: Pads a batch.
            progress: Whether to show a progress bar.
        """
        self.model, self.probes, self.collate, self.progress = model, probes, collate, progress

    def measure(self, step: int) -> dict[str, float]:
        """Head norm and, for each probe, accuracy, mean cross-entropy, CS and Diff after so many steps."""
        head = self.model.head
        row = {"head_norm": torch.linalg.matrix_norm(head.weight.detach().float()).item()}
        for name, probe in self.probes.items():
            phi = probe.phi_0
            if step > 0:
                phi = extract_features(self.model, probe.encoded, self.collate, batch_size=PROBE_BATCH)
            with torch.no_grad():
                logits = head(phi.to(head.weight)).float().cpu()
            row[f"{name}_accuracy"] = (logits.argmax(1) == probe.labels).double().mean().item()
            row[f"{name}_loss"] = torch.nn.functional.cross_entropy(logits, probe.labels).item()
            row[f"{name}_CS"] = cosine_similarity(probe.phi_0, phi)
            row[f"{name}_Diff"] = feature_difference(probe.phi_0, phi)
        return row

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: D102
        self.steps = record_steps(state.max_steps)
        self.bar = tqdm(
            total=state.max_steps, initial=state.global_step, desc="fine-tuning", leave=False, disable=not self.progress
        )
        if state.global_step == 0:
            self._record(state)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: D102
        self.bar.close()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: D102
        self.bar.update(state.global_step - self.bar.n)
        if state.global_step in self.steps:
            self._record(state)

    def _record(self, state: Any) -> None:
        state.log_history.append({"step": state.global_step, "recorded": True, **self.measure(state.global_step)})


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
    probes: Mapping[str, Probe] | None = None,
    group_by_length: bool = True,
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
        probes: Examples to watch, by split name.
        group_by_length: False draws batches at random over all lengths, as the published code does.
        callbacks: Further callbacks of the Trainer, for example to measure time.
        progress: Whether to show a progress bar.

    Returns:
        History with one row for each recorded step: "step", "head_norm", "<probe>_accuracy", "<probe>_loss",
        "<probe>_CS", "<probe>_Diff", and "validation_accuracy", "validation_loss" at the ends of epochs. The attribute
        `attrs["best_step"]` names the step that was kept.
    """
    recorder = Recorder(model, probes or {}, collate, progress)
    on_gpu = torch.cuda.is_available()
    arguments = TrainingArguments(
        output_dir=str(work),
        num_train_epochs=epochs,
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=64,
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
        label_smoothing=label_smoothing,
        head_weight_decay=head_weight_decay,
        model=model,
        args=arguments,
        data_collator=collate,
        train_dataset=train,
        eval_dataset=validation.select(np.argsort(validation["length"], kind="stable")),  # little is spent on padding
        compute_metrics=_accuracy,
        callbacks=[recorder, *callbacks],
    )
    trainer.remove_callback(PrinterCallback)  # the history has what it would print
    checkpoint = last_complete_checkpoint(work)
    if checkpoint is not None:
        log.warning("Resuming an interrupted training at %s.", checkpoint.name)
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
            log.warning("%s was cut off while being written; it is removed.", folder)
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
