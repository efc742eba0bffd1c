"""Results by set out of distribution, from frames whose numbers are known, and the tables and figures made of them."""

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from scipy import stats

from lpft_utils.common.errors import ParameterError
from lpft_utils.figures import shift as plots
from lpft_utils.results import shift
from lpft_utils.results.published import LABEL, load_published

SPLITS = ("train", "test", "ood_a", "ood_b")
VALUES = {  # by method and seed
    ("lp", 0): (0.7, 0.60, 0.55, 0.50), ("lp", 1): (0.7, 0.62, 0.54, 0.48),
    ("ft", 0): (0.9, 0.80, 0.70, 0.52), ("ft", 1): (0.9, 0.84, 0.66, 0.50),
    ("lp_ft", 0): (0.9, 0.82, 0.74, 0.50), ("lp_ft", 1): (0.9, 0.80, 0.72, 0.56),
}  # fmt: skip


@pytest.fixture
def frame():
    rows = [
        ("toy", "tiny", method, seed, split, metric, value * (5 if metric == "Diff" else 1))
        for (method, seed), values in VALUES.items()
        for split, value in zip(SPLITS, values, strict=True)
        for metric in ("accuracy", "FDR", "FDR_0", "Diff")
    ]
    frame = pd.DataFrame(rows, columns=["task", "backbone", "method", "seed", "split", "metric", "value"])
    return frame.astype(dict.fromkeys(("method", "split", "metric"), "category"))


@pytest.fixture(scope="module")
def published():
    return load_published(ROOT / "book" / "reference" / "published.csv")


def test_a_pair_is_of_one_model_and_certain_ones_are_left_out(frame):
    found = shift.pairs(frame).set_index(["method", "seed", "split"])
    assert len(found) == 12
    assert tuple(found.loc[("ft", 1, "ood_b"), ["inside", "outside"]]) == (0.84, 0.50)
    perfect = (frame["method"] == "lp") & (frame["seed"] == 0) & (frame["split"] == "ood_a")
    frame.loc[perfect, "value"] = 1.0
    assert len(shift.pairs(frame)) == 11


def test_gain_and_drop_are_paired_by_seed_in_points(frame):
    found = shift.gains(frame).set_index("split")
    assert found.loc["ood_a", "drop"] == pytest.approx((10 + 18) / 2)
    assert found.loc["ood_a", "gain"] == pytest.approx((4 + 6) / 2)
    half = stats.t.ppf(0.975, 1) * np.std([-2, 6], ddof=1) / 2**0.5
    assert found.loc["ood_b", "half"] == pytest.approx(half)
    without = frame[~((frame["method"] == "ft") & (frame["seed"] == 1))]
    alone = shift.gains(without).set_index("split")
    assert alone.loc["ood_a", ["drop", "gain"]].tolist() == pytest.approx([10, 4])


def test_no_runs_and_no_shifted_sets_give_no_gains(frame):
    assert shift.gains(frame.iloc[:0]).empty
    assert shift.gains(frame[frame["split"].isin(["train", "test"])]).empty


def test_published_gains_are_differences_of_the_printed_means(published):
    found = shift.published_gains(published).set_index("split")
    assert found.loc["ood_dynasent", ["drop", "gain"]].tolist() == pytest.approx([88.66 - 44.33, 45.41 - 44.33])
    assert len(found) == 3 and found["half"].isna().all()


def test_published_numbers_are_refused_where_means_over_runs_are_taken(published):
    for function in (shift.pairs, shift.gains):
        with pytest.raises(ParameterError, match="measured results alone"):
            function(published)


def test_a_table_by_set_keeps_sources_apart_and_pre_trained_features_of_fdr_alone(frame, published):
    shown = shift.set_table("FDR", published, {"reference runs": frame.iloc[:0], "this run": frame})
    assert set(shown.index) == {f"{LABEL}: amazon", "this run: toy, tiny"}
    assert list(shown.columns) == ["set", "pre-trained", "FT", "LP-FT"]
    ours = shown.loc["this run: toy, tiny"].set_index("set")
    assert list(ours.index) == ["test", "a (OOD)", "b (OOD)"]
    assert ours.loc["a (OOD)", "LP-FT"].startswith("0.73 ± ")
    theirs = shown.loc[f"{LABEL}: amazon"].set_index("set")
    assert theirs.loc["dynasent (OOD)", ["pre-trained", "FT", "LP-FT"]].tolist() == ["1.94", "2.03", "2.20"]
    assert "pre-trained" not in shift.set_table("Diff", published, {"this run": frame})


def test_the_judged_method_is_not_on_its_own_line(frame):
    points = shift.pairs(frame).assign(source="this run")
    before = shift.robustness_table(points)
    assert before["runs on the line"].tolist() == ["4", "4"]
    points.loc[points["method"] == "lp_ft", "outside"] += 0.05
    after = shift.robustness_table(points)
    assert (after["slope"] == before["slope"]).all()
    (column,) = [name for name in after if "this run" in name]
    moved = [float(t[column].iloc[0].split(" ±")[0]) for t in (before, after)]
    assert moved[1] - moved[0] == pytest.approx(5, abs=0.11)


def test_figures_have_a_panel_per_set_and_a_mark_per_run_and_stand_without_any(frame, tmp_path):
    points = shift.pairs(frame)
    figure = plots.on_the_line(points)
    assert [axes.get_title() for axes in figure.axes] == ["a (OOD)", "b (OOD)"]
    marks = {line.get_label(): len(line.get_xdata()) for line in figure.axes[0].lines}
    assert marks == {"equal": 2, "line without LP-FT": 2, "LP": 2, "FT": 2, "LP-FT": 2}
    gains = shift.gains(frame).assign(source="this run")
    (axes,) = plots.gains_by_shift(gains).axes
    assert sorted(text.get_text() for text in axes.texts) == ["a", "b"]
    for empty in (plots.on_the_line(points.iloc[:0]), plots.gains_by_shift(gains.iloc[:0])):
        empty.savefig(tmp_path / "empty.svg")
    assert shift.robustness_table(points.iloc[:0].assign(source="")).empty
