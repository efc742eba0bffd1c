"""LP, FT, LP-FT, LoRA and LP-LoRA: where each starts, what each moves."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegressionCV

from lpft_utils.common.errors import ParameterError, RunError
from lpft_utils.common.tensors import weights_fingerprint
from lpft_utils.data.examples import Split, Task
from lpft_utils.models.adapters import add_lora
from lpft_utils.models.backbones import load_tokenizer
from lpft_utils.models.classifier import load_classifier
from lpft_utils.runs.execute import prepare
from lpft_utils.training import fine_tuning as training
from lpft_utils.training.methods import LP_FIELDS, METHODS, Method, Setup, ft, lp, lp_ft, register
from lpft_utils.training.probing import fit_head
from lpft_utils.training.spec import RunSpec


@pytest.fixture(scope="module")
def task() -> Task:
    words = "the food was good bad here and not very".split()
    rng = np.random.default_rng(0)

    def split(n: int) -> Split:
        return Split(tuple((" ".join(rng.choice(words, rng.integers(3, 9))),) for _ in range(n)), np.arange(n) % 3)

    return Task("toy", ("a", "b", "c"), {"train": split(48), "validation": split(12), "test": split(12)}, "test", True)


def setup_for(task: Task, folder: Path, **fields) -> Setup:
    spec = RunSpec(**{"backbone": "tiny", "lp": 1.0, "epochs": 1, "batch_size": 16, "learning_rate": 1e-2, **fields})
    return prepare(spec, task, folder, cache=None)


def untrained(_: None = None) -> pd.DataFrame:
    """What a training of no steps would return."""
    history = pd.DataFrame()
    history.attrs["best_step"] = 0
    return history


RECORD = {
    "name": "new", "label": "New", "trains": METHODS["ft"].trains, "run": ft, "fields": LP_FIELDS, "learning_rate": 0.1,
    "color": "#000000", "marker": "o", "line": "-",
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "lp"}, "method 'lp' is registered already"),
        ({"head": "zero"}, "head of 'new': expected 'random' or 'lp', got 'zero'"),
    ],
)
def test_record_that_does_not_fit_is_refused(changes, message):
    with pytest.raises(ParameterError, match=message):
        register(Method(**{**RECORD, **changes}))
    assert "new" not in METHODS


def test_field_that_no_spec_has_is_named_when_the_method_is_asked_for(monkeypatch):
    monkeypatch.setitem(METHODS, "new", Method(**{**RECORD, "fields": ("lp", "rank")}))
    with pytest.raises(RunError, match="method 'new': its record names rank, no field of a run"):
        RunSpec(method="new")


@pytest.mark.parametrize("kind", [1.0, "cv", "gd"])
def test_lp_moves_the_head_alone(kind, task, tmp_path):
    setup = setup_for(task, tmp_path, method="lp", lp=kind, lp_steps=20)
    before = {k: v.clone() for k, v in setup.model.state_dict().items()}
    outcome = lp(setup)
    assert outcome.about["trainable_parameters"] == 3 * 32 + 3
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
    original = training.fine_tune

    def spy(model, *args, **kwargs):
        seen["V"], seen["b"] = model.head.weight.detach().clone(), model.head.bias.detach().clone()
        return original(model, *args, **kwargs)

    monkeypatch.setattr(training, "fine_tune", spy)
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
    assert outcome.about["trainable_parameters"] == sum(p.numel() for p in setup.model.parameters())
    assert outcome.about["train_seconds"] > 0
    assert (outcome.about["peak_memory"] is None) == (not torch.cuda.is_available())


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
    initial = outcome.history.set_index("step").loc[0, "head_norm"]
    assert initial == pytest.approx(torch.linalg.matrix_norm(V).item(), rel=1e-6)
    assert set(outcome.about) == {"lp", "ft", "trainable_parameters", "train_seconds", "peak_memory"}


def test_lora_starts_at_the_random_head_and_moves_adapter_and_head_alone(task, tmp_path):
    setup = setup_for(task, tmp_path, method="lora", seed=4, lora_r=2, lora_alpha=6, lora_targets=("query", "dense"))
    fresh = {k: v.clone() for k, v in setup.model.state_dict().items()}
    outcome = ft(setup)
    model = setup.model
    after = {k.replace(".base_layer.", "."): v for k, v in model.state_dict().items()}
    adapter = {k for k in after if ".lora_" in k}
    assert set(after) - adapter == set(fresh)
    assert {k for k in fresh if not torch.equal(after[k], fresh[k])} == {"head.weight", "head.bias"}
    assert all(after[k].any() for k in adapter), "every B has left zero"
    assert {name for name, p in model.named_parameters() if p.requires_grad} == adapter | {"head.weight", "head.bias"}
    layer = model.backbone.encoder.layer[0].attention.self.query
    assert layer.lora_A["default"].weight.shape == (2, 32) and layer.scaling["default"] == 3.0
    # query 32→32; dense 32→32, 32→64 and 64→32; two blocks; head of three classes
    assert outcome.about["trainable_parameters"] == 2 * 2 * (64 + 64 + 96 + 96) + 3 * 32 + 3
    assert outcome.about["ft"]["head_change"] > 0 and "lp" not in outcome.about
    initial = outcome.history.set_index("step").loc[0]
    assert initial["head_norm"] == pytest.approx(fresh["head.weight"].norm().item(), rel=1e-6)
    assert initial["test_Diff"] == pytest.approx(0, abs=1e-5), "B = 0: the adapter changes nothing yet"


def test_lora_draws_a_from_the_seed(task, tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(training, "fine_tune", lambda model, *a, **k: untrained(drawn.update(model.state_dict())))
    ft(setup_for(task, tmp_path, method="lora", seed=4))
    name = "backbone.encoder.layer.1.attention.self.value.lora_A.default.weight"
    A = {seed: add_lora(load_classifier("tiny", 3), seed=seed).state_dict()[name] for seed in (4, 5)}
    assert torch.equal(drawn[name], A[4]) and not torch.equal(drawn[name], A[5])


@pytest.mark.parametrize("norm", [None, 0.5, 40.0])
@pytest.mark.parametrize("name", ["lp_ft", "lp_lora"])
def test_tuning_after_lp_starts_at_lps_head_with_the_norm_asked_for(name, norm, task, tmp_path, monkeypatch):
    probed = setup_for(task, tmp_path / "a", method="lp")
    lp(probed)
    V, b = probed.model.head.weight.detach().clone(), probed.model.head.bias.detach().clone()
    seen = {}

    def spy(model, *args, **kwargs):
        seen.update(V=model.head.weight.detach().clone(), b=model.head.bias.detach().clone())
        seen["trained"] = model.num_parameters(only_trainable=True)
        return untrained()

    monkeypatch.setattr(training, "fine_tune", spy)
    setup = setup_for(task, tmp_path / "b", method=name, head_norm=norm)
    about = METHODS[name].run(setup).about
    factor = 1.0 if norm is None else norm / V.norm().item()
    torch.testing.assert_close(seen["V"], factor * V, rtol=1e-5, atol=0)
    torch.testing.assert_close(seen["b"], factor * b, rtol=1e-5, atol=0)
    assert ("head_scale" in about) == (norm is not None)
    if norm is not None:
        assert seen["V"].norm().item() == pytest.approx(norm, rel=1e-5)
        assert about["head_scale"] == pytest.approx(factor, rel=1e-5)
    everything = sum(p.numel() for p in load_classifier("tiny", 3).parameters())
    assert (seen["trained"] < everything) == (name == "lp_lora")
    assert about["lp"]["kind"] == "C"


@pytest.mark.parametrize("name", ["ft", "lora", "lp_ft", "lp_lora"])
def test_tuning_starts_at_the_multiple_of_its_head_that_is_asked_for(name, task, tmp_path, monkeypatch):
    heads = []

    def spy(model, *args, **kwargs):
        heads.append((model.head.weight.detach().clone(), model.head.bias.detach().clone()))
        return untrained()

    monkeypatch.setattr(training, "fine_tune", spy)
    for factor in (None, 10.0):
        about = METHODS[name].run(setup_for(task, tmp_path / str(factor), method=name, head_factor=factor)).about
        assert about.get("head_scale") == (factor and pytest.approx(factor, rel=1e-5))
    (V, b), (V_scaled, b_scaled) = heads
    assert V.norm() > 0
    torch.testing.assert_close(V_scaled, 10 * V, rtol=1e-5, atol=0)
    torch.testing.assert_close(b_scaled, 10 * b, rtol=1e-5, atol=0)


def test_settings_of_tuning_reach_the_training(task, tmp_path, monkeypatch):
    seen = {}

    def spy(model, *args, **kwargs):
        seen.update(kwargs)
        return untrained()

    monkeypatch.setattr(training, "fine_tune", spy)
    wanted = {
        "epochs": 3, "batch_size": 4, "learning_rate": 0.1, "weight_decay": 0.2, "head_weight_decay": 0.3,
        "label_smoothing": 0.4, "seed": 5,
    }  # fmt: skip
    lp_ft(setup_for(task, tmp_path, method="lp_lora", **wanted))
    assert {k: seen[k] for k in wanted} == wanted


def test_prepare_monitors_train_and_test_and_remembers_the_start(task, tmp_path):
    setup = setup_for(task, tmp_path)
    assert set(setup.monitors) == {"train", "test"}
    for name, monitor in setup.monitors.items():
        assert torch.equal(monitor.phi_0, setup.phi_0[name][: len(monitor.labels)])
        assert monitor.encoded["labels"][:] == monitor.labels.tolist()
    assert setup.provenance["head_norm_init"] == pytest.approx(setup.model.head.weight.norm().item(), rel=1e-6)
    assert setup.provenance["backbone_fingerprint"] == weights_fingerprint(setup.model.backbone)
    with torch.no_grad():
        text = " ".join(task.splits["test"].texts[3])
        phi = setup.model.features(**load_tokenizer("tiny")(text, return_tensors="pt"))
    torch.testing.assert_close(setup.phi_0["test"][3:4], phi, atol=1e-5, rtol=1e-5)


def test_features_that_cannot_be_fitted_are_refused():
    with pytest.raises(ParameterError):
        fit_head(torch.full((6, 2), float("nan")), torch.arange(6) % 2, 2, 1.0)
    with pytest.raises(ParameterError):
        fit_head(torch.randn(6, 2), torch.zeros(6, dtype=torch.long), 2, "cv")
