"""LoRA adapters (Hu et al. 2022) on the backbone of a `Classifier`, through peft.

A weight W of a target layer becomes W + (α / r) B A with A (r, in) drawn at random and B (out, r) zero, so an adapter
changes nothing until it is trained. The adapter is injected into `model.backbone`: the classifier stays the outer
module, and `features`, `head`, the Trainer and the run store work on it as on any other. What then requires gradients
is the adapter and the head, and nothing else.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from peft import IA3Config, LoraConfig, PeftConfig, inject_adapter_in_model
from peft.utils import (
    TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING,
    TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING,
)
from torch import nn
from transformers.pytorch_utils import Conv1D

from lpft_utils.common.errors import ModelError
from lpft_utils.models.classifier import Classifier

ADAPTER = "default"  # peft's name of the only adapter


def default_targets(family: str) -> tuple[str, ...]:
    """Names of the layers of a family that LoRA adapts by default: query and value, as in the paper.

    Args:
        family: `model_type` of the backbone's configuration, such as "bert".

    Returns:
        Endings of module names, as peft has them. Where query, key and value are one matrix (GPT-2's `c_attn`,
        ModernBERT's `Wqkv`, DeBERTa's `in_proj`) the adapter spans all three.

    Raises:
        ModelError: If the family is not known.
    """
    known = {
        **TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING,
        "camembert": ["query", "value"],
        "distilbert": ["q_lin", "v_lin"],
        "modernbert": ["Wqkv"],
    }
    if not isinstance(known.get(family), list):  # peft has a pattern instead of names for a few families
        raise ModelError(
            f"LoRA: the query and value projections of {family!r} are not known here (known: {', '.join(known)}). "
            "Name them: lora_targets=(...), endings of module names in model.backbone."
        )
    return tuple(known[family])


def add_lora(
    model: Classifier,
    *,
    r: int = 8,
    alpha: float = 8,
    dropout: float = 0.0,
    targets: str | Sequence[str] | None = None,
    seed: int = 0,
) -> Classifier:
    """Inject a fresh adapter into the backbone, in place; from then on only adapter and head require gradients.

    Args:
        model: The classifier, without an adapter.
        r: Rank, at least 1.
        alpha: Scale α; the adapter enters with the factor α / r.
        dropout: Dropout on the adapter's input while training, in [0, 1).
        targets: Endings of the names of the linear layers to adapt; None means query and value of the family.
        seed: Seed of A; torch's global generator is left as it is.

    Returns:
        `model`.

    Raises:
        ModelError: If the model has an adapter already, or a target names no layer or one that is not linear; the model
            is then as it was.
    """
    _refuse_second(model, "add_lora")
    names = default_targets(model.backbone.config.model_type) if targets is None else targets
    names = [names] if isinstance(names, str) else list(names)
    config = LoraConfig(
        r=r,
        lora_alpha=alpha,  # pyright: ignore[reportArgumentType]
        lora_dropout=dropout,
        target_modules=names,
        fan_in_fan_out=_check_targets(model, names),
    )
    return _inject(model, config, seed)


def add_ia3(model: Classifier) -> Classifier:
    """Inject fresh IA³ vectors (Liu et al. 2022) where peft puts them by default, in place; no run trains with them.

    Keys and values are multiplied entry by entry by a vector, and so are the inputs of the layers that peft lists as
    feed-forward; in BERT "output.dense" means the attention's output layer too. All vectors start at 1.

    Args:
        model: The classifier, without an adapter.

    Returns:
        `model`; vectors and head require gradients, and nothing else.

    Raises:
        ModelError: If peft knows no default for the family, or the model has an adapter already.
    """
    _refuse_second(model, "add_ia3")
    family = model.backbone.config.model_type
    if family not in TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING:
        known = ", ".join(TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING)
        raise ModelError(f"add_ia3: peft knows no layers to scale in {family!r} (it knows {known}).")
    return _inject(model, IA3Config())


def _refuse_second(model: Classifier, caller: str) -> None:
    if hasattr(model.backbone, "peft_config"):
        raise ModelError(f"{caller}: the model has an adapter already. Load it anew.")


def _inject(model: Classifier, config: PeftConfig, seed: int = 0) -> Classifier:
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # peft reads every attribute of the backbone, deprecated ones of transformers too.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        torch.default_generator.manual_seed(seed)  # peft draws A on the CPU, then moves it
        inject_adapter_in_model(config, model.backbone, ADAPTER)  # freezes all else in the backbone
    model.backbone.train(model.backbone.training)  # the adapter's own dropout too
    return model


def _check_targets(model: Classifier, targets: list[str]) -> bool:
    """Whether the targets' weights are stored transposed, as GPT-2's are; an error unless all are linear layers."""
    layers = dict(model.backbone.named_modules())
    linear = {name: module for name, module in layers.items() if isinstance(module, (nn.Linear, Conv1D))}
    chosen = []
    for target in targets or [None]:
        found = [name for name in layers if target and f".{name}".endswith(f".{target}")]
        if not found or not linear.keys() >= set(found):
            known = ", ".join(sorted({name.rpartition(".")[2] for name in linear}))
            raise ModelError(f"add_lora: expected targets to name linear layers ({known}), got {target!r}.")
        chosen += [linear[name] for name in found]
    return any(isinstance(module, Conv1D) for module in chosen)
