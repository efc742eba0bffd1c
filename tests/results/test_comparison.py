"""The table of `lpft compare`, on runs made up by hand."""

import numpy as np
import pytest
from constructed import MadeUpRun, drawn

from lpft_utils.common.errors import ParameterError
from lpft_utils.metrics.calibration import calibration_metrics, softmax
from lpft_utils.metrics.intervals import format_interval
from lpft_utils.results.comparison import comparison


def made_up(method, seed, diff, norm, diverged=False):
    predictions = {split: drawn(10 * seed + i, 60, 3) for i, split in enumerate(("validation", "test", "ood_x"))}
    change = {split: {"Diff": diff} for split in predictions}
    return MadeUpRun(method, seed, predictions=predictions, change=change, head_norm=norm, diverged=diverged)


FT = [made_up("ft", seed, 3.0 + seed, 0.5) for seed in range(3)]
LP_FT = [made_up("lp_ft", seed, 1.0 + 0.5 * seed, 9.0) for seed in range(3)]


def test_every_cell_is_an_interval_over_seeds_and_differences_are_paired():
    shown = comparison({"ft": FT, "lp_ft": LP_FT})
    assert list(shown.columns) == ["FT", "LP-FT", "LP-FT − FT"]
    names = ("accuracy (%)", "Diff(F)", "ECE", "ECE, TS")
    assert list(shown.index) == [f"{name}, {split}" for name in names for split in ("test", "x (OOD)")] + ["‖V‖"]
    assert shown.loc["Diff(F), test", "FT"] == format_interval([3, 4, 5])
    assert shown.loc["Diff(F), test", "LP-FT − FT"] == format_interval([-2, -2.5, -3])
    assert shown.loc["‖V‖", "LP-FT − FT"] == "8.50 ± 0.00"
    ece = [calibration_metrics(softmax(r.predictions["ood_x"][0]), r.predictions["ood_x"][1])["ECE"] for r in FT]
    assert shown.loc["ECE, x (OOD)", "FT"] == format_interval(ece, 3)
    assert shown.loc["accuracy (%), test", "LP-FT − FT"] == "0.0 ± 0.0"
    assert "over 3 seeds" in shown.attrs["note"]


def test_a_diverged_run_takes_its_pair_out_of_the_difference_and_is_counted():
    lost = made_up("lp_ft", 1, np.nan, np.nan, diverged=True)
    shown = comparison({"ft": FT, "lp_ft": [LP_FT[0], lost, LP_FT[2]]})
    assert shown.loc["Diff(F), test", "FT"] == format_interval([3, 4, 5])
    assert shown.loc["Diff(F), test", "LP-FT"] == f"{format_interval([1, 2])} (1 diverged)"
    assert shown.loc["Diff(F), test", "LP-FT − FT"] == f"{format_interval([-2, -3])} (1 diverged)"
    assert comparison({"ft": FT[:1], "lp_ft": [made_up("lp_ft", 0, 0, 0, True)]}).loc["‖V‖", "LP-FT"] == "(1 diverged)"


def test_one_seed_has_no_interval_and_the_note_says_so():
    shown = comparison({"ft": FT[:1], "lp_ft": LP_FT[:1]})
    assert (
        shown.loc["Diff(F), test", "LP-FT − FT"] == "-2.00" and "One seed: there is no interval" in shown.attrs["note"]
    )


def test_other_seeds_are_not_paired():
    with pytest.raises(ParameterError, match="runs of the same seeds"):
        comparison({"ft": FT[:2], "lp_ft": LP_FT[1:]})
