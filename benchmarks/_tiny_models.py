"""Tiny random models of every family of `transformers`, and inputs for them: what `coverage.py` measures the engine on.

A configuration is made small by the names of its fields (`CAPS`); where that does not do, `OVERRIDES` says what does.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

ROWS, COLUMNS = (11, 3, 7, 5, 9), (8, 4, 6)  # lengths of the texts
WORDS = (5, 80)  # token ids that texts are made of; those above are for special tokens
IMAGE, SOUND = 32, 64

# Field name → largest value. The first pattern that fits the whole name decides; others keep their value.
CAPS = (
    (r"(num_channels|in_channels|in_chans|audio_channels|input_channels|max_relative_positions|num_labels)", 1000),
    (r".*token_idx?s?|.*token_index|.*_token_ids", 4),
    (r".*vocab_?size.*|codebook_size|num_embeddings|n_vocab", 99),
    (r"(num|n|max)_(hidden_|encoder_|decoder_|conv_|attention_)?(layers|blocks|stages).*|.*_layers|n_layers?|depth|.*_num_layers|.*hidden_layers|resampler_depth|num_encoder_blocks", 2),
    (r".*(key_value_heads|kv_heads|kv_n_heads|num_key_heads|num_value_heads)", 2),
    (r".*head_dim|d_kv|dim_head|d_head|mamba_d_head|mamba_headdim|.*head_size", 8),
    (r".*heads|n_heads?|.*_n_heads", 4),
    (r".*experts_per_tok(en)?|moe_top_?k|moe_k|topk_group|n_group|num_expert_group", 2),
    (r".*experts|moe_num_experts", 4),
    (r"(.*intermediate|.*ffn|.*_inner|.*mlp_dim|.*d_ff|dff|.*linear_units|.*feed_?forward_size).*", 40),
    (r"(.*patch_size|.*tubelet_size)", 8),
    (r"(.*image_size|img_size)", IMAGE),
    (r".*rank|time_step_rank", 8),
    (r".*(position_embeddings|n_positions|max_source_positions|max_target_positions|max_seq_len)|n_ctx|context_length|max_position.*", 64),
    (r".*window.*|local_attention", 4),
    (r"num_quer.*|num_latents|.*n_latents|num_patches|.*num_object_queries|.*query_tokens", 6),
    (r".*(state_size|d_state|ssm_state.*)", 8),
    (r"(.*hidden_?sizes?|.*hidden_dim|d_model|n_embd|.*embed_dim|.*emb_dim|.*embedding_(size|dim)|.*_width|width|.*projection_dim|project_dim|.*_channels|.*_dim|dim|.*_dims|emb_size|.*_units|attention_hidden_size|.*filters|.*projection_size|.*pooler_output_size|.*out_hidden_size|.*channel_list)", 32),
    (r"depths|.*num_blocks|blocks_per_stage|stage_numb_of_layers|num_block_repeats", 1),
)  # fmt: skip
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers")

# What the caps do not do, by model type; a nested configuration by its field.
OVERRIDES: dict[str, dict[str, Any]] = {}

# Not measured, and why.
EXCLUDED: dict[str, str] = {}

# Names that people know, where they are not the model type: what they are.
NAMED: dict[str, tuple[str, str | None, dict[str, Any]]] = {
    "deberta-v3": (
        "deberta-v2",
        None,
        {
            "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8, "share_att_key": True,
            "norm_rel_ebd": "layer_norm", "position_biased_input": False, "type_vocab_size": 0,
        },
    ),
    "pythia": ("gpt_neox", None, {"use_parallel_residual": True}),
    "t5 encoder": ("t5", "T5EncoderModel", {}),
}  # fmt: skip


def names() -> list[str]:
    """Every model type of `AutoModel`, and the named ones."""
    return [*MODEL_MAPPING_NAMES, *NAMED]


def model_class(name: str) -> type:
    """Class of a model type."""
    kind, cls, _ = NAMED.get(name, (name, None, {}))
    found = cls or MODEL_MAPPING_NAMES[kind]
    return getattr(transformers, found if isinstance(found, str) else found[0])


def tiny_config(name: str) -> PreTrainedConfig:
    """A small configuration of a model type."""
    kind, _, more = NAMED.get(name, (name, None, {}))
    cls = CONFIG_MAPPING[kind]
    special = iter(range(WORDS[1], 98))
    return cls(**_merged(_shrunk(cls(), special), {**OVERRIDES.get(kind, {}), **more}))


def _merged(base: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    both = {k: _merged(base[k], v) if isinstance(v, dict) and isinstance(base.get(k), dict) else v for k, v in more.items()}
    return {**base, **both}


def _shrunk(config: PreTrainedConfig, special: Iterator[int]) -> dict[str, Any]:
    """Fields to change, so that what a configuration derives from them follows."""
    fields = {k: v for k, v in config.to_dict().items() if k not in ("id2label", "label2id", "transformers_version")}
    small: dict[str, Any] = {}
    for key, value in fields.items():
        nested = getattr(config, key, None)
        if isinstance(nested, PreTrainedConfig):
            small[key] = {"model_type": nested.model_type, **_shrunk(nested, special)}
        elif isinstance(value, dict) and "mrope_section" in value:
            small[key] = {**value, "mrope_section": [1, 1, 2]}
        else:
            new = _capped(key, value, special)
            if new != value:
                small[key] = new
    return small | _per_layer(fields)


def _capped(key: str, value: Any, special: Iterator[int]) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(_capped(key, v, special) for v in value)
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    cap = next((cap for pattern, cap in CAPS if re.fullmatch(pattern, key)), value)
    if cap == 4 and "token" in key and value > cap:
        return next(special)
    return min(value, cap)


def _per_layer(fields: dict[str, Any]) -> dict[str, Any]:
    """Lists with one entry per layer: a layer of each kind, at least two and at most four."""
    for key in LAYERS:
        n = fields.get(key)
        if not isinstance(n, int) or n < 3:
            continue
        lists = {k: v for k, v in fields.items() if isinstance(v, (list, tuple)) and len(v) == n}
        if not lists:
            continue
        kinds = list(dict.fromkeys(zip(*(map(str, v) for v in lists.values()), strict=True)))
        first = [next(i for i in range(n) if tuple(str(v[i]) for v in lists.values()) == kind) for kind in kinds][:4]
        chosen = sorted(first if len(first) > 1 else [0, 1])
        return {key: len(chosen)} | {k: [v[i] for i in chosen] for k, v in lists.items()}
    return {}


def tiny_model(name: str, config: PreTrainedConfig | None = None) -> nn.Module:
    """Random weights, none of them zero or one, float64, evaluation mode, eager attention."""
    torch.manual_seed(0)
    cls: Any = model_class(name)
    config = config or tiny_config(name)
    model = cls._from_config(config, attn_implementation="eager", experts_implementation="eager")
    return redrawn(model.double().eval())


def redrawn(model: nn.Module, seed: int = 0) -> nn.Module:
    """Noise on every parameter, so that none is zero or one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype))
    return model


