"""The sketch against the exact kernel."""

import pytest
import torch
from small_models import classifier, relative, tokens

from lpft_utils.common.errors import KernelError
from lpft_utils.ntk import kernel, sketch
from lpft_utils.ntk.sketch import _orthogonal, _table

LENGTHS = (9, 4, 6, 1, 9, 5, 8, 7)


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_exact_where_k_is_the_number_of_parameters(family):
    model, inputs = classifier(family), tokens(LENGTHS)
    made = sketch(model, inputs, k=64**2, check=0)  # no side of any layer is longer than 64
    exact = kernel(model, inputs)
    assert relative(made.kernel().F, exact.F) < 1e-10
    assert relative(made.kernel().gram, exact.gram) < 1e-12


@pytest.mark.parametrize("pilot", [0, 4])
def test_unbiased(pilot):
    model, inputs = classifier("bert"), tokens(LENGTHS)
    exact = kernel(model, inputs).F
    draws = [sketch(model, inputs, k=36, seed=seed, pilot=pilot, check=0).kernel().F for seed in range(120)]
    one = sum(relative(F, exact) for F in draws) / len(draws)
    mean = relative(torch.stack(draws).mean(0), exact)
    # The pilot examples differ between seeds; every draw is unbiased, so the mean's error falls like 1/√120.
    assert mean < 2.5 * one / 120**0.5


def test_error_falls_with_k_and_leading_directions_help():
    model, inputs = classifier("bert", "mean"), tokens(LENGTHS)
    exact = kernel(model, inputs).F

    def error(k, pilot):
        draws = [relative(sketch(model, inputs, k, seed=s, pilot=pilot, check=0).kernel().F, exact) for s in range(8)]
        return sum(draws) / len(draws)

    errors = [error(k, 8) for k in (16, 64, 256)]
    assert errors[0] > errors[1] > errors[2]
    assert error(64, 8) < error(64, 0)


def test_the_stated_error_is_that_of_the_examples_checked():
    model, inputs = classifier("bert"), tokens(LENGTHS)
    made = sketch(model, inputs, k=36, check=len(LENGTHS))
    assert made.spec["checked"] == len(LENGTHS)
    assert repr(made).startswith("Sketch(N=8, C=3, D=") and "error 0." in repr(made) and "\n" not in repr(made)
    assert made.spec["error"] == pytest.approx(relative(made.kernel().F, kernel(model, inputs).F), rel=1e-6)


def test_a_block_of_the_sketched_kernel():
    made = sketch(classifier("bert"), tokens(LENGTHS), k=36, check=0)
    whole, block = made.kernel(), made.kernel([1, 4], [0, 2, 5])
    torch.testing.assert_close(block.F, whole.F[[1, 4]][:, :, [0, 2, 5]])
    torch.testing.assert_close(block.gram, whole.gram[[1, 4]][:, [0, 2, 5]])


def test_the_same_seed_gives_the_same_sketch_whatever_else_draws():
    model, inputs = classifier("bert"), tokens(LENGTHS)
    first = sketch(model, inputs, k=36, check=0)
    torch.randn(3)
    assert torch.equal(first.Z, sketch(model, inputs, k=36, check=0).Z)
    assert not torch.equal(first.Z, sketch(model, inputs, k=36, seed=1, check=0).Z)


def test_projections_are_unbiased_and_keep_leading_directions():
    generator = torch.Generator().manual_seed(0)
    samples = torch.randn(40, 12, dtype=torch.float64) @ torch.diag(torch.linspace(3, 0.1, 12, dtype=torch.float64))
    draws = [_orthogonal(samples, 6, generator, leading=True) for _ in range(2000)]
    mean = torch.stack([R @ R.T for R in draws]).mean(0)
    assert (mean - torch.eye(12)).abs().max() < 0.12
    lead = torch.linalg.eigh(samples.T @ samples)[1][:, -1]
    assert (lead @ draws[0]).norm().item() == pytest.approx(1, abs=1e-10)


def test_id_tables_are_unbiased():
    generator = torch.Generator().manual_seed(0)
    ids = torch.tensor([3, 3, 3, 5, 5, 7])
    draws = [_table(ids, 20, 6, generator, torch.float64, leading=True) for _ in range(3000)]
    mean = torch.stack([S @ S.T for S in draws]).mean(0)
    assert (mean - torch.eye(20)).abs().max() < 0.05
    assert torch.equal(draws[0][3], torch.eye(6, dtype=torch.float64)[0])


def test_too_small_a_sketch_is_refused():
    with pytest.raises(KernelError, match="k: expected at least 4"):
        sketch(classifier("bert"), tokens(), k=2)
