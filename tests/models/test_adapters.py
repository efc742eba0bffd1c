"""Adapters on every family: what trains, and what it computes."""

from pathlib import Path

import pytest
import torch
from tiny import FAMILIES, save_backbone

from lpft_utils.common.errors import ModelError
from lpft_utils.models.adapters import add_ia3, add_lora, default_targets
from lpft_utils.models.backbones import load_tokenizer
from lpft_utils.models.classifier import Classifier, load_classifier

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
    names = [k for k in model.state_dict() if ".lora_A." in k]
    assert {k.split(".lora_A.")[0].rpartition(".")[2] for k in names} == endings == set(default_targets(family))
    assert len(names) == 2 * len(endings)  # two blocks
    if shapes is not None:
        assert model.num_parameters(only_trainable=True) == len(names) * 3 * sum(shapes) + 2 * 16 + 2


def test_adapted_layer_is_the_formula(folders):
    model = trained(add_lora(load_classifier(str(folders["bert"]), 2), r=2, alpha=6))
    layer = model.backbone.encoder.layer[1].attention.self.value
    x = torch.randn(5, 16)
    W, c = layer.base_layer.weight, layer.base_layer.bias
    A, B = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    with torch.no_grad():
        torch.testing.assert_close(layer(x), x @ (W + 6 / 2 * B @ A).T + c)


def test_a_depends_on_its_seed_alone(folders):
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


def test_dropout_acts_in_training_alone(folders):
    backbone = str(folders["bert"])
    model = trained(add_lora(load_classifier(backbone, 2), dropout=0.5))
    layer, x = model.backbone.encoder.layer[0].attention.self.query, torch.ones(4, 16)
    assert torch.equal(layer(x), layer(x))
    layer.train()
    assert not torch.equal(layer(x), layer(x))


# ---- refused ----


@pytest.mark.parametrize("first", [add_lora, add_ia3])
def test_second_adapter_is_refused(first):
    model = first(load_classifier("tiny", 2))
    names = model.state_dict().keys()
    for second in (add_lora, add_ia3):
        with pytest.raises(ModelError, match="has an adapter already"):
            second(model)
    assert model.state_dict().keys() == names


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"targets": ["query", "nope"]}, r"linear layers \(dense, key, query, value\), got 'nope'"),
        ({"targets": "nope"}, "got 'nope'"),
        ({"targets": []}, "linear layers .* got None"),
        ({"targets": ["query", "LayerNorm"]}, "linear layers .* got 'LayerNorm'"),
        ({"targets": ["attention"]}, "linear layers .* got 'attention'"),
        ({"targets": ["word_embeddings"]}, "linear layers .* got 'word_embeddings'"),
    ],
)
def test_bad_targets_are_told_and_leave_the_model_as_it_was(options, told):
    model = load_classifier("tiny", 3)
    model.backbone.embeddings.requires_grad_(False)  # so that a change of what trains shows
    before = {name: (p.clone(), p.requires_grad) for name, p in model.named_parameters()}
    with pytest.raises(ModelError, match=f"add_lora: .*{told}"):
        add_lora(model, **options)
    after = dict(model.named_parameters())
    assert after.keys() == before.keys() and not hasattr(model.backbone, "peft_config")
    assert all(torch.equal(after[k], v) and after[k].requires_grad == needs for k, (v, needs) in before.items())


def test_one_target_may_be_given_alone():
    adapted = [add_lora(load_classifier("tiny", 2), targets=t).state_dict().keys() for t in ("query", ["query"])]
    assert adapted[0] == adapted[1] and any("query.lora_A" in name for name in adapted[0])


def test_family_without_known_projections_asks_for_them():
    with pytest.raises(ModelError, match="'resnet' are not known here .*lora_targets"):
        default_targets("resnet")


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
