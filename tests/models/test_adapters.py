"""LoRA on every family: what trains, what it computes, and that a folder, a merge and peft itself agree."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tiny import FAMILIES, save_backbone

from lpft_utils.common.errors import ModelError
from lpft_utils.models.adapters import (
    adapter_state,
    add_ia3,
    add_lora,
    default_targets,
    load_adapter,
    merge_lora,
    save_adapter,
)
from lpft_utils.models.backbones import load_tokenizer
from lpft_utils.models.classifier import Classifier, load_classifier
from lpft_utils.training.methods import trainable_parameters

TEXTS = ["the cat sat on the mat", "good film", "this was a very bad film and the dog ran under the house"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("backbones")
    return {family: save_backbone(family, root / family) for family in FAMILIES}


@pytest.fixture(params=FAMILIES)
def backbone(request: pytest.FixtureRequest, folders: dict[str, Path]) -> str:
    return str(folders[request.param])


def batch_of(backbone: str) -> dict[str, torch.Tensor]:
    return dict(load_tokenizer(backbone)(TEXTS, padding=True, return_tensors="pt"))


def trained(model: Classifier) -> Classifier:
    """As after some training: B is no longer zero, the head another."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if ".lora_B." in name or name.startswith("head."):
                p.normal_(0, 0.5, generator=generator)
    return model


# ---- what it is ----


def test_fresh_adapter_changes_nothing_and_leaves_adapter_and_head_to_train(backbone):
    model = load_classifier(backbone, 3)
    before, batch = {k: v.clone() for k, v in model.state_dict().items()}, batch_of(backbone)
    expected = model.features(**batch)
    assert add_lora(model, r=4) is model and not model.training
    torch.testing.assert_close(model.features(**batch), expected, atol=1e-6, rtol=1e-6)
    trains = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trains == {name for name, _ in model.named_parameters() if ".lora_" in name or name.startswith("head.")}
    assert trains == set(adapter_state(model))
    after = {k.replace(".base_layer.", "."): v for k, v in model.state_dict().items() if ".lora_" not in k}
    assert after.keys() == before.keys() and all(torch.equal(v, before[k]) for k, v in after.items())
    model(**batch, labels=torch.tensor([0, 1, 2])).loss.backward()
    moved = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved == {name for name in trains if ".lora_A." not in name}, "at B = 0 no derivative by A"


@pytest.mark.parametrize(
    ("family", "endings", "shapes"),
    [
        ("bert", {"query", "value"}, (16, 16)),
        ("roberta", {"query", "value"}, (16, 16)),
        ("distilbert", {"q_lin", "v_lin"}, (16, 16)),
        ("gpt2", {"c_attn"}, (16, 48)),
        ("llama", {"q_proj", "v_proj"}, None),
    ],
)
def test_query_and_value_are_adapted_by_default(family, endings, shapes, folders):
    model = add_lora(load_classifier(str(folders[family]), 2), r=3)
    names = [k for k in adapter_state(model) if ".lora_A." in k]
    assert {k.split(".lora_A.")[0].rpartition(".")[2] for k in names} == endings == set(default_targets(family))
    assert len(names) == 2 * len(endings)  # two blocks
    if shapes is not None:
        assert trainable_parameters(model) == len(names) * 3 * sum(shapes) + 2 * 16 + 2


def test_adapted_layer_is_the_formula(folders):
    model = trained(add_lora(load_classifier(str(folders["bert"]), 2), r=2, alpha=6))
    layer = model.backbone.encoder.layer[1].attention.self.value
    x = torch.randn(5, 16)
    W, c = layer.base_layer.weight, layer.base_layer.bias
    A, B = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    with torch.no_grad():
        torch.testing.assert_close(layer(x), x @ (W + 6 / 2 * B @ A).T + c)


def test_a_depends_on_its_seed_and_kind_alone(folders):
    def first(**options) -> torch.Tensor:
        model = load_classifier(str(folders["bert"]), 2)
        torch.manual_seed(5)
        state = torch.get_rng_state()
        add_lora(model, r=64, **options)
        assert torch.equal(torch.get_rng_state(), state), "the global generator was moved"
        return model.backbone.encoder.layer[0].attention.self.query.lora_A["default"].weight.detach()

    A = first(seed=3)
    assert torch.equal(first(seed=3), A) and not torch.equal(first(seed=4), A)
    assert A.abs().max() <= 16**-0.5 and A.abs().max() > 0.9 * 16**-0.5  # uniform on ±1/√in
    gaussian = first(init="gaussian")
    n = gaussian.numel()
    assert abs(gaussian.std().item() * 64 - 1) < 4 / (2 * n) ** 0.5


