"""`run(spec)`: the same numbers whatever happens, on tiny models; processes are really killed."""

import json
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT
from filelock import FileLock
from processes import CONTEXT, DEATHS, run_and_count, run_until
from sklearn.linear_model import LogisticRegression
from task_files import own_data
from tiny import save_backbone

from lpft_utils.common.errors import RunError, TaskError
from lpft_utils.common.tensors import weights_fingerprint
from lpft_utils.metrics.feature_change import feature_change
from lpft_utils.models.backbone_files import folder_fingerprint
from lpft_utils.models.backbones import load_tokenizer
from lpft_utils.models.classifier import load_classifier
from lpft_utils.results.frame import results
from lpft_utils.results.tables import column, mean, table
from lpft_utils.runs import execute as pipeline
from lpft_utils.runs.execute import load_model
from lpft_utils.runs.run import load_data, run, run_key, run_seeds
from lpft_utils.runs.store import MAX_FEATURES, Run, list_runs, write_run
from lpft_utils.training.spec import RunSpec

SPEC = RunSpec(
    task="synthetic", backbone="tiny", method="ft", n_train=24, n_eval=15, epochs=3, batch_size=8, learning_rate=5e-3,
    lp=1.0,
)  # fmt: skip
METHODS = ("lp", "ft", "lp_ft", "lora", "lp_lora")


pytestmark = pytest.mark.usefixtures("quick_generator")


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def stored(store) -> dict[str, Run]:
    return {method: run(SPEC.replace(method=method), store=store) for method in METHODS}


def assert_equal(a: Run, b: Run) -> None:
    """All numbers of two runs agree to the last bit."""
    times = ("seconds", "train_seconds", "environment")
    assert {k: v for k, v in a.metrics.items() if k not in times} == {
        k: v for k, v in b.metrics.items() if k not in times
    }
    pd.testing.assert_frame_equal(a.history, b.history, check_exact=True)
    for part in ("predictions", "features"):
        one, two = getattr(a, part), getattr(b, part)
        assert one.keys() == two.keys()
        for name in one:
            for x, y in zip(one[name], two[name], strict=True):
                assert np.array_equal(x, y), (part, name)
    assert a.weights.keys() == b.weights.keys()
    assert all(torch.equal(v, b.weights[k]) for k, v in a.weights.items())


# ---- what a run holds ----


