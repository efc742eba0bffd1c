"""Pre-trained backbones φ: which ones there are, their tokenizers, and fingerprints of their weights.

Weights are read from safetensors only, and no code of a downloaded repository is ever run.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    BertConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from lpft_utils.common.errors import ModelError
from lpft_utils.models.backbone_files import BUNDLED, resolve_backbone


def is_decoder(config: PreTrainedConfig) -> bool:
    """Whether a backbone reads left to right, so that only its last token has seen the whole text."""
    from transformers.models.auto import modeling_auto as auto

    causal, masked = auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    family = config.model_type
    return bool(getattr(config, "is_decoder", False)) or (family in causal and family not in masked)


def load_config(backbone: str) -> PreTrainedConfig:
    """Configuration of a backbone; its weights are not loaded.

    Args:
        backbone: A name that `resolve_backbone` knows.

    Returns:
        The configuration.

    Raises:
        ModelError: If it cannot be loaded.
    """
    if backbone == "tiny":
        return _tiny_config()
    try:
        return AutoConfig.from_pretrained(resolve_backbone(backbone), trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(_cannot_load("configuration", backbone, error)) from error


def load_tokenizer(backbone: str) -> PreTrainedTokenizerBase:
    """Tokenizer of a backbone, padding on the right, with a padding token also for decoders that have none.

    Args:
        backbone: A name that `resolve_backbone` knows.

    Returns:
        The tokenizer.

    Raises:
        ModelError: If it cannot be loaded, a local folder has no file of its vocabulary, or it has tokens that the
            backbone has no embedding of.
    """
    place = resolve_backbone(backbone)
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(_cannot_load("tokenizer", backbone, error)) from error
    config = load_config(backbone)
    # transformers makes up a tokenizer of special tokens alone where there is none: all words would be one to it.
    files = {"tokenizer.json", *tokenizer.vocab_files_names.values()}
    if Path(place).is_dir() and tokenizer.vocab_files_names and not any(Path(place, name).is_file() for name in files):
        raise ModelError(
            f"The folder {place} has no tokenizer: expected one of {', '.join(sorted(files))}. Copy the tokenizer's "
            "files from where the backbone comes from (tokenizer.save_pretrained writes them)."
        )
    last, rows = max(tokenizer.get_vocab().values()), getattr(config.get_text_config(), "vocab_size", math.inf)
    if last >= rows:
        raise ModelError(
            f"The tokenizer of {backbone!r} has token ids up to {last}, but the backbone has embeddings for {rows} "
            "tokens only: they are not of the same model. Get both again from one place."
        )
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ModelError(f"Tokenizer of {backbone!r} has neither a padding nor an end-of-text token to pad with.")
        tokenizer.pad_token = tokenizer.eos_token  # masked out everywhere, so which token it is does not matter
    tokenizer.padding_side = "right"
    return tokenizer


def load_backbone(backbone: str) -> PreTrainedModel:
    """A pre-trained Transformer φ in float32, as `AutoModel` gives it.

    Args:
        backbone: "minilm", "mpnet", "tiny", a local folder or a Hub id (safetensors weights only).

    Returns:
        The backbone.

    Raises:
        ModelError: If it cannot be loaded, or its weights lack tensors that its configuration asks for.
    """
    if backbone == "tiny":
        return _tiny_bert()
    try:
        with quiet_transformers():
            phi, report = AutoModel.from_pretrained(
                resolve_backbone(backbone),
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(_cannot_load("backbone", backbone, error)) from error
    # transformers would draw missing weights at random with a mere note; the pooler is dropped by the classifier.
    missing = sorted(name for name in report["missing_keys"] if not name.startswith("pooler."))
    if missing:
        raise ModelError(
            f"The weights of {backbone!r} lack {len(missing)} tensors that its config.json asks for, such as "
            f"{missing[0]!r}. Expected the weights of one and the same model: get both files again."
        )
    return phi


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' bars for loading and saving weights, and its notes below errors, off the reader's page."""
    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


@cache
def _tiny_config() -> BertConfig:
    return BertConfig(
        vocab_size=30522,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=512,
    )


def _tiny_bert() -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # one fixed "pre-trained" random model, whatever the head's seed
        return AutoModel.from_config(_tiny_config())


def _cannot_load(what: str, backbone: str, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    local = backbone in BUNDLED or Path(backbone).expanduser().is_dir()
    where = "" if local else "there is no such folder, and from the Hugging Face Hub: "
    return (
        f"Cannot load the {what} of {backbone!r}: {where}{reason}\n"
        "Expected 'minilm' (embedded, works offline), 'mpnet' (from the extra of this name), 'tiny' (random, for "
        "tests), a local folder with config.json, model.safetensors and tokenizer files, or a Hub id that this machine "
        "can reach. `lpft doctor` says whether it can."
    )
