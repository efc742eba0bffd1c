"""Tiny random backbones and tokenizers, made on the spot: every family of the book, a few thousand parameters each."""

from pathlib import Path

import torch
import transformers as tf
from tokenizers import Tokenizer, models, pre_tokenizers, processors

WORDS = "the a cat dog sat ran on under mat house very not good bad film was is and but this".split()
SPECIAL = ["<pad>", "<unk>", "<cls>", "<sep>", "<eos>"]
VOCABULARY = len(SPECIAL) + len(WORDS)
H = 16
PAD, UNK, CLS, SEP, EOS = range(5)


def _config(family: str) -> tf.PreTrainedConfig:
    bert = {
        "vocab_size": VOCABULARY,
        "hidden_size": H,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": 64,
        "pad_token_id": PAD,
    }
    llama = {k: v for k, v in bert.items() if k != "pad_token_id"}
    configs = {
        "bert": lambda: tf.BertConfig(**bert),
        "roberta": lambda: tf.RobertaConfig(**{**bert, "type_vocab_size": 1}),
        "deberta": lambda: tf.DebertaConfig(**bert, relative_attention=True, pos_att_type=["c2p", "p2c"]),
        "deberta-v2": lambda: tf.DebertaV2Config(
            **bert, relative_attention=True, pos_att_type=["c2p", "p2c"], position_buckets=8, share_att_key=True
        ),
        "distilbert": lambda: tf.DistilBertConfig(
            vocab_size=VOCABULARY, dim=H, n_layers=2, n_heads=2, hidden_dim=24, max_position_embeddings=64
        ),
        "modernbert": lambda: tf.ModernBertConfig(
            **bert, cls_token_id=CLS, sep_token_id=SEP, bos_token_id=CLS, eos_token_id=SEP
        ),
        "gpt2": lambda: tf.GPT2Config(
            vocab_size=VOCABULARY, n_embd=H, n_layer=2, n_head=2, n_positions=64, bos_token_id=EOS, eos_token_id=EOS
        ),
        "llama": lambda: tf.LlamaConfig(**llama, num_key_value_heads=1, bos_token_id=EOS, eos_token_id=EOS),
    }
    return configs[family]()


FAMILIES = ("bert", "roberta", "deberta", "deberta-v2", "distilbert", "modernbert", "gpt2", "llama")
DECODERS = ("gpt2", "llama")


def tokenizer(decoder: bool) -> tf.PreTrainedTokenizerFast:
    """Words to ids; encoders get <cls> … <sep> … <sep>, decoders no special token and no padding token."""
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(SPECIAL + WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    if decoder:
        return tf.PreTrainedTokenizerFast(
            tokenizer_object=words, unk_token="<unk>", eos_token="<eos>", padding_side="left"
        )
    words.post_processor = processors.TemplateProcessing(
        single="<cls> $A <sep>", pair="<cls> $A <sep> $B <sep>", special_tokens=[("<cls>", CLS), ("<sep>", SEP)]
    )
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", pad_token="<pad>", cls_token="<cls>", sep_token="<sep>"
    )


def save_backbone(family: str, folder: Path, seed: int = 0, **changes) -> Path:
    """Write a tiny random backbone with its tokenizer, as a Hub repository would hold them.

    Weights are drawn larger than a fresh model's, so that tokens and positions matter to the features.
    """
    config = _config(family)
    for name, value in changes.items():
        setattr(config, name, value)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = tf.AutoModel.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 2:
                    parameter.normal_(0, 0.3)
    model.save_pretrained(folder)
    tokenizer(family in DECODERS).save_pretrained(folder)
    return folder
