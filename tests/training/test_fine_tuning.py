"""Fine-tuning through the Trainer: against a hand-written loop, interrupted and resumed, recorded and not."""

import json
import logging
import os

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import Trainer

from lpft_utils.data.examples import Split
from lpft_utils.models.adapters import add_lora
from lpft_utils.models.backbones import load_tokenizer
from lpft_utils.models.classifier import load_classifier
from lpft_utils.models.encoding import Collator, encode
from lpft_utils.models.features import extract_features
from lpft_utils.training import fine_tuning as training
from lpft_utils.training.fine_tuning import fine_tune, last_complete_checkpoint
from lpft_utils.training.recorder import Monitor, Recorder, record_steps

N, BATCH = 24, 4
STEPS = N // BATCH  # in an epoch


@pytest.fixture(scope="module")
def data():
    good, bad = "good great lovely warm".split(), "bad awful cold rude".split()
    rest = "the food was here and this place had it all".split()
    rng = np.random.default_rng(0)

    def split(n: int) -> Split:
        y = rng.integers(0, 2, n)
        texts = [" ".join([*rng.choice(rest, rng.integers(2, 14)), rng.choice(good if c else bad)]) for c in y]
        return Split(tuple((t,) for t in texts), y)

    tokenizer = load_tokenizer("tiny")
    return encode(split(N), tokenizer), encode(split(20), tokenizer), Collator(tokenizer)


def probes_of(model, data) -> dict[str, Monitor]:
    encoded = data[1].select(range(6))
    return {"test": Monitor(encoded, extract_features(model, encoded, data[2]), torch.tensor(encoded["labels"][:]))}


def train(data, work, *, seed=0, epochs=3, probed=True, learning_rate=1e-2, adapted=False, **options):
    model = load_classifier("tiny", 2, seed=0)
    if adapted:
        add_lora(model, dropout=0.1)
    monitors = probes_of(model, data) if probed else None
    history = fine_tune(
        model, data[0], data[1], data[2], work, epochs=epochs, batch_size=BATCH, learning_rate=learning_rate,
        seed=seed, monitors=monitors, **options,
    )  # fmt: skip
    return model, history


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    return train(data, tmp_path_factory.mktemp("work"))


# ---- what is recorded ----


@pytest.mark.parametrize("total", [1, 2, 3, 7, 8, 18, 100, 1000])
def test_recorded_steps_hold_the_ends_and_every_power_of_two(total):
    steps = record_steps(total)
    assert {0, 1, total} <= steps and min(steps) == 0 and max(steps) == total
    assert {2**k for k in range(11) if 2**k <= total} <= steps
    gaps = np.diff(sorted(steps))
    assert gaps.max() <= total / 4 + 1
    assert len(steps) <= 16


def test_history_has_a_row_for_every_recorded_step_and_every_epoch(trained):
    _, history = trained
    measured = history.dropna(subset="head_norm")
    assert set(measured["step"]) == record_steps(3 * STEPS)
    assert set(history.columns) == {
        "step", "head_norm", "test_accuracy", "test_loss", "test_CS", "test_Diff", "validation_accuracy",
        "validation_loss",
    }  # fmt: skip
    assert list(history.dropna(subset="validation_accuracy")["step"]) == [STEPS, 2 * STEPS, 3 * STEPS]
    assert history["step"].is_monotonic_increasing and history["step"].is_unique


def test_first_row_is_the_start(trained, data):
    model = load_classifier("tiny", 2, seed=0)
    first = trained[1].iloc[0]
    assert first["step"] == 0
    assert first["head_norm"] == pytest.approx(np.linalg.norm(model.head.weight.detach().numpy()), rel=1e-6)
    assert first["test_CS"] == pytest.approx(1) and first["test_Diff"] == 0
    assert trained[1].iloc[-1]["test_Diff"] > 0.01


