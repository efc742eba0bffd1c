"""The rated snippets: made-up archives for every rule and error, and the real one where it was fetched."""

import hashlib
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from snippets_archive import archive, files, rows

from lpft_utils.common.errors import FetchError, TaskError
from lpft_utils.data import snippets
from lpft_utils.data.examples import Split, subsample
from lpft_utils.data.tasks import TASKS, load_task


@pytest.fixture
def put(monkeypatch, tmp_path):
    """Puts an archive in the place of the real one, with few test and validation texts."""
    monkeypatch.setenv("LPFT_CACHE", str(tmp_path))
    monkeypatch.setattr(snippets, "N_TEST", 6)
    monkeypatch.setattr(snippets, "N_VALIDATION", 4)

    def put(content: bytes) -> None:
        made = replace(snippets.ARCHIVE, sha256=hashlib.sha256(content).hexdigest())
        monkeypatch.setattr(snippets, "ARCHIVE", made)
        made.path.write_bytes(content)

    return put


def test_texts_and_labels_are_those_of_the_files(put):
    given = rows()
    put(archive(files(given)))
    task = load_task("snippets")
    assert {name: len(split) for name, split in task.splits.items()} == {
        "train": 14, "validation": 4, "test": 6, "ood_products": 6, "ood_editorials": 6, "ood_tweets": 6,
    }  # fmt: skip
    expected = {
        f"{domain}/{i}": (text, int(ratings[0] > 0)) for domain, listed in given.items() for i, text, ratings in listed
    }
    found = {
        i: (text, label)
        for split in task.splits.values()
        for i, (text,), label in zip(split.ids, split.texts, split.labels.tolist(), strict=True)
    }
    assert found == expected
    assert task.label_names == TASKS["snippets"].label_names == ("negative", "positive")
    assert not task.synthetic and not task.test_is_validation


@pytest.mark.parametrize(
    ("ratings", "label"),
    [
        ([1, 0], 1), ([0, -1], 0),  # a mean of exactly 0.5 counts
        ([1, 0, 0], -1), ([-1, 0, 0], -1), ([4, -4], -1), ([0], -1),
        ([4, -1], 1), ([-4, 1], 0),
    ],
)  # fmt: skip
def test_the_class_is_the_sign_of_a_mean_at_least_half_a_point_from_0(put, ratings, label):
    given = rows()
    given["tweets"].append(("new", "a new text", ratings))
    put(archive(files(given)))
    assert snippets.read().loc["tweets/new", "label"] == label
    split = load_task("snippets").splits["ood_tweets"]
    assert [split.labels[i] for i, name in enumerate(split.ids) if name == "tweets/new"] == [label] * (label >= 0)


def test_of_a_repeated_text_the_first_stays_in_and_across_domains(put):
    given = rows()
    opposite = [-r for r in given["movies"][0][2]]
    given["movies"].append(("again", given["movies"][0][1].upper(), opposite))
    given["tweets"].append(("across", f"  {given['movies'][1][1]} ", opposite))
    given["tweets"].append(("new", "This one is new", opposite))
    put(archive(files(given)))
    task = load_task("snippets")
    ids = [i for split in task.splits.values() for i in split.ids]
    assert {"movies/0", "movies/1", "tweets/new"} <= set(ids)
    assert not {"movies/again", "tweets/across"} & set(ids)
    assert "2 repeated texts" in task.source
    assert snippets.read().query("repeated").index.tolist() == ["movies/again", "tweets/across"]


def test_soft_labels_are_shares_of_raters_with_half_for_each_class_from_a_0(put):
    given = rows()
    given["tweets"] = [("a", "a text", [4, 1, 0, -1]), ("b", "b text", [-4, -4, -1, 0])]
    put(archive(files(given)))
    split = load_task("snippets").splits["ood_tweets"]
    shares = dict(zip(split.ids, snippets.soft_labels(split).tolist(), strict=True))
    assert shares == {"tweets/a": [0.375, 0.625], "tweets/b": [0.875, 0.125]}
    alone = split.take([1])
    assert snippets.soft_labels(alone).tolist() == [shares[alone.ids[0]]]


