"""The engine on other adapters of peft than LoRA, against dense Jacobians in float64."""

import peft
import pytest
import torch
from small_models import H, classifier, relative, tokens
from torch import nn
from transformers import DebertaV2Config

from lpft_utils.common.errors import KernelError
from lpft_utils.models.classifier import Classifier, ClassifierConfig
from lpft_utils.ntk import dense_kernel, kernel, sketch

TARGETS = {  # scaled outputs, then scaled inputs, as peft has them by default
    "bert": (["key", "value"], ["output.dense"]),
    "gpt2": (["c_attn"], ["mlp.c_proj"]),
    "llama": (["k_proj", "v_proj"], ["down_proj"]),
}


def with_ia3(family: str, *, trained: bool) -> nn.Module:
    model = classifier(family, "last" if family == "gpt2" else "first")
    outputs, inputs = TARGETS[family]
    config = peft.IA3Config(
        target_modules=[*outputs, *inputs], feedforward_modules=inputs, fan_in_fan_out=family == "gpt2"
    )
    peft.inject_adapter_in_model(config, model.backbone)
    if trained:
        torch.manual_seed(3)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "ia3_" in name:
                    parameter.add_(0.5 * torch.randn_like(parameter))
    return model.double().eval()


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("family", TARGETS)
def test_ia3_kernel_equals_dense_jacobians_at_start_and_after_training(family, trained):
    model, inputs = with_ia3(family, trained=trained), tokens()
    computed = kernel(model, inputs)
    assert computed.F.abs().max() > 0
    assert relative(computed.F, dense_kernel(model, inputs)) < 1e-10
    assert computed.spec["parameters"] == sum(p.numel() for n, p in model.named_parameters() if "ia3_" in n)


def test_ia3_vectors_and_the_weights_under_them_at_one_time():
    model, inputs = with_ia3("bert", trained=True), tokens()

    def wanted(name: str) -> bool:
        return "ia3_" in name or "key.base_layer" in name or "output.dense.base_layer" in name

    assert relative(kernel(model, inputs, parameters=wanted).F, dense_kernel(model, inputs, parameters=wanted)) < 1e-10


def test_ia3_at_its_start_is_a_part_of_the_kernel_of_the_weights_rescaled():
    """With l = 1 the derivative by l_i is that by a common factor on row i of W and on entry i of the bias."""
    model, inputs = with_ia3("bert", trained=False), tokens()
    name = "backbone.encoder.layer.1.attention.self.value"
    base = model.get_submodule(f"{name}.base_layer").requires_grad_()
    rows = []
    for n in range(len(inputs["input_ids"])):
        for f in model(**{k: t[n : n + 1] for k, t in inputs.items()}).logits[0]:
            dW, db = torch.autograd.grad(f, (base.weight, base.bias), retain_graph=True)
            rows.append((dW * base.weight).sum(1) + db * base.bias)
    J = torch.stack(rows)
    K = kernel(model, inputs, parameters=[f"{name}.ia3_l.default"]).F.flatten(2).flatten(0, 1)
    assert relative(K, J @ J.T) < 1e-10


@pytest.mark.parametrize("state", ["merged", "disabled"])
def test_ia3_vectors_that_are_not_in_use_are_an_error(state):
    model, inputs = with_ia3("bert", trained=True), tokens()
    for module in model.modules():
        if isinstance(module, peft.tuners.ia3.IA3Layer):
            module.merge() if state == "merged" else module.enable_adapters(False)
    with pytest.raises(KernelError, match=r"φ depends on none of the 8 parameters asked for \(backbone"):
        kernel(model, inputs, parameters=lambda name: "ia3_" in name)


def test_two_ia3_adapters_in_use_are_exact_by_autograd_or_named():
    model = with_ia3("bert", trained=True)
    config = peft.IA3Config(target_modules=["key", "value"], feedforward_modules=[])
    peft.inject_adapter_in_model(config, model.backbone, "second")
    for module in model.modules():
        if isinstance(module, peft.tuners.ia3.IA3Layer):
            module.set_adapter(["default", "second"])
    model.double()

    def ia3(name: str) -> bool:
        return "ia3_" in name

    computed = kernel(model, tokens(), parameters=ia3)
    assert relative(computed.F, dense_kernel(model, tokens(), parameters=ia3)) < 1e-10
    assert len(computed.spec["autograd"]) == 8  # one vector times another is of neither alone
    with pytest.raises(KernelError, match=r"no rule for 8 of the 12 .*ia3_l\.second, .*ia3_l\.default, .*used in mul"):
        kernel(model, tokens(), parameters=ia3, unsupported="error")


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_kernel_of_the_biases_alone_equals_dense_jacobians(family):
    model, inputs = classifier(family), tokens()

    def bias(name: str) -> bool:
        return name.startswith("backbone.") and name.endswith(".bias")

    assert relative(kernel(model, inputs, parameters=bias).F, dense_kernel(model, inputs, parameters=bias)) < 1e-10


def test_dora_is_exact():
    model = classifier("bert")
    config = peft.LoraConfig(r=2, target_modules=["query", "value"], use_dora=True, init_lora_weights=False)
    peft.inject_adapter_in_model(config, model.backbone)
    model.double().eval()
    assert relative(kernel(model, tokens()).F, dense_kernel(model, tokens())) < 1e-10


@pytest.mark.parametrize("targets", [["query_proj", "value_proj"], ["key_proj"]])
def test_a_layer_that_computes_once_for_the_whole_batch(targets):
    torch.manual_seed(0)
    config = DebertaV2Config(
        vocab_size=50, hidden_size=H, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        relative_attention=True, pos_att_type=["c2p", "p2c"], position_buckets=8, share_att_key=True,
    )  # fmt: skip
    model, inputs = Classifier(ClassifierConfig(config, num_labels=3)).double(), tokens()
    adapter = peft.LoraConfig(r=4, lora_alpha=8, target_modules=targets, init_lora_weights=False)
    peft.inject_adapter_in_model(adapter, model.backbone)
    model.double().eval()
    computed = kernel(model, inputs)
    assert relative(computed.F, dense_kernel(model, inputs)) < 1e-10
    assert sketch(model, inputs, k=16, pilot=3, check=3).spec["error"] < 1