@torch.no_grad()
@pytest.mark.parametrize("step", [0, 1])  # at step 0 the features are those of before, and no pass is made
def test_measured_accuracy_and_loss_equal_a_plain_pass(data, step):
    model = load_classifier("tiny", 2)
    model.head.weight.normal_()
    row = Recorder(model, probes_of(model, data), data[2]).measure(step)
    losses, right = [], []
    for example in data[1].select(range(6)):
        z = model(input_ids=torch.tensor([example["input_ids"]])).logits[0].double().numpy()
        losses.append(np.log(np.exp(z).sum()) - z[example["labels"]])
        right.append(z.argmax() == example["labels"])
    assert row["test_loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert row["test_accuracy"] == pytest.approx(np.mean(right))


def test_recording_does_not_change_the_training(trained, data, tmp_path):
    plain, history = train(data, tmp_path / "work", probed=False)
    assert same(plain, trained[0])
    assert "test_loss" not in history


def test_validation_is_sorted_by_length(data, tmp_path, monkeypatch):
    lengths = []
    original = training.HeadTrainer.prediction_step

    def watched(self, model, inputs, *args, **kwargs):
        lengths.extend(inputs["attention_mask"].sum(1).tolist())
        return original(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(training.HeadTrainer, "prediction_step", watched)
    train(data, tmp_path / "work", epochs=2)
    assert lengths == 2 * sorted(data[1]["length"])


# ---- what is kept ----


def test_best_epoch_on_validation_is_kept(data, tmp_path, monkeypatch):
    """Its weights and step, although later epochs were trained: validation accuracies are dictated here."""
    seen = []
    dictated = iter([0.5, 0.9, 0.7])

    class Watching(Recorder):
        def on_epoch_end(self, args, state, control, **kwargs):
            seen.append({k: v.detach().clone() for k, v in self.model.state_dict().items()})

    monkeypatch.setattr(training, "Recorder", Watching)
    monkeypatch.setattr(training, "_accuracy", lambda prediction: {"accuracy": next(dictated)})
    model, history = train(data, tmp_path / "work")
    assert history.attrs["best_step"] == 2 * STEPS
    assert all(torch.equal(v, seen[1][k]) for k, v in model.state_dict().items())
    assert not all(torch.equal(v, seen[2][k]) for k, v in model.state_dict().items())
    assert not model.training


def test_kept_step_is_the_first_of_the_highest_validation_accuracy(trained, data):
    model, history = trained
    ends = history.dropna(subset="validation_accuracy").set_index("step")["validation_accuracy"]
    assert history.attrs["best_step"] == ends.idxmax()
    phi = extract_features(model, data[1], data[2])
    accuracy = (model.head(phi).argmax(1) == torch.tensor(data[1]["labels"][:])).double().mean().item()
    assert accuracy == pytest.approx(ends.max())


def test_checkpoints_are_gone_when_training_is_complete(data, tmp_path):
    train(data, tmp_path / "work", epochs=1)
    assert not (tmp_path / "work").exists()


# ---- the same numbers ----


def test_same_seed_gives_the_same_weights_and_another_seed_others(trained, data, tmp_path):
    again, history = train(data, tmp_path / "a")
    other, _ = train(data, tmp_path / "b", seed=1)
    assert same(again, trained[0]) and not same(other, trained[0])
    pd.testing.assert_frame_equal(history, trained[1], check_exact=True)


class Killed(Exception):
    """Stands for a process that ends."""


def interrupt(monkeypatch, name: str, when) -> None:
    """Raise `Killed` out of a method of the Trainer, or of the Recorder, once `when(self, *args)` is true."""
    owner = Recorder if name.startswith("on_") else Trainer
    original = getattr(owner, name)

    def method(self, *args, **kwargs):
        if when(self, *args):
            raise Killed
        return original(self, *args, **kwargs)

    monkeypatch.setattr(owner, name, method)


@pytest.mark.parametrize(
    ("where", "resumes_at"),
    [
        pytest.param(("on_step_end", lambda self, a, state, c: state.global_step == 3), None, id="first epoch"),
        pytest.param(("on_step_end", lambda self, a, state, c: state.global_step == STEPS + 2), STEPS, id="second"),
        pytest.param(
            ("on_step_end", lambda self, a, state, c: state.global_step == 2 * STEPS + 1), 2 * STEPS, id="third"
        ),
        pytest.param(
            ("_save_optimizer_and_scheduler", lambda self, folder: folder.endswith(f"-{2 * STEPS}")), STEPS,
            id="while writing a checkpoint",
        ),
        pytest.param(("_load_best_model", lambda self: True), 3 * STEPS, id="after the last checkpoint"),
    ],
)  # fmt: skip
def test_interrupted_training_ends_with_the_same_numbers(where, resumes_at, trained, data, tmp_path, caplog):
    work = tmp_path / "work"
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, *where)
        with pytest.raises(Killed):
            train(data, work)
    torch.manual_seed(99)  # what a new process has drawn must not matter
    np.random.seed(99)
    with caplog.at_level(logging.INFO):
        model, history = train(data, work)
    resumed = [r.getMessage() for r in caplog.records if "Resuming" in r.getMessage()]
    assert bool(resumed) == (resumes_at is not None)
    if resumes_at is not None:
        assert f"checkpoint-{resumes_at}." in resumed[0]
    assert same(model, trained[0])
    pd.testing.assert_frame_equal(history, trained[1], check_exact=True)
    assert history.attrs == trained[1].attrs


def test_interrupted_training_of_an_adapter_ends_with_the_same_numbers(data, tmp_path):
    expected, history = train(data, tmp_path / "a", adapted=True)
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, "on_step_end", lambda self, a, state, c: state.global_step == 2 * STEPS + 1)
        with pytest.raises(Killed):
            train(data, tmp_path / "b", adapted=True)
    torch.manual_seed(99)
    model, again = train(data, tmp_path / "b", adapted=True)
    assert same(model, expected)
    pd.testing.assert_frame_equal(again, history, check_exact=True)
    fresh = add_lora(load_classifier("tiny", 2, seed=0)).state_dict()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, fresh[name])}
    assert moved == {name for name in fresh if ".lora_" in name or name.startswith("head.")}


