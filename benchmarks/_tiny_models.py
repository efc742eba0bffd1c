"""Tiny random models of every family of `transformers`, and inputs for them: what `coverage.py` measures the engine on.

A configuration is made small by the names of its fields (`CAPS`); where that does not do, `OVERRIDES` says what does.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import peft
import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

ROWS, COLUMNS = (11, 3, 7, 5, 9), (8, 4, 6)  # lengths of the texts
WORDS = (5, 80)  # token ids that texts are made of; those above are for special tokens
IMAGE, SOUND = 32, 64

# Largest value ← patterns of field names. The first that fits the whole name decides; other fields keep their value.
CAPS = (
    (1000, "num_channels in_channels in_chans audio_channels input_channels max_relative_positions num_labels"),
    (1000, "num_feat_extract_layers .*_kernel.* .*stride.*"),
    (4, ".*token_id(x|xs|s)? .*token_index .*_token_ids"),  # then one of those that no text has
    (64, "codebook_size"),
    (99, ".*vocab_?size.* num_embeddings n_vocab"),
    (2, "(num|n|max)_(hidden_|encoder_|decoder_|conv_|attention_)?(layers|blocks|stages).* .*_layers n_layers? depth"),
    (2, ".*_num_layers .*hidden_layers resampler_depth num_encoder_blocks"),
    (2, ".*(key_value_heads|kv_heads|kv_n_heads|num_key_heads|num_value_heads)"),
    (8, ".*head_dim d_kv dim_head d_head .*head_size rotary_dim"),
    (16, "mamba_d_head mamba_headdim"),
    (4, ".*heads n_heads? .*_n_heads"),
    (2, ".*experts_per_tok(en)? moe_top_?k moe_k topk_group n_group num_expert_group"),
    (4, ".*experts"),
    (40, ".*(intermediate|ffn|_inner|mlp_dim|d_ff|linear_units|feed_?forward_size).* dff"),
    (8, ".*patch_size .*tubelet_size"),
    (IMAGE, ".*image_size img_size"),
    (8, ".*rank"),
    (64, ".*(position_embeddings|n_positions|max_source_positions|max_target_positions|max_seq_len) max_position.*"),
    (64, "n_ctx context_length"),
    (10, ".*sliding_window.* attention_window.* local_attention"),  # a window of padding alone gives NaN
    (4, ".*window.*"),
    (6, "num_quer.* num_latents .*n_latents num_patches .*num_object_queries .*query_tokens"),
    (8, ".*(state_size|d_state|ssm_state.*)"),
    (
        32,
        ".*hidden_?sizes? .*hidden_dim d_model n_embd .*embed_dim .*emb_dim .*embedding_(size|dim) emb_size .*_?width",
    ),
    (32, ".*_channels .*_dims? dim .*_units .*filters .*projection_size .*pooler_output_size .*channel_list"),
    (32, "embed_dim_per_stage attention_hidden_size"),
    (1, "depths .*num_blocks blocks_per_stage stage_numb_of_layers num_block_repeats"),
)
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers")

# fmt: off
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
MROPE = {**ROPE, "mrope_section": [1, 1, 2]}
_half = {"rope_parameters": {**ROPE, "mrope_section": [1, 1, 0]}}
_four = {"rope_parameters": {**ROPE, "mrope_section": [1] * 4, "xdrope_section": [1] * 4}}
_compass = {"layer_types": ["full_attention"] * 2, "rope_parameters": {"full_attention": MROPE}}
_indexer = {"n_heads": 2, "kv_heads": 1, "head_dim": 8, "budget": 8, "compress_ratio": 2}
_indexer = {f"indexer_{k}": v for k, v in _indexer.items()}
_groups = {"n_group": 1, "topk_group": 1, "num_experts_per_tok": 2}
_series = {"prediction_length": 4, "context_length": 12, "lags_sequence": [1, 2], "num_time_features": 2}
_patches = {"context_length": 16, "patch_length": 4, "num_input_channels": 2}
_swin = {"window_size": 4, "depths": [1, 1], "num_heads": [2, 4], "embed_dim": 16, "patch_size": 4, "image_size": IMAGE}
_efficient = {
    "in_channels": [32, 16], "out_channels": [16, 24], "kernel_sizes": [3, 3], "strides": [1, 2], "hidden_dim": 1280,
    "num_block_repeats": [1, 1], "expand_ratios": [1, 6], "width_coefficient": 1.0, "depth_coefficient": 1.0,
}
_sam = {
    "vision_config": {"num_pos_feats": 16}, "prompt_encoder_config": {"image_embedding_size": 4, "image_size": IMAGE},
}

# What the caps do not do, by model type; a nested configuration by its field.
OVERRIDES: dict[str, dict[str, Any]] = {
    **{f"{kind}_text": {"rope_parameters": MROPE} for kind in "qwen2_vl qwen2_5_vl glm4v glm_image glm_ocr".split()},
    **{
        kind: {"text_config": {"rope_parameters": MROPE}}
        for kind in "qwen2_vl qwen2_5_vl glm4v glm_image glm_ocr glm46v glmga paddleocr_vl ernie4_5_vl_moe".split()
    },
    # text
    "bamba": {"attn_layer_indices": [1]},
    "bridgetower": {"hidden_size": 64, "text_config": {"hidden_size": 64}, "vision_config": {"hidden_size": 64}},
    "bros": {"hidden_size": 64},
    "chameleon": {"vocabulary_map": {}},
    "cohere_compass": {"text_config": _compass},
    "cohere_compass_text": _compass,
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "clip_qkv": 8.0}},
    "deepseek_ocr2": {"text_config": {"mlp_layer_types": ["dense", "sparse"], **_groups}},
    "deepseek_v2": _groups,
    "diffusion_gemma": {"text_config": {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 16}},
    "dots1": {"n_shared_experts": 1, "n_routed_experts": 4, "first_k_dense_replace": 1, **_groups},
    "emu3": {"vocabulary_map": {}},
    "esm": {"vocab_size": 99, "pad_token_id": 1, "mask_token_id": 4},
    "esmc": {"num_key_value_heads": 4, "vocab_size": 99},
    "glm4v_moe": {"text_config": _half},
    "glm4v_moe_text": _half,
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "hrm_text": {"use_cache": False},
    "hunyuan_vl": {"text_config": _four},
    "hunyuan_vl_text": _four,
    "jamba": {"num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2},
    "layoutlmv3": {"input_size": IMAGE, "coordinate_size": 5, "shape_size": 6},
    "lfm2_moe": {"num_hidden_layers": 3, "layer_types": ["conv", "full_attention", "conv"], "num_dense_layers": 1},
    "lilt": {"channel_shrink_ratio": 2, "hidden_size": 48},
    "longcat_flash": {"qk_head_dim": 16},
    "mamba2": {"head_dim": 16, "num_heads": 4, "n_groups": 2},
    "mistral4": {"rope_parameters": {**ROPE, "llama_4_scaling_beta": 0.1, "original_max_position_embeddings": 8}},
    "mobilebert": {"true_hidden_size": 32, "intra_bottleneck_size": 32},
    "modernbert": {"local_attention": 20},
    "modernvbert": {"text_config": {"local_attention": 20}},
    "nemotron": {"num_key_value_heads": 2},
    "nemotron_h": {"n_routed_experts": 4, "mamba_num_heads": 4, "mamba_head_dim": 16, "n_groups": 2, **_groups},
    "neomme": {"head_dim": 16},
    "paligemma": {"text_config": {"num_key_value_heads": 2, "num_attention_heads": 4, "head_dim": 8}},
    "qwen4_exp": {"text_config": _indexer},
    "qwen4_exp_text": _indexer,
    "recurrent_gemma": {"num_hidden_layers": 3},
    "step3p7": {"text_config": {"sliding_window": 10}},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"attention_hidden_size": 64, "num_hidden_layers": 4, "layers_block_type": ["mamba", "hybrid"] * 2},
    "zamba2": {"attention_hidden_size": 64},
    "unlimited_ocr": {"text_config": {"num_key_value_heads": 4}},
    # time series
    "autoformer": _series,
    "informer": _series,
    "patchtsmixer": _patches,
    "patchtst": _patches,
    "time_series_transformer": _series,
    # images
    "align": {"vision_config": _efficient},
    "bit": {"hidden_sizes": [32, 32, 32, 32], "num_groups": 4},
    "cvt": {"depth": [1, 2, 3], "embed_dim": [32, 32, 32], "num_heads": [1, 2, 4]},
    "donut-swin": _swin,
    "efficientnet": _efficient,
    "levit": {"patch_size": 16, "image_size": 64, "hidden_sizes": [16, 32, 32], "num_attention_heads": [2, 2, 4]},
    "maskformer-swin": _swin,
    "mobilevitv2": {"image_size": 64},
    "pvt": {"image_size": 64, "patch_sizes": [4, 2, 2, 2], "num_encoder_blocks": 4, "hidden_sizes": [32] * 4},
    "sam": _sam,
    "sam_hq": _sam,
    "siglip2": {"vision_config": {"num_patches": 16}},
    "siglip2_vision_model": {"num_patches": 16},
    "swin": _swin,
    "swin2sr": {**_swin, "patch_size": 1},
    "swinv2": _swin,
    # sound
    "audio-spectrogram-transformer": {"max_length": SOUND},
    "csm": {"codec_config": {"upsample_groups": 32}},
    "moonshine": {"encoder_num_key_value_heads": 4, "decoder_num_key_value_heads": 4},
}
# fmt: on

# Not measured: reason → names.
_EXCLUDED = {
    "needs timm": """conditional_detr dab-detr deformable_detr detr edgetam edgetam_vision_model fast_vlm gemma3n
        gemma3n_vision omdet-turbo pe_audio_video pe_audio_video_encoder pe_video pe_video_encoder perception_lm
        table-transformer timm_backbone timm_wrapper""",
    "needs natten, torchaudio or detectron2": "dinat higgs_audio_v2_tokenizer layoutlmv2",
    "no class of this name in this version of transformers": "voxtral_realtime_text",
    "takes the patches of all images in one sequence: no dimension for the examples": """cohere_compass_vision
        cosmos3_edge_vision exaone4_5_vision gemma4_vision glm4v_moe_vision glm4v_vision glm5_next_vision
        glm_image_vision glm_ocr_vision hunyuan_vl_vision inkling2_vision kimi_k25_vision lfm3_vl_vision
        minicpm_ocr_vision minicpmv4_7_vision muse_glimmer_vision video_llama_3_vision muse_spark_vision pixtral
        qwen2_5_vl_vision qwen3_5_moe_vision qwen3_5_vision qwen3_vl_moe_vision qwen3_vl_vision qwen4_exp_vision""",
    "refuses a backward pass in evaluation mode, or its own fails": "reformer rwkv",
    "is random in evaluation mode": "univnet vilt vit_mae vits",
    "torch's own gradient of a single example, the oracle here, is not its finite difference": "cvt",
    "cannot be built in the memory or time of a test": "vibevoice_acoustic_tokenizer vjepa2",
    "takes several inputs at once that are not made here (image tokens, queries, actions, prompts)": """blip-2
        blip_2_qformer clap clvp decision_transformer grounding-dino idefics instructblip instructblipvideo kosmos-2
        lightglue mm-grounding-dino muse_glimmer_assistant nemotron3_5_transcribe_word_timestamp oneformer perceiver pi0
        qwen2_5_omni_thinker qwen3_omni_moe_thinker seggpt timesfm timesfm2_5 tvp videoprism xclip""",
    "takes sound, codes or latents in a form that is not made here": """bark dia fastspeech2_conformer
        fastspeech2_conformer_with_hifigan fun_asr_nano fun_asr_nano_encoder gemma3n_audio gemma4_audio
        granite_speech5_ctc granite_speech5_encoder kyutai_speech_to_text mimi mimi_decoder moonshine_streaming
        muse_spark_audio musicgen musicgen_melody nemo_speechlm nemotron3_5_asr nemotron3_5_transcribe_asr_audio
        nemotron3_5_transcribe_audio nemotron3_diarization nemotron3_diarization_audio nemotron_asr_streaming
        nemotron_asr_streaming_encoder neucodec pocket_tts_audio_tokenizer pocket_tts_audio_tokenizer_decoder
        qwen3_asr_encoder speecht5 vibevoice_acoustic_tokenizer_decoder
        vibevoice_acoustic_tokenizer_encoder voxtral_realtime xcodec xcodec2""",
    "cannot be made tiny by its fields one by one (stages, codes or adapters tied to each other)": """blt d_fine deimv2
        depth_pro dots3_note edgetam_video efficientloftr glm_image_vqmodel granite4_vision lw_detr mask2former molmo2
        pp_doclayout_v3 pp_doclayout_v4 pp_ocrv5_mobile_rec pp_ocrv5_server_rec pp_ocrv6_medium_det pp_ocrv6_small_det
        pp_ocrv6_small_rec pp_ocrv6_tiny_rec rt_detr rt_detr_v2 sam2 sam2_hiera_det_model sam2_video sam2_vision_model
        sam3_tracker sam3_tracker_video sam3_video sapiens2 t5gemma2_encoder uvdoc align xlstm""",
}
EXCLUDED = {name: reason for reason, found in _EXCLUDED.items() for name in found.split()}

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

KNOWN = (
    "bert", "deberta-v3", "modernbert", "gemma3_text", "qwen3", "llama", "mistral", "pythia", "opt", "t5 encoder",
    "bart", "mixtral", "mamba", "vit",
)  # fmt: skip


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
    both = {
        k: _merged(base[k], v) if isinstance(v, dict) and isinstance(base.get(k), dict) else v for k, v in more.items()
    }
    return {**base, **both}


def _shrunk(config: PreTrainedConfig, special: Iterator[int]) -> dict[str, Any]:
    """Fields to change, so that what a configuration derives from them follows."""
    fields = {k: v for k, v in config.to_dict().items() if k not in ("id2label", "label2id", "transformers_version")}
    small: dict[str, Any] = {}
    for key, value in fields.items():
        nested = vars(config).get(key)
        if isinstance(nested, PreTrainedConfig):
            small[key] = {"model_type": nested.model_type, **_shrunk(nested, special)}
        elif isinstance(value, dict) and "mrope_section" in value:
            small[key] = {**value, **MROPE}
        else:
            new = 8 if key == "head_dim" and value is None else _capped(key, value, special)
            if new != value:
                small[key] = new
    if "qk_rope_head_dim" in fields:  # latent attention has no groups of heads
        small["num_key_value_heads"] = 4
    return small | _per_layer(fields)


def _capped(key: str, value: Any, special: Iterator[int]) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(_capped(key, v, special) for v in value)
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    if "heads" in key or key in ("n_head", "n_heads"):
        value = 1 << (max(value, 1).bit_length() - 1)  # a power of two, which divides the width
    cap = next((cap for cap, patterns in CAPS if re.fullmatch(patterns.replace(" ", "|"), key)), value)
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


def tiny_model(name: str, config: PreTrainedConfig | None = None, dtype: torch.dtype = torch.float64) -> nn.Module:
    """Random weights, none of them zero or one, evaluation mode, eager attention."""
    torch.manual_seed(0)
    cls: Any = model_class(name)
    config = config or tiny_config(name)
    model = cls._from_config(config, attn_implementation="eager", experts_implementation="eager")
    return redrawn(model.to(dtype).eval())


def redrawn(model: nn.Module, seed: int = 0) -> nn.Module:
    """Noise on every parameter, so that none is zero or one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype))
    return model


