"""The engine against dense Jacobians in float64."""

import copy

import peft
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import FAMILIES, H, classifier, relative, tokens
from torch import nn

from lpft_utils.common.errors import KernelError
from lpft_utils.ntk import dense_kernel, jacobian, kernel, load_kernel


def body(name: str) -> bool:
    return not name.startswith("head.")


@pytest.mark.parametrize("pooling", ["first", "mean", "last"])
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_dense_jacobians_for_every_family_and_pooling(family, pooling):
    model, inputs = classifier(family, pooling), tokens()
    computed = kernel(model, inputs)
    assert relative(computed.F, dense_kernel(model, inputs)) < 1e-10
    phi = model.features(**inputs)
    torch.testing.assert_close(computed.gram, phi @ phi.T + 1)
    assert computed.spec["parameters"] == sum(p.numel() for n, p in model.named_parameters() if body(n))


@pytest.mark.parametrize("family", FAMILIES)
def test_float32_agrees_to_1e_4(family):
    model, inputs = classifier(family), tokens()
    exact = dense_kernel(model, inputs)
    assert relative(kernel(copy.deepcopy(model).float(), inputs).F, exact) < 1e-4


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_the_whole_kernel_is_that_of_all_parameters_with_the_head(family):
    model, inputs = classifier(family), tokens()
    parameters = list(model.parameters())
    rows = []
    for n in range(len(inputs["input_ids"])):
        logits = model(**{k: t[n : n + 1] for k, t in inputs.items()}).logits[0]
        for f in logits:
            gradient = torch.autograd.grad(f, parameters, retain_graph=True)
            rows.append(torch.cat([g.flatten() for g in gradient]))
    J = torch.stack(rows)
    assert relative(kernel(model, inputs).K.flatten(2).flatten(0, 1), J @ J.T) < 1e-10


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=6).map(tuple),
    n_classes=st.integers(2, 5),
    pooling=st.sampled_from(["first", "mean", "last"]),
    family=st.sampled_from(["bert", "gpt2", "llama"]),
    block_size=st.integers(1, 6),
    seed=st.integers(0, 99),
)
def test_any_shape_mask_and_block_size(lengths, n_classes, pooling, family, block_size, seed):
    model, inputs = classifier(family, pooling, n_classes, seed), tokens(lengths, seed)
    computed = kernel(model, inputs, block_size=min(block_size, len(lengths)))
    assert relative(computed.F, dense_kernel(model, inputs)) < 1e-10


def test_an_example_does_not_depend_on_its_batch():
    model, inputs = classifier("bert"), tokens()
    alone = {k: t[2:3] for k, t in inputs.items()}
    assert relative(kernel(model, inputs).F[2:3, :, 2:3], kernel(model, alone).F) < 1e-12


def test_left_padding_gives_what_the_model_computes():
    model, inputs = classifier("bert"), {k: t.flip(1) for k, t in tokens().items()}
    rows = []
    for n in range(len(inputs["input_ids"])):  # the same padded row, since BERT counts positions from the left
        rows.append(jacobian(model, {k: t[n : n + 1] for k, t in inputs.items()})[0])
    J = torch.stack(rows)
    assert relative(kernel(model, inputs).F, torch.tensordot(J, J, ([2], [2]))) < 1e-10


def test_test_by_train_is_a_block_of_the_joint_kernel():
    model, inputs = classifier("roberta"), tokens((5, 9, 3, 7, 2, 8), pad=1)
    joint = kernel(model, inputs)
    first, rest = ({k: t[part] for k, t in inputs.items()} for part in (slice(0, 2), slice(2, 6)))
    block = kernel(model, first, rest)
    assert block.F.shape == (2, 3, 4, 3)
    assert relative(block.F, joint.F[:2, :, 2:]) < 1e-12
    assert relative(block.gram, joint.gram[:2, 2:]) < 1e-12
    assert not block.spec["symmetric"]