@pytest.mark.parametrize("ids", [None, ("elsewhere/1",)])
def test_soft_labels_of_other_texts_are_refused(put, ids):
    put(archive(files(rows())))
    with pytest.raises(TaskError, match="known of the task 'snippets' alone"):
        snippets.soft_labels(Split((("a text",),), np.array([0]), ids))


def test_the_splits_depend_on_the_texts_alone(put):
    given = rows()
    put(archive(files(given)))
    task = load_task("snippets")
    put(archive(files({domain: listed[::-1] for domain, listed in given.items()})))
    again = load_task("snippets")
    assert again.fingerprint == task.fingerprint
    assert [split.ids for split in again.splits.values()] == [split.ids for split in task.splits.values()]


def test_a_subset_keeps_each_text_with_its_id(put):
    put(archive(files(rows())))
    task = load_task("snippets")
    small = subsample(task, n_train=5, n_eval=3, seed=1)
    known = {i: text for split in task.splits.values() for i, text in zip(split.ids, split.texts, strict=True)}
    for name, split in small.splits.items():
        assert len(split) == (5 if name == "train" else 3)
        assert [known[i] for i in split.ids] == list(split.texts)


def test_ids_and_texts_that_do_not_match_are_refused():
    with pytest.raises(TaskError, match="one id for each of 1 texts, got 2"):
        Split((("a text",),), np.array([0]), ("a", "b"))


def test_reading_leaves_no_file_behind(put, tmp_path, monkeypatch):
    put(archive({**files(rows()), "../outside.txt": b"x"}))
    monkeypatch.chdir(tmp_path)
    load_task("snippets")
    assert [path.name for path in tmp_path.rglob("*")] == [snippets.ARCHIVE.filename]


def test_without_the_archive_the_error_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("LPFT_CACHE", str(tmp_path / "cache"))
    with pytest.raises(TaskError) as caught:
        load_task("snippets")
    for hint in ("lpft fetch", str(tmp_path / "cache" / "vaderSentiment-0.5.zip"), "pypi.org", "'synthetic'"):
        assert hint in str(caught.value)


# --- the real archive ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real():
    try:
        snippets.ARCHIVE.read()
    except FetchError as error:
        pytest.skip(f"rated snippets absent: {error}")
    return load_task("snippets")


def test_the_real_archive_has_the_published_sizes(real):
    frame = snippets.read()
    assert frame["domain"].value_counts().to_dict() == {
        "movies": 10605, "products": 3708, "editorials": 5190, "tweets": 4200,
    }  # fmt: skip
    assert frame["ratings"].map(len).agg(["min", "max"]).tolist() == [15, 99]
    repeated = frame[frame["repeated"]]
    assert repeated["domain"].value_counts().to_dict() == {
        "movies": 2, "products": 12, "editorials": 74, "tweets": 60,  # one and three of them from other domains
    }  # fmt: skip
    assert {k: np.bincount(s.labels).tolist() for k, s in real.splits.items()} == {
        "train": [3538, 3532], "validation": [510, 490], "test": [1027, 973],
        "ood_products": [1232, 1744], "ood_editorials": [1755, 1172], "ood_tweets": [1057, 2315],
    }  # fmt: skip


def test_no_real_text_is_in_two_splits_and_labels_agree_with_most_raters(real):
    texts = [" ".join(text.casefold().split()) for split in real.splits.values() for (text,) in split.texts]
    assert len(texts) == len(set(texts)) == 19345
    for split in real.splits.values():
        majority = snippets.soft_labels(split).argmax(1)
        assert (majority == split.labels).mean() > 0.98


def test_the_real_task_is_the_same_in_every_process(real):
    code = "from lpft_utils.data.tasks import load_task; print(load_task('snippets').fingerprint)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == real.fingerprint == "003a082e52c4a11d"