def test_best_epoch_of_an_adapter_is_kept(data, tmp_path, monkeypatch):
    seen = []
    dictated = iter([0.5, 0.9, 0.7])

    class Watching(Recorder):
        def on_epoch_end(self, args, state, control, **kwargs):
            seen.append({k: v.detach().clone() for k, v in self.model.state_dict().items()})

    monkeypatch.setattr(training, "Recorder", Watching)
    monkeypatch.setattr(training, "_accuracy", lambda prediction: {"accuracy": next(dictated)})
    model, history = train(data, tmp_path / "work", adapted=True)
    assert history.attrs["best_step"] == 2 * STEPS
    assert all(torch.equal(v, seen[1][k]) for k, v in model.state_dict().items())
    assert not all(torch.equal(v, seen[2][k]) for k, v in model.state_dict().items())


def test_newest_whole_checkpoint_is_found_and_cut_off_ones_are_removed(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    assert last_complete_checkpoint(tmp_path / "absent") is None
    for step in (6, 12, 100, 200, 300):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "model.safetensors").touch()
    for step in (6, 12, 100):
        state = {"best_model_checkpoint": str(tmp_path / "checkpoint-6")}
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(json.dumps(state))
    (tmp_path / "checkpoint-200" / "trainer_state.json").write_text('{"best_mod')
    found = last_complete_checkpoint(tmp_path)
    assert found is not None and found.name == "checkpoint-100"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-100", "checkpoint-12", "checkpoint-6"]
    assert caplog.text.count("cut off") == 2


