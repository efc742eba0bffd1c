"""Restatements of the published code against the formulas, and the directions of their effects."""

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from small_models import classifier, relative, tokens

from lpft_utils.ntk import dense_kernel, jacobian
from lpft_utils.studies import published_code as study
from lpft_utils.studies.published_code import (
    installed_binary_head,
    published_groups,
    published_kernel,
    rows_at_stride,
    subsampled,
)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_the_published_algorithm_gives_the_same_kernel(family):
    model, inputs = classifier(family), tokens((5, 3))
    assert relative(published_kernel(model, inputs), dense_kernel(model, inputs)) < 1e-10
    only = published_kernel(model, inputs, exclude=lambda name: "layer" in name or ".h." in name)
    few = [n for n, _ in model.named_parameters() if "layer" not in n and ".h." not in n and not n.startswith("head")]
    assert relative(only, dense_kernel(model, inputs, parameters=few)) < 1e-10


def test_there_are_h_backward_passes_for_every_example_and_group(monkeypatch):
    model, inputs = classifier("bert"), tokens((4, 2))
    calls, grad = [], torch.autograd.grad

    def counted(*args, **options):
        calls.append(1)
        return grad(*args, **options)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    published_kernel(model, inputs)
    names = [k for k, _ in model.named_parameters() if not k.startswith("head.")]
    assert len(calls) == 16 * len(published_groups(names)) * 2


def test_roberta_base_has_25_groups():
    names = [f"backbone.encoder.layer.{i}.{part}.weight" for i in range(12) for part in ("attention.q", "output.dense")]
    assert len(published_groups(["backbone.embeddings.word_embeddings.weight", *names])) == 25


def word_jacobian():
    model, inputs = classifier("bert"), tokens((5, 3, 7))
    name = ["backbone.embeddings.word_embeddings.weight"]
    J = jacobian(model, inputs, V=torch.eye(16, dtype=torch.float64), parameters=name)
    return J, model.head.weight.detach()


def test_a_shared_draw_of_features_has_the_bias_of_the_closed_form_and_separate_draws_have_none():
    generator = torch.Generator().manual_seed(0)
    J = torch.randn(2, 8, 12, dtype=torch.float64, generator=generator)  # (N, H, D)
    V = torch.randn(2, 8, dtype=torch.float64, generator=generator)
    H, k = 8, 2  # a share of 0.25
    theta = torch.einsum("nhd,mkd->nhmk", J, J)
    exact = torch.einsum("ch,nhmk,dk->ncmd", V, theta, V)
    diagonal = torch.einsum("ch,nhmh,dh->ncmd", V, theta, V)
    a = H * (k - 1) / (k * (H - 1))
    for both, expected in ((True, a * exact + (H / k - a) * diagonal), (False, exact)):
        draws = torch.stack([subsampled(J, V, s, share=0.25, both_sides=both) for s in range(1000)])
        far = 5 * draws.std(0) / 1000**0.5
        assert ((draws.mean(0) - expected).abs() < far).all()
        assert bool(((draws.mean(0) - exact).abs() > far).any()) == both  # 1,000 draws can tell the two apart


def test_everything_kept_is_exact():
    J, V = word_jacobian()
    exact = torch.einsum("ncd,mkd->ncmk", V @ J, V @ J)
    torch.testing.assert_close(subsampled(J, V, 0, share=1.0), exact)


def test_rows_at_stride_leave_most_rows_zero():
    K = torch.rand(20, 2, 20, 2) + 1
    written = rows_at_stride(K)
    assert torch.equal(written[[0, 8, 16]], K[:3])
    assert int((written.flatten(1).abs().sum(1) == 0).sum()) == 17


def test_the_installed_binary_head_is_half_of_the_multinomial_one():
    generator = torch.Generator().manual_seed(0)
    phi = torch.randn(80, 4, dtype=torch.float64, generator=generator)
    y = (phi.sum(1) + torch.randn(80, dtype=torch.float64, generator=generator) > 0).long()
    # scikit-learn's binary fit has σ(zᵀφ + c) and the penalty ½‖z‖²; rows ∓w have σ(2wᵀφ) and ‖w‖² = ½‖z‖²/2: twice C.
    z = LogisticRegression(C=2 * 0.7, solver="newton-cholesky", tol=1e-12).fit(phi.numpy(), y.numpy())
    V, b = installed_binary_head(phi, y, C=0.7)
    torch.testing.assert_close(V[1], torch.tensor(z.coef_[0]) / 4, rtol=1e-3, atol=0)
    torch.testing.assert_close(b[1], torch.tensor(z.intercept_[0]) / 4, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(V[0], -V[1])
    torch.testing.assert_close(b[0], -b[1])


def test_the_same_kernel_with_many_more_backward_passes():
    table = study.cost_table(1)
    assert int(table["backward passes"].iloc[0]) == 32 * 5
    assert float(table["relative difference"].iloc[1]) < 1e-10


def test_a_shared_draw_inflates_the_trace_and_the_stride_loses_rows():
    table = study.embedding_table(n=16, draws=60)
    shared, separate, stride, exact = (float(cell.split()[0]) for cell in table["with itself"])
    assert shared > 4 and abs(separate - 1) < 1 and stride < shared and exact == 1
    assert float(table["error"]["one draw for both factors, as published"]) > 1
    assert table["zero rows"]["one draw, rows at stride 8"] == "88 %"


def test_the_installed_head_is_as_accurate_and_less_confident():
    table = study.binary_head_table()
    assert table["accuracy"].nunique() == 1
    assert abs(float(table["‖V‖"]["fitted"]) - 2 * float(table["‖V‖"]["installed"])) < 0.02
    assert float(table["cross-entropy"]["installed"]) > float(table["cross-entropy"]["fitted"])


def test_the_published_accuracy_has_another_chance_level():
    table = study.regression_accuracies()
    assert set(table["chance there"]) == {"67 %"}
    ours, theirs = (table[c].str.rstrip(" %").astype(int) for c in ("argmax over classes", "as published"))
    assert theirs["without signal"] > 1.5 * ours["without signal"]
    assert ours["weak signal"] - ours["without signal"] > theirs["weak signal"] - theirs["without signal"]


def test_gpt2_departures_have_a_size():
    table = study.gpt2_table(4)
    assert table["missing from F"]["by the formula"] == "0.0 %"
    assert float(table["missing from F"]["without the final layer norm"].rstrip(" %")) > 0
    assert float(table["change of P"]["with +1 on P"].rstrip(" %")) > 0


def test_the_two_brier_scores_differ_by_the_number_of_classes():
    for C, row in study.brier_table().iterrows():
        assert abs(float(row["over examples"]) / C - float(row["over examples × classes"])) < 1e-3