def test_dropout_acts_in_training_alone(folders):
    backbone = str(folders["bert"])
    model = trained(add_lora(load_classifier(backbone, 2), dropout=0.5))
    layer, x = model.backbone.encoder.layer[0].attention.self.query, torch.ones(4, 16)
    assert torch.equal(layer(x), layer(x))
    layer.train()
    assert not torch.equal(layer(x), layer(x))


# ---- kept in a folder, merged ----


def test_saved_adapter_gives_the_same_logits_here_and_in_peft(backbone, tmp_path):
    model, batch = trained(add_lora(load_classifier(backbone, 3), r=4, alpha=12)), batch_of(backbone)
    with torch.no_grad():
        expected = model(**batch).logits
        save_adapter(model, tmp_path / "adapter")
        assert {p.name for p in (tmp_path / "adapter").iterdir()} == {
            "adapter_config.json", "adapter_model.safetensors",
        }  # fmt: skip
        again = load_adapter(load_classifier(backbone, 3, seed=8), tmp_path / "adapter")
        by_peft = PeftModel.from_pretrained(load_classifier(backbone, 3, seed=9), tmp_path / "adapter").eval()
        assert torch.equal(again(**batch).logits, expected)
        assert torch.equal(by_peft(**batch).logits, expected)
        fresh = add_lora(load_classifier(backbone, 3))(**batch).logits
    assert (fresh - expected).abs().max() > 1e-2  # the comparison can fail
    assert {n for n, p in again.named_parameters() if p.requires_grad} == set(adapter_state(again))


def test_merged_equals_unmerged_to_rounding(backbone):
    model, batch = trained(add_lora(load_classifier(backbone, 3), r=4, alpha=12)), batch_of(backbone)
    plain = load_classifier(backbone, 3)
    with torch.no_grad():
        expected = model.features(**batch)
        assert merge_lora(model) is model
        torch.testing.assert_close(model.features(**batch), expected, atol=1e-5, rtol=1e-5)
        assert (plain.features(**batch) - expected).abs().max() > 1e-2
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert trainable_parameters(model) == trainable_parameters(plain)
    add_lora(model)  # a merged model can be adapted again


def test_merged_classifier_is_saved_as_any_other(folders, tmp_path):
    backbone = str(folders["bert"])
    model, batch = merge_lora(trained(add_lora(load_classifier(backbone, 3)))), batch_of(backbone)
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(Classifier.from_pretrained(tmp_path).eval()(**batch).logits, model(**batch).logits)


def test_number_of_trainable_parameters():
    model = load_classifier("tiny", 3)
    assert trainable_parameters(model) == sum(np.prod(p.shape) for p in model.parameters())
    model.backbone.requires_grad_(False)
    assert trainable_parameters(model) == 3 * 32 + 3


# ---- refused ----


def state_of(model: Classifier) -> dict[str, tuple[torch.Tensor, bool]]:
    """Everything that a refused call must leave as it was."""
    needs = {name: p.requires_grad for name, p in model.named_parameters()}
    return {name: (value.clone(), needs.get(name, False)) for name, value in model.state_dict().items()}


def assert_unchanged(model: Classifier, before: dict[str, tuple[torch.Tensor, bool]]) -> None:
    after = state_of(model)
    assert after.keys() == before.keys() and hasattr(model.backbone, "peft_config") == any("lora_" in k for k in after)
    assert all(torch.equal(after[k][0], v) and after[k][1] == needs for k, (v, needs) in before.items())


def mixed_training() -> Classifier:
    """A classifier of which only a part requires gradients, so that a change of that shows."""
    model = load_classifier("tiny", 3)
    model.backbone.embeddings.requires_grad_(False)
    return model


@pytest.mark.parametrize("first", [add_lora, add_ia3])
def test_second_adapter_is_refused(first, tmp_path):
    save_adapter(add_lora(load_classifier("tiny", 2)), tmp_path)
    model = first(load_classifier("tiny", 2))
    names = model.state_dict().keys()
    for second in (add_lora, add_ia3, lambda m: load_adapter(m, tmp_path)):
        with pytest.raises(ModelError, match="has an adapter already"):
            second(model)
    assert model.state_dict().keys() == names


