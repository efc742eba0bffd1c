"""What the pages show of runs: tables, stamp, embedding, and `lpft run`, on two tiny trained runs."""

import numpy as np
import pytest
from click.testing import CliRunner

from lpft_utils.cli import main
from lpft_utils.figures.embedding import joint_embedding
from lpft_utils.metrics.intervals import format_interval
from lpft_utils.models.heads import initial_head
from lpft_utils.results import tables
from lpft_utils.runs.profiles import get_profile
from lpft_utils.runs.run import run_seeds
from lpft_utils.teaching.chapter import Chapter

SMALL = {"n_train": 24, "n_eval": 12, "epochs": 1}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def runs(store):
    profile = get_profile("smoke", task="synthetic")
    return {m: run_seeds(profile.spec(m, **SMALL), profile.seeds, store=store) for m in ("lp", "ft")}


def test_accuracy_table_shows_mean_and_interval_in_percent(runs):
    table = tables.accuracy_table(runs)
    assert list(table.index) == ["LP", "FT"]
    assert list(table.columns)[0] == "test" and all(c.endswith("(OOD)") for c in list(table.columns)[1:])
    assert table.loc["FT", "test"] == format_interval([100 * run.accuracy("test") for run in runs["ft"]], 1)


def test_change_table_has_the_papers_columns_and_lp_changes_nothing(runs):
    table = tables.change_table(runs, split="test")
    assert list(table.columns) == ["CS(F)", "Diff(F)", "FDR(F)", "Norm(F)", "Norm(C), geometric mean"]
    assert table.loc["LP", "CS(F)"].startswith("1.000 ") and table.loc["LP", "Diff(F)"].startswith("0.00 ")


def test_fdr_table_compares_before_and_after(runs):
    table = tables.fdr_table(runs["ft"])
    assert list(table.columns) == ["before", "after"] and {"train", "test"} <= set(table.index)
    assert table.loc["test", "after"] == format_interval(
        [run.metrics["change"]["test"]["FDR"] for run in runs["ft"]], 2
    )


def test_stamp_names_what_was_used(runs):
    shown = Chapter("smoke", "synthetic").stamp([*runs["lp"], *runs["ft"]])
    assert shown.rows["profile"] == "smoke" and "synthetic" in shown.rows["task"]
    assert shown.rows["training of its runs"].endswith("in 4 runs")
    assert "<th" in shown._repr_html_() and "backbone: tiny" in str(shown)


def test_joint_embedding_places_features_and_head_rows(runs):
    plane = joint_embedding(runs["ft"][0], n=10)
    assert plane["before"].shape == plane["after"].shape == (10, 2)
    assert plane["rows"].shape == plane["rows_0"].shape == (3, 2)
    assert np.isfinite(np.concatenate([plane[k] for k in ("before", "after", "rows", "rows_0")])).all()


def test_initial_head_is_the_one_that_the_run_started_from(runs):
    stored = runs["lp"][0]
    norm = initial_head(*stored.V.shape, seed=stored.spec.seed).norm().item()
    assert norm == pytest.approx(stored.metrics["head_norm_init"], rel=1e-6)


def test_lpft_run_trains_and_prints_accuracy(store, monkeypatch):
    monkeypatch.setenv("LPFT_RUNS", str(store))
    settings = [word for name, value in SMALL.items() for word in ("--set", f"{name}={value}")]
    result = CliRunner().invoke(
        main, ["run", "--profile", "smoke", "--task", "synthetic", "--method", "lp", "--seed", "0", *settings]
    )
    assert result.exit_code == 0, result.output
    assert "accuracy: train" in result.output and "‖V‖" in result.output


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--method", "lpft"], "did you mean 'lp_ft'?"),
        (["--method", "lp", "--set", "learning_rat=1"], "did you mean 'learning_rate'?"),
        (["--method", "lp", "--set", "epochs"], "NAME=VALUE"),
        (["--method", "lp", "--task", "rtee"], "did you mean 'rte'?"),
    ],
)
def test_lpft_run_explains_mistakes(arguments, expected, store, monkeypatch):
    monkeypatch.setenv("LPFT_RUNS", str(store))
    result = CliRunner().invoke(main, ["run", "--profile", "smoke", "--task", "synthetic", *arguments])
    assert result.exit_code == 2 and expected in result.output
