"""Tokens and batches against the tokenizer called on each text alone."""

import copy
import json

import numpy as np
import pytest
import torch
from tiny import CLS, PAD, SEP, VOCABULARY, save_backbone
from tokenizers import Regex, normalizers

from lpft_utils.common.errors import ModelError
from lpft_utils.data.examples import Split
from lpft_utils.models.backbone_files import folder_fingerprint
from lpft_utils.models.backbones import load_backbone, load_tokenizer
from lpft_utils.models.encoding import Collator, encode

SINGLE = Split((("the cat sat",), ("good film and very bad house",), ("dog",)), np.array([2, 0, 1]))
PAIRS = Split((("the cat sat", "good"), ("film", "very bad house was under the mat")), np.array([1, 0]))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return load_tokenizer(str(save_backbone("bert", tmp_path_factory.mktemp("bert"))))


def test_texts_are_tokenised_in_order_without_padding(tokenizer):
    encoded = encode(SINGLE, tokenizer)
    for row, (text,) in zip(encoded, SINGLE.texts, strict=True):
        ids = [CLS, *tokenizer.convert_tokens_to_ids(text.split()), SEP]
        assert row["input_ids"] == ids and row["attention_mask"] == [1] * len(ids) and row["length"] == len(ids)
    assert encoded["labels"][:] == [2, 0, 1]


def test_pairs_are_two_segments_of_one_sequence(tokenizer):
    encoded = encode(PAIRS, tokenizer)
    for row, (a, b) in zip(encoded, PAIRS.texts, strict=True):
        first, second = (tokenizer.convert_tokens_to_ids(s.split()) for s in (a, b))
        assert row["input_ids"] == [CLS, *first, SEP, *second, SEP]


def test_long_text_is_cut_to_max_length_and_the_longer_segment_first(tokenizer):
    assert encode(SINGLE, tokenizer, max_length=5)["length"][:] == [5, 5, 3]
    ids = encode(PAIRS, tokenizer, max_length=6)[1]["input_ids"]
    film, very, bad = tokenizer.convert_tokens_to_ids("film very bad".split())
    assert ids == [CLS, film, SEP, very, bad, SEP]


def test_segment_ids_of_a_real_tokenizer_are_kept():
    row = encode(PAIRS, load_tokenizer("tiny"))[0]
    assert set(row["token_type_ids"]) == {0, 1} and len(row["token_type_ids"]) == row["length"]


def test_collator_pads_to_the_longest_of_the_batch_and_drops_length(tokenizer, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    encoded = encode(SINGLE, tokenizer)
    batch = Collator(tokenizer)([encoded[0], encoded[2]])
    assert set(batch) == {"input_ids", "attention_mask", "labels"}
    assert batch["input_ids"].shape == (2, 5)
    assert batch["input_ids"][1].tolist()[3:] == [PAD, PAD]
    assert batch["attention_mask"].tolist() == [[1] * 5, [1, 1, 1, 0, 0]]
    assert batch["labels"].tolist() == [2, 1] and batch["labels"].dtype == torch.int64


def test_collator_pads_to_a_multiple_of_8_for_tensor_cores(tokenizer, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    encoded = encode(SINGLE, tokenizer)
    assert Collator(tokenizer)([encoded[0]])["input_ids"].shape == (1, 8)


# ---- a tokenizer that does not know the texts ----


def texts(*lines: str) -> Split:
    return Split(tuple((line,) for line in lines), np.zeros(len(lines)))


@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2"])
def test_backbone_folder_without_tokenizer_files_is_refused(family, tmp_path):
    save_backbone(family, tmp_path)
    for path in tmp_path.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ModelError, match=r"has no tokenizer: expected one of .*tokenizer\.json"):
        load_tokenizer(str(tmp_path))


def test_tokenizer_with_more_tokens_than_embeddings_is_refused(tmp_path):
    save_backbone("bert", tmp_path)
    load_tokenizer(str(tmp_path))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "vocab_size": VOCABULARY - 1}))
    with pytest.raises(ModelError, match=f"token ids up to {VOCABULARY - 1}, but .* {VOCABULARY - 1} tokens only"):
        load_tokenizer(str(tmp_path))


def test_texts_of_unknown_words_are_refused_with_their_share(tokenizer):
    assert len(encode(texts("the cat sat", "the xyzzy sat", "plugh cat"), tokenizer)) == 3
    with pytest.raises(ModelError, match=r"4 of 7 tokens are unknown .* became \['<cls>', 'the', '<unk>'"):
        encode(texts("the fee sat", "fie foe fum cat"), tokenizer)


def test_different_texts_that_become_alike_are_refused_and_repeated_or_cut_texts_are_not(tokenizer):
    encode(texts(*["the cat sat"] * 9, *["The  cat SAT"] * 9), tokenizer)
    encode(texts(*(f"the cat sat on the mat {word}" for word in "a dog house film".split())), tokenizer, max_length=6)
    silent = copy.deepcopy(tokenizer)
    silent.backend_tokenizer.normalizer = normalizers.Replace(Regex("[a-z]+"), "cat")  # nothing is unknown to it
    with pytest.raises(ModelError, match="0 of 4 tokens are unknown to it, and 4 different texts become 1 different"):
        encode(texts("dog", "house", "film", "mat"), silent)


@pytest.mark.parametrize("name", ["./models/bert", "~/none", "/no/such/folder", "models/bert/base"])
def test_wrong_path_is_told_as_a_folder_that_is_not_there(name):
    for load in (load_tokenizer, load_backbone, folder_fingerprint):
        with pytest.raises(ModelError, match=f"Backbone folder not found: '{name}'"):
            load(name)


def test_name_that_may_be_a_folder_or_a_hub_id_is_told_as_both(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="there is no such folder, and from the Hugging Face Hub: "):
        load_tokenizer("no-one/nothing")