@pytest.mark.parametrize("call", [merge_lora, lambda model: save_adapter(model, Path("never"))])
def test_ia3_is_not_taken_for_lora(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="no adapter of add_lora.*IA3Config"):
        call(add_ia3(load_classifier("tiny", 2)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        *[({"r": r}, "rank r .* at least 1") for r in (0, -1, 1.5, True, None, "8")],
        *[({"alpha": alpha}, "alpha .* finite number") for alpha in (float("nan"), float("inf"), None, "8")],
        *[({"dropout": dropout}, "dropout .* share") for dropout in (-0.1, 1.0, 2, float("nan"), None)],
        *[({"init": init}, "'gaussian', got") for init in ("foo", False, None, 1)],
        ({"targets": ["query", "nope"]}, "named 'nope'"),
        ({"targets": "nope"}, "named 'nope'"),
        ({"targets": []}, r"names such as .* got \[\]"),
        ({"targets": [3]}, r"names such as .* got \[3\]"),
        ({"targets": 3}, "names such as .* got 3"),
        ({"targets": ["query", "LayerNorm"]}, "LayerNorm' is a LayerNorm"),
        ({"targets": ["attention"]}, "attention' is a BertAttention"),
        ({"targets": ["word_embeddings"]}, "word_embeddings' is a Embedding"),
    ],
)
def test_bad_arguments_are_told_and_leave_the_model_as_it_was(options, told):
    model = mixed_training()
    before = state_of(model)
    with pytest.raises(ModelError, match=f"add_lora: .*{told}"):
        add_lora(model, **options)
    assert_unchanged(model, before)


def test_one_target_may_be_given_alone():
    adapted = [add_lora(load_classifier("tiny", 2), targets=t).state_dict().keys() for t in ("query", ["query"])]
    assert adapted[0] == adapted[1] and any("query.lora_A" in name for name in adapted[0])


def test_unknown_layer_names_those_that_exist():
    model = load_classifier("tiny", 2)
    with pytest.raises(ModelError, match=r"no layer of the backbone is named 'q_proj'.*'query', 'value'"):
        add_lora(model, targets=["q_proj"])
    add_lora(model, targets=["query"])  # a refused call left no trace


def test_family_without_known_projections_asks_for_them():
    with pytest.raises(ModelError, match="'resnet' are not known here .*lora_targets"):
        default_targets("resnet")


def test_nothing_to_save_or_merge_is_refused(tmp_path):
    model = load_classifier("tiny", 2)
    for call in (merge_lora, lambda model: save_adapter(model, tmp_path)):
        with pytest.raises(ModelError, match="has no adapter"):
            call(model)


def test_folder_that_is_no_adapter_is_refused(tmp_path):
    with pytest.raises(ModelError, match="expected an adapter written by save_adapter"):
        load_adapter(load_classifier("tiny", 2), tmp_path)


def edit_config(folder: Path, **changes) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_weights(folder: Path, change) -> None:
    """Apply a change to the first A; None removes it."""
    path = folder / "adapter_model.safetensors"
    state = load_file(path)
    name = min(k for k in state if ".lora_A." in k)
    value = change(state.pop(name))
    save_file(state if value is None else {**state, name: value.contiguous()}, path)


@pytest.fixture
def saved(tmp_path) -> Path:
    """The adapter of a model of three classes, r = 8."""
    save_adapter(trained(add_lora(load_classifier("tiny", 3))), tmp_path / "adapter")
    return tmp_path / "adapter"


def config_file(text: str):
    return lambda folder: (folder / "adapter_config.json").write_text(text)


def weights_file(change):
    def damage(folder: Path) -> None:
        path = folder / "adapter_model.safetensors"
        path.write_bytes(change(path.read_bytes()))

    return damage


def changed(**changes):
    return lambda folder: edit_config(folder, **changes)