@pytest.mark.parametrize("method", METHODS)
def test_run_holds_what_its_readers_need(method, stored):
    r = stored[method]
    assert r.spec == SPEC.replace(method=method)
    splits = {"train", "validation", "test", "ood_electronics", "ood_hotels"}
    assert set(r.metrics["accuracy"]) == set(r.predictions) == set(r.features) == set(r.metrics["change"]) == splits
    assert r.metrics["task"]["sizes"] == {"train": 24} | dict.fromkeys(splits - {"train"}, 15)
    assert r.metrics["task"]["synthetic"] is True
    assert r.metrics["environment"]["torch"] == torch.__version__
    assert {p.name for p in r.folder.iterdir()} == {
        "spec.json", "metrics.json", "history.parquet", "predictions.npz", "features.safetensors", "model.safetensors",
        "manifest.json",
    }  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_metrics_follow_from_predictions_features_and_weights(method, stored):
    r = stored[method]
    for split, (logits, labels) in r.predictions.items():
        assert r.accuracy(split) == np.mean(logits.argmax(1) == labels)
        log_p = logits - np.log(np.exp(logits.astype(float)).sum(1, keepdims=True))
        assert r.metrics["loss"][split] == pytest.approx(-log_p[range(len(labels)), labels].mean(), abs=1e-5)
        phi_0, phi = r.features[split]
        assert r.metrics["change"][split] == pytest.approx(feature_change(phi_0, phi, torch.tensor(labels)))
        V, b = r.weights["head.weight"], r.weights["head.bias"]
        np.testing.assert_allclose(logits, phi @ V.T + b, atol=1e-5)
        assert len(phi) <= MAX_FEATURES
    assert r.metrics["head_norm"] == pytest.approx(np.linalg.norm(r.V.numpy()), rel=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_loaded_model_reproduces_the_stored_predictions(method, stored):
    r = stored[method]
    model, tokenizer = load_model(r), load_tokenizer("tiny")
    assert not model.training
    for split, data in load_data(r.spec).splits.items():
        texts = [" ".join(t) for t in data.texts]
        with torch.no_grad():
            logits = torch.cat(
                [model(**tokenizer(t, truncation=True, max_length=128, return_tensors="pt")).logits for t in texts]
            )
        expected, labels = r.predictions[split]
        np.testing.assert_allclose(logits, expected, atol=2e-5)
        assert np.array_equal(labels, data.labels)


def test_diverged_training_is_marked_and_others_are_not(stored, tmp_path):
    assert not any(r.diverged for r in stored.values())
    assert run(SPEC.replace(learning_rate=1e6), store=tmp_path).diverged


def test_name_of_a_run_is_known_without_training(stored, monkeypatch):
    monkeypatch.setattr(pipeline, "train", None)
    assert {run_key(SPEC.replace(method=m)) for m in METHODS} == {r.folder.name for r in stored.values()}


# ---- methods ----


def test_lp_leaves_the_features_as_they_are_and_stores_the_head_alone(stored):
    r = stored["lp"]
    assert set(r.weights) == {"head.weight", "head.bias"}
    for phi_0, phi in r.features.values():
        assert torch.equal(phi_0, phi)
    assert all(change["CS"] == pytest.approx(1) and change["Diff"] == 0 for change in r.metrics["change"].values())
    assert weights_fingerprint(load_model(r).backbone) == weights_fingerprint(load_classifier("tiny", 3).backbone)


def test_lp_head_is_scikit_learns(stored):
    r = stored["lp"]
    phi, labels = r.features["train"][0].double().numpy(), r.predictions["train"][1]
    oracle = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000).fit(phi, labels)
    for split, (logits, _) in r.predictions.items():
        expected = oracle.predict_log_proba(r.features[split][0].double().numpy())
        np.testing.assert_allclose(torch.tensor(logits).log_softmax(1), expected, atol=1e-4)
    np.testing.assert_allclose(r.V, oracle.coef_, atol=1e-4)


def monitored(r: Run) -> tuple[float, float]:
    """Accuracy and mean cross-entropy on the training examples that a training monitors."""
    logits, labels = (torch.as_tensor(values)[: r.spec.n_monitor] for values in r.predictions["train"])
    accuracy = (logits.argmax(1) == labels).double().mean().item()
    return accuracy, torch.nn.functional.cross_entropy(logits, labels).item()


def test_lp_ft_starts_at_lps_head_and_ft_at_the_random_one(stored):
    lp, ft, lp_ft = (stored[m] for m in ("lp", "ft", "lp_ft"))
    initial = {m: stored[m].history.set_index("step").loc[0] for m in ("ft", "lp_ft")}
    assert initial["lp_ft"]["head_norm"] == pytest.approx(lp.metrics["head_norm"], rel=1e-6)
    assert (initial["lp_ft"]["train_accuracy"], initial["lp_ft"]["train_loss"]) == pytest.approx(
        monitored(lp), rel=1e-5
    )
    assert lp_ft.metrics["lp"] == lp.metrics["lp"]
    fresh = load_classifier("tiny", 3, seed=SPEC.seed).head.weight.detach().numpy()
    assert initial["ft"]["head_norm"] == pytest.approx(np.linalg.norm(fresh), rel=1e-6)
    for r in stored.values():
        assert r.metrics["head_norm_init"] == pytest.approx(np.linalg.norm(fresh), rel=1e-6)
    moved = np.linalg.norm(lp_ft.V - lp.V)
    assert lp_ft.metrics["ft"]["head_change"] == pytest.approx(moved, rel=1e-5) and moved > 0


def test_tuned_features_differ_from_the_pre_trained_ones(stored):
    for method in ("ft", "lp_ft", "lora", "lp_lora"):
        assert stored[method].metrics["change"]["test"]["Diff"] > 1e-3


