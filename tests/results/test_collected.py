"""Results of sweeps: one tidy file, complete and checked."""

import hashlib
import json

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

from lpft_utils.common.errors import RunError
from lpft_utils.results import collected
from lpft_utils.results.collected import COLLECTED, collect_run, collecting, read_collected, scores, write_collected
from lpft_utils.results.frame import results
from lpft_utils.runs.run import run
from lpft_utils.training.spec import RunSpec

PLAN = ROOT / "book" / "reference" / "plan.yml"
SPEC = RunSpec(
    task="synthetic", backbone="tiny", method="ft", n_train=24, n_eval=12, epochs=1, batch_size=8, learning_rate=1e-3
)


pytestmark = pytest.mark.usefixtures("quick_generator")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def done(store):
    return [collect_run(SPEC.replace(seed=seed), store, "predictions") for seed in (0, 1)]


@pytest.fixture
def file(done, tmp_path):
    with collecting(tmp_path / "results.parquet", PLAN, "lpft sweep") as (known, add):
        assert known == {}
        for _, rows in done:
            add(rows)
    return tmp_path / "results.parquet"


def test_rows_are_the_results_and_the_curves_of_the_run(done, store):
    score, rows = done[0]
    stored = run(SPEC, store=store, keep="predictions")
    final = rows[rows["step"].isna() & (rows["metric"] != "seconds")]
    expected = results([stored])
    pd.testing.assert_frame_equal(final[list(expected)].reset_index(drop=True), expected, check_dtype=False)
    for metric in ("head_norm", "train_loss", "validation_accuracy"):
        curve = rows[rows["step"].notna() & (rows["metric"] == metric)]
        recorded = stored.history.dropna(subset=metric)
        assert len(curve) > 0
        np.testing.assert_array_equal(curve[["step", "value"]], recorded[["step", metric]])
    assert score.key == stored.folder.name and score.accuracy == stored.accuracy("validation")
    assert score.seconds >= stored.metrics["seconds"] and not score.diverged


def test_file_says_where_the_numbers_are_from_and_holds_no_texts(file, done):
    frame = read_collected(file)
    assert list(frame) == COLLECTED
    assert set(frame["run"]) == {score.key for score, _ in done}
    assert set(frame["plan"]) == {hashlib.sha256(PLAN.read_bytes()).hexdigest()[:16]} and set(frame["command"]) == {
        "lpft sweep"
    }
    about = {run: rows["spec"].unique() for run, rows in frame.groupby("run", observed=True)}
    assert {RunSpec.from_dict(json.loads(spec)).seed for (spec,) in about.values()} == {0, 1}
    (environment,) = map(json.loads, frame["environment"].unique())
    assert {"device", "torch", "transformers", "date"} <= environment.keys()


def test_file_holds_the_predicted_class_of_every_text(file, store):
    frame = read_collected(file)
    predictions = run(SPEC, store=store, keep="predictions").predictions
    of_seed = frame[(frame["seed"] == 0) & (frame["metric"] == "accuracy") & frame["step"].isna()]
    of_seed = of_seed[of_seed["split"] != "train"]
    assert set(of_seed["split"]) == set(predictions) - {"train"}
    for row in of_seed.itertuples():
        f, y = predictions[row.split]
        np.testing.assert_array_equal(row.predicted, f.argmax(1))
        np.testing.assert_array_equal(row.labels, y)
        assert row.value == (row.predicted == row.labels).mean()
    assert frame.drop(of_seed.index).query("seed == 0")["predicted"].isna().all()


def test_scores_come_back_from_the_file(file, done):
    assert scores(read_collected(file)) == {score.key: score for score, _ in done}


def test_diverged_run_is_marked_and_has_no_metrics(tmp_path):
    score, rows = collect_run(SPEC.replace(learning_rate=1e6), tmp_path, "predictions")
    assert score.diverged and not set(rows.loc[rows["step"].isna(), "metric"]) & {"accuracy", "loss", "ECE"}
    with collecting(tmp_path / "results.parquet", None, "") as (_, add):
        add(rows)
    assert scores(read_collected(tmp_path / "results.parquet"))[score.key].diverged


def test_rows_are_added_to_those_that_are_there(file, done, store):
    score, rows = collect_run(SPEC.replace(seed=2), store, "predictions")
    with collecting(file, None, "another command") as (known, add):
        assert known.keys() == {score.key for score, _ in done}
        add(rows)
    frame = read_collected(file)
    assert set(frame["run"]) == {*known, score.key} and len(frame) == len(rows) + sum(len(r) for _, r in done)
    assert set(frame.loc[frame["run"] == score.key, "command"]) == {"another command"}


def test_an_interruption_keeps_what_is_done(done, tmp_path):
    with pytest.raises(KeyboardInterrupt), collecting(tmp_path / "results.parquet", None, "") as (_, add):
        add(done[0][1])
        raise KeyboardInterrupt
    assert set(scores(read_collected(tmp_path / "results.parquet"))) == {done[0][0].key}


def test_rows_are_written_from_time_to_time(done, tmp_path, monkeypatch):
    monkeypatch.setattr(collected, "SECONDS_BETWEEN_WRITES", -1)
    with collecting(tmp_path / "results.parquet", None, "") as (_, add):
        for n, (_, rows) in enumerate(done, 1):
            add(rows)
            assert len(scores(read_collected(tmp_path / "results.parquet"))) == n


def test_two_sweeps_do_not_write_to_one_file(file):
    with collecting(file, None, ""), pytest.raises(RunError, match="another sweep is writing to it"):
        with collecting(file, None, ""):
            pass
    with collecting(file, None, ""):
        pass


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    middle = len(content) // 8  # among the values
    return content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :]


@pytest.mark.parametrize("damage", [truncated, flipped, lambda content: b"", lambda content: b"run,value\n1,2\n"])
def test_a_damaged_file_is_refused_and_left_as_it_is(damage, file):
    file.write_bytes(damaged := damage(file.read_bytes()))
    with pytest.raises(RunError, match=r"results\.parquet: expected results of `lpft sweep`"):
        with collecting(file, None, ""):
            pytest.fail("a sweep was started")
    assert file.read_bytes() == damaged


def test_another_table_is_refused(tmp_path):
    pd.DataFrame({"value": [1.0]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(RunError, match=r"other\.parquet: expected results"):
        read_collected(tmp_path / "other.parquet")


def test_a_full_disk_leaves_the_file_as_it_was(file, done, monkeypatch):
    before = file.read_bytes()

    def full(table, path, **options):
        path.write_bytes(b"PAR1")
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(collected.pq, "write_table", full)
    with pytest.raises(OSError, match="No space left"):
        write_collected(file, read_collected(file))
    assert file.read_bytes() == before and {p.name for p in file.parent.iterdir()} <= {
        "results.parquet", "results.parquet.lock",
    }  # fmt: skip
