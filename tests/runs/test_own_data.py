"""Own, imbalanced data from the table to the page: `lpft new-data`, methods, a chapter's set-up, `lpft compare`."""

import warnings

import numpy as np
import pytest
from click.testing import CliRunner

from lpft_utils.cli import main
from lpft_utils.runs.profiles import get_profile
from lpft_utils.runs.run import load_data, run_seeds
from lpft_utils.teaching.chapter import Chapter

WORDS = "invoice crash page thanks terms offer login refund slow fast cannot open printed".split()
SETS = {
    "tickets": {"billing": 200, "bug": 90, "question": 60, "praise": 20, "legal": 5, "spam": 4},
    "stars": {"one": 150, "two": 12, "three": 4, "four": 4, "five": 90, "none": 1},
}


def lpft(*arguments):
    result = CliRunner().invoke(main, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module", params=SETS)
def task(request, tmp_path_factory):
    """One of the sets, as the data folder has it, and an empty run store."""
    folder, rng = tmp_path_factory.mktemp(request.param), np.random.default_rng(0)
    texts = [f"{c} {i} {' '.join(rng.choice(WORDS, 6))},{c}" for c, n in SETS[request.param].items() for i in range(n)]
    (folder / "in.csv").write_text("\n".join(["text,class", *texts]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LPFT_DATA", str(folder / "data"))
        patch.setenv("LPFT_RUNS", str(folder / "runs"))
        lpft("new-data", folder / "in.csv", "--text", "text", "--label", "class", "--name", request.param)
        yield request.param


def test_six_imbalanced_classes_run_through_every_method_and_the_page_says_which_are_rare(task):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        chapter = Chapter("smoke", task)
        setting = chapter.profile
        counts = np.bincount(load_data(setting.spec("lp")).split("train").labels, minlength=6)
        assert len(counts) == 6 and counts.sum() == 96 and 1 <= counts.min() < 5
        for method in ("lp", "ft", "lp_ft"):
            for stored in run_seeds(setting.spec(method, lp="cv"), setting.seeds):
                assert not stored.diverged and all(0 <= a <= 1 for a in stored.metrics["accuracy"].values())
        said = chapter.stamp([stored]).rows["about the data"]
        names = load_data(setting.spec("lp")).label_names
    rare = ", ".join(f"{names[c]} ({n})" for c, n in enumerate(counts) if n < 5)
    assert f"fewer than 5 training examples of {rare}: accuracy there says little" in said
    assert f"Examples of the rarest class: {counts.min()}, fewer than the 5 folds" in said


@pytest.mark.filterwarnings("ignore::lpft_utils.common.errors.TaskWarning")
def test_compare_shows_methods_and_their_paired_difference(task):
    which = ("--method", "ft", "--method", "lp_ft", "--task", task, "--profile", "smoke", "--set", "lp=cv")
    shown = lpft("compare", *which)
    rows = {line.split("  ")[0].strip(): line for line in shown.splitlines()}
    setting = get_profile("smoke", task=task)
    ft, lp_ft = (run_seeds(setting.spec(m, lp="cv"), setting.seeds) for m in ("ft", "lp_ft"))
    moved = [[run.metrics["change"]["test"]["Diff"] for run in runs] for runs in (ft, lp_ft)]
    assert rows["Diff(F), test"].split()[-3] == f"{np.mean(moved[1]) - np.mean(moved[0]):.2f}"
    assert {"accuracy (%), test", "ECE, test", "ECE, TS, test", "‖V‖"} <= set(rows)
    assert "interval over 2 seeds" in shown
    one = lpft("compare", *which, "--seed", 0)
    assert "One seed: there is no interval" in one and "±" not in one


def test_compare_wants_different_methods():
    for methods in (("ft",), ("ft", "ft")):
        result = CliRunner().invoke(main, ["compare", *(word for m in methods for word in ("--method", m))])
        assert result.exit_code == 2 and "two or more different methods" in result.output