def test_checkpoint_whose_best_one_is_gone_is_not_used(tmp_path):
    folder = tmp_path / "checkpoint-6"
    folder.mkdir()
    (folder / "trainer_state.json").write_text(json.dumps({"best_model_checkpoint": str(tmp_path / "checkpoint-3")}))
    assert last_complete_checkpoint(tmp_path) is None


# ---- the optimiser ----


@pytest.mark.parametrize(
    ("weight_decay", "head_weight_decay", "smoothing"), [(0.0, None, 0.0), (0.1, None, 0.0), (0.1, 0.5, 0.2)]
)
def test_training_equals_a_plain_loop_of_adamw_with_linear_decay(
    weight_decay, head_weight_decay, smoothing, data, tmp_path, monkeypatch
):
    """Three steps in float64 without dropout; the batches are those that the collator saw."""
    monkeypatch.setenv("TQDM_DISABLE", "1")
    batches = []

    def spy(examples):
        batches.append(data[2](examples))
        return {k: v.clone() for k, v in batches[-1].items()}

    def start():
        model = load_classifier("tiny", 2, seed=0).double()
        for module in model.modules():
            for name in ("p", "dropout_prob", "attention_dropout"):
                if isinstance(getattr(module, name, None), float):
                    setattr(module, name, 0.0)
        return model

    lr, model, plain = 1e-2, start(), start().train()
    fine_tune(
        model, data[0].select(range(12)), data[1], spy, tmp_path / "work", epochs=1, batch_size=4, learning_rate=lr,
        weight_decay=weight_decay, head_weight_decay=head_weight_decay, label_smoothing=smoothing,
        group_by_length=False,
    )  # fmt: skip

    # Adam by hand. As in the Trainer, gradients are clipped to norm 1; biases and layer norms are not decayed.
    moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in plain.named_parameters()}
    for t, batch in enumerate(batches[:3], start=1):
        plain.zero_grad()
        labels = batch.pop("labels")
        assert len(labels) == 4
        log_p = plain.head(plain.features(**batch)).log_softmax(1)
        target = (1 - smoothing) * torch.nn.functional.one_hot(labels, 2) + smoothing / 2
        (-(target * log_p).sum(1).mean()).backward()
        rate = lr * (1 - (t - 1) / 3)
        clip = min(1.0, 1.0 / sum((p.grad**2).sum() for p in plain.parameters()) ** 0.5)
        with torch.no_grad():
            for name, p in plain.named_parameters():
                m, v = moments[name]
                g = clip * p.grad
                m.mul_(0.9).add_(0.1 * g)
                v.mul_(0.999).add_(0.001 * g**2)
                step = (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
                decay = 0.0 if name.endswith("bias") or "LayerNorm" in name else weight_decay
                if name == "head.weight" and head_weight_decay is not None:
                    decay = head_weight_decay
                p.copy_(p * (1 - rate * decay) - rate * step)
    for (name, p), q in zip(model.named_parameters(), plain.parameters(), strict=True):
        if "key.bias" not in name:  # softmax ignores it: its gradient is rounding alone, which Adam blows up
            torch.testing.assert_close(p, q, atol=1e-7, rtol=1e-7, msg=lambda text, name=name: f"{name}: {text}")
    assert (model.head.weight - start().head.weight).abs().max() > lr


@pytest.mark.parametrize("accumulation", [2, 4])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_batches_in_parts_give_the_same_training_also_where_the_last_is_smaller(
    accumulation, smoothing, data, tmp_path, monkeypatch
):
    """11 examples in batches of 4, without dropout: the last batch has 3, in parts of 2 and 1, or of 1."""
    monkeypatch.setenv("TQDM_DISABLE", "1")

    def trained(parts):
        model = load_classifier("tiny", 2, seed=0).double()
        for module in model.modules():
            for name in ("p", "dropout_prob", "attention_dropout"):
                if isinstance(getattr(module, name, None), float):
                    setattr(module, name, 0.0)
        sizes = []

        def collate(examples):
            sizes.append(len(examples))
            return data[2](examples)

        history = fine_tune(
            model, data[0].select(range(11)), data[1], collate, tmp_path / str(parts), epochs=2, batch_size=4,
            learning_rate=1e-3, label_smoothing=smoothing, accumulation=parts,
        )  # fmt: skip
        return model, history, sizes

    (model, history, sizes), (whole, expected, all_sizes) = trained(accumulation), trained(1)
    assert max(all_sizes[:3]) == 4 and max(sizes[:5]) == 4 // accumulation
    assert list(history["step"]) == list(expected["step"]) and history["step"].iloc[-1] == 6
    for (name, p), q in zip(model.named_parameters(), whole.parameters(), strict=True):
        if "key.bias" not in name:
            torch.testing.assert_close(p, q, atol=1e-7, rtol=1e-7, msg=lambda text, name=name: f"{name}: {text}")
    assert (whole.head.weight - load_classifier("tiny", 2, seed=0).head.weight).abs().max() > 1e-3


def test_validation_loss_of_smoothed_training_is_the_plain_cross_entropy(data, tmp_path):
    model, history = train(data, tmp_path / "a", epochs=1, probed=False, label_smoothing=0.3)
    plain, _ = train(data, tmp_path / "b", epochs=1, probed=False)
    assert not same(model, plain)
    losses = []
    with torch.no_grad():
        for example in data[1]:
            z = model(input_ids=torch.tensor([example["input_ids"]])).logits[0].double()
            losses.append((z.logsumexp(0) - z[example["labels"]]).item())
    assert history["validation_loss"].dropna().item() == pytest.approx(np.mean(losses), rel=1e-5)


def test_interrupted_training_with_a_weight_decay_of_the_head_ends_with_the_same_numbers(data, tmp_path):
    options = {"head_weight_decay": 0.5, "weight_decay": 0.1, "epochs": 2}
    expected, _ = train(data, tmp_path / "a", **options)
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, "on_step_end", lambda self, a, state, c: state.global_step == STEPS + 1)
        with pytest.raises(Killed):
            train(data, tmp_path / "b", **options)
    model, _ = train(data, tmp_path / "b", **options)
    assert same(model, expected)


