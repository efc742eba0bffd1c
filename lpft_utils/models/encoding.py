"""From texts to token batches: tokenise once without padding, pad each batch to its own longest text."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import datasets
import numpy as np
import torch
from torch import Tensor
from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase

from lpft_utils.common.errors import ModelError
from lpft_utils.data.examples import Split

MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def encode(split: Split, tokenizer: PreTrainedTokenizerBase, max_length: int = 128) -> datasets.Dataset:
    """Tokenise a split; nothing is padded yet.

    Args:
        split: Texts of one or two segments, and labels.
        tokenizer: Tokenizer of the backbone.
        max_length: Longest sequence in tokens; of a pair, the longer segment is cut first.

    Returns:
        A data set of `input_ids`, `attention_mask`, `token_type_ids` (where the tokenizer has them), `labels` and
        `length` (tokens), in the order of the split.

    Raises:
        ModelError: If the tokenizer does not know the texts' language or script, so that texts become alike.
    """
    columns = [list(segment) for segment in zip(*split.texts, strict=True)]
    text, pair = columns if len(columns) == 2 else (columns[0], None)
    tokens = tokenizer(text, pair, truncation=True, max_length=max_length)
    encoded: dict[str, Any] = {k: v for k, v in tokens.items() if k in MODEL_INPUTS}
    encoded["labels"] = split.labels.tolist()
    encoded["length"] = [len(ids) for ids in encoded["input_ids"]]
    _check_tokens(split, encoded["input_ids"], tokenizer, max_length)
    return datasets.Dataset.from_dict(encoded)


def _check_tokens(split: Split, rows: list[list[int]], tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
    """Raise if most tokens are unknown, or if different texts mostly become the same tokens."""
    ids = np.fromiter(itertools.chain.from_iterable(rows), dtype=np.int64)
    unknown = int((ids == tokenizer.unk_token_id).sum())
    words = unknown + int((~np.isin(ids, tokenizer.all_special_ids)).sum())
    # Texts that were cut may well agree as far as they go, and so may texts that differ in capitals or spaces.
    uncut = [i for i, row in enumerate(rows) if len(row) < max_length]
    n_texts = len({tuple(" ".join(split.texts[i]).casefold().split()) for i in uncut})
    n_rows = len({tuple(rows[i]) for i in uncut})
    if unknown > words / 2 or n_rows < n_texts / 2:
        raise ModelError(
            f"The tokenizer of {tokenizer.name_or_path!r} does not know these texts: {unknown} of {words} tokens are "
            f"unknown to it, and {n_texts} different texts become {n_rows} different sequences of tokens. Expected the "
            "tokenizer files of this backbone, and texts in a language that it was trained on. The first text became "
            f"{tokenizer.convert_ids_to_tokens(rows[0])[:12]}."
        )


class Collator:
    """Pads the examples of one batch to the longest of them (to a multiple of 8 on a GPU, for its tensor cores)."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Remember the tokenizer.

        Args:
            tokenizer: Tokenizer of the backbone.
        """
        self.pad = DataCollatorWithPadding(tokenizer, pad_to_multiple_of=8 if torch.cuda.is_available() else None)

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Pad and stack: `input_ids`, `attention_mask`, … of shape (B, T) and `labels` of shape (B,)."""
        return dict(self.pad([{k: v for k, v in e.items() if k != "length"} for e in examples]))


def stack(
    encoded: datasets.Dataset,
    collate: Callable[[list[dict[str, Any]]], dict[str, Tensor]],
    index: Sequence[int] | None = None,
) -> dict[str, Tensor]:
    """Padded inputs of tokenised examples.

    Args:
        encoded: What `encoding.encode` gives.
        collate: Pads, such as `encoding.Collator`.
        index: Which examples; None means all.

    Returns:
        Tensors (N, T) by name, without labels.
    """
    chosen = encoded if index is None else encoded.select(list(index))
    batch = collate([dict(row) for row in chosen])
    return {k: t for k, t in batch.items() if k != "labels"}
