"""The run store's files: whole or not at all, and checked."""

import hashlib
import json
import os

import pytest

from lpft_utils.common.errors import LpftError, RunError
from lpft_utils.runs.store import MANIFEST, Run, check, list_runs, write_run
from lpft_utils.training.spec import RunSpec

SPEC = RunSpec(method="lp")


def fill(folder, metrics=None):
    (folder / "spec.json").write_text(json.dumps(SPEC.to_dict()))
    (folder / "metrics.json").write_text(json.dumps(metrics or {"accuracy": {"test": 0.5, "ood_x": 0.25}}))


def test_written_run_is_found_and_read(tmp_path):
    folder = write_run(tmp_path / "store", "key", fill)
    assert folder == tmp_path / "store" / "key"
    (run,) = list_runs(tmp_path / "store")
    assert run.spec == SPEC and run.accuracy() == 0.5 and run.accuracy("ood_x") == 0.25
    assert repr(run) == "Run('key')"


def test_manifest_holds_size_and_hash_of_every_other_file(tmp_path):
    folder = write_run(tmp_path, "key", fill)
    manifest = json.loads((folder / MANIFEST).read_text())
    assert set(manifest) == {path.name for path in folder.iterdir()} - {MANIFEST}
    for name, entry in manifest.items():
        content = (folder / name).read_bytes()
        assert entry == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def test_failure_while_writing_leaves_nothing(tmp_path):
    def fail(folder):
        fill(folder)
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_run(tmp_path, "key", fail)
    assert list(tmp_path.iterdir()) == []


def test_no_reader_meets_a_run_in_writing(tmp_path):
    seen = []

    def observed(folder):
        fill(folder)
        seen.append((list_runs(tmp_path), (tmp_path / "key").exists()))

    write_run(tmp_path, "key", observed)
    assert seen == [([], False)]


def test_run_that_exists_gives_way(tmp_path):
    write_run(tmp_path, "key", fill)
    folder = write_run(tmp_path, "key", lambda f: fill(f, {"accuracy": {"test": 0.9}}))
    assert Run(folder).accuracy() == 0.9
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_something_else_in_its_place_is_not_taken_for_the_run(tmp_path):
    (tmp_path / "key").mkdir()
    (tmp_path / "key" / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="key is in the way"):
        write_run(tmp_path, "key", fill)
    assert (tmp_path / "key" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:-1]), "metrics.json is damaged: its content"),
        (lambda p: p.write_bytes(p.read_bytes().replace(b"0.5", b"0.6")), "metrics.json is damaged: its content"),
        (os.remove, "metrics.json is missing"),
        (lambda p: os.remove(p.parent / MANIFEST), "manifest.json cannot be read"),
        (lambda p: (p.parent / MANIFEST).write_text("{"), "manifest.json cannot be read"),
    ],
)  # fmt: skip
def test_damaged_file_is_named_with_what_to_do(damage, message, tmp_path):
    folder = write_run(tmp_path, "key", fill)
    check(folder)
    damage(folder / "metrics.json")
    for read in (check, Run):
        with pytest.raises(RunError, match=message) as caught:
            read(folder)
        assert f"Delete the folder {folder}" in str(caught.value)


def test_unknown_split_names_those_that_exist(tmp_path):
    run = Run(write_run(tmp_path, "key", fill))
    with pytest.raises(RunError, match="has the splits test, ood_x, not 'validation'"):
        run.accuracy("validation")


def test_empty_and_absent_stores_have_no_runs(tmp_path):
    assert list_runs(tmp_path) == [] and list_runs(tmp_path / "absent") == []


def test_runs_are_listed_by_name_without_unfinished_ones(tmp_path):
    for key in ("b", "a"):
        write_run(tmp_path, key, fill)
    unfinished = tmp_path / ".partial-12345678" / "c"
    unfinished.mkdir(parents=True)
    fill(unfinished)
    (unfinished / MANIFEST).write_text("{}")
    assert [run.folder.name for run in list_runs(tmp_path)] == ["a", "b"]


def test_store_with_a_damaged_run_says_which(tmp_path):
    write_run(tmp_path, "good", fill)
    (write_run(tmp_path, "bad", fill) / "metrics.json").unlink()
    with pytest.raises(LpftError, match="bad/metrics.json is missing"):
        list_runs(tmp_path)
