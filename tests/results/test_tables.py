"""The frame of results and the tables made from it, on runs made up by hand."""

import numpy as np
import pandas as pd
import pytest
from constructed import MadeUpRun
from scipy import special

from lpft_utils.common.errors import ParameterError
from lpft_utils.metrics.intervals import format_geometric, format_interval
from lpft_utils.results.frame import COLUMNS, results, select
from lpft_utils.results.tables import accuracy_table, change_table, column, fdr_table, mean, over_seeds, table


def tuned(method, seed, accuracy=0.8, norm=2.0, **more):
    change = {"CS": 0.5, "Diff": 1.0 + seed, "FDR": 2.0, "FDR_0": 1.0, "NormF": 3.0, "NormF_0": 4.0}
    by_split = {"train": 1.0, "validation": 0.9, "test": accuracy, "ood_x": 0.5}
    splits = dict.fromkeys(by_split, change)
    return MadeUpRun(method, seed, accuracy=by_split, loss=by_split, change=splits, head_norm=norm, **more)


def test_a_frame_has_one_row_per_run_split_and_metric():
    frame = results([tuned("ft", 0), tuned("ft", 1, accuracy=0.7)])
    assert list(frame.columns) == COLUMNS and frame["value"].dtype == float
    assert not frame.duplicated([c for c in COLUMNS if c != "value"]).any()
    (row,) = select(frame, seed=1, split="test", metric="accuracy").to_dict("records")
    assert (row["task"], row["backbone"], row["method"], row["value"]) == ("made up", "none", "ft", 0.7)
    assert select(frame, seed=1, split="train", metric="Diff")["value"].tolist() == [2.0]
    assert select(frame, seed=0, split="", metric="head_norm")["value"].tolist() == [2.0]


def test_groups_are_a_leading_column():
    frame = results({0.5: [tuned("ft", 0)], 5.0: [tuned("ft", 0, accuracy=0.1)]})
    assert list(frame.columns) == ["group", *COLUMNS]
    assert select(frame, group=5.0, split="test", metric="accuracy")["value"].tolist() == [0.1]


def test_calibration_is_that_of_the_predictions_and_of_the_scaled_ones():
    rng = np.random.default_rng(0)
    f, y = rng.normal(size=(2000, 3)), rng.integers(3, size=2000)  # labels know nothing, so that T is large
    frame = results([MadeUpRun(predictions={"train": (f, y), "validation": (f, y), "test": (f, y)})])
    value = {(row.split, row.metric): row.value for row in frame.itertuples()}
    p = special.softmax(f, axis=1)
    assert value["test", "confidence"] == pytest.approx(p.max(axis=1).mean())
    assert value["test", "NLL"] == pytest.approx(-np.log(p[np.arange(len(y)), y]).mean())
    scaled = special.softmax(f / value["", "T"], axis=1)
    assert value["test", "confidence, TS"] == pytest.approx(scaled.max(axis=1).mean())
    assert value["test", "NLL, TS"] <= value["test", "NLL"] and ("train", "ECE") not in value


def test_a_diverged_run_has_no_values_and_is_counted_in_every_cell():
    lost = tuned("ft", 2, accuracy=0.01, norm=float("nan"), diverged=True)
    runs = {"ft": [tuned("ft", 0), tuned("ft", 1, accuracy=0.7), lost], "lp": [tuned("lp", 0), tuned("lp", 1)]}
    frame = results(runs)
    assert set(select(frame, seed=2)["metric"]) == {"diverged"}
    shown = accuracy_table(runs)
    assert shown.loc["FT", "test"] == f"{format_interval([80, 70], 1)} (1 diverged)"
    assert "diverged" not in shown.loc["LP", "test"]
    assert change_table(runs).loc["FT", "Diff(F)"].endswith("(1 diverged)")
    assert accuracy_table({"ft": [tuned("ft", 0), lost], "lp": [lost]}).loc["FT", "test"].endswith("(2 diverged)")


def diff(run):
    return run.metrics["change"]["test"]["Diff"]


def test_a_sentence_leaves_a_diverged_run_out_and_counts_it():
    runs = [tuned("ft", 0), tuned("ft", 1, accuracy=0.01, diverged=True), tuned("ft", 2, accuracy=0.7)]
    assert over_seeds(MadeUpRun.accuracy, mean(1, 100), runs) == f"{format_interval([80, 70], 1)} (1 diverged)"
    assert over_seeds(MadeUpRun.accuracy, mean(1, 100), runs[:1]) == "80.0"
    assert over_seeds(MadeUpRun.accuracy, mean(1, 100), runs[1:2]) == "(1 diverged)"


