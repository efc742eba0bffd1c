"""A chapter: its parameters, what its text quotes, and its stamp."""

import warnings
from pathlib import Path

import pytest
from constructed import MadeUpRun

from lpft_utils.common.errors import ParameterError, TaskWarning
from lpft_utils.teaching import chapter as module
from lpft_utils.teaching.chapter import Chapter


def test_a_parameter_that_is_none_leaves_the_choice_to_the_profile():
    profile = Chapter("smoke", None, None, [7], None, 48).profile
    assert (profile.name, profile.task, profile.seeds) == ("smoke", "snippets", (7,))
    assert profile.spec("lp").n_train == 48


def test_an_unknown_profile_is_refused():
    with pytest.raises(ParameterError, match="profile: expected one of smoke"):
        Chapter("labtop")


def test_values_are_kept_for_the_text_and_not_displayed(monkeypatch):
    kept = []
    monkeypatch.setattr(module, "glue", lambda name, value, display: kept.append((name, value, display)))
    Chapter("smoke").put("lp-norm", "2.1")
    assert kept == [("lp-norm", "2.1", False)]


def test_without_runs_the_stamp_says_where_and_when_only(monkeypatch):
    clock = iter([100.0, 142.4])
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(clock))
    rows = Chapter("smoke").stamp().rows
    assert list(rows) == ["profile", "device", "software", "date", "this chapter"]
    assert rows["this chapter"].startswith("42 s with ")


def made_up(seed, validation=False, **more):
    task = {"source": "x", "synthetic": False, "sizes": {"test": 9}, "test_is_validation": validation}
    run = MadeUpRun("lp_ft", seed, task=task, seconds=1.0, environment={"device": "cpu"}, **more)
    run.folder = Path(f"run-{seed}")
    return run


def test_the_stamp_names_the_runs_that_diverged():
    rows = Chapter("smoke").stamp([made_up(0), made_up(1, diverged=True)]).rows
    assert rows["diverged"] == "1 of 2 runs (LP-FT of seed 1); left out of every mean"
    assert "diverged" not in Chapter("smoke").stamp([made_up(0)]).rows


def test_in_a_notebook_the_stamp_is_kept_with_the_names_of_its_runs(monkeypatch):
    chapter, kept = Chapter("smoke"), {}
    monkeypatch.setattr(module, "get_ipython", lambda: True)
    monkeypatch.setattr(module, "glue", lambda name, value, display: kept.update({name: value}))
    rows = chapter.stamp([made_up(1), made_up(0), made_up(1)]).rows
    assert kept == {"stamp": {**rows, "runs": ["run-0", "run-1"]}}


def test_a_task_is_named_with_what_is_tested_on():
    chapter = Chapter("smoke", "rte")
    assert chapter.task(made_up(0)) == "rte"
    assert chapter.task(made_up(0, validation=True)) == "rte, tested on its published validation set"


def test_a_stamp_shows_text_as_text():
    assert "<td>a &lt;b&gt; &amp; c</td>" in module.Stamp({"task": "a <b> & c"})._repr_html_()


def test_what_is_said_about_the_data_stands_in_the_stamp_and_other_warnings_go_on():
    shown = []
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, category, *_, **__: shown.append((str(message), category))
        chapter = Chapter("smoke")
        for _ in range(2):
            warnings.warn("Task 'mine': texts that are also in train: 3 of test.", TaskWarning, stacklevel=1)
        warnings.warn("slow", UserWarning, stacklevel=1)
    assert chapter.stamp().rows["about the data"] == "Task 'mine': texts that are also in train: 3 of test."
    assert shown == [("slow", UserWarning)]
