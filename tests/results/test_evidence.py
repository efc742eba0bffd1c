"""Committed results find their place in grid and plan, and what is not as it should be is said."""

import copy
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import tiny_evidence
from tiny_evidence import GRID, PLAN, SEEDS

from lpft_utils.common.errors import ParameterError, RunError
from lpft_utils.metrics.intervals import holm
from lpft_utils.results.claims import evaluate
from lpft_utils.results.collected import read_collected, write_collected
from lpft_utils.results.evidence import load_evidence
from lpft_utils.results.ledger import STATES
from lpft_utils.results.published_claims import beside
from lpft_utils.results.reference import claims_table
from lpft_utils.runs.store import list_runs


@pytest.fixture(scope="module")
def evidence(tiny):
    return load_evidence(tiny / "reference")


@pytest.fixture(scope="module")
def rows(evidence):
    return {row.id: row for row in evidence.rows}


@pytest.fixture
def copied(tiny, tmp_path):
    """A copy of the files that a test may change."""
    return shutil.copytree(tiny / "reference", tmp_path / "reference")


def change(file, edit):
    """Rewrite a file of results after `edit(frame)`."""
    frame = read_collected(file).astype(dict.fromkeys(("run", "plan", "environment", "metric", "spec"), object))
    write_collected(file, edit(frame))


def stored(tiny):
    """Runs of the evaluation by method and rate."""
    found = {}
    for run in list_runs(tiny / "store"):
        if run.spec.seed in SEEDS and run.spec.head_factor is None:
            found.setdefault((run.spec.method, run.spec.learning_rate), []).append(run)
    return found


def chosen_rate(tiny, method):
    """By hand: the rate of the best validation accuracy on the tuning seed, of equal ones the smaller."""
    tuning = [r for r in list_runs(tiny / "store") if r.spec.seed == 1 and r.spec.method == method]
    return min((-r.accuracy("validation"), r.spec.learning_rate) for r in tuning)[1]


def key(row):
    return row.task, row.verdict.record, row.verdict.where, row.verdict.rate


def test_rows_say_what_the_runs_themselves_say(tiny, rows):
    runs, rate = stored(tiny), {m: chosen_rate(tiny, m) for m in ("ft", "lp_ft")}
    assert rate["ft"] != rate["lp_ft"]
    (lp,) = (group for (method, _), group in runs.items() if method == "lp")
    ft = runs["ft", rate["ft"]]
    for name in ("tuned", "same"):
        lp_ft = runs["lp_ft", rate["lp_ft" if name == "tuned" else "ft"]]
        expected = evaluate([*lp, *ft, *lp_ft], "1", "2", "7", "8")
        for v in expected if name == "tuned" else [v for v in expected if v.where[:2] == ("ft", "lp_ft")]:
            (row,) = (r for r in rows.values() if key(r) == ("toy", v.record, v.where, name))
            assert row.verdict.difference == v.difference and row.verdict.over == v.over
            assert row.verdict.reason == v.reason and row.verdict.difference.n == 3
    assert rows["8.each/toy/tuned/b"].verdict.over == "seeds × texts"
    assert rows["8.each/toy/tuned/b"].verdict.difference.half_width > 0
    assert rows["2.Diff/toy/tuned"].verdict.statement == "Diff(F) of LP-FT is smaller than of FT"
    assert rows["2.Diff/toy/same"].verdict.statement == "Diff(F) of LP-FT is smaller than of FT, at the rate of FT"
    assert rows["2.Diff/toy/same"].verdict.difference != rows["2.Diff/toy/tuned"].verdict.difference


def test_every_endpoint_of_the_plan_is_a_row_and_shares_the_risk_of_its_claim(evidence, rows):
    primary = evidence.primary()
    planned = [
        f"{e['statistic']}/{task}/{rate}" for e in PLAN["endpoints"] for task in e["tasks"]
        for rate in e.get("rates", ["tuned"])
    ]  # fmt: skip
    assert sorted(row.id for row in primary) == sorted(planned) and len(rows) == len(evidence.rows)
    assert sum(evidence.summary().values()) == len(planned) and list(evidence.summary()) == list(STATES)
    assert rows["2.Diff/later/same"].verdict.outcome == "no runs yet"
    family = [rows[f"2.Diff/{task}/{rate}"].verdict for task in ("toy", "later") for rate in ("tuned", "same")]
    p = [v.p if v.difference.n else 1.0 for v in family]
    assert [v.p_holm for v in family[:2]] == pytest.approx(holm(p)[:2])  # those without runs count: the plan has four
    assert np.isnan([v.p_holm for v in family[2:]]).all()