@pytest.mark.parametrize("method", ["lora", "lp_lora"])
def test_adapter_runs_store_adapter_and_head_alone(method, stored):
    r = stored[method]
    assert {"head.weight", "head.bias"} < set(r.weights)
    assert all(".lora_A." in k or ".lora_B." in k or k.startswith("head.") for k in r.weights)
    assert r.metrics["trainable_parameters"] == sum(v.numel() for v in r.weights.values())
    full = stored["ft"]
    assert full.metrics["trainable_parameters"] > 20 * r.metrics["trainable_parameters"]
    sizes = [(x.folder / "model.safetensors").stat().st_size for x in (r, full)]
    assert sizes[0] < sizes[1] / 10
    loaded = {k.replace(".base_layer.", "."): v for k, v in load_model(r).state_dict().items()}
    plain = load_classifier("tiny", 3).state_dict()
    assert {k for k, v in plain.items() if not torch.equal(loaded[k], v)} == {"head.weight", "head.bias"}
    assert {k.partition(".lora_B.")[0] for k in loaded if ".lora_B." in k and loaded[k].any()} == {
        f"backbone.encoder.layer.{i}.attention.self.{m}" for i in (0, 1) for m in ("query", "value")
    }


def test_lp_lora_starts_at_lps_head(stored):
    initial = stored["lp_lora"].history.set_index("step").loc[0]
    assert initial["head_norm"] == pytest.approx(stored["lp"].metrics["head_norm"], rel=1e-6)
    assert (initial["train_accuracy"], initial["train_loss"]) == pytest.approx(monitored(stored["lp"]), rel=1e-5)
    assert stored["lp_lora"].metrics["lp"] == stored["lp"].metrics["lp"]


def test_who_only_reads_stored_runs_need_not_wait_for_transformers(stored, store):
    code = """
import json, sys
from pathlib import Path
from processes import generate_little
from lpft_utils.data import synthetic
from lpft_utils.figures import embedding, runs as plots
from lpft_utils.results import calibration_tables, claims, reference, tables
from lpft_utils.runs.run import run
from lpft_utils.teaching import checkers
from lpft_utils.training import methods
from lpft_utils.training.spec import RunSpec

synthetic.generate = generate_little(synthetic.generate)
print(run(RunSpec.from_dict(json.loads(sys.argv[1])), store=Path(sys.argv[2])).folder.name)
print(*{"transformers", "peft", "datasets"} & set(sys.modules))
"""
    arguments = [json.dumps(stored["ft"].spec.to_dict()), str(store)]
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, check=True, cwd=ROOT / "tests", capture_output=True, text=True)
    assert done.stdout.split("\n") == [stored["ft"].folder.name, "", ""]


# ---- the same numbers ----


def test_second_call_reads_what_the_first_stored(stored, store, monkeypatch):
    monkeypatch.setattr(pipeline, "METHODS", {})
    again = run(SPEC, store=store)
    assert again.folder == stored["ft"].folder
    run(SPEC.replace(method="lp", learning_rate=0.5), store=store)  # LP has no learning rate: the same run


@pytest.mark.parametrize("method", ["lp", "lp_ft", "lp_lora"])
def test_same_spec_in_another_store_gives_identical_numbers(method, stored, tmp_path):
    torch.manual_seed(123)
    assert_equal(run(SPEC.replace(method=method), store=tmp_path), stored[method])


def test_cached_features_do_not_change_the_numbers(stored, store, tmp_path):
    shutil.copytree(store / ".features", tmp_path / ".features")
    assert list((tmp_path / ".features").glob("*.safetensors"))
    assert_equal(run(SPEC, store=tmp_path), stored["ft"])


def test_a_training_without_monitors_gives_the_same_model(stored, tmp_path):
    unmonitored = run(SPEC.replace(n_monitor=0), store=tmp_path)
    assert unmonitored.folder.name != stored["ft"].folder.name
    assert all(torch.equal(v, stored["ft"].weights[k]) for k, v in unmonitored.weights.items())
    monitored_columns = [name for name in stored["ft"].history if name.startswith(("train_", "test_"))]
    assert monitored_columns
    expected = stored["ft"].history.drop(columns=monitored_columns)
    pd.testing.assert_frame_equal(unmonitored.history, expected, check_exact=True)


def test_success_beside_accuracy_is_measured_inside_the_run(stored):
    for r in stored.values():
        for split, (f, y) in r.predictions.items():
            assert r.metrics["MCC"][split] == pytest.approx(matthews(y, f.argmax(1)))
            assert r.metrics["majority"][split] == max(np.mean(y == c) for c in set(y.tolist()))
        assert {"CS among texts", "FDR, pinv", "FDR, ridge_0"} <= set(r.metrics["change"]["test"])


