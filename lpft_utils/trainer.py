"""`transformers.Trainer` with label smoothing in training alone, a weight decay of V's own, and sorted validation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler, SequentialSampler
from transformers import Trainer


class HeadTrainer(Trainer):
    """A Trainer of `Classifier`.

    The Trainer's own `label_smoothing_factor` would smooth the validation loss as well, which then could not be
    compared with that of other runs; here evaluation always reports the plain cross-entropy.
    """

    def __init__(
        self, *, label_smoothing: float = 0.0, head_weight_decay: float | None = None, **arguments: Any
    ) -> None:
        """Remember both settings.

        Args:
            label_smoothing: Share ε of every target that is spread evenly over all classes (Szegedy et al. 2016).
            head_weight_decay: Decoupled weight decay of V; None means that of all other weights. The bias b, like every
                bias, is not decayed.
            **arguments: Arguments of `Trainer`.
        """
        self.label_smoothing, self.head_weight_decay = label_smoothing, head_weight_decay
        super().__init__(**arguments)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The model's own loss, except that labels are smoothed while it trains; see `Trainer.compute_loss`."""
        if not (self.label_smoothing and model.training):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        outputs = model(**{k: v for k, v in inputs.items() if k != "labels"})
        loss = nn.functional.cross_entropy(outputs.logits, inputs["labels"], label_smoothing=self.label_smoothing)
        return (loss, outputs) if return_outputs else loss

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
