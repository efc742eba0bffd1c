"""LoRA's kernel from the factors of the adapted weights, against the engine, autograd and closed forms."""

import numpy as np
import pytest
import torch
from small_models import classifier, relative, tokens

from lpft_utils.common.errors import KernelError
from lpft_utils.models.adapters import add_lora
from lpft_utils.ntk import dense_kernel, kernel
from lpft_utils.ntk.gradients import Outer
from lpft_utils.studies import lora_kernel as lora


@pytest.fixture
def inputs():
    return tokens()


def small(seed: int = 0, N: int = 4, T: int = 3, C: int = 2, p: int = 5, q: int = 6) -> Outer:
    """Random factors of one layer."""
    generator = torch.Generator().manual_seed(seed)
    return Outer(
        torch.randn(N, T, C, p, dtype=torch.float64, generator=generator),
        torch.randn(N, T, q, dtype=torch.float64, generator=generator),
    )


@pytest.mark.parametrize("family", ["bert", "distilbert", "gpt2", "llama"])
def test_equals_the_kernel_of_a_fresh_peft_adapter(family, inputs):
    model = classifier(family, "last" if family in ("gpt2", "llama") else "first")
    factors = lora.layer_factors(model, inputs, lora.adapted_weights(model))
    add_lora(model, r=3, alpha=6, seed=5)
    exact = dense_kernel(model.double(), inputs)
    computed = lora.lora_kernel(factors, lora.fresh_factors(model), s=2.0)
    assert exact.abs().max() > 0 and relative(computed, exact) < 1e-10
    assert relative(computed, kernel(model, inputs).F) < 1e-10


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_ft_kernel_is_that_of_the_adapted_weights_with_or_without_an_adapter(family, inputs):
    model = classifier(family)
    names = lora.adapted_weights(model)
    assert len(names) == (4 if family == "bert" else 2) and all(n.endswith(".weight") for n in names)
    exact = dense_kernel(model, inputs, parameters=names)
    assert relative(lora.ft_kernel(lora.layer_factors(model, inputs, names)), exact) < 1e-10
    add_lora(model, r=2)
    again = lora.adapted_weights(model)
    assert [n.replace(".base_layer", "") for n in again] == names
    assert relative(lora.ft_kernel(lora.layer_factors(model.double(), inputs, again)), exact) < 1e-10


def test_entries_of_a_have_the_variance_that_is_said():
    model = add_lora(classifier("bert"), r=8)
    entries = torch.cat([A.flatten() for A in lora.fresh_factors(model).values()]).double()
    assert entries.var().item() == pytest.approx(lora.expected_factor(8, 8, 16) / 8, rel=0.15)  # γ = r σ² at s = 1


@pytest.mark.parametrize("r", [1, 3])
def test_mean_and_relative_deviation_over_draws_are_those_of_the_theory(r):
    factors = {"one": small(0), "two": small(1, q=4)}
    K = lora.ft_kernel(factors)
    generator = torch.Generator().manual_seed(2)
    draws = torch.stack(
        [
            lora.lora_kernel(factors, {n: lora._draw(r, x.a, generator) for n, x in factors.items()}, r**-0.5)
            for _ in range(6000)
        ]
    )
    assert relative(draws.mean(0), K) < 0.03
    measured = ((draws - K).square().sum((1, 2, 3, 4)).mean() * r).sqrt() / K.norm()
    assert measured.item() == pytest.approx(lora.relative_standard_deviation(factors), rel=0.04)


def test_rank_one_gradients_fluctuate_by_the_closed_form_of_their_angle():
    """One token, one output, two texts at an angle: relative variance of an entry is (1 + 1/cos²) / r."""
    a = torch.tensor([[1.0, 0.0], [0.6, 0.8]], dtype=torch.float64)
    factors = {"w": Outer(torch.ones(2, 1, 1, 1, dtype=torch.float64), a[:, None])}
    K = a @ a.T
    variances = K**2 + 1.0  # ⟨a, a'⟩² + |a|²|a'|², all |a| = 1
    expected = (variances.sum() / K.square().sum()).sqrt().item()
    assert lora.relative_standard_deviation(factors) == pytest.approx(expected, rel=1e-12)


def test_trace_of_squares_equals_the_matrices_themselves():
    x = small(3, N=5)
    G = x.dense().view(-1, 5, 6)
    M = torch.einsum("npi,mpj->nmij", G, G)
    expected = torch.einsum("nmij,nmji->", M, M).item()
    assert lora._trace_of_squares(x) == pytest.approx(expected, rel=1e-12)


def test_concentration_falls_like_one_over_root_r():
    table = lora.concentration({"w": small(0)}, ranks=(1, 4, 16, 64), n_draws=200, seed=1)
    assert list(table.columns) == ["r", "draw", "error", "alignment", "centred"] and len(table) == 800
    rms = table.groupby("r")["error"].apply(lambda e: np.sqrt((e**2).mean()))
    slope = np.polyfit(np.log(rms.index), np.log(rms), 1)[0]
    assert slope == pytest.approx(-0.5, abs=0.05)
    for column in ("alignment", "centred"):
        assert np.all(np.diff(table.groupby("r")[column].mean()) > 0)
    same = lora.concentration({"w": small(0)}, ranks=(1, 4), n_draws=3, seed=1)
    assert same.equals(lora.concentration({"w": small(0)}, ranks=(1, 4), n_draws=3, seed=1))


def test_expected_factor_is_alpha_squared_variance_over_r():
    assert lora.expected_factor(8, 8, 384) == pytest.approx(8 / (3 * 384))


def test_names_are_those_of_the_weights_without_an_adapter(inputs):
    model = classifier("bert")
    plain = lora.layer_factors(model, inputs, lora.adapted_weights(model))
    add_lora(model, r=2, alpha=4)
    model.double()
    adapted = lora.layer_factors(model, inputs, lora.adapted_weights(model))
    A = lora.fresh_factors(model)
    assert plain.keys() == adapted.keys() == A.keys()
    assert relative(lora.lora_kernel(adapted, A, 2.0), dense_kernel(model, inputs)) < 1e-10


@pytest.mark.parametrize(
    ("A", "told"),
    [
        ({}, r"missing are \['w'\]"),
        ({"w": torch.ones(2, 6).double(), "v": torch.ones(2, 6)}, r"without factors are \['v'\]"),
    ],
)
def test_other_layers_than_those_of_the_factors_are_told(A, told):
    with pytest.raises(KernelError, match=told):
        lora.lora_kernel({"w": small()}, A, 1.0)


def test_wrong_names_are_told(inputs):
    model = classifier("bert")
    for targets in (["no_such_layer"], ["query", "no_such_layer"]):
        with pytest.raises(KernelError, match="'no_such_layer'"):
            lora.adapted_weights(model, targets)
    with pytest.raises(KernelError, match=r"word_embeddings"):
        lora.layer_factors(model, inputs, ["backbone.embeddings.word_embeddings.weight"])
