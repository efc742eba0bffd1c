"""The committed files of reference results."""

import json
import shutil

import numpy as np
import pytest
import scipy.stats
from conftest import ROOT
from constructed import MadeUpRun

from lpft_utils.common.errors import RunError
from lpft_utils.metrics.intervals import holm
from lpft_utils.results import reference
from lpft_utils.results.claims import evaluate
from lpft_utils.results.frame import select
from lpft_utils.results.plan import load_plan

FOLDER = ROOT / "book" / "reference"
FILES = sorted(FOLDER.glob("*.json"))


def test_there_are_reference_files():
    assert {file.name for file in FILES} >= {"real-tasks.json", "kernel-claims.json", "five-methods.json"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_outcomes_follow_from_intervals_by_holms_method_over_all_tasks(file):
    found = reference.load_reference(file)
    assert reference.provenance(found)
    verdicts = [v for verdicts in found.by_task().values() for v in verdicts]
    assert len(verdicts) > sum(len(entry["claims"]) for entry in found.about)  # most are tested again
    families = {}
    for v in verdicts:
        if not v.reason:
            families.setdefault((v.claim, v.role), []).append(v)
    for family in families.values():
        assert [v.p_holm for v in family] == pytest.approx(holm([v.p for v in family]))
        for v in family:
            side = np.sign(v.side) if v.p_holm < 0.05 else 0
            assert v.outcome == {1: "holds", -1: "fails", 0: "undecided"}[side], v
    kept = [c for entry in found.about for c in entry["claims"]]
    shown = [(v.record.id, [*v.where], v.difference.mean) for v in verdicts]
    assert all((c["id"], c["where"], c["difference"]) in shown for c in kept)


@pytest.mark.parametrize(
    ("key", "a", "b", "claim", "sign"),
    [
        ("CS", "ft", "lp_ft", "2.CS", 1),
        ("Diff", "lora", "lp_lora", "2.Diff", -1),
        ("accuracy", "lp", "lp_ft", "8.test", 100),
        ("ECE", "ft", "lp_ft", "7.ECE", 1),
    ],
)
def test_verdicts_follow_from_the_committed_values(key, a, b, claim, sign):
    found = reference.load_reference(FOLDER / "five-methods.json")

    def values(metric, method, task):
        chosen = select(found.frame, task=task, method=method, split="test", metric=metric)
        return chosen.sort_values("seed")["value"].to_numpy()

    for task in ("cb", "rte"):
        (tested,) = (v for v in found.by_task()[task] if v.record.id == claim and v.where[:2] == (a, b))
        d = sign * (values(key, b, task) - values(key, a, task))
        if key == "ECE":
            d -= values("ECE, TS", b, task) - values("ECE, TS", a, task)
        half_width = scipy.stats.t.ppf(0.975, len(d) - 1) * d.std(ddof=1) / len(d) ** 0.5
        assert len(d) == 3 and (tested.difference.mean, tested.difference.half_width) == pytest.approx(
            (d.mean(), half_width)
        )


def test_claims_table_has_every_verdict_of_every_task():
    table = reference.claims_table(reference.load_reference(FOLDER / "kernel-claims.json"))
    assert list(table.columns) == ["claim", "statement", "cb", "rte"] and list(table["claim"]) == sorted(table["claim"])
    row = table.set_index("statement").loc["‖F‖/‖P+F‖ is larger for LP-LoRA than for LoRA"]
    assert (row["claim"], row["cb"]) == (4, "fails")  # kept as an interval: its values per seed are not committed
    assert row["rte"] == "not testable: shown without a verdict, by the plan"


def test_a_head_that_lp_shortened_shows_nothing_about_tuning_on_cola():
    found = reference.load_reference(FOLDER / "real-tasks.json")
    outcomes = {(v.record.id, v.where[0]): v.outcome for v in found.by_task()["cola"]}
    assert outcomes["1.lp", "ft"] == "fails" and outcomes["1.stays", "lp"] == "not testable"
    assert outcomes["8.test", "ft"] == "not testable"  # every method predicts the more frequent class


def test_an_interval_over_texts_is_kept_and_used_again(tmp_path):
    rng = np.random.default_rng(0)
    y = rng.integers(2, size=50)
    runs = []
    for method, skill in (("ft", 0.5), ("lp_ft", 3.0)):
        for seed in range(3):
            f = np.eye(2)[y] * skill + rng.normal(size=(50, 2))
            about = {"task": {"synthetic": False}, "environment": {}, "seconds": 1.0}
            runs.append(MadeUpRun(method, seed, predictions={"test": (f, y)}, **about))
            runs[-1].spec.to_dict = dict
    found = reference.summarise({"": runs})
    reference.write_reference(tmp_path / "one.json", [found])
    again = reference.load_reference(tmp_path / "one.json")
    assert again.about[0]["plan"] == load_plan().hash
    (direct,) = evaluate(runs, "8")
    (kept,) = again.by_task()["made up"]
    assert kept.over == direct.over == "seeds × texts"
    assert kept.difference.half_width == pytest.approx(direct.difference.half_width)
    assert (kept.outcome, kept.statement) == (direct.outcome, direct.statement)


def test_reference_table_has_a_row_per_task_and_set():
    table = reference.reference_table(reference.load_reference(FOLDER / "real-tasks.json"))
    assert list(table.columns) == ["task", "set", "LP", "FT", "LP-FT", "Diff, FT", "Diff, LP-FT"]
    assert list(table.loc[0, ["task", "set", "LP", "Diff, FT"]]) == ["cola", "test", "69.2 ± 0.0", "3.70 ± 0.70"]
    assert table.loc[1, "set"] == "validation (OOD)" and table.loc[1, "Diff, FT"] == ""


@pytest.mark.parametrize(
    ("name", "make", "task"),
    [
        ("real-tasks", reference.reference_table, "cola"),
        ("real-tasks", reference.claims_table, "cola"),
        ("five-methods", lambda found: reference.methods_table(found, "ECE"), "rte"),
        ("kernel-claims", reference.norm_table, "rte"),
    ],
)
def test_tables_name_the_task_whose_test_set_is_the_published_validation_set(name, make, task):
    shown = make(reference.load_reference(FOLDER / f"{name}.json"))
    assert f"“test” of {task}: the published validation set" in shown._repr_html_()


@pytest.mark.parametrize("content", [None, "", "{", "[]", "{}", "[3]", json.dumps([{"name": "cb"}])])
def test_a_file_without_results_says_how_to_get_it_back(tmp_path, content):
    file = tmp_path / "results.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(RunError, match=r"results\.json.*git checkout"):
        reference.load_reference(file)


@pytest.mark.parametrize("content", [None, "", "task,value\ncb,1\n", "of another file"])
def test_a_damaged_frame_says_how_to_get_it_back(tmp_path, content):
    shutil.copy(FOLDER / "real-tasks.json", tmp_path)
    if content == "of another file":
        content = (FOLDER / "five-methods.csv").read_text()
    if content is not None:
        (tmp_path / "real-tasks.csv").write_text(content)
    with pytest.raises(RunError, match=r"real-tasks.*git checkout"):
        reference.load_reference(tmp_path / "real-tasks.json")
