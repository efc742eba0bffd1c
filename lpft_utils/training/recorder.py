"""What is recorded of a fine-tuning as it goes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import datasets
import torch
from torch import Tensor
from tqdm import tqdm
from transformers import TrainerCallback

from lpft_utils.metrics.feature_change import cosine_similarity, feature_difference
from lpft_utils.models.classifier import Classifier
from lpft_utils.models.encoding import Collator
from lpft_utils.models.features import extract_features

MONITOR_BATCH = 8  # few texts of similar length: a single batch of all would be padded to about twice their tokens


@dataclass(frozen=True)
class Monitor:
    """A few fixed examples on which training is monitored.

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

    Early on much happens in few steps. Each record is a forward pass on the monitored texts, so there are few.

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
        self, model: Classifier, monitors: Mapping[str, Monitor], collate: Collator, progress: bool = False
    ) -> None:
        """Remember what to measure.

        Args:
            model: The model in training.
            monitors: Monitored examples by split name.
            collate: Pads a batch.
            progress: Whether to show a progress bar.
        """
        self.model, self.monitors, self.collate, self.progress = model, monitors, collate, progress

    def measure(self, step: int) -> dict[str, float]:
        """Head norm and, for each monitor, accuracy, mean cross-entropy, CS and Diff after so many steps."""
        head = self.model.head
        row = {"head_norm": torch.linalg.matrix_norm(head.weight.detach().float()).item()}
        for name, monitor in self.monitors.items():
            phi = monitor.phi_0
            if step > 0:
                phi = extract_features(self.model, monitor.encoded, self.collate, batch_size=MONITOR_BATCH)
            with torch.no_grad():
                logits = head(phi.to(head.weight)).float().cpu()
            row[f"{name}_accuracy"] = (logits.argmax(1) == monitor.labels).double().mean().item()
            row[f"{name}_loss"] = torch.nn.functional.cross_entropy(logits, monitor.labels).item()
            row[f"{name}_CS"] = cosine_similarity(monitor.phi_0, phi)
            row[f"{name}_Diff"] = feature_difference(monitor.phi_0, phi)
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