def test_a_difference_pairs_seeds_also_where_a_run_diverged():
    ft = [tuned("ft", 0), tuned("ft", 1, diverged=True), tuned("ft", 2)]  # Diff is 1 + seed
    still = [MadeUpRun("lp_ft", seed, change={"test": {"Diff": 0.5 * seed}}) for seed in range(3)]
    shown = over_seeds(lambda a, b: diff(a) - diff(b), mean(2), ft, still)
    assert shown == f"{format_interval([1.0, 3.0 - 1.0], 2)} (1 diverged)"
    with pytest.raises(ParameterError, match=r"same seeds, got \[\[0, 1, 2\], \[2, 1, 0\]\]"):
        over_seeds(lambda a, b: 0.0, mean(2), ft, still[::-1])


@pytest.mark.parametrize(("made", "shown"), [(True, True), (False, False)])
def test_a_table_with_a_test_column_says_that_it_is_the_validation_set(made, shown):
    runs = {"ft": [tuned("ft", 0, task={"test_is_validation": made})]}
    note = "“test”: the published validation set, since the test labels are not public."
    for made_table in (accuracy_table(runs), fdr_table(runs["ft"]), change_table(runs, "test")):
        assert (note in made_table._repr_html_()) == (note in repr(made_table)) == shown
    assert "validation set" not in repr(change_table(runs, "train"))


def test_of_several_tasks_those_without_a_public_test_set_are_named():
    frame = results([tuned("ft", 0, task={"test_is_validation": True})]).assign(task="rte")
    both = pd.concat([frame, results([tuned("ft", 0)])])
    shown = table(both, "task", {"accuracy": column("accuracy", split="test")})
    assert "“test” of rte: the published" in repr(shown)


def test_a_method_of_which_every_run_diverged_keeps_its_row():
    runs = {"ft": [tuned("ft", 0, diverged=True)], "lp": [tuned("lp", 0)]}
    assert accuracy_table(runs)["test"].to_dict() == {"FT": "(1 diverged)", "LP": "80.0"}
    assert accuracy_table({"ft": runs["ft"]})["test"].to_dict() == {
        "FT": "(1 diverged)"
    }  # also where it is all there is


def test_the_norm_is_shown_on_the_scale_on_which_it_is_tested():
    norms = [1.0, 10.0, 100.0]
    shown = change_table({"lp": [tuned("lp", seed, norm=norm) for seed, norm in enumerate(norms)]})
    # t(0.975, 2) = 4.303, the standard deviation of log10 is 1: 10 to the power 1 ± 4.303 / √3
    assert shown.loc["LP", "Norm(C), geometric mean"] == "10.0 (0.0328 … 3.05e+03)"


@pytest.mark.parametrize(
    ("values", "text"),
    [([43.9], "43.9"), ([2.0, 2.0], "2.00 (2.00 … 2.00)"), ([0.0, 0.0], "1.00e-06 (1.00e-06 … 1.00e-06)")],
)
def test_geometric_means_have_significant_digits(values, text):
    assert format_geometric(values) == text


@pytest.mark.parametrize("values", [[-1.0, 2.0], [float("nan"), 1.0], []])
def test_a_geometric_mean_of_what_has_none_is_refused(values):
    with pytest.raises(ValueError, match="Expected"):
        format_geometric(values)


def test_a_table_by_split_shows_one_row_each():
    shown = fdr_table([tuned("ft", seed) for seed in (0, 1)])
    assert list(shown.index) == ["train", "test", "x (OOD)"] and list(shown.columns) == ["before", "after"]
    assert list(shown.loc["test"]) == ["1.000 ± 0.000", "2.00 ± 0.00"]


def test_rows_of_several_columns_and_empty_cells():
    frame = pd.DataFrame(
        [("a", "x", "m", 1.0), ("a", "x", "m", float("inf")), ("b", "y", "m", 2.0)],
        columns=["task", "split", "metric", "value"],
    )
    shown = table(
        frame, {"task": "task", "split": "set"}, {"m": column("m", mean(1)), "x": column("m", mean(1), split="x")}
    )
    assert shown.to_dict("list") == {"task": ["a", "b"], "set": ["x", "y"], "m": ["∞", "2.0"], "x": ["∞", ""]}