def test_groups_sum_to_f_and_each_is_the_kernel_of_its_parameters():
    model, inputs = classifier("gpt2"), tokens()
    by_kind = kernel(model, inputs, groups=lambda name: name.rsplit(".", 1)[-1])
    assert set(by_kind.groups) == {"weight", "bias"}
    assert relative(by_kind.groups["weight"] + by_kind.groups["bias"], by_kind.F) < 1e-12
    only = dense_kernel(model, inputs, parameters=lambda name: body(name) and name.endswith("bias"))
    assert relative(by_kind.groups["bias"], only) < 1e-10


def test_another_head_needs_no_other_model():
    model, inputs = classifier("bert"), tokens()
    V = torch.randn(2, H, dtype=torch.float64)
    assert relative(kernel(model, inputs, V=V).F, dense_kernel(model, inputs, V=V)) < 1e-10


def test_f_grows_with_the_square_of_the_head_norm_and_p_does_not_change():
    model, inputs = classifier("distilbert"), tokens()
    small, large = kernel(model, inputs), kernel(model, inputs, V=7 * model.head.weight.detach())
    assert relative(large.F, 49 * small.F) < 1e-12
    assert relative(large.F, small.scaled(7).F) < 1e-12
    torch.testing.assert_close(large.P, small.P)


def test_without_a_head_bias_nothing_is_added_to_p():
    model, inputs = classifier("bert"), tokens()
    model.head.bias = None
    phi = model.features(**inputs)
    torch.testing.assert_close(kernel(model, inputs).gram, phi @ phi.T)


def with_lora(family: str, targets: list[str], *, trained: bool) -> nn.Module:
    model = classifier(family)
    model.requires_grad_(False)
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=targets, lora_dropout=0.2)
    peft.inject_adapter_in_model(config, model.backbone)
    model.double().eval()
    if trained:
        torch.manual_seed(1)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_" in name:
                    parameter.add_(0.3 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize(
    ("family", "targets"),
    [
        ("bert", ["query", "value"]),
        ("gpt2", ["c_attn"]),
        ("llama", ["q_proj", "v_proj"]),
        ("distilbert", ["q_lin", "v_lin"]),
    ],
)
def test_lora_kernel_equals_dense_jacobians_at_start_and_after_training(family, targets, trained):
    model, inputs = with_lora(family, targets, trained=trained), tokens()
    computed = kernel(model, inputs, groups=lambda name: "A" if "lora_A" in name else "B")
    assert relative(computed.F, dense_kernel(model, inputs)) < 1e-10
    assert (computed.groups["A"].norm() > 0) == trained  # at B = 0 only ∂/∂B is non-zero
    wanted = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert computed.spec["parameters"] == wanted > 0


def test_the_model_is_left_as_it_was():
    model, inputs = classifier("bert"), tokens()
    model.train()
    model.backbone.embeddings.requires_grad_(False)
    before = {name: (p.requires_grad, p.detach().clone()) for name, p in model.named_parameters()}
    kernel(model, inputs, parameters=body)
    assert model.training and model.backbone.training
    for name, p in model.named_parameters():
        assert (p.requires_grad, p.grad) == (before[name][0], None)
        assert torch.equal(p, before[name][1])
    assert not any(module._forward_hooks for module in model.modules())


def test_frozen_parameters_are_left_out_by_default():
    model, inputs = classifier("bert"), tokens()
    model.backbone.embeddings.requires_grad_(False)
    named = [name for name, p in model.named_parameters() if body(name) and p.requires_grad]
    assert relative(kernel(model, inputs).F, dense_kernel(model, inputs, parameters=named)) < 1e-10


def test_no_parameters_give_a_kernel_of_zeros():
    model, inputs = classifier("bert"), tokens()
    F = kernel(model, inputs, parameters=[]).F
    assert torch.equal(F, dense_kernel(model, inputs, parameters=[])) and not F.any()


class Functional(nn.Module):
    """Uses a weight outside its module's forward as well."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 4, bias=False)
        self.head = nn.Linear(4, 2)

    def features(self, x):
        return nn.functional.linear(torch.relu(self.body(x)), self.body.weight)


def test_a_weight_used_outside_its_layer_is_exact():
    model, x = Functional().double(), torch.randn(3, 4).double()
    assert relative(kernel(model, x).F, dense_kernel(model, x)) < 1e-10


class Tied(nn.Module):
    """An embedding tied to a linear layer, and changed in place on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 5)
        self.inner = nn.Linear(5, 5)
        self.logits = nn.Linear(5, 11, bias=False)
        self.logits.weight = self.embed.weight
        self.head = nn.Linear(11, 3)
        self.inplace = False

    def features(self, input_ids):
        hidden = nn.functional.relu(self.inner(self.embed(input_ids).mul_(2.0)), inplace=self.inplace)
        return self.logits(hidden).tanh().mean(1)