def test_a_sweep_is_tested_over_its_factors_and_nothing_else(tiny, rows):
    groups = {}
    for run in list_runs(tiny / "store"):
        if run.spec.head_factor:
            groups.setdefault(run.spec.head_factor, []).append(run)
    (expected,) = evaluate(groups, "3.trend")
    row = rows["3.trend/toy/tuned"]
    assert (row.verdict.difference, row.verdict.p) == (expected.difference, expected.p)
    assert {place.group for place in row.places} == {"0.5", "1", "10"} and row.seeds == set(SEEDS[:2])


def test_tuning_runs_are_in_no_mean(evidence):
    assert set(evidence.frame["seed"]) == set(SEEDS)
    assert any("-s1-" in run for run in evidence.about["run"])  # but are a part of what was done


def test_without_results_every_endpoint_waits_for_its_runs(tmp_path):
    tiny_evidence.write_settings(tmp_path)
    found = load_evidence(tmp_path)
    assert found.summary() == dict.fromkeys(STATES, 0) | {"no runs yet": 22}
    assert found.missing() == {"toy, tiny": 3 + 3 + 3 + 3 + 3 + 6} and not found.notes
    assert all(row.verdict.outcome == "no runs yet" and row.to_dict()["effect"] is None for row in found.rows)


def test_who_reads_results_needs_none_of_the_backbones(tmp_path):
    tiny_evidence.write_settings(tmp_path, [{**GRID[0], "backbones": ["tiny", "/nowhere"]}])
    assert load_evidence(tmp_path).missing()["toy, /nowhere"] == 12


def test_rows_are_plain_json(evidence):
    text = json.dumps([row.to_dict() for row in evidence.rows], allow_nan=False)
    row = json.loads(text)[0]
    assert {"id", "claim", "statement", "task", "primary", "effect", "low", "high", "seeds", "detectable"} <= row.keys()


def test_equal_rates_make_one_run_that_is_in_both(tiny, copied):
    rate = chosen_rate(tiny, "ft")

    def edit(frame):
        """A tuning run of LP-FT at FT's rate: one of the evaluation under another seed."""
        one = frame[(frame["method"] == "lp_ft") & (frame["seed"] == 101)]
        one = one[[json.loads(spec)["learning_rate"] == rate for spec in one["spec"]]]
        spec = json.dumps({**json.loads(one["spec"].iloc[0]), "seed": 1})
        return pd.concat([frame, one.assign(seed=1, spec=spec, run="toy-lp_ft-s1-made")])

    change(copied / "runs.parquet", edit)
    block = {**GRID[0], "learning_rates": {**GRID[0]["learning_rates"], "lp_ft": [rate]}}
    tiny_evidence.write_settings(copied, [block])
    rows = {row.id: row for row in load_evidence(copied).rows}
    tuned, same = (rows[f"2.Diff/toy/{name}"] for name in ("tuned", "same"))
    assert tuned.verdict.difference == same.verdict.difference and tuned.verdict.difference.n == 3
    assert [place.name for place in tuned.places] == [place.name for place in same.places]


def test_a_rate_that_is_not_chosen_yet_leaves_its_runs_open(copied):
    change(copied / "runs.parquet", lambda frame: frame[(frame["method"] != "ft") | (frame["seed"] != 1)])
    found = load_evidence(copied)
    row = next(row for row in found.rows if row.id == "2.Diff/toy/tuned")
    assert row.verdict.outcome == "no runs yet" and row.note == "0 of 3 planned seeds so far (3 of 6 runs)."
    assert found.notes[0].startswith("6 runs are left out")  # FT's and those of LP-FT at FT's rate


def test_missing_seeds_and_runs_beyond_the_grid_are_said(copied):
    def edit(frame):
        lp_ft = frame[(frame["method"] == "lp_ft") & (frame["seed"] == 103)]["run"].unique()
        return frame[~frame["run"].isin(lp_ft)]

    change(copied / "runs.parquet", edit)
    tiny_evidence.write_settings(copied, [{**GRID[0], "seeds": SEEDS[:2] + [103]}])
    found = load_evidence(copied)
    row = next(row for row in found.rows if row.id == "2.Diff/toy/tuned")
    assert row.verdict.difference.n == 2 and row.note == "2 of 3 planned seeds so far (5 of 6 runs)."
    (note,) = found.notes
    assert note.startswith("6 runs are left out, since the grid does not ask for them: toy-lp_ft-s101-")


