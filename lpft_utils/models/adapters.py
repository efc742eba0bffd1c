"""LoRA adapters (Hu et al. 2022) on the backbone of a `Classifier`, through peft.

A weight W of a target layer becomes W + (α / r) B A with A (r, in) drawn at random and B (out, r) zero, so an adapter
changes nothing until it is trained. The adapter is injected into `model.backbone`: the classifier stays the outer
module, and `features`, `head`, the Trainer and the run store work on it as on any other. What then requires gradients
is the adapter and the head, and nothing else.
"""

from __future__ import annotations

import copy
import json
import math
import tempfile
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from peft import IA3Config, LoraConfig, PeftConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from peft.utils import TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lpft_utils.common.errors import ModelError
from lpft_utils.models.classifier import Classifier

ADAPTER = "default"  # peft's name of the only adapter
CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."  # what peft puts before a name when it wraps a whole model

_LINEAR = (nn.Linear, Conv1D)
_OPTIONS = ("r", "lora_alpha", "lora_dropout", "init_lora_weights")
# What else a configuration may say: where it comes from, and what the layers and the weights tell again.
_OTHER = ("peft_type", "peft_version", "task_type", "auto_mapping", "base_model_name_or_path", "revision",
          "inference_mode", "modules_to_save", "fan_in_fan_out")  # fmt: skip

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
    targets: str | Sequence[str] | None = None,
    init: Literal[True, "gaussian"] = True,
    seed: int = 0,
) -> Classifier:
    """Inject a fresh adapter into the backbone, in place; from then on only adapter and head require gradients.

    Args:
        model: The classifier, without an adapter.
        r: Rank, at least 1.
        alpha: Scale α; the adapter enters with the factor α / r.
        dropout: Dropout on the adapter's input while training, in [0, 1).
        targets: Endings of the names of the linear layers to adapt; None means query and value of the family.
        init: How A is drawn: True is peft's default, uniform on ±1/√in (Kaiming with a = √5); "gaussian" is
            N(0, 1/r²). B is zero either way.
        seed: Seed of A; torch's global generator is left as it is.

    Returns:
        `model`.

    Raises:
        ModelError: If the model has an adapter already, a target names no layer or one that is not linear, or an
            argument is out of range. The model is then as it was.
    """
    _refuse_adapter(model, "add_lora")
    names, layers = _find(model, targets, "add_lora")
    return _inject(model, _config(names, layers, (r, alpha, dropout, init), "add_lora"), seed)


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
    _refuse_adapter(model, "add_ia3")
    family = model.backbone.config.model_type
    if family not in TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING:
        known = ", ".join(TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING)
        raise ModelError(f"add_ia3: peft knows no layers to scale in {family!r} (it knows {known}).")
    return _inject(model, IA3Config(), seed=0)


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

    Both are complete before one takes its place, and the weights carry a copy of the configuration: an interruption
    between the two renames leaves no mixture that passes for an adapter.

    Args:
        model: A classifier with an adapter.
        folder: Where to write `adapter_config.json` and `adapter_model.safetensors`.

    Raises:
        ModelError: If the model has no adapter, or another than `add_lora` makes, or weights that are not finite. What
            was in the folder is then still there.
    """
    _lora_layers(model, "save_adapter")
    config: Any = copy.copy(model.backbone.peft_config[ADAPTER])
    config.modules_to_save = ["head"]  # so that PeftModel, which wraps the whole classifier, looks for the head
    config.target_modules = sorted(config.target_modules)  # a set, in another order in every process
    state = {_stored_name(k): v.cpu().contiguous() for k, v in adapter_state(model).items()}
    _check_numbers(state, "save_adapter")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder) as name:
        partial = Path(name)
        config.save_pretrained(name)
        stored = _read_config(partial)  # refuses what load_adapter would refuse
        save_file(state, partial / WEIGHTS, metadata={"format": "pt", CONFIG: json.dumps(stored, sort_keys=True)})
        (partial / WEIGHTS).replace(folder / WEIGHTS)
        (partial / CONFIG).replace(folder / CONFIG)


def load_adapter(model: Classifier, folder: Path) -> Classifier:
    """The inverse of `save_adapter`.

    Args:
        model: A classifier without an adapter, on the backbone that the adapter was trained on.
        folder: What `save_adapter` wrote.

    Returns:
        `model`, with the adapter and its head.

    Raises:
        ModelError: If the model has an adapter already, or the folder holds none, a damaged one, or one of another
            shape. The model is then as it was.
    """
    _refuse_adapter(model, "load_adapter")
    folder = Path(folder)
    stored = _read_config(folder)
    where = f"{folder}: the adapter does not fit this classifier"
    names, layers = _find(model, stored.get("target_modules") or (), where)
    config = _config(names, layers, [stored.get(name) for name in _OPTIONS], str(folder / CONFIG))
    state = _read_weights(folder, stored, _shapes(model, layers, config.r))
    _inject(model, config, seed=0)  # only now: what can fail is behind
    with torch.no_grad():
        for name, value in adapter_state(model).items():
            value.copy_(state[_stored_name(name)])
    return model.eval()


def merge_lora(model: Classifier) -> Classifier:
    """Add (α / r) B A to every adapted weight and remove the adapter, in place: the same f, to rounding.

    Args:
        model: A classifier with an adapter.

    Returns:
        `model`, a plain classifier again, with all parameters requiring gradients.

    Raises:
        ModelError: If the model has no adapter, or another than `add_lora` makes.
    """
    for name, layer in _lora_layers(model, "merge_lora").items():
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


def _refuse_adapter(model: Classifier, caller: str) -> None:
    if hasattr(model.backbone, "peft_config"):
        raise ModelError(f"{caller}: the model has an adapter already. Load it anew, or call merge_lora first.")


def _lora_layers(model: Classifier, caller: str) -> dict[str, LoraLayer]:
    """The adapted layers by name, of a model that has LoRA and nothing else."""
    configs = getattr(model.backbone, "peft_config", {})
    if set(configs) != {ADAPTER} or not isinstance(configs[ADAPTER], LoraConfig):
        kinds = ", ".join(f"{type(c).__name__} {name!r}" for name, c in configs.items()) or "none"
        raise ModelError(f"{caller}: the model has no adapter of add_lora, or others too (it has {kinds}).")
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}


def _find(model: Classifier, targets: str | Sequence[str] | None, where: str) -> tuple[list[str], dict[str, nn.Module]]:
    """The targets as a list, and the layers whose names end in one: each target finds some, and all are linear."""
    if targets is None:
        targets = default_targets(model.backbone.config.model_type)
    names = [targets] if isinstance(targets, str) else list(targets) if isinstance(targets, Iterable) else []
    if not names or not all(isinstance(name, str) and name for name in names):
        raise ModelError(f"{where}: expected targets, names such as ['query', 'value'], got {targets!r}.")
    modules = dict(model.backbone.named_modules())
    linear = sorted({n.rpartition(".")[2] for n, m in modules.items() if isinstance(m, _LINEAR)})
    chosen: dict[str, nn.Module] = {}
    for target in names:
        found = {n: m for n, m in modules.items() if f".{n}".endswith(f".{target}")}
        other = [f"{n!r} is a {type(m).__name__}" for n, m in found.items() if not isinstance(m, _LINEAR)]
        if not found or other:
            problem = other[0] if other else f"no layer of the backbone is named {target!r}"
            raise ModelError(f"{where}: {problem}. Its linear layers: {linear}.")
        chosen |= found
    return names, chosen


def _config(targets: list[str], layers: Mapping[str, nn.Module], options: Sequence[Any], where: str) -> LoraConfig:
    """Configuration of an adapter of these layers."""
    r, alpha, dropout, init = options
    if not (_is_number(r) and isinstance(r, int) and r >= 1):
        raise ModelError(f"{where}: expected the rank r to be an integer of at least 1, got {r!r}.")
    if not _is_number(alpha):
        raise ModelError(f"{where}: expected alpha to be a finite number, got {alpha!r}.")
    if not (_is_number(dropout) and 0 <= dropout < 1):
        raise ModelError(f"{where}: expected dropout to be a share in [0, 1), got {dropout!r}.")
    if init is not True and init != "gaussian":
        raise ModelError(f"{where}: expected init, how A is drawn, to be True or 'gaussian', got {init!r}.")
    return LoraConfig(
        r=r,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=targets,
        init_lora_weights=init,
        fan_in_fan_out=any(isinstance(m, Conv1D) for m in layers.values()),  # GPT-2 stores its weights transposed
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _shapes(model: Classifier, layers: Mapping[str, nn.Module], r: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the weights of adapter and head, by their names in the file."""
    shapes = {f"head.{name}": tuple(value.shape) for name, value in model.head.state_dict().items()}
    for name, layer in layers.items():
        rows, columns = layer.weight.shape  # pyright: ignore[reportGeneralTypeIssues]
        p, q = (columns, rows) if isinstance(layer, Conv1D) else (rows, columns)
        shapes |= {f"backbone.{name}.lora_A.weight": (r, q), f"backbone.{name}.lora_B.weight": (p, r)}
    return {PREFIX + name: shape for name, shape in shapes.items()}