def test_an_output_changed_in_place_is_exact():
    torch.manual_seed(0)
    model, inputs = Tied().double(), {"input_ids": torch.randint(0, 11, (4, 6))}
    model.inplace = True
    assert relative(kernel(model, inputs).F, dense_kernel(model, inputs)) < 1e-10


def test_an_embedding_tied_to_a_linear_layer():
    torch.manual_seed(0)
    model, inputs = Tied().double(), {"input_ids": torch.randint(0, 11, (4, 6))}
    assert relative(kernel(model, inputs).F, dense_kernel(model, inputs)) < 1e-10


def test_the_padding_row_of_an_embedding_gets_no_gradient():
    model, inputs = classifier("bert", "mean"), tokens()
    del inputs["attention_mask"]  # padding is then read like any token, but its row stays fixed
    J = []
    for n in range(len(inputs["input_ids"])):
        phi = model.features(inputs["input_ids"][n : n + 1])[0]
        weight = model.backbone.embeddings.word_embeddings.weight
        J.append(torch.stack([torch.autograd.grad(f, weight, retain_graph=True)[0] for f in model.head.weight @ phi]))
    flat = torch.stack(J).flatten(2)
    only = kernel(model, inputs, parameters=["backbone.embeddings.word_embeddings.weight"]).F
    assert relative(only, torch.tensordot(flat, flat, ([2], [2]))) < 1e-10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"precision": "half"}, "precision: expected one of"),
        ({"precision": "tf32"}, "CUDA only"),
        ({"head": "classifier"}, "head: expected the name"),
        ({"parameters": ["backbone.nothing"]}, "has no parameter 'backbone.nothing'"),
        ({"memory": 1000}, "memory: expected at least"),
        ({"V": torch.ones(3)}, r"V: expected a tensor of finite numbers, shape \(C, H\).* got shape \(3,\)"),
        ({"V": [[1.0] * H]}, r"V: expected a tensor .* got list"),
        ({"V": torch.ones(3, 5)}, r"V: expected shape \(C, 16\), since φ has 16 .* got \(3, 5\)"),
        (
            {"features": lambda model, batch: model.backbone(**batch)},
            r"features: expected φ of shape \(1, H\) .* got Bas",
        ),
        ({"groups": lambda name: name.split(".")[9]}, r"groups: expected a label for 'backbone\..*', got IndexError"),
    ],
)
def test_bad_arguments_say_what_was_expected(change, message):
    with pytest.raises(KernelError, match=message):
        kernel(classifier("bert"), tokens(), **change)


def test_inputs_of_different_lengths_are_refused():
    inputs = tokens()
    with pytest.raises(KernelError, match="one first dimension"):
        kernel(classifier("bert"), {**inputs, "attention_mask": inputs["attention_mask"][:2]})


def test_float64_on_request_leaves_the_float32_model_alone():
    model, inputs = classifier("bert").float(), tokens()
    computed = kernel(model, inputs, dtype=torch.float64)
    assert computed.F.dtype == torch.float64
    assert next(model.parameters()).dtype == torch.float32
    assert relative(computed.F, dense_kernel(copy.deepcopy(model).double(), inputs)) < 1e-10


def test_reduced_precision_states_an_error_that_is_true():
    model, inputs = classifier("bert").float(), tokens((9, 8, 7, 9))
    exact = kernel(model, inputs, dtype=torch.float64).F
    rough = kernel(model, inputs, precision="bf16")
    measured = relative(rough.F, exact)
    assert 1e-6 < measured < 3e-2
    assert rough.spec["error"] == pytest.approx(measured, rel=0.05)


