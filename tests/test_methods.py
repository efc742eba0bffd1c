"""LP, FT and LP-FT: where each starts, what each moves."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegressionCV

from lpft_utils import methods
from lpft_utils.classifier import load_classifier, load_tokenizer, weights_fingerprint
from lpft_utils.errors import ParameterError
from lpft_utils.examples import Split, Task
from lpft_utils.methods import METHODS, Setup, ft, lp, lp_ft
from lpft_utils.probing import fit_head
from lpft_utils.runs import prepare
from lpft_utils.specs import METHOD_NAMES, RunSpec


@pytest.fixture(scope="module")
def task() -> Task:
    words = "the food was good bad here and not very".split()
    rng = np.random.default_rng(0)

    def split(n: int) -> Split:
        return Split(tuple((" ".join(rng.choice(words, rng.integers(3, 9))),) for _ in range(n)), np.arange(n) % 3)

    return Task("toy", ("a", "b", "c"), {"train": split(48), "validation": split(12), "test": split(12)}, "test", True)


def setup_for(task: Task, work: Path, **fields) -> Setup:
    spec = RunSpec(**{"backbone": "tiny", "lp": 1.0, "epochs": 1, "batch_size": 16, "learning_rate": 1e-2, **fields})
    return prepare(spec, task, work, cache=None)


def test_every_method_of_a_spec_exists():
    assert tuple(METHODS) == METHOD_NAMES


@pytest.mark.parametrize("kind", [1.0, "cv", "gd"])
def test_lp_moves_the_head_alone(kind, task, tmp_path):
    setup = setup_for(task, tmp_path, method="lp", lp=kind, lp_steps=20)
    before = {k: v.clone() for k, v in setup.model.state_dict().items()}
    outcome = lp(setup)
    moved = {k for k, v in setup.model.state_dict().items() if not torch.equal(v, before[k])}
    assert moved == {"head.weight", "head.bias"}
    assert outcome.about["lp"]["kind"] == {1.0: "C"}.get(kind, kind)
    assert ("head_norm" in outcome.history) == (kind == "gd")
    if kind == "gd":
        assert {"train_accuracy", "validation_accuracy", "test_accuracy"} <= set(outcome.history)
        last = outcome.history.iloc[-1]
        assert last["head_norm"] == pytest.approx(setup.model.head.weight.norm().item(), rel=1e-5)


def test_cross_validated_lp_chooses_scikit_learns_c_and_head(task, tmp_path):
    setup = setup_for(task, tmp_path, method="lp", lp="cv")
    about = lp(setup).about["lp"]
    X, y = setup.phi_0["train"].double().numpy(), setup.labels["train"].numpy()
    oracle = LogisticRegressionCV(
        Cs=10, cv=5, scoring="accuracy", l1_ratios=(0.0,), use_legacy_attributes=False, max_iter=3000
    ).fit(X, y)
    assert about["C"] == pytest.approx(float(np.ravel(oracle.C_)[0]))

    def objective(V, b):
        logits = X @ V.T + b
        loss = np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1)) + logits.max(1) - logits[range(len(y)), y]
        return about["C"] * loss.sum() + 0.5 * (V**2).sum()

    head = setup.model.head
    ours = objective(head.weight.detach().double().numpy(), head.bias.detach().double().numpy())
    assert ours <= objective(oracle.coef_, oracle.intercept_) * (1 + 1e-6)
    assert len(about["Cs"]) == len(about["cv_accuracy"]) == len(about["norms"]) == 10
    assert np.all(np.diff(about["norms"]) > 0), "less penalty, longer head"


def test_ft_starts_at_the_random_head_and_moves_everything(task, tmp_path, monkeypatch):
    seen = {}
    original = methods.fine_tune

    def spy(model, *args, **kwargs):
        seen["V"], seen["b"] = model.head.weight.detach().clone(), model.head.bias.detach().clone()
        return original(model, *args, **kwargs)

    monkeypatch.setattr(methods, "fine_tune", spy)
    setup = setup_for(task, tmp_path, method="ft", seed=4)
    fingerprint = weights_fingerprint(setup.model.backbone)
    outcome = ft(setup)
    assert torch.equal(seen["V"], load_classifier("tiny", 3, seed=4).head.weight) and not seen["b"].any()
    assert 0.01 < seen["V"].std() < 0.03  # N(0, 0.02²), 96 values
    assert weights_fingerprint(setup.model.backbone) != fingerprint
    expected = torch.linalg.matrix_norm(setup.model.head.weight.detach() - seen["V"]).item()
    assert outcome.about["ft"] == {
        "best_step": outcome.history.attrs["best_step"],
        "head_change": pytest.approx(expected),
    }
    assert "lp" not in outcome.about


def test_lp_ft_is_ft_from_exactly_lps_head(task, tmp_path, monkeypatch):
    probed = setup_for(task, tmp_path / "a", method="lp")
    lp(probed)
    V, b = probed.model.head.weight.detach(), probed.model.head.bias.detach()
    by_hand = setup_for(task, tmp_path / "b", method="ft")
    by_hand.model.set_head(V, b)
    expected = ft(by_hand)
    setup = setup_for(task, tmp_path / "c", method="lp_ft")
    outcome = lp_ft(setup)
    pd.testing.assert_frame_equal(outcome.history, expected.history, check_exact=True)
    assert all(torch.equal(p, q) for p, q in zip(setup.model.parameters(), by_hand.model.parameters(), strict=True))
    start = outcome.history.set_index("step").loc[0, "head_norm"]
    assert start == pytest.approx(torch.linalg.matrix_norm(V).item(), rel=1e-6)
    assert set(outcome.about) == {"lp", "ft"}


def test_prepare_watches_train_and_test_and_remembers_the_start(task, tmp_path):
    setup = setup_for(task, tmp_path)
    assert set(setup.probes) == {"train", "test"}
    for name, probe in setup.probes.items():
        assert torch.equal(probe.phi_0, setup.phi_0[name][: len(probe.labels)])
        assert probe.encoded["labels"][:] == probe.labels.tolist()
    assert setup.origin["head_norm_init"] == pytest.approx(setup.model.head.weight.norm().item(), rel=1e-6)
    assert setup.origin["backbone_fingerprint"] == weights_fingerprint(setup.model.backbone)
    with torch.no_grad():
        text = " ".join(task.splits["test"].texts[3])
        phi = setup.model.features(**load_tokenizer("tiny")(text, return_tensors="pt"))
    torch.testing.assert_close(setup.phi_0["test"][3:4], phi, atol=1e-5, rtol=1e-5)


def test_features_that_cannot_be_fitted_are_refused():
    with pytest.raises(ParameterError):
        fit_head(torch.full((6, 2), float("nan")), torch.arange(6) % 2, 2, 1.0)
    with pytest.raises(ParameterError):
        fit_head(torch.randn(6, 2), torch.zeros(6, dtype=torch.long), 2, "cv")