def test_a_plan_whose_seeds_are_not_those_of_the_grid_is_refused(copied):
    tiny_evidence.write_settings(copied, [{**GRID[0], "seeds": [101, 102]}, GRID[1]])
    with pytest.raises(ParameterError, match=r"1.lp/toy/tuned: expected the plan's seeds \{101, 102, 103\}"):
        print(load_evidence(copied).rows)


def test_rows_of_another_plan_and_other_machines_are_said(copied):
    def edit(frame):
        first = frame["run"] == frame["run"].iloc[0]
        frame.loc[first, "plan"] = "0123456789abcdef"
        environment = json.loads(frame["environment"].iloc[0]) | {"device": "a large one"}
        frame.loc[first, "environment"] = json.dumps(environment)
        return frame

    change(copied / "runs.parquet", edit)
    other, machines = load_evidence(copied).notes
    assert other.startswith("1 runs were made under another plan (0123456789abcdef; this one is ")
    assert machines.startswith("Made in different environments: ") and "1 runs on a large one, " in machines


def test_a_diverged_run_is_left_out_with_its_pair_and_counted(copied):
    lost = {}

    def edit(frame):
        runs = frame[(frame["method"] == "ft") & (frame["seed"] == 102) & frame["step"].isna()]
        for run in runs["run"].unique():
            splits = frame[(frame["run"] == run) & (frame["metric"] == "accuracy") & frame["step"].isna()]
            frame = frame[(frame["run"] != run) | frame["metric"].isin(["diverged", "seconds"])]
            frame.loc[(frame["run"] == run) & (frame["metric"] == "diverged"), "value"] = 1
            more = splits.assign(metric="diverged", value=1.0, predicted=None, labels=None)
            frame, lost[run] = pd.concat([frame, more]), 1
        return frame

    change(copied / "runs.parquet", edit)
    found = load_evidence(copied)
    row = next(row for row in found.rows if row.id == "2.Diff/toy/tuned")
    assert (row.verdict.difference.n, row.verdict.diverged, row.note) == (2, 1, "")
    assert len(lost) == 1 and found.notes == ("1 runs diverged and are left out of every mean.",)


def test_kernels_without_their_run_or_of_another_size_are_said(copied):
    change(copied / "runs.parquet", lambda frame: frame[~((frame["method"] == "lp") & (frame["seed"] == 101))])
    (note,) = load_evidence(copied).notes
    assert note == "toy-kernels-s101: the results lack the LP run whose head its kernels have."
    plan = copy.deepcopy(PLAN)
    plan["tasks"]["toy"]["n_kernel"] = 7
    other = shutil.copytree(copied, copied.parent / "other")  # a plan is read once
    tiny_evidence.write_settings(other, plan=plan)
    notes = load_evidence(other).notes
    assert any("3 runs are left out" in note and "toy-kernels-s101, toy-kernels-s102" in note for note in notes)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda f: pd.concat([f, f.head(20)]), "expected one set of settings and one value per metric"),
        (lambda f: f.assign(seed=f["seed"].mask(f["run"] == f["run"].iloc[0], 9)), "expected one set of settings"),
        (lambda f: pd.concat([f, f[f["run"] == f["run"].iloc[0]].assign(run="twin")]), "have equal settings"),
        (lambda f: f.assign(plan=["x", *f["plan"][1:]]), "expected one set of settings"),
    ],
)
def test_files_that_say_two_things_of_one_run_are_refused(copied, edit, message):
    change(copied / "runs.parquet", edit)
    with pytest.raises(RunError, match=f"runs.parquet: .*{message}"):
        load_evidence(copied)


def test_a_damaged_file_is_named(copied):
    (copied / "kernels.parquet").write_bytes(b"PAR1")
    with pytest.raises(RunError, match=r"kernels\.parquet: expected results of"):
        load_evidence(copied)


def test_a_task_at_whose_every_rate_training_diverged_says_so(copied):
    def edit(frame):
        tuned = (frame["seed"] == 1) & (frame["method"] == "ft")
        frame.loc[tuned & (frame["metric"] == "diverged"), "value"] = 1
        return frame

    change(copied / "runs.parquet", edit)
    assert "ft on toy: training diverged at every rate" in load_evidence(copied).notes[0]


def test_chapters_show_outcomes_of_the_evidence_beside_their_own(evidence, tiny):
    runs = [run for (method, _), group in stored(tiny).items() for run in group if method in ("lp", "ft")]
    verdicts = evaluate(runs, "1.lp")
    (cell,) = beside(verdicts, evidence, tiny_evidence.PUBLISHED)["reference runs"]
    assert cell == "toy: holds; later: no runs yet"
    table = claims_table(evidence, only=(2,))
    assert {"toy", "later"} <= set(table) and set(table["claim"]) == {2}