def candidates(model: nn.Module, config: PreTrainedConfig, lengths: tuple[int, ...]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Inputs that the model may take, the likeliest first: kind and tensors by name."""
    known = inspect.signature(model.forward).parameters
    generator = torch.Generator().manual_seed(sum(lengths))
    main = getattr(model, "main_input_name", "input_ids")
    text = _text(config, known, lengths, generator) if "input_ids" in known else {}
    images = {}
    if "pixel_values" in known:
        images["pixel_values"] = torch.randn(len(lengths), *_image_shape(config), generator=generator).double()
    if text and main != "pixel_values":
        yield "text", text
    if images:
        yield "image", images
    if text and images:
        yield "text and image", text | images
    for key in ("input_values", "input_features"):
        if key in known:
            mel = next((getattr(config, k) for k in ("num_mel_bins", "feature_size", "input_dim") if hasattr(config, k)), 80)
            for shape in ((SOUND, mel), (mel, SOUND)) if key == "input_features" else ((1600,), (1, 1600), (SOUND, mel)):
                sound = {key: torch.randn(len(lengths), *shape, generator=generator).double()}
                yield "sound", sound | _decoder(config, known, len(lengths), generator)
    if text and main == "pixel_values":
        yield "text", text


def _text(config: Any, known: Any, lengths: tuple[int, ...], generator: torch.Generator) -> dict[str, Tensor]:
    ids = torch.randint(*WORDS, (len(lengths), max(lengths)), generator=generator)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    pad = getattr(config, "pad_token_id", None)
    inputs = {"input_ids": torch.where(mask == 1, ids, pad if isinstance(pad, int) and pad >= 0 else 0)}
    if "attention_mask" in known:
        inputs["attention_mask"] = mask
    return inputs | _decoder(config, known, len(lengths), generator)


def _decoder(config: Any, known: Any, n: int, generator: torch.Generator) -> dict[str, Tensor]:
    if "decoder_input_ids" not in known:
        return {}
    return {"decoder_input_ids": torch.randint(*WORDS, (n, 4), generator=generator)}


def _image_shape(config: Any) -> tuple[int, int, int]:
    for part in (config, getattr(config, "vision_config", None), getattr(config, "backbone_config", None)):
        size = getattr(part, "image_size", None)
        channels = getattr(part, "num_channels", getattr(part, "in_channels", 3))
        if size is not None:
            height, width = size if isinstance(size, (list, tuple)) else (size, size)
            return channels if isinstance(channels, int) else 3, height, width
    return 3, IMAGE, IMAGE