def matthews(y, guess):
    """Gorodkin (2004): the correlation of the two classifications as one-hot vectors."""
    Y, Z = (np.eye(3)[x] - np.eye(3)[x].mean(0) for x in (y, guess))
    spread = np.sqrt((Y**2).sum() * (Z**2).sum())
    return (Y * Z).sum() / spread if spread else 0.0


def test_an_older_run_shows_what_it_did_not_measure_as_missing(stored, tmp_path):
    metrics = dict(stored["ft"].metrics)
    for new in ("MCC", "majority", "head_norm_0"):
        metrics.pop(new)
    metrics["change"] = {
        s: {k: v for k, v in c.items() if k in ("CS", "Diff", "FDR", "NormF", "FDR_0", "NormF_0")}
        for s, c in metrics["change"].items()
    }

    def fill(folder):
        for file in stored["ft"].folder.iterdir():
            if file.name != "manifest.json":
                shutil.copy(file, folder)
        (folder / "metrics.json").write_text(json.dumps(metrics))

    old = Run(write_run(tmp_path, stored["ft"].folder.name, fill))
    assert run(SPEC.replace(method="ft"), store=tmp_path).folder == old.folder, "it is not trained again"
    frame = results([old])
    assert not {"MCC", "majority", "head_norm_0", "CS among texts"} & set(frame["metric"]) and len(frame) > 20
    columns = {m: column(m, split="test") for m in ("accuracy", "FDR")} | {"MCC": column("MCC", mean(2), split="test")}
    shown = table(frame, "method", columns)
    assert shown.loc["FT", "MCC"] == "" and shown.loc["FT", "accuracy"] and shown.loc["FT", "FDR"]


def test_seeds_give_their_own_runs_and_generated_texts(stored, store):
    spec = SPEC.replace(method="lp")
    first, second = run_seeds(spec.replace(seed=77), [0, 1], store=store)
    assert first.folder == stored["lp"].folder and second.spec.seed == 1
    assert not torch.equal(first.V, second.V)
    a, b = load_data(first.spec), load_data(second.spec)
    assert not set(a.splits["test"].texts) & set(b.splits["test"].texts)
    assert a.splits["train"].texts != b.splits["train"].texts


def test_seeds_share_the_evaluation_texts_that_people_wrote(tmp_path, monkeypatch):
    own_data(tmp_path / "tickets")
    monkeypatch.setenv("LPFT_DATA", str(tmp_path))
    a, b = (load_data(RunSpec(task="tickets", seed=seed, n_train=4, n_eval=3)) for seed in (0, 1))
    assert a.splits["test"].texts == b.splits["test"].texts and a.splits["train"].texts != b.splits["train"].texts


def test_seeds_that_another_process_trains_come_last(tmp_path):
    spec = SPEC.replace(method="lp")
    key = spec.key(load_data(spec).fingerprint + folder_fingerprint(spec.backbone))
    (tmp_path / ".scratch").mkdir()
    lock = FileLock(tmp_path / ".scratch" / f"{key}.lock")
    with ThreadPoolExecutor(1) as pool:
        with lock:  # as another process would hold it
            asked = pool.submit(run_seeds, spec, [spec.seed, spec.seed + 1], store=tmp_path)
            end = time.monotonic() + 60
            while not list_runs(tmp_path) and time.monotonic() < end:
                time.sleep(0.05)
            assert [found.spec.seed for found in list_runs(tmp_path)] == [spec.seed + 1]
            assert not asked.done()
        assert [found.spec.seed for found in asked.result(60)] == [spec.seed, spec.seed + 1]


def test_changed_data_are_another_run(store, stored):
    noisy = SPEC.replace(method="lp", label_noise=0.3)
    original, changed = (load_data(s).fingerprint for s in (SPEC, noisy))
    assert original != changed
    assert SPEC.key(original) != SPEC.key(changed)


# ---- what is kept ----


