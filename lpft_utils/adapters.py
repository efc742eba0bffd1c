"""LoRA adapters (Hu et al. 2022) on the backbone of a `Classifier`, through peft.

A weight W of a target layer becomes W + (α / r) B A with A (r, in) drawn at random and B (out, r) zero, so an adapter
changes nothing until it is trained. The adapter is injected into `model.backbone`: the classifier stays the outer
module, and `features`, `head`, the Trainer and the run store work on it as on any other. What then requires gradients
is the adapter and the head, and nothing else.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from peft import IA3Config, LoraConfig, PeftConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from peft.utils import TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lpft_utils.classifier import Classifier
from lpft_utils.errors import ModelError

ADAPTER = "default"  # peft's name of the only adapter
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."  # what peft puts before a name when it wraps a whole model

_LINEAR = (nn.Linear, Conv1D)

# Query and value projections by family, as in the paper. Where query, key and value are one fused matrix (GPT-2's
# c_attn, ModernBERT's Wqkv, DeBERTa's in_proj) the adapter spans all three.
_QUERY_VALUE: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "camembert", "electra"), ("query", "value")),
    "distilbert": ("q_lin", "v_lin"),
    "deberta": ("in_proj",),
    "deberta-v2": ("query_proj", "value_proj"),
    "modernbert": ("Wqkv",),
    "gpt2": ("c_attn",),
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "opt"), ("q_proj", "v_proj")),
}


def default_targets(family: str) -> tuple[str, ...]:
    """Names of the query and value projections of a family.

    Args:
        family: `model_type` of the backbone's configuration, such as "bert".

    Returns:
        Endings of module names. GPT-2 has query, key and value in one matrix, so its one target "c_attn" adapts all
        three; likewise ModernBERT and DeBERTa (v1).

    Raises:
        ModelError: If the family is not known here.
    """
    if family not in _QUERY_VALUE:
        raise ModelError(
            f"LoRA: the query and value projections of {family!r} are not known here (known: "
            f"{', '.join(_QUERY_VALUE)}). Name them: lora_targets=(...), endings of module names in model.backbone."
        )
    return _QUERY_VALUE[family]


def add_lora(
    model: Classifier,
    *,
    r: int = 8,
    alpha: float = 8,
    dropout: float = 0.0,
    targets: Sequence[str] | None = None,
    init: bool | Literal["gaussian"] = True,
    seed: int = 0,
) -> Classifier:
    """Inject a fresh adapter into the backbone, in place; from then on only adapter and head require gradients.

    Args:
        model: The classifier, without an adapter.
        r: Rank.
        alpha: Scale α; the adapter enters with the factor α / r.
        dropout: Dropout on the adapter's input while training.
        targets: Endings of the names of the layers to adapt; None means query and value of the family.
        init: How A is drawn: True is peft's default, uniform on ±1/√in (Kaiming with a = √5); "gaussian" is
            N(0, 1/r²). B is zero either way.
        seed: Seed of A; torch's global generator is left as it is.

    Returns:
        `model`.

    Raises:
        ModelError: If the model has an adapter already, or no layer has such a name.
    """
    if _layers(model):
        raise ModelError("add_lora: the model has an adapter already. Load it anew, or call merge_lora first.")
    chosen = list(default_targets(model.backbone.config.model_type) if targets is None else targets)
    found = [m for n, m in model.backbone.named_modules() if any(n == t or n.endswith(f".{t}") for t in chosen)]
    if not found:
        linear = sorted({n.rpartition(".")[2] for n, m in model.backbone.named_modules() if isinstance(m, _LINEAR)})
        raise ModelError(f"add_lora: no layer of the backbone is named {chosen}. Its linear layers: {linear}.")
    config = LoraConfig(
        r=r,
        lora_alpha=alpha,  # pyright: ignore[reportArgumentType]
        lora_dropout=dropout,
        target_modules=chosen,
        init_lora_weights=init,
        fan_in_fan_out=any(isinstance(m, Conv1D) for m in found),  # GPT-2 stores its weights transposed
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
    if hasattr(model.backbone, "peft_config"):
        raise ModelError("add_ia3: the model has an adapter already. Load it anew, or call merge_lora first.")
    family = model.backbone.config.model_type
    if family not in TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING:
        known = ", ".join(TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING)
        raise ModelError(f"add_ia3: peft knows no layers to scale in {family!r} (it knows {known}).")
    return _inject(model, IA3Config(), seed=0)


def trainable_parameters(model: nn.Module) -> int:
    """How many numbers training changes.

    Args:
        model: Any module.

    Returns:
        Number of entries of all parameters that require gradients.
    """
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def adapter_state(model: Classifier) -> dict[str, Tensor]:
    """Weights of adapter and head, by their names in `model.state_dict()`.

    Args:
        model: A classifier with an adapter.

    Returns:
        The weights (the model's own tensors, not copies).
    """
    return {k: v for k, v in model.state_dict().items() if k.startswith("head.") or ".lora_" in k}


def save_adapter(model: Classifier, folder: Path) -> None:
    """Write adapter and head as peft does, in safetensors; `PeftModel.from_pretrained` reads the folder too.

    Args:
        model: A classifier with an adapter.
        folder: Where to write `adapter_config.json` and `adapter_model.safetensors`.

    Raises:
        ModelError: If the model has no adapter.
    """
    if not _layers(model):
        raise ModelError("save_adapter: the model has no adapter; call add_lora first.")
    config: Any = copy.copy(model.backbone.peft_config[ADAPTER])
    config.modules_to_save = ["head"]  # so that PeftModel, which wraps the whole classifier, looks for the head
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(str(folder))
    state = {PREFIX + k.replace(f".{ADAPTER}.", "."): v.cpu().contiguous() for k, v in adapter_state(model).items()}
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})


def load_adapter(model: Classifier, folder: Path) -> Classifier:
    """The inverse of `save_adapter`.

    Args:
        model: A classifier without an adapter, on the backbone that the adapter was trained on.
        folder: What `save_adapter` wrote.

    Returns:
        `model`, with the adapter and its head.

    Raises:
        ModelError: If the folder holds no adapter, or one of another shape.
    """
    try:
        config: Any = LoraConfig.from_pretrained(str(folder))
        state = load_file(folder / WEIGHTS)
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder}: expected an adapter written by save_adapter ({error}).") from error
    config.modules_to_save = None
    _inject(model, config, seed=0)
    expected = {PREFIX + k.replace(f".{ADAPTER}.", "."): v for k, v in adapter_state(model).items()}
    wrong = [k for k in expected.keys() | state.keys() if k not in state or k not in expected]
    wrong += [k for k in expected.keys() & state.keys() if expected[k].shape != state[k].shape]
    if wrong:
        raise ModelError(f"{folder}: the adapter does not fit this classifier, for example {min(wrong)!r}.")
    with torch.no_grad():
        for name, value in expected.items():
            value.copy_(state[name])
    return model.eval()


def merge_lora(model: Classifier) -> Classifier:
    """Add (α / r) B A to every adapted weight and remove the adapter, in place: the same f, to rounding.

    Args:
        model: A classifier with an adapter.

    Returns:
        `model`, a plain classifier again, with all parameters requiring gradients.

    Raises:
        ModelError: If the model has no adapter.
    """
    layers = _layers(model)
    if not layers:
        raise ModelError("merge_lora: the model has no adapter.")
    for name, layer in layers.items():
        layer.merge()
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer.get_base_layer())
    del model.backbone.peft_config
    return model.requires_grad_(True)  # pyright: ignore[reportReturnType]


def _inject(model: Classifier, config: PeftConfig, seed: int) -> Classifier:
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # peft reads every attribute of the backbone, deprecated ones of transformers too.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        torch.default_generator.manual_seed(seed)  # peft draws A on the CPU, then moves it
        inject_adapter_in_model(config, model.backbone, ADAPTER)  # freezes all else in the backbone
    model.backbone.train(model.backbone.training)  # the adapter's own dropout too
    return model


def _layers(model: Classifier) -> dict[str, LoraLayer]:
    """The adapted layers by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
