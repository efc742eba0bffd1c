"""Restatements of the published code against the formulas."""

import numpy as np
import pytest
import torch

from lpft_utils.ntk import dense_kernel, jacobian
from lpft_utils.ntk.published import (
    installed_binary_head,
    published_groups,
    published_kernel,
    rows_at_stride,
    subsampled,
)

from .models import classifier, relative, tokens


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_the_published_algorithm_gives_the_same_kernel(family):
    model, inputs = classifier(family), tokens((5, 3))
    assert relative(published_kernel(model, inputs), dense_kernel(model, inputs)) < 1e-10
    only = published_kernel(model, inputs, exclude=lambda name: "layer" in name or ".h." in name)
    few = [n for n, _ in model.named_parameters() if "layer" not in n and ".h." not in n and not n.startswith("head")]
    assert relative(only, dense_kernel(model, inputs, parameters=few)) < 1e-10


def test_roberta_base_has_25_groups():
    names = [f"backbone.encoder.layer.{i}.{part}.weight" for i in range(12) for part in ("attention.q", "output.dense")]
    assert len(published_groups(["backbone.embeddings.word_embeddings.weight", *names])) == 25


def word_jacobian():
    model, inputs = classifier("bert"), tokens((5, 3, 7))
    name = ["backbone.embeddings.word_embeddings.weight"]
    J = jacobian(model, inputs, V=torch.eye(16, dtype=torch.float64), parameters=name)
    return J, model.head.weight.detach()


def test_a_shared_draw_of_features_is_biased_and_separate_draws_are_not():
    J, V = word_jacobian()
    exact = torch.einsum("ncd,mkd->ncmk", V @ J, V @ J)
    mean = {
        both: torch.stack([subsampled(J, V, s, share=0.25, both_sides=both) for s in range(4000)]).mean(0)
        for both in (True, False)
    }
    trace = {both: torch.einsum("ncnc->", K) / torch.einsum("ncnc->", exact) for both, K in mean.items()}
    assert trace[True] > 1.5  # the share of each feature with itself is counted 1 / share times too often
    assert abs(trace[False] - 1) < 0.15


def test_everything_kept_is_exact():
    J, V = word_jacobian()
    exact = torch.einsum("ncd,mkd->ncmk", V @ J, V @ J)
    torch.testing.assert_close(subsampled(J, V, 0, share=1.0), exact)


def test_rows_at_stride_leave_most_rows_zero():
    K = torch.rand(20, 2, 20, 2) + 1
    written = rows_at_stride(K, 8)
    assert torch.equal(written[[0, 8, 16]], K[:3])
    assert int((written.flatten(1).abs().sum(1) == 0).sum()) == 17


def test_the_installed_binary_head_is_half_of_the_multinomial_one():
    rng = np.random.default_rng(0)
    phi = rng.normal(size=(80, 4))
    y = (phi @ rng.normal(size=4) + rng.normal(size=80) > 0).astype(int)
    fitted, installed = installed_binary_head(phi, y, C=0.7)
    # An independent multinomial fit: three classes with the third absent cannot be, so minimise it directly.
    W = torch.zeros(2, 5, dtype=torch.float64, requires_grad=True)
    x = torch.cat([torch.tensor(phi), torch.ones(80, 1, dtype=torch.float64)], 1)
    optimizer = torch.optim.LBFGS(
        [W], max_iter=500, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(x @ W.T, torch.tensor(y), reduction="sum")
        (total := loss + W[:, :4].square().sum() / (2 * 0.7)).backward()
        return total

    for _ in range(5):
        optimizer.step(closure)
    logits = (x @ W.T).detach().numpy()
    np.testing.assert_allclose(fitted[:, 1] - fitted[:, 0], logits[:, 1] - logits[:, 0], atol=1e-5)
    np.testing.assert_allclose(installed, fitted / 2)