@pytest.mark.parametrize(("keep", "absent"), [("summary", "predictions"), ("predictions", "weights")])
def test_a_run_can_keep_less_and_says_what_it_lacks(keep, absent, stored, tmp_path):
    r = run(SPEC, store=tmp_path, keep=keep)
    assert r.kept == keep and stored["ft"].kept == "all"
    times = ("seconds", "train_seconds", "environment")
    expected = stored["ft"].metrics
    assert {k: v for k, v in r.metrics.items() if k not in times} == {
        k: v for k, v in expected.items() if k not in times
    }
    pd.testing.assert_frame_equal(r.history, stored["ft"].history, check_exact=True)
    with pytest.raises(RunError, match=f"it was kept as '{keep}'. `run` with keep='all'"):
        getattr(r, absent)
    with pytest.raises(RunError, match="stored without features"):
        _ = r.features
    if keep == "predictions":
        assert all(np.array_equal(r.predictions[k][0], z) for k, (z, _) in stored["ft"].predictions.items())


def test_a_run_that_keeps_too_little_is_trained_again_and_one_that_keeps_more_is_read(stored, tmp_path, monkeypatch):
    spec = SPEC.replace(method="lp")
    assert run(spec, store=tmp_path, keep="summary").kept == "summary"
    assert_equal(run(spec, store=tmp_path), stored["lp"])
    monkeypatch.setattr(pipeline, "train", None)
    assert run(spec, store=tmp_path, keep="predictions").kept == "all"
    assert {p.name for p in tmp_path.iterdir()} == {stored["lp"].folder.name, ".features", ".scratch"}


# ---- memory and disk ----


