"""Restatements of the published code against the formulas, and the directions of their effects."""

import pytest
import torch
from small_models import classifier, relative, tokens

from lpft_utils.ntk import dense_kernel
from lpft_utils.studies import published_code as study
from lpft_utils.studies.published_code import (
    BATCH,
    published_groups,
    published_kernel,
    slots,
    word_factor,
    word_kernel,
    word_weights,
)


@pytest.mark.parametrize(("family", "left_out"), [("bert", "word_embeddings"), ("gpt2", "wte"), ("gpt2", "ln_f")])
def test_the_published_algorithm_gives_the_kernel_of_the_parameters_in_its_groups(family, left_out):
    model, inputs = classifier(family), tokens((5, 3))
    missing = ("word_embeddings", ".wte.", ".ln_f.")
    names = [k for k, _ in model.named_parameters() if not k.startswith("head.")]
    grouped = [k for k in names if not any(part in k for part in missing)]
    assert sorted(name for group in published_groups(names) for name in group) == sorted(grouped)
    assert any(left_out in name for name in names)
    assert relative(published_kernel(model, inputs), dense_kernel(model, inputs, parameters=grouped)) < 1e-10


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


def test_groups_of_roberta_base_are_as_many_as_published():
    found = study.published_counts()
    assert found == {"train": 25, "test": 37, "lora": 12, "words": 76, "passes": 25 * 768 + 76}


def test_groups_of_test_and_training_examples_hold_the_same_parameters():
    names = [k for k, _ in classifier("gpt2").named_parameters() if not k.startswith("head.")]
    coarse, fine = published_groups(names), published_groups(names, test=True)
    assert (len(coarse), len(fine)) == (1 + 2 * 2, 1 + 2 * 3)
    assert sorted(sum(coarse, [])) == sorted(sum(fine, []))
    assert ["backbone.h.0.mlp.c_fc.weight", "backbone.h.0.mlp.c_fc.bias"] in fine


def jacobians(N=3, H=8, D=12):
    """Of training and of test examples, shape (N, H, D), and a head."""
    generator = torch.Generator().manual_seed(0)
    J, J_test = torch.randn(2, N, H, D, dtype=torch.float64, generator=generator)
    return J, J_test, torch.randn(2, H, dtype=torch.float64, generator=generator)


def test_draws_of_the_word_embeddings_have_the_expectation_of_the_formula():
    J, J_test, V = jacobians()
    H, share = 8, 0.25
    weights, itself = word_weights(H, share), torch.eye(3, dtype=torch.bool)[:, None, :, None]
    factors = [[word_factor(x, V, seed, share=share, batch=1) for x in (J, J_test)] for seed in range(3000)]
    for rows, drawn in (
        (J, [word_kernel(A, A, share) for A, _ in factors]),
        (J_test, [word_kernel(A_test, A, share) for A, A_test in factors]),
    ):
        theta = torch.einsum("mhd,nkd->mhnk", rows, J)
        full = torch.einsum("ch,mhnk,dk->mcnd", V, theta, V)
        diagonal = torch.einsum("ch,mhnh,dh->mcnd", V, theta, V)
        expected = torch.where(itself, weights.same * full + weights.diagonal * diagonal, weights.apart * full)
        draws = torch.stack(drawn)
        far = 5 * draws.std(0) / 3000**0.5
        assert ((draws.mean(0) - expected).abs() < far).all()
        assert ((draws.mean(0) - full).abs() > far).any()  # as many draws can tell the two apart


def test_weights_of_the_expectation_at_the_size_of_roberta_base():
    """76 of 768 features: two are drawn together with probability 76 · 75 / (768 · 767), one with 76 / 768."""
    weights = word_weights(768)
    assert weights.apart == pytest.approx((76 / 76.8) ** 2)
    assert weights.same == pytest.approx(76 * 75 / (768 * 767) * 100)
    assert weights.same + weights.diagonal == pytest.approx(76 / 768 * 100)


def test_everything_kept_is_exact():
    J, J_test, V = jacobians()
    A, A_test = (word_factor(x, V, 0, share=1.0, batch=1) for x in (J, J_test))
    torch.testing.assert_close(word_kernel(A_test, A, 1.0), torch.einsum("mcd,nkd->mcnk", V @ J_test, V @ J))


def test_examples_are_written_at_every_eighth_slot_and_later_ones_are_lost():
    J, _, V = jacobians(N=20)
    spaced, right = (word_factor(J, V, 3, share=0.25, batch=batch) for batch in (BATCH, 1))
    assert torch.equal(spaced[[0, 8, 16]], right[:3])
    assert slots(20) == 3 and int((spaced.flatten(1).abs().sum(1) > 0).sum()) == 3
    assert slots(250) == 32


def test_the_same_kernel_with_many_more_backward_passes():
    table = study.cost_table(1)
    assert int(table["backward passes"].iloc[0]) == 32 * 5
    assert float(table["relative difference"].iloc[1]) < 1e-10


def test_draws_inflate_blocks_of_one_draw_and_most_blocks_are_lost():
    table = study.embedding_table(n=16, draws=60)
    exact, expected, drawn, spaced = (
        {key: float(row[key].split()[0]) for key in ("n with n", "n with another", "test i with train i")}
        for _, row in table.iterrows()
    )
    assert exact["n with n"] == 1 and expected["n with n"] > 5
    assert drawn["n with n"] == pytest.approx(expected["n with n"], rel=0.3)
    assert abs(drawn["n with another"] - exact["n with another"]) < 0.3
    assert drawn["test i with train i"] > 2 * exact["test i with train i"]
    assert spaced["n with n"] > 5
    assert float(table["error"].iloc[2]) > 1
    assert table["blocks written"].iloc[-1] == f"{100 * (2 / 16) ** 2:.1f} %"


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
    changes = table[["change of F", "change of P"]].apply(lambda column: column.str.rstrip(" %").astype(float))
    right, norm, plus, divided, published = changes.to_numpy()
    assert (right == 0).all() and norm[0] > 0 and norm[1] == 0 and plus[0] == 0 and plus[1] > 0
    assert (divided > 0).all() and (published > 0).all()


def test_the_two_brier_scores_differ_by_the_number_of_classes():
    for C, row in study.brier_table().iterrows():
        assert abs(float(row["over examples"]) / C - float(row["over examples × classes"])) < 1e-3
