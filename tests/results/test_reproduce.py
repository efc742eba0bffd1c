"""A row of the ledger is done again and compared; the commands `lpft ledger` and `lpft reproduce`."""

import json
import shutil

import numpy as np
import pytest
from click.testing import CliRunner

from lpft_utils import cli
from lpft_utils.common.errors import ParameterError, RunError
from lpft_utils.results import reproduce as again
from lpft_utils.results.collected import read_collected, write_collected
from lpft_utils.results.evidence import load_evidence


@pytest.fixture
def book(tiny, tmp_path, monkeypatch):
    """A book whose evidence is the tiny one; the new runs are those of its store, so that nothing is trained again."""
    shutil.copytree(tiny / "reference", tmp_path / "book" / "reference")
    (tmp_path / "_toc.yml").write_text("")
    monkeypatch.setenv("LPFT_DATA", str(tiny / "data"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lpft(*arguments):
    return CliRunner().invoke(cli.main, list(map(str, arguments)))


def change(book, metric, edit):
    file = book / "book" / "reference" / "runs.parquet"
    frame = read_collected(file)
    chosen = (frame["metric"] == metric) & frame["step"].isna() & (frame["method"] == "lp_ft") & (frame["seed"] > 1)
    frame.loc[chosen, "value"] = edit(frame.loc[chosen, "value"])
    write_collected(file, frame)


def test_what_is_done_again_in_a_new_store_is_equal_here(tiny, book, tmp_path):
    evidence = load_evidence()
    for name in ("1.lp/toy/tuned", "4.F/toy/tuned"):
        row = again.find_row(evidence, name)
        new = again.reproduce(row, tmp_path / "new")
        compared = again.compare(evidence, row, new)
        assert len(compared) > 100 and compared["within"].all()
        np.testing.assert_allclose(compared["committed"], compared["again"], rtol=1e-4, atol=1e-5)
        assert set(compared["run"]) == {place.name for place in row.places}
        assert not compared["metric"].isin(["seconds", "train_seconds"]).any()
    assert len(list((tmp_path / "new").glob("toy-*"))) == 3 + 3  # LP's runs are of both; FT's


def test_the_tolerance_is_a_hundredth_or_the_standard_deviation_over_seeds(tiny, book):
    evidence = load_evidence()
    row = again.find_row(evidence, "2.Diff/toy/tuned")
    compared = again.compare(evidence, row, again.reproduce(row, tiny / "store"))
    of_ft = compared[(compared["method"] == "ft") & (compared["split"] == "test") & (compared["metric"] == "Diff")]
    by_hand = np.maximum(of_ft["committed"].std(ddof=1), 0.01 * of_ft["committed"])
    np.testing.assert_allclose(of_ft["tolerance"], by_hand)
    assert len(of_ft) == 3 and compared["within"].all()
    never_moves = compared[compared["metric"] == "trainable_parameters"]
    np.testing.assert_allclose(never_moves["tolerance"], 0.01 * never_moves["committed"])


def test_reproduce_says_what_it_takes_then_compares(tiny, book):
    dry = lpft("reproduce", "2.Diff/toy/same", "--dry-run")
    assert dry.exit_code == 0 and dry.output.startswith("2.Diff/toy/same: 6 runs at the committed learning rates; they")
    assert "within 1% of itself or 1 standard deviation over seeds" in dry.output and "numbers" not in dry.output
    done = lpft("reproduce", "2.Diff/toy/same", "--store", tiny / "store")
    assert done.exit_code == 0, done.output
    assert "0 beyond the tolerance" in done.output


def test_a_number_beyond_the_tolerance_is_listed_and_an_error(tiny, book):
    change(book, "Diff", lambda values: values + 5)  # of every seed: their standard deviation is what it was
    done = lpft("reproduce", "2.Diff/toy/tuned", "--store", tiny / "store")
    assert done.exit_code == 1
    listed = [line.split() for line in done.output.splitlines() if " Diff " in line]
    assert listed and all(line[1] == "lp_ft" for line in listed)


def test_a_number_that_only_one_side_has_is_beyond_any_tolerance(tiny, book):
    evidence = load_evidence()
    row = again.find_row(evidence, "2.Diff/toy/tuned")
    new = again.reproduce(row, tiny / "store")
    lost = again.compare(evidence, row, new[new["metric"] != "CS"])
    assert set(lost.loc[~lost["within"], "metric"]) == {"CS"} and lost["again"].isna().any()
    other = again.compare(evidence, row, new.assign(run=new["run"].astype(str) + "x"))  # of other data or weights
    assert not other["within"].any() and len(other) == 2 * len(again.compare(evidence, row, new))


def test_rows_that_cannot_be_reproduced_are_refused(book):
    evidence = load_evidence()
    with pytest.raises(ParameterError, match="is no row of the ledger; did you mean '2.Diff/toy/tuned'"):
        again.find_row(evidence, "2.Dif/toy/tuned")
    with pytest.raises(ParameterError, match="2.Diff/later/tuned: none of its runs is there yet"):
        again.find_row(evidence, "2.Diff/later/tuned")
    done = lpft("reproduce", "9.nothing")
    assert done.exit_code == 2 and "is no row of the ledger" in done.output


def test_a_run_that_fails_is_an_error(tiny, book, tmp_path):
    row = again.find_row(load_evidence(), "2.Diff/toy/tuned")
    store = tmp_path / "store"
    store.mkdir()
    (store / row.places[0].name).write_text("in the way")
    with pytest.raises(RunError, match="on toy, seed 101: RunError"):
        again.reproduce(row, store)


def test_ledger_prints_the_primary_endpoints_and_their_counts(book):
    shown = lpft("ledger")
    assert shown.exit_code == 0, shown.output
    lines = shown.output.splitlines()
    names = [line.split()[0] for line in lines if "/toy/" in line or "/later/" in line]
    assert names[:3] == ["1.lp/toy/tuned", "1.lp/later/tuned", "2.Diff/toy/tuned"] and len(names) == 22
    assert "11 no runs yet. Plan " in lines[-1]


def test_ledger_as_json_has_every_field_of_a_row(book):
    found = json.loads(lpft("ledger", "--json", "--claim", "2", "--task", "toy", "--all").output)
    assert {row["id"] for row in found["rows"]} >= {"2.Diff/toy/tuned", "2.Diff/toy/same", "2.FDR-shifted/toy/tuned/b"}
    assert sum(found["primary"].values()) == 22 and len(found["plan"]) == 16 and found["notes"] == []
    row = found["rows"][0]
    assert row["primary"] and row["low"] <= row["effect"] <= row["high"] and row["seeds"] == row["planned"] == 3
    (diff,) = json.loads(lpft("ledger", "--json", "--claim", "2.Diff", "--task", "toy").output)["rows"][:1]
    assert diff == row


def test_ledger_names_what_there_is_when_nothing_fits(book):
    for option in (("--claim", "10"), ("--task", "imdb"), ("--claim", "2.CS")):
        shown = lpft("ledger", *option)
        assert shown.exit_code == 2 and "tasks toy, later. Secondary ones need --all" in shown.output