def out_of_memory(monkeypatch, largest: int, failures: list) -> None:
    """A GPU on which at most `largest` examples fit in training."""
    from lpft_utils.training.fine_tuning import HeadTrainer

    original = HeadTrainer.compute_loss

    def compute_loss(self, model, inputs, *args, **kwargs):
        if model.training and len(inputs["labels"]) > largest:
            failures.append(len(inputs["labels"]))
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")
        return original(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(HeadTrainer, "compute_loss", compute_loss)


def test_out_of_memory_batches_are_cut_and_the_record_says_so(stored, tmp_path, monkeypatch, caplog):
    failures = []
    out_of_memory(monkeypatch, 2, failures)
    r = run(SPEC, store=tmp_path / "short")
    assert failures == [8, 4] and r.metrics["accumulation"] == 4 and stored["ft"].metrics["accumulation"] == 1
    assert r.folder.name == stored["ft"].folder.name
    assert r.metrics["accuracy"].keys() == stored["ft"].metrics["accuracy"].keys() and not r.diverged
    assert list(r.history["step"]) == list(stored["ft"].history["step"])
    assert not [p for p in (tmp_path / "short" / ".scratch").iterdir() if p.is_dir()]
    again = run(SPEC, store=tmp_path / "again")
    assert_equal(again, r)


def test_one_example_that_does_not_fit_is_an_error_and_leaves_no_run(tmp_path, monkeypatch):
    out_of_memory(monkeypatch, 0, [])
    with pytest.raises(RunError, match="not even one example at a time fits into the GPU's memory .CUDA out of memory"):
        run(SPEC, store=tmp_path)
    assert list_runs(tmp_path) == []


@pytest.mark.parametrize("place", ["predictions", "history", "weights"])
def test_a_full_disk_leaves_no_run_and_the_next_call_gives_the_whole_one(place, stored, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    owner, name = {
        "predictions": (np, "savez_compressed"),
        "history": (pd.DataFrame, "to_parquet"),
        "weights": (pipeline, "save_file"),
    }[place]  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, full)
        with pytest.raises(OSError, match="No space left"):
            run(SPEC.replace(method="lp"), store=tmp_path)
    assert list_runs(tmp_path) == [] and not list(tmp_path.glob(".partial-*"))
    assert_equal(run(SPEC.replace(method="lp"), store=tmp_path), stored["lp"])


# ---- interrupted ----


def in_process(target, *args):
    process = CONTEXT.Process(target=target, args=args)
    process.start()
    return process


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Run:
    """What another process gives that nobody disturbs."""
    store = tmp_path_factory.mktemp("undisturbed")
    process = in_process(run_until, "never", SPEC.replace(method="lp_ft").to_dict(), str(store))
    process.join(120)
    assert process.exitcode == 0
    (only,) = list_runs(store)
    return only


@pytest.mark.parametrize("death", DEATHS)
def test_killed_anywhere_the_next_call_gives_the_whole_run(death, undisturbed, tmp_path):
    fields = undisturbed.spec.to_dict()
    process = in_process(run_until, death, fields, str(tmp_path))
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert list_runs(tmp_path) == [], "a reader sees half a run"
    if death == "training":
        checkpoints = list((tmp_path / ".scratch").glob("*/checkpoint-*/trainer_state.json"))
        assert checkpoints, "nothing to resume from: the test would prove nothing"
    process = in_process(run_until, "never", fields, str(tmp_path))
    process.join(120)
    assert process.exitcode == 0
    (whole,) = list_runs(tmp_path)
    assert_equal(whole, undisturbed)
    left = {p.name for p in tmp_path.iterdir()} - {whole.folder.name, ".features", ".scratch"}
    assert not left and not [p for p in (tmp_path / ".scratch").iterdir() if p.is_dir()]


def test_two_processes_that_ask_for_one_run_train_once(undisturbed, tmp_path):
    barrier, trained, failures = CONTEXT.Barrier(2), CONTEXT.Value("i", 0), CONTEXT.Value("i", 0)
    arguments = (barrier, undisturbed.spec.to_dict(), str(tmp_path), trained, failures)
    both = [in_process(run_and_count, *arguments) for _ in range(2)]
    deadline = time.monotonic() + 120
    while any(process.is_alive() for process in both) and time.monotonic() < deadline:
        list_runs(tmp_path)  # raises if it ever meets half a run
        time.sleep(0.02)
    assert [process.exitcode for process in both] == [0, 0]
    assert (trained.value, failures.value) == (1, 0)
    (only,) = list_runs(tmp_path)
    assert_equal(only, undisturbed)


# ---- refused ----


def test_damaged_run_is_named_and_not_silently_trained_again(stored, store, tmp_path):
    shutil.copytree(stored["lp"].folder, tmp_path / stored["lp"].folder.name)
    file = tmp_path / stored["lp"].folder.name / "predictions.npz"
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(RunError, match="predictions.npz is damaged"):
        run(stored["lp"].spec, store=tmp_path)


def save_reader(folder: Path, seed: int = 0) -> Path:
    """A small random backbone whose tokenizer knows the words of the task `synthetic`."""
    tokenizer = load_tokenizer("tiny")
    save_backbone("bert", folder, seed, vocab_size=len(tokenizer))
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("method", ["lp", "lora"])
def test_run_from_other_backbone_weights_is_refused(method, tmp_path):
    folder = save_reader(tmp_path / "backbone")
    r = run(SPEC.replace(method=method, epochs=1, backbone=str(folder)), store=tmp_path / "store")
    load_model(r)
    save_reader(folder, seed=1)
    with pytest.raises(RunError, match="trained on other weights"):
        load_model(r)


def test_backbone_of_another_architecture_is_refused(tmp_path):
    folder = save_reader(tmp_path / "backbone")
    r = run(SPEC.replace(epochs=1, backbone=str(folder)), store=tmp_path / "store")
    shutil.rmtree(folder)
    save_backbone("gpt2", folder)
    with pytest.raises(RunError, match="its weights do not fit .ft. on "):
        load_model(r)


def test_task_without_a_training_split_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    folder = tmp_path / "data" / "dynasent"
    folder.mkdir(parents=True)
    rows = [{"text": f"text {i}", "label": i % 3} for i in range(6)]
    (folder / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.setenv("LPFT_DATA", str(tmp_path / "data"))
    with pytest.raises(TaskError):
        run(SPEC.replace(task="dynasent"), store=tmp_path / "store")
    assert not (tmp_path / "store").exists()


# ---- real data ----


def test_rte_runs_end_to_end(data_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("LPFT_DATA", str(data_dir))
    spec = SPEC.replace(task="rte", method="lp_ft", n_train=40, n_eval=20, epochs=1)
    r = run(spec, store=tmp_path)
    assert r.metrics["task"]["label_names"] == ["entailment", "not_entailment"]
    assert r.metrics["task"]["synthetic"] is False
    assert r.metrics["task"]["sizes"] == {"train": 40, "validation": 20, "test": 20}
    assert r.metrics["change"]["test"]["Diff"] > 0 and np.isfinite(r.history["train_loss"].dropna()).all()
    assert r.folder.name.startswith("rte-lp_ft-s0-")