def test_saving_and_loading_keeps_everything(tmp_path):
    computed = kernel(classifier("bert"), tokens(), groups=lambda name: name.split(".")[1])
    computed.save(tmp_path / "k.safetensors")
    back = load_kernel(tmp_path / "k.safetensors")
    assert torch.equal(back.F, computed.F) and torch.equal(back.gram, computed.gram)
    assert back.spec == computed.spec and back.groups.keys() == computed.groups.keys()
    assert [p.name for p in tmp_path.iterdir()] == ["k.safetensors"]


def test_a_file_that_is_no_kernel_says_so(tmp_path):
    (tmp_path / "k.safetensors").write_bytes(b"nonsense")
    with pytest.raises(KernelError, match="Cannot read"):
        load_kernel(tmp_path / "k.safetensors")


def test_a_model_without_features_asks_for_them():
    model = classifier("bert")
    model.backbone.head = model.head
    with pytest.raises(KernelError, match="features: BertModel has no method of this name.*`features=`"):
        kernel(model.backbone, tokens())


def test_a_kernel_shows_itself_in_one_line():
    model = classifier("bert")
    n = sum(p.numel() for name, p in model.named_parameters() if body(name))
    shown = repr(kernel(model, tokens((9, 4)), tokens(), groups=lambda name: name.rsplit(".", 1)[-1]))
    assert shown == f"Kernel(N=2, C=3, M=5, {n:,} parameters, groups weight, bias, torch.float64, cpu)"


def test_the_groups_of_the_readme_are_layers_in_every_family():
    def layer(name):
        return next((part for part in name.split(".") if part.isdigit()), "other")

    for family in FAMILIES:
        names = [name for name, _ in classifier(family).named_parameters() if body(name)]
        layers = "0" if family == "albert" else "01"
        assert {layer(name) for name in names} == {*layers, "other"}, family


class Small(nn.Module):
    """φ(x) = tanh(W x), float32."""

    def __init__(self, n_classes: int = 2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(4, 3), nn.Linear(3, n_classes)

    def features(self, x):
        return torch.tanh(self.body(x))


def test_numbers_as_inputs_take_the_type_of_the_computation():
    net, x = Small(), torch.randn(3, 4)
    exact = kernel(net, x, dtype=torch.float64)
    assert exact.F.dtype == torch.float64 and relative(kernel(net, x.double()).F, exact.F) < 1e-5
    rough = kernel(net, x, precision="bf16")
    assert relative(rough.F, exact.F) == pytest.approx(rough.spec["error"], rel=0.01)


@pytest.mark.parametrize("label", ["gram", "", None, 3])
def test_labels_of_groups_are_text(label):
    with pytest.raises(KernelError, match="groups: expected labels that are text"):
        kernel(Small(1), torch.randn(3, 4), groups=lambda name: label)


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (torch.zeros(0, 4), {}, "one first dimension N ≥ 1"),
        (torch.full((2, 4), torch.nan), {}, "φ has entries that are not finite"),
        (torch.ones(2, 4), {"V": torch.full((2, 3), torch.nan)}, "V: expected a tensor of finite numbers"),
        (torch.ones(2, 4), {"V": torch.ones(0, 3)}, "V: expected a tensor of finite numbers"),
        (torch.ones(2, 4), {"dtype": torch.bfloat16}, "expected float32 or float64 weights, got torch.bfloat16"),
        (torch.ones(2, 4), {"block_size": 0}, "block_size must be a positive integer, got 0"),
        (torch.ones(2, 4), {"block_size": 1.5}, "block_size must be a positive integer"),
        (torch.ones(2, 4), {"memory": -1}, "memory must be a positive integer"),
        (["a b"], {}, r"inputs: expected padded tensors by name.* tokenizer\(texts.*Got list"),
        ({"input_ids": [[1, 2]]}, {}, r"Got \{'input_ids': 'list'\}"),
        ({}, {}, r"inputs: expected padded tensors by name"),
    ],
)
def test_bad_arguments_are_told_apart(x, options, message):
    with pytest.raises(KernelError, match=message):
        kernel(Small(), x, **options)
