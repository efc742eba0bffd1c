"""The committed files of reference results."""

import json
import shutil

import numpy as np
import pytest
import scipy.stats
from conftest import ROOT

from lpft_utils.common.errors import RunError
from lpft_utils.results import reference
from lpft_utils.results.frame import select

FOLDER = ROOT / "book" / "reference"
FILES = sorted(FOLDER.glob("*.json"))


def outcome(low, high):
    return "holds" if low > 0 else "fails" if high < 0 else "undecided"


def test_there_are_reference_files():
    assert {file.name for file in FILES} >= {"real-tasks.json", "kernel-claims.json", "five-methods.json"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_an_outcome_follows_from_its_interval(file):
    found = reference.load_reference(file)
    assert reference.provenance(found)
    for entry in found.about:
        verdicts = {v.statement: v for v in found.verdicts(entry["name"])}
        assert len(verdicts) > len(entry["claims"])  # some are tested again
        for v in verdicts.values():
            assert v.outcome == outcome(v.difference.low, v.difference.high), v
        for stored in entry["claims"]:
            assert stored["outcome"] == verdicts[stored["statement"]].outcome


@pytest.mark.parametrize(
    ("key", "larger", "smaller", "statement"),
    [
        ("ECE", "lp_lora", "lora", "ECE of LP-LoRA is larger than of LoRA, without temperature scaling"),
        ("ECE", "lp_ft", "ft", "ECE of LP-FT is larger than of FT, without temperature scaling"),
        ("CS", "lp_ft", "ft", "CS(F) of LP-FT is larger than of FT"),
        ("Diff", "lora", "lp_lora", "Diff(F) of LP-LoRA is smaller than of LoRA"),
        ("accuracy", "lp_ft", "lp", "LP-FT is more accurate than LP on test"),
    ],
)
def test_verdicts_follow_from_the_committed_values(key, larger, smaller, statement):
    found = reference.load_reference(FOLDER / "five-methods.json")
    for task in ("cb", "rte"):
        (tested,) = (v for v in found.verdicts(task) if v.statement == statement)
        a, b = (
            select(found.frame, task=task, method=method, split="test", metric=key).sort_values("seed")["value"]
            for method in (larger, smaller)
        )
        d = np.subtract(a.to_numpy(), b.to_numpy()) * (100 if key == "accuracy" else 1)
        half_width = scipy.stats.t.ppf(0.975, len(d) - 1) * d.std(ddof=1) / len(d) ** 0.5
        assert len(d) == 3 and (tested.difference.mean, tested.difference.half_width) == pytest.approx(
            (d.mean(), half_width)
        )


def test_claims_table_has_every_verdict_of_every_task():
    table = reference.claims_table(reference.load_reference(FOLDER / "kernel-claims.json"))
    assert list(table.columns) == ["claim", "statement", "cb", "rte"] and list(table["claim"]) == sorted(table["claim"])
    row = table.set_index("statement").loc["‖F‖/‖P+F‖ is larger at the initialisation of LP-LoRA than of LoRA"]
    assert (row["claim"], row["cb"]) == (4, "fails")  # kept as a verdict: its values per seed are not committed
    assert table.set_index("statement").loc["Diff(F) is larger at ‖V0‖ = 0.5 than at 50", "cb"] == "holds"


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