def test_batches_of_like_length_need_less_padding(tmp_path):
    tokenizer = load_tokenizer("tiny")
    lengths = np.random.default_rng(0).integers(1, 60, 96)
    encoded = encode(Split(tuple((" ".join(["good"] * n),) for n in lengths), np.arange(96) % 2), tokenizer)

    def padded_tokens(group_by_length: bool) -> int:
        shapes = []

        def spy(examples):
            batch = Collator(tokenizer)(examples)
            shapes.append(batch["input_ids"].shape)
            return batch

        fine_tune(
            load_classifier("tiny", 2), encoded, encoded.select([0]), spy, tmp_path / str(group_by_length), epochs=1,
            batch_size=BATCH, learning_rate=1e-3, group_by_length=group_by_length,
        )  # fmt: skip
        training_batches = [rows * tokens for rows, tokens in shapes if rows == BATCH]
        assert len(training_batches) == 96 // BATCH
        return sum(training_batches)

    assert padded_tokens(True) < 0.8 * padded_tokens(False)


def test_frozen_parameters_stay(data, tmp_path):
    model = load_classifier("tiny", 2)
    model.backbone.requires_grad_(False)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    fine_tune(model, data[0], data[1], data[2], tmp_path / "w", epochs=1, batch_size=8, learning_rate=1e-2)
    moved = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert moved == {"head.weight", "head.bias"}


def test_nothing_is_printed_while_training(data, tmp_path, capfd):
    train(data, tmp_path / "work", epochs=1)
    out, err = capfd.readouterr()
    assert out == "" and err == "", (out, err)
    assert os.environ.get("WANDB_MODE") is None