def _stored_name(name: str) -> str:
    """Name in the file of a weight of `adapter_state`."""
    return PREFIX + name.replace(f".{ADAPTER}.", ".")


def _read_config(folder: Path) -> dict[str, Any]:
    """Configuration of plain LoRA; variants such as DoRA are other functions of the same weights."""
    path, plain = folder / CONFIG, LoraConfig().to_dict()
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder}: expected an adapter written by save_adapter ({error}).") from error
    if not isinstance(stored, dict) or stored.get("peft_type") != "LORA":
        found = stored.get("peft_type") if isinstance(stored, dict) else stored
        raise ModelError(f"{path}: expected peft_type 'LORA', as save_adapter writes it, got {found!r}.")
    for name, value in stored.items():
        if name not in ("target_modules", *_OPTIONS, *_OTHER) and value not in (plain.get(name), None, False):
            raise ModelError(f"{path}: expected plain LoRA, as add_lora makes it, got {name} = {value!r}.")
    return stored


def _read_weights(folder: Path, stored: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The weights, which are those that are expected, finite, and of this configuration."""
    path = folder / WEIGHTS
    try:
        with safe_open(path, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            header = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: expected weights written by save_adapter ({error}). Save them again.") from error
    found = {name: tuple(value.shape) for name, value in state.items()}
    wrong = sorted(k for k in shapes.keys() | found.keys() if shapes.get(k) != found.get(k))
    if wrong:
        expected, got = (str(of.get(wrong[0], "no such weight")) for of in (shapes, found))
        raise ModelError(
            f"{folder}: the adapter does not fit this classifier, for example {wrong[0]!r}: expected {expected}, got "
            f"{got}. Load it on the backbone and number of classes that it was saved with."
        )
    _check_numbers(state, str(path))
    if CONFIG in header and header[CONFIG] != json.dumps(stored, sort_keys=True):
        raise ModelError(f"{path} was saved with another {CONFIG} than is beside it: save the adapter again.")
    return state


def _check_numbers(state: Mapping[str, Tensor], where: str) -> None:
    for name, value in state.items():
        if not value.is_floating_point() or not value.float().isfinite().all():
            raise ModelError(f"{where}: expected finite weights, got others in {name!r}. Train the adapter again.")
