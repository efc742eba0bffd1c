"""Each rule against dense Jacobians, in batches and alone; and what has none."""

import pytest
import torch
from small_models import relative
from torch import nn
from torch.nn import functional

from lpft_utils.common.errors import KernelError
from lpft_utils.ntk import dense_kernel, kernel

B, T, Q = 4, 6, 4


class Operation(nn.Module):
    """φ from one operation on x (B, T, Q) with parameters of its own."""

    def __init__(self, compute, **shapes) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.compute = compute
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.randn(shape)))
        self.head = nn.Linear(5, 3)
        self.double()

    def features(self, x):
        return torch.tanh(self.compute(self, x)).flatten(1)[:, :5]


def channels(x):
    return x.mT


FAST = {
    "linear": (lambda m, x: functional.linear(x, m.w, m.b), {"w": (5, Q), "b": (5,)}),
    "linear, flattened": (lambda m, x: functional.linear(x.flatten(0, 1), m.w).view(len(x), -1), {"w": (5, Q)}),
    "linear, tokens first": (
        lambda m, x: functional.linear(x.transpose(0, 1), m.w, m.b).transpose(0, 1), {"w": (5, Q), "b": (5,)}
    ),
    "addmm": (lambda m, x: torch.addmm(m.b, x.flatten(0, 1), m.w).view(len(x), -1), {"w": (Q, 5), "b": (5,)}),
    "matmul": (lambda m, x: x @ m.w, {"w": (Q, 5)}),
    "matmul from the left": (lambda m, x: m.w @ channels(x), {"w": (5, Q)}),
    "layer norm": (lambda m, x: functional.layer_norm(x, (Q,), m.w, m.b), {"w": (Q,), "b": (Q,)}),
    "layer norm, two dimensions": (lambda m, x: functional.layer_norm(x, (T, Q), m.w, m.b), {"w": (T, Q), "b": (T, Q)}),
    "rms norm": (lambda m, x: functional.rms_norm(x, (Q,), m.w, 1e-4), {"w": (Q,)}),
    "rms norm of two dimensions": (lambda m, x: functional.rms_norm(x, (T, Q), m.w), {"w": (T, Q)}),
    "a norm by hand": (lambda m, x: (1.0 + m.w) * x * x.square().mean(-1, keepdim=True).rsqrt(), {"w": (Q,)}),
    "group norm": (lambda m, x: functional.group_norm(channels(x), 2, m.w, m.b), {"w": (Q,), "b": (Q,)}),
    "batch norm": (
        lambda m, x: functional.batch_norm(channels(x), torch.zeros(Q).double(), torch.ones(Q).double(), m.w, m.b),
        {"w": (Q,), "b": (Q,)},
    ),
    "add and subtract": (lambda m, x: torch.sub(x + m.a, m.b, alpha=3.0), {"a": (T, Q), "b": (Q,)}),
    "add in place": (lambda m, x: (2 * x).add_(m.a), {"a": (1, T, Q)}),
    "exponential of a parameter": (lambda m, x: -torch.exp(m.w[None, :, None]) * channels(x), {"w": (Q,)}),
    "a square": (lambda m, x: x * (m.w * m.w) * m.w, {"w": (Q,)}),
    "class token": (lambda m, x: torch.cat((m.w.expand(len(x), -1, -1), x), 1), {"w": (1, 1, Q)}),
    "convolution": (
        lambda m, x: functional.conv1d(channels(x), m.w, m.b, stride=2, padding=1), {"w": (5, Q, 3), "b": (5,)}
    ),
    "convolution by channel": (lambda m, x: functional.conv1d(channels(x), m.w, padding=2, groups=Q), {"w": (Q, 1, 3)}),
    "convolution of images": (
        lambda m, x: functional.conv2d(x[:, None], m.w, m.b, stride=(2, 1), padding=(1, 0)),
        {"w": (5, 1, 2, 3), "b": (5,)},
    ),
}  # fmt: skip
SLOW = {
    "a product of matrices": (lambda m, x: functional.linear(x, m.u @ m.v), {"u": (5, 2), "v": (2, Q)}),
    "einsum": (lambda m, x: torch.einsum("btq,pq->btp", x, m.w), {"w": (5, Q)}),
    "a divisor": (lambda m, x: x / (4 + m.w.square()), {"w": (Q,)}),
    "convolution in groups": (lambda m, x: functional.conv1d(channels(x), m.w, groups=2), {"w": (Q, 2, 3)}),
    "a table without ids": (lambda m, x: x @ functional.layer_norm(m.w, (Q,)).T, {"w": (5, Q)}),
}


def check(compute, shapes):
    model, x = Operation(compute, **shapes), torch.randn(B, T, Q).double()
    computed = kernel(model, x, block_size=3)
    assert relative(computed.F, dense_kernel(model, x)) < 1e-10
    return model, x, computed


@pytest.mark.parametrize("name", FAST)
def test_a_rule_is_exact_and_needs_no_example_alone(name):
    assert not check(*FAST[name])[2].spec["alone"]


@pytest.mark.parametrize("name", SLOW)
def test_what_has_no_rule_is_exact_by_autograd_and_can_be_refused(name):
    model, x, computed = check(*SLOW[name])
    assert computed.spec["alone"] and computed.spec["autograd"]
    left = len(computed.spec["autograd"])
    with pytest.raises(KernelError, match=f"no rule for {left} of the {len(SLOW[name][1])} parameters"):
        kernel(model, x, unsupported="error")


def test_multihead_attention_of_torch_is_exact():
    class Attention(Operation):
        def __init__(self) -> None:
            super().__init__(None)
            self.body = nn.MultiheadAttention(Q, 1, batch_first=True).double()
            self.last = nn.Linear(Q, 5).double()

        def features(self, x):
            return self.last(input=self.body(x, x, x)[0]).mean(1)

    model, x = Attention(), torch.randn(B, T, Q).double()
    computed = kernel(model, x)
    assert relative(computed.F, dense_kernel(model, x)) < 1e-10
    assert set(computed.spec["autograd"]) == {
        f"body.{n}" for n in ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")
    }


def test_a_layer_in_half_precision_is_held_to_half_precision():
    class Half(Operation):
        def features(self, x):
            return functional.linear(x.float().half(), self.w.half()).to(x.dtype).mean(1)

    model, x = Half(None, w=(5, Q)), torch.randn(B, T, Q).double()
    assert relative(kernel(model, x).F, dense_kernel(model, x)) < 1e-2


def test_an_unknown_way_with_what_has_no_rule_is_refused():
    with pytest.raises(KernelError, match="unsupported: expected 'autograd' or 'error', got 'skip'"):
        kernel(Operation(FAST["linear"][0], **FAST["linear"][1]), torch.randn(B, T, Q), unsupported="skip")