def candidates(
    model: nn.Module, config: PreTrainedConfig, lengths: tuple[int, ...]
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Inputs that the model may take, the likeliest first: kind and tensors by name."""
    known = inspect.signature(model.forward).parameters
    generator = torch.Generator().manual_seed(sum(lengths))
    N, T = len(lengths), max(lengths)
    dtype = next(p.dtype for p in model.parameters())

    def numbers(*shape: int) -> Tensor:
        return torch.randn(N, *shape, generator=generator, dtype=torch.float64).to(dtype)

    text = _text(config, known, lengths, generator) if "input_ids" in known else {}
    if "bbox" in known:
        text["bbox"] = torch.randint(0, 30, (N, T, 4), generator=generator).sort(-1).values
        if config.model_type == "bros":
            text["bbox"] = numbers(T, 8)
        if config.model_type == "udop":
            text["bbox"] = text["bbox"].to(dtype) / 30
    if "visual_feats" in known:
        text |= {"visual_feats": numbers(3, 32), "visual_pos": numbers(3, 4)}
    images = {}
    if "pixel_values" in known:
        shape = _image_shape(config)
        images["pixel_values"] = numbers(*shape)
    main = getattr(model, "main_input_name", "input_ids")
    if text and main != "pixel_values":
        yield "text", text
    if images:
        yield "image", images
        frames = find(config, "num_frames") or 2
        yield "video", {"pixel_values": numbers(frames, *shape)}
    if "spatial_shapes" in known:
        images = {"pixel_values": numbers(16, 3 * 64), "spatial_shapes": torch.full((N, 2), 4)}
        images["pixel_attention_mask"] = torch.ones(N, 16).long()
        yield "image", images
    if text and images:
        yield "text and image", text | images
        yield "text and image", text | {"pixel_values": images["pixel_values"][:, None]}
    if "pixel_values_videos" in known:
        frames = find(config, "num_frames", "frames_per_clip") or 2
        yield "video", {"pixel_values_videos": numbers(frames, *_image_shape(config))}
    if "past_values" in known:
        C, L = getattr(config, "num_input_channels", 0), getattr(config, "context_length", 12)
        yield "series", {"past_values": numbers(L, C) if C else numbers(L)}
        past = {
            "past_values": numbers(14),
            "past_time_features": numbers(14, 2),
            "past_observed_mask": numbers(14) * 0 + 1,
        }
        yield "series", past | {"future_values": numbers(4), "future_time_features": numbers(4, 2)}
    mel = (
        find(
            config,
            "feature_projection_input_dim",
            "num_mel_bins",
            "n_mels",
            "input_feat_size",
            "input_feat_per_channel",
            "feature_size",
            "input_dim",
        )
        or 80
    )
    T_sound = 2 * (find(config, "max_source_positions") or SOUND // 2)
    for key in ("input_features", "input_values"):
        if key in known:
            for shape in ((mel, T_sound), (SOUND, mel), (1600,), (1, 1600), (1, 1920), (1, SOUND, mel)):
                sound = {key: numbers(*shape)} | _decoder(config, known, N, generator)
                yield "sound", sound
                if "input_features_mask" in known:
                    yield (
                        "sound",
                        sound | {"input_features_mask": torch.ones(N, shape[-1 if shape[0] == mel else 0]).long()},
                    )
                elif "attention_mask" in known and len(shape) == 2:
                    yield "sound", sound | {"attention_mask": torch.ones(N, shape[0]).long()}
                if text:
                    yield "text and sound", text | sound
    if text and main == "pixel_values":
        yield "text", text


def find(config: Any, *names: str) -> Any:
    """The first of some fields that a configuration, or one nested in it, has."""
    nested = [v for v in vars(config).values() if isinstance(v, PreTrainedConfig)]
    for name in names:
        for part in (config, *nested):
            value = vars(part).get(name)
            if value is not None:
                return value
    return None


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
    size = find(config, "image_size", "img_size", "crop_size") or IMAGE
    if not isinstance(size, (int, list, tuple)):
        size = IMAGE
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    channels = find(config, "num_channels", "in_channels", "in_chans")
    return channels if isinstance(channels, int) else 3, height, width


# What peft puts into a model whose attention's targets are `q`, `v`, whose MLP's output is `down`, and so on.
ON = {
    "bert": {"q": "query", "v": "value", "down": "output.dense", "words": "word_embeddings", "norm": "LayerNorm"},
    "llama": {"q": "q_proj", "v": "v_proj", "down": "down_proj", "words": "embed_tokens", "norm": "norm"},
}
ADAPTERS: dict[str, Callable[[dict[str, str]], peft.PeftConfig]] = {
    "lora": lambda m: peft.LoraConfig(r=4, target_modules=[m["q"], m["v"]]),
    "lora at its initialisation": lambda m: peft.LoraConfig(r=4, target_modules=[m["q"], m["v"]]),
    "lora on all linear layers": lambda m: peft.LoraConfig(r=4, target_modules="all-linear"),
    "lora on embeddings": lambda m: peft.LoraConfig(r=4, target_modules=[m["q"], m["words"]]),
    "two loras": lambda m: peft.LoraConfig(r=4, target_modules=[m["q"], m["v"]]),
    "rslora": lambda m: peft.LoraConfig(r=4, use_rslora=True, target_modules=[m["q"], m["v"]]),
    "dora": lambda m: peft.LoraConfig(r=4, use_dora=True, target_modules=[m["q"], m["v"]]),
    "modules_to_save": lambda m: peft.LoraConfig(r=4, target_modules=[m["q"]], modules_to_save=[m["norm"]]),
    "trainable tokens": lambda m: peft.TrainableTokensConfig(
        token_indices=list(range(5, 40)), target_modules=[m["words"]]
    ),
    "lora with trainable tokens": lambda m: peft.LoraConfig(
        r=4, target_modules=[m["q"]], trainable_token_indices={m["words"]: list(range(5, 40))}
    ),
    "ia3": lambda m: peft.IA3Config(target_modules=[m["v"], m["down"]], feedforward_modules=[m["down"]]),
    "vera": lambda m: peft.VeraConfig(r=4, target_modules=[m["q"], m["v"]]),
    "loha": lambda m: peft.LoHaConfig(r=4, target_modules=[m["q"], m["v"]]),
    "lokr": lambda m: peft.LoKrConfig(r=4, target_modules=[m["q"], m["v"]]),
    "oft": lambda m: peft.OFTConfig(oft_block_size=8, target_modules=[m["q"], m["v"]]),
    "boft": lambda m: peft.BOFTConfig(boft_block_size=8, target_modules=[m["q"], m["v"]]),
    "prefix tuning": lambda m: peft.PrefixTuningConfig(num_virtual_tokens=3),
    "prompt tuning": lambda m: peft.PromptTuningConfig(num_virtual_tokens=3),
    "p-tuning": lambda m: peft.PromptEncoderConfig(num_virtual_tokens=3, encoder_hidden_size=16),
}


def adapter_names() -> list[str]:
    """Adapters on each family that carries them."""
    return [f"{family} + {adapter}" for family in ON for adapter in ADAPTERS]


def adapted_model(name: str) -> nn.Module:
    """A tiny model with a trained adapter (nothing zero), unless its name says otherwise."""
    family, _, adapter = name.partition(" + ")
    body: Any = tiny_model(family)
    config = ADAPTERS[adapter](ON[family])
    config.task_type = "FEATURE_EXTRACTION"
    model: Any = peft.get_peft_model(body, config)
    if adapter == "two loras":
        model.add_adapter("second", config)
        model.base_model.set_adapter(["default", "second"])
    model.double().eval()
    return model if "initialisation" in adapter else redrawn(model)