DAMAGES = {
    "truncated weights": (weights_file(lambda content: content[:-100]), "adapter_model.safetensors: expected weights"),
    "garbage weights": (weights_file(lambda _: b"garbage" * 9), "adapter_model.safetensors: expected weights"),
    "empty weights": (weights_file(lambda _: b""), "adapter_model.safetensors: expected weights"),
    "no weights": (lambda folder: (folder / "adapter_model.safetensors").unlink(), "safetensors: expected weights"),
    "no config": (lambda folder: (folder / "adapter_config.json").unlink(), "written by save_adapter"),
    "garbage config": (config_file("{"), "written by save_adapter"),
    "binary config": (lambda f: (f / "adapter_config.json").write_bytes(b"\xff\xfe"), "written by save_adapter"),
    "a list": (config_file("[]"), r"adapter_config.json: expected peft_type 'LORA'.* got \[\]"),
    "empty config": (config_file("{}"), "adapter_config.json: expected peft_type 'LORA'.* got None"),
    "unknown type": (changed(peft_type="FOO"), "got 'FOO'"),
    "IA³": (changed(peft_type="IA3"), "got 'IA3'"),
    "r null": (changed(r=None), "adapter_config.json: expected the rank r .* got None"),
    "r zero": (changed(r=0), "expected the rank r .* got 0"),
    "r of others": (changed(r=5), r"does not fit this classifier.* expected \(5, 32\), got \(8, 32\)"),
    "alpha null": (changed(lora_alpha=None), "adapter_config.json: expected alpha .* got None"),
    "alpha NaN": (changed(lora_alpha=float("nan")), "expected alpha .* got nan"),
    "alpha of others": (changed(lora_alpha=99), "another adapter_config.json"),
    "dropout": (changed(lora_dropout=2), "expected dropout"),
    "PiSSA": (changed(init_lora_weights="pissa"), "got 'pissa'"),
    "DoRA": (changed(use_dora=True), "plain LoRA.* got use_dora = True"),
    "rank-stabilised": (changed(use_rslora=True), "plain LoRA.* got use_rslora = True"),
    "rank by layer": (changed(rank_pattern={"query": 4}), "plain LoRA.* got rank_pattern"),
    "no targets": (changed(target_modules=None), "names such as"),
    "other targets": (changed(target_modules=["c_attn"]), "does not fit this classifier: no layer .* named 'c_attn'"),
    "more targets": (changed(target_modules=["query", "value", "key"]), "does not fit.* got no such weight"),
    "fewer targets": (changed(target_modules=["query"]), "does not fit.* expected no such weight"),
    "missing tensor": (lambda folder: edit_weights(folder, lambda A: None), "does not fit.* got no such weight"),
    "transposed tensor": (lambda folder: edit_weights(folder, lambda A: A.T), r"does not fit.* got \(32, 8\)"),
    "NaN": (lambda folder: edit_weights(folder, lambda A: A * float("nan")), "safetensors: expected finite weights"),
    "integers": (lambda folder: edit_weights(folder, lambda A: A.int()), "safetensors: expected finite weights"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_bad_folder_is_told_and_leaves_the_model_as_it_was(damage, saved):
    change, told = DAMAGES[damage]
    change(saved)
    model = mixed_training().train()
    before = state_of(model)
    with pytest.raises(ModelError, match=told) as caught:
        load_adapter(model, saved)
    assert str(saved) in str(caught.value) and model.training
    assert_unchanged(model, before)


def test_adapter_of_another_model_is_refused(folders, saved):
    for model in (load_classifier("tiny", 2), load_classifier(str(folders["gpt2"]), 3)):
        before = state_of(model)
        with pytest.raises(ModelError, match="does not fit this classifier"):
            load_adapter(model, saved)
        assert_unchanged(model, before)


def test_adapter_without_the_copy_of_its_configuration_is_read(saved):
    edit_weights(saved, lambda A: 2 * A)  # safetensors' own function writes no header
    before = load_file(saved / "adapter_model.safetensors")
    model = load_adapter(load_classifier("tiny", 3), saved)
    assert all(
        torch.equal(v, before[f"base_model.model.{k.replace('.default', '')}"]) for k, v in adapter_state(model).items()
    )


@pytest.mark.parametrize("fails", [1, 2])
def test_interrupted_save_leaves_no_mixture(fails, saved, monkeypatch):
    old = {path.name: path.read_bytes() for path in saved.iterdir()}
    replace, calls = Path.replace, []

    def interrupted(path: Path, target: Path) -> Path:
        calls.append(path)
        if len(calls) == fails:
            raise KeyboardInterrupt
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_adapter(add_lora(load_classifier("tiny", 3), alpha=16), saved)
    now = {path.name: path.read_bytes() for path in saved.iterdir()}
    assert now.keys() == old.keys(), "a partial file is left"
    if fails == 1:
        assert now == old
    else:  # the one moment that no rename covers: old configuration, new weights
        with pytest.raises(ModelError, match="another adapter_config.json"):
            load_adapter(load_classifier("tiny", 3), saved)


@pytest.mark.parametrize("what", ["NaN", "DoRA"])
def test_what_could_not_be_loaded_is_not_saved_over_what_can(what, saved):
    old = {path.name: path.read_bytes() for path in saved.iterdir()}
    model = add_lora(load_classifier("tiny", 3))
    if what == "NaN":
        model.head.weight.data[0, 0] = float("nan")
    else:
        model.backbone.peft_config["default"].use_dora = True
    with pytest.raises(ModelError, match="finite weights" if what == "NaN" else "plain LoRA"):
        save_adapter(model, saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == old
    save_adapter(add_lora(load_classifier("tiny", 3), r=2), saved)  # a good one takes its place
    assert load_adapter(load_classifier("tiny", 3), saved).backbone.peft_config["default"].r == 2


# ---- IA³ ----


def test_ia3_changes_nothing_until_trained_and_trains_vectors_and_head_only(folders):
    backbone = str(folders["bert"])
    model, batch = load_classifier(backbone, 3), batch_of(backbone)
    with torch.no_grad():
        before = model(**batch).logits
        after = add_ia3(model)(**batch).logits
    torch.testing.assert_close(after, before)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert any("ia3_l" in name for name in trained)
    assert all("ia3_l" in name or name.startswith("head.") for name in trained)
    with pytest.raises(ModelError, match="already"):
        add_ia3(model)
    model.backbone.config.model_type = "unheard of"
    del model.backbone.peft_config
    with pytest.raises(ModelError, match="unheard of"):
        add_ia3(model)
