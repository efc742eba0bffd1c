"""Tiny models of each family, float64, with weights large enough that every gradient matters."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import (
    AlbertConfig,
    BertConfig,
    DistilBertConfig,
    GPT2Config,
    LlamaConfig,
    PreTrainedConfig,
    RobertaConfig,
)

from lpft_utils.models.classifier import Classifier, ClassifierConfig

H = 16
FAMILIES: dict[str, PreTrainedConfig] = {
    "bert": BertConfig(vocab_size=50, hidden_size=H, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24),
    "roberta": RobertaConfig(
        vocab_size=50, hidden_size=H, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, pad_token_id=1
    ),
    "distilbert": DistilBertConfig(vocab_size=50, dim=H, n_layers=2, n_heads=2, hidden_dim=24),
    "gpt2": GPT2Config(vocab_size=50, n_embd=H, n_layer=2, n_head=2, n_positions=64, bos_token_id=0, eos_token_id=0),
    "llama": LlamaConfig(
        vocab_size=50,
        hidden_size=H,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=24,
    ),
    "albert": AlbertConfig(  # one layer used three times
        vocab_size=50,
        embedding_size=8,
        hidden_size=H,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=24,
    ),
}


def classifier(family: str, pooling: str = "first", n_classes: int = 3, seed: int = 0) -> Classifier:
    """A float64 classifier of a family."""
    torch.manual_seed(seed)
    config = ClassifierConfig(FAMILIES[family], pooling=pooling, num_labels=n_classes)
    model = Classifier(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def tokens(lengths: tuple[int, ...] = (9, 4, 6, 1, 9), seed: int = 0, pad: int = 0) -> dict[str, Tensor]:
    """Random token ids, padded on the right."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, 50, (len(lengths), max(lengths)), generator=generator)
    mask = torch.zeros_like(ids)
    for n, length in enumerate(lengths):
        mask[n, :length] = 1
    return {"input_ids": torch.where(mask == 1, ids, pad), "attention_mask": mask}


def relative(x: Tensor, y: Tensor) -> float:
    """‖x − y‖ / ‖y‖."""
    return ((x.double() - y.double()).norm() / y.double().norm()).item()
