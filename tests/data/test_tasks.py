"""Tasks: every format, every one of the 13 specs, the paper's split rule, own data, and every error path."""

import json
import math
import os
import subprocess
import sys
import warnings
from collections import Counter

import datasets
import numpy as np
import pandas as pd
import pytest

from lpft_utils.common.errors import TaskError
from lpft_utils.data import readers
from lpft_utils.data.tasks import PAPER_TASKS, TASKS, Split, Task, load_task, subsample

SUPERGLUE = {"cb", "rte", "boolq", "wic", "wsc"}
GLUE = {"cola", "mrpc", "sst2"}
BOSS_TESTS = {"dynasent", "semeval", "sst5"}


@pytest.fixture(autouse=True)
def no_data_folder(monkeypatch):
    monkeypatch.delenv("LPFT_DATA", raising=False)


def hub_rows(name, n, tag):
    """Rows with all columns that the Hub's version has, labels in turn."""
    texts = {
        "boolq": lambda i: {"question": f"is {tag} {i} so", "passage": f"Passage {tag} {i}."},
        "wic": lambda i: {
            "word": f"w{i}", "sentence1": f"One {tag} {i}.", "sentence2": f"Two {i}.",
            "start1": 0, "start2": 0, "end1": 1, "end2": 1,
        },
        "wsc": lambda i: {
            "text": f"Mark told Pete {tag} {i}.", "span1_index": 0, "span2_index": 2, "span1_text": "Mark",
            "span2_text": "he",
        },
        "mrpc": lambda i: {"sentence1": f"First {tag} {i}.", "sentence2": f"Second {i}."},
        "cola": lambda i: {"sentence": f"A sentence {tag} {i}."},
        "sst2": lambda i: {"sentence": f"a film {tag} {i}"},
        "pubmed": lambda i: {"text": f"Patients were {tag.upper()} {i}"},
    }  # fmt: skip
    pair = lambda i: {"premise": f"Premise {tag} {i}.", "hypothesis": f"Hypothesis {i}."}  # noqa: E731
    make = texts.get(name) or (pair if name in ("cb", "rte") else lambda i: {"text": f"Review {tag} {i}"})
    return [{**make(i), "idx": i, "label": i % len(TASKS[name].label_names)} for i in range(n)]


def write_jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def own_data(folder, **changes):
    """A valid own data set of 20 + 6 rows."""
    description = {"name": folder.name, "label_names": ["no", "yes"], "columns": ["text", "label"], **changes}
    write_jsonl(folder / "train.jsonl", [{"text": f"train {i}", "label": i % 2} for i in range(20)])
    write_jsonl(folder / "test.jsonl", [{"text": f"test {i}", "label": i % 2} for i in range(6)])
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


# --- the catalogue -------------------------------------------------------------------------------------------------


def test_knows_the_13_tasks_of_the_paper_and_the_builtin_one():
    assert set(PAPER_TASKS) == SUPERGLUE | GLUE | BOSS_TESTS | {"amazon", "pubmed"}
    assert list(TASKS) == ["builtin", *PAPER_TASKS]
    assert {name for name in PAPER_TASKS if not TASKS[name].hub} == BOSS_TESTS | {"amazon"}


EXPECTED_INPUT = {
    "cb": ("Premise train 0.", "Hypothesis 0."),
    "rte": ("Premise train 0.", "Hypothesis 0."),
    "boolq": ("is train 0 so", "Passage train 0."),
    "wic": ("One train 0. Two 0. Does w0 have the same meaning in both sentences?",),
    "wsc": ("he: Mark told Pete train 0.", "Mark"),
    "mrpc": ("First train 0.", "Second 0."),
    "cola": ("A sentence train 0.",),
    "sst2": ("a film train 0",),
    "pubmed": ("patients were train 0",),  # lower-cased
    "amazon": ("Review train 0",),
}


@pytest.mark.parametrize("name", sorted(set(PAPER_TASKS) - BOSS_TESTS))
def test_each_training_task_from_files_in_the_hub_layout(tmp_path, name):
    write_jsonl(tmp_path / name / "train.jsonl", hub_rows(name, 31, "train"))
    if name in ("amazon", "pubmed"):
        write_jsonl(tmp_path / name / "test.jsonl", hub_rows(name, 8, "public"))
    if name != "amazon":
        write_jsonl(tmp_path / name / "validation.jsonl", hub_rows(name, 7, "public"))
    task = load_task(name, data_dir=tmp_path, ood=())
    assert task.splits["train"].texts[0] == EXPECTED_INPUT[name]
    assert task.splits["train"].labels[:3].tolist() == [i % task.n_classes for i in range(3)]
    sizes = {split: len(task.splits[split]) for split in ("train", "validation", "test")}
    if name == "pubmed":
        assert sizes == {"train": 31, "validation": 7, "test": 8}
    else:
        assert sizes == {"train": 27, "validation": 4, "test": 8 if name == "amazon" else 7}  # ceil(3.1) = 4
        assert "9:1 in order" in task.source
    assert "public" in " ".join(task.splits["test"].texts[0]).lower()


@pytest.mark.parametrize("name", sorted(BOSS_TESTS))
def test_boss_test_sets_load_as_test_alone_and_say_so(tmp_path, name):
    write_jsonl(tmp_path / name / "test.jsonl", hub_rows(name, 6, "x"))
    task = load_task(name, data_dir=tmp_path)
    assert list(task.splits) == ["test"] and task.label_names == ("negative", "positive", "neutral")
    with pytest.raises(TaskError, match="test set only"):
        task.split("train")


@pytest.mark.parametrize("n", [2, 9, 10, 11, 250])
def test_the_cut_is_that_of_datasets_train_test_split_without_shuffling(tmp_path, n):
    rows = hub_rows("rte", n, "t")
    write_jsonl(tmp_path / "rte" / "train.jsonl", rows)
    write_jsonl(tmp_path / "rte" / "validation.jsonl", hub_rows("rte", 5, "v"))
    task = load_task("rte", data_dir=tmp_path)
    oracle = datasets.Dataset.from_list(rows).train_test_split(test_size=0.1, shuffle=False)
    assert [t[0] for t in task.splits["train"].texts] == oracle["train"]["premise"][:]
    assert [t[0] for t in task.splits["validation"].texts] == oracle["test"]["premise"][:]


def test_a_folder_with_labelled_train_validation_and_test_is_used_as_given(tmp_path):
    for split, n in (("train", 12), ("validation", 5), ("test", 6)):
        write_jsonl(tmp_path / "cb" / f"{split}.jsonl", hub_rows("cb", n, split))
    task = load_task("cb", data_dir=tmp_path)
    assert {k: len(v) for k, v in task.splits.items()} == {"train": 12, "validation": 5, "test": 6}
    assert "as given" in task.source and not task.test_is_validation


def test_an_unlabelled_test_file_as_on_the_hub_is_not_used(tmp_path):
    for split, n in (("train", 20), ("validation", 5)):
        write_jsonl(tmp_path / "rte" / f"{split}.jsonl", hub_rows("rte", n, split))
    write_jsonl(tmp_path / "rte" / "test.jsonl", [{**row, "label": -1} for row in hub_rows("rte", 9, "hidden")])
    task = load_task("rte", data_dir=tmp_path)
    assert len(task.splits["test"]) == 5 and "unlabelled test file not used" in task.source
    assert task.test_is_validation and subsample(task, 5, 3).test_is_validation


@pytest.mark.parametrize("rows", ["", '{"text": "a"}\n', '{"text": "a", "label": -1}\n{"text": "b", "label": null}\n'])
@pytest.mark.parametrize("name", ["mine", "amazon"])
def test_validation_never_stands_in_for_a_test_file_that_is_empty_or_unlabelled(tmp_path, name, rows):
    folder = own_data(tmp_path / name)
    (folder / "dataset.json").write_text('{"label_names": ["negative", "positive", "neutral"], "columns": ["text"]}')
    write_jsonl(folder / "validation.jsonl", [{"text": f"validation {i}", "label": 0} for i in range(5)])
    (folder / "test.jsonl").write_text(rows)
    with pytest.raises(TaskError, match=r"test\.jsonl(: expected labels in column 'label', found none| is empty)"):
        load_task(name, data_dir=tmp_path)
    (folder / "test.jsonl").unlink()
    task = load_task(name, data_dir=tmp_path, ood=())
    assert len(task.splits["test"]) == 5 and task.test_is_validation  # without the file it does, and says so


def test_an_empty_test_file_of_a_hub_task_is_refused_too(tmp_path):
    for split, n in (("train", 20), ("validation", 5), ("test", 0)):
        write_jsonl(tmp_path / "rte" / f"{split}.jsonl", hub_rows("rte", n, split))
    with pytest.raises(TaskError, match=r"test\.jsonl is empty"):
        load_task("rte", data_dir=tmp_path)


# --- formats -------------------------------------------------------------------------------------------------------

ROWS = [
    {"text": 'He said "no", then\tleft', "label": 1},
    {"text": "NA", "label": 0},
    {"text": "naïve café\u2028日本", "label": 1},
    {"text": "plain", "label": 0},
]


def write_format(path, rows):
    frame = pd.DataFrame(rows)
    if path.suffix == ".jsonl":
        write_jsonl(path, rows)
    elif path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, sep="\t" if path.suffix == ".tsv" else ",", index=False)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet", "csv", "tsv"])
def test_every_format_gives_the_same_task(tmp_path, suffix):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "dataset.json").write_text(json.dumps({"label_names": ["no", "yes"], "columns": ["text", "label"]}))
    for split in ("train", "validation", "test"):
        write_format(folder / f"{split}.{suffix}", [{**row, "text": f"{row['text']} {split}"} for row in ROWS])
    task = load_task("mine", data_dir=tmp_path)
    assert task.splits["test"].texts == tuple((f"{row['text']} test",) for row in ROWS)
    assert task.splits["test"].labels.tolist() == [1, 0, 1, 0]


def test_parquet_shards_named_as_on_the_hub_are_joined_in_order(tmp_path):
    folder = tmp_path / "sst2"
    folder.mkdir()
    rows = hub_rows("sst2", 30, "t")
    for k in range(3):
        pd.DataFrame(rows[10 * k : 10 * k + 10]).to_parquet(folder / f"train-{k:05d}-of-00003.parquet")
    pd.DataFrame(hub_rows("sst2", 5, "v")).to_parquet(folder / "validation-00000-of-00001.parquet")
    train = load_task("sst2", data_dir=tmp_path).splits["train"]
    assert [t[0] for t in train.texts] == [row["sentence"] for row in rows[:27]]


def test_boss_tsv_as_published_with_its_unusable_rows_left_out(tmp_path):
    for name, split in (("amazon", "train"), ("amazon", "test"), *((n, "test") for n in BOSS_TESTS)):
        (tmp_path / name).mkdir(exist_ok=True)
        frame = pd.DataFrame([(f'{name} {split} "{i}"', i % 3) for i in range(20)], columns=["Text", "Label"])
        frame.to_csv(tmp_path / name / f"{split}.tsv", sep="\t", index=False)
    with open(tmp_path / "amazon" / "train.tsv", "a") as file:
        file.write("\t1\n")
    with pytest.warns(UserWarning, match="left out 1 rows without text or label"):
        task = load_task("amazon", data_dir=tmp_path)
    assert len(task.splits["train"]) == 18 and len(task.splits["validation"]) == 2
    assert task.splits["train"].texts[4] == ('amazon train "4"',)
    assert task.ood_splits == ["ood_dynasent", "ood_semeval", "ood_sst5"]
    assert task.splits["ood_sst5"].texts[0] == ('sst5 test "0"',)
    assert "1 rows of train.tsv" in task.source


def test_amazon_without_its_shifted_test_sets_warns_and_works(tmp_path):
    write_jsonl(tmp_path / "amazon" / "train.jsonl", hub_rows("amazon", 20, "a"))
    write_jsonl(tmp_path / "amazon" / "test.jsonl", hub_rows("amazon", 5, "b"))
    with pytest.warns(UserWarning) as caught:
        assert load_task("amazon", data_dir=tmp_path).ood_splits == []
    assert [name in str(w.message) for w, name in zip(caught, TASKS["amazon"].ood, strict=True)] == [True] * 3
    with pytest.raises(TaskError, match="dynasent"):  # asked for by name: an error
        load_task("amazon", data_dir=tmp_path, ood=["dynasent"])


def test_pubmed_text_format_as_published(tmp_path):
    folder = tmp_path / "pubmed"
    folder.mkdir()
    text = (
        "###1\nOBJECTIVE\tTo test @ drugs {s} .\nMETHODS\tWe DID {s} .\n\n"
        "###2\nBACKGROUND\tB {s}\nRESULTS\tR {s} .\nCONCLUSIONS\tC {s} .\n\n"
    )
    for file in ("train", "dev", "test"):
        (folder / f"{file}.txt").write_text(text.replace("{s}", file))
    task = load_task("pubmed", data_dir=tmp_path, ood=())
    names = [task.label_names[k] for k in task.splits["validation"].labels]
    assert names == ["OBJECTIVE", "METHODS", "BACKGROUND", "RESULTS", "CONCLUSIONS"]
    assert task.splits["validation"].texts[:3] == (("to test @ drugs dev .",), ("we did dev .",), ("b dev",))


def test_byte_order_mark_and_windows_line_ends_do_no_harm(tmp_path):
    folder = own_data(tmp_path / "mine")
    rows = b"".join(b'{"text": "t%d", "label": %d}\r\n' % (i, i % 2) for i in range(6))
    (folder / "test.jsonl").write_bytes(b"\xef\xbb\xbf" + rows)
    assert load_task("mine", data_dir=tmp_path).splits["test"].texts[0] == ("t0",)


# --- own data ------------------------------------------------------------------------------------------------------


def test_own_data_by_folder_name_by_path_and_by_environment(tmp_path, monkeypatch):
    folder = own_data(tmp_path / "mine")
    by_name, by_path = load_task("mine", data_dir=tmp_path), load_task(str(folder))
    monkeypatch.setenv("LPFT_DATA", str(tmp_path))
    assert by_name.fingerprint == by_path.fingerprint == load_task("mine").fingerprint
    assert by_path.name == "mine" and not by_path.synthetic
    assert {k: len(v) for k, v in by_name.splits.items()} == {"train": 18, "validation": 2, "test": 6}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"columns": ["idx", "title", "body", "label"]}, ("T0", "B0")),
        ({"text_columns": ["body"]}, ("B0",)),
        ({"template": "{title}: {body}"}, ("T0: B0",)),
        ({"template": ["{body}", "About {title}"]}, ("B0", "About T0")),
    ],
)
def test_own_data_text_columns_and_templates(tmp_path, changes, expected):
    folder = own_data(tmp_path / "mine", **changes)
    for split in ("train", "test"):
        rows = [{"idx": i, "title": f"T{i}", "body": f"B{i}", "label": i % 2} for i in range(20)]
        write_jsonl(folder / f"{split}.jsonl", rows)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert load_task("mine", data_dir=tmp_path).splits["train"].texts[0] == expected


def test_labels_that_are_numbers_by_name_are_not_taken_for_indices(tmp_path):
    folder = own_data(tmp_path / "mine", label_names=["1", "2", "3"])
    for split in ("train", "test"):
        write_jsonl(folder / f"{split}.jsonl", [{"text": f"{split} {i}", "label": i % 3 + 1} for i in range(20)])
    assert load_task("mine", data_dir=tmp_path).splits["test"].labels[:4].tolist() == [0, 1, 2, 0]
    write_jsonl(folder / "test.jsonl", [{"text": "x", "label": i} for i in range(3)])
    with pytest.raises(TaskError, match=r"line 1: label 0 is not in the list; expected one of: 0 \(1\)"):
        load_task("mine", data_dir=tmp_path)


@pytest.mark.parametrize("label", ["yes", "YES", " yes ", "1", 1, 1.0])
def test_labels_may_be_names_digits_or_numbers(tmp_path, label):
    folder = own_data(tmp_path / "mine")
    write_jsonl(folder / "test.jsonl", [{"text": "x", "label": label}])
    assert load_task("mine", data_dir=tmp_path).splits["test"].labels.tolist() == [1]


def test_boolean_labels_of_superglue_files_are_read(tmp_path):
    for split in ("train", "validation"):
        rows = [{"question": f"q {split} {i}", "passage": "p", "label": i % 2 == 1} for i in range(10)]
        write_jsonl(tmp_path / "boolq" / f"{split}.jsonl", rows)
    assert load_task("boolq", data_dir=tmp_path).splits["test"].labels.tolist() == [i % 2 for i in range(10)]


def test_label_column_can_have_another_name(tmp_path):
    folder = own_data(tmp_path / "mine", columns=["text", "mood"], label_column="mood")
    for split in ("train", "test"):
        write_jsonl(folder / f"{split}.jsonl", [{"text": f"{split} {i}", "mood": "yes"} for i in range(20)])
    assert set(load_task("mine", data_dir=tmp_path).splits["train"].labels) == {1}


def test_ood_files_and_ood_tasks_become_ood_splits(tmp_path):
    folder = own_data(tmp_path / "mine")
    write_jsonl(folder / "ood_forum.jsonl", [{"text": "shift", "label": "no"}])
    own_data(tmp_path / "other")
    write_jsonl(tmp_path / "other" / "test.jsonl", [{"text": "elsewhere", "label": 1}])
    task = load_task("mine", data_dir=tmp_path, ood=["other"])
    assert task.ood_splits == ["ood_forum", "ood_other"]
    assert task.splits["ood_other"].texts == (("elsewhere",),) and "other/" in task.source
    assert load_task("mine", data_dir=tmp_path, ood="other").fingerprint == task.fingerprint


# --- the Hub -------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """`datasets.load_dataset` looks into the working directory first: put data sets in the Hub's layout there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))

    def put(hub_id, config, split_rows, class_names=None):
        folder = tmp_path / hub_id / (config or "")
        folder.mkdir(parents=True)
        for split, rows in split_rows.items():
            data = datasets.Dataset.from_list(rows)
            if class_names:
                data = data.cast_column("label", datasets.ClassLabel(names=class_names))
            data.to_parquet(str(folder / f"{split}-00000-of-00001.parquet"))
        if config:
            files = "".join(f"  - split: {s}\n    path: {config}/{s}-*\n" for s in split_rows)
            card = f"---\nconfigs:\n- config_name: {config}\n  data_files:\n{files}---\n"
            (tmp_path / hub_id / "README.md").write_text(card)

    return put


@pytest.mark.parametrize("name", ["rte", "sst2"])
def test_a_task_of_glue_and_one_of_superglue_from_the_hub_layout(hub, name):
    info = TASKS[name]
    splits = {split: hub_rows(name, 30, split) for split in ("train", "validation")}
    splits["test"] = [{**row, "label": -1} for row in hub_rows(name, 3, "hidden")]
    hub(*info.hub, splits, list(info.label_names))
    task = load_task(name)
    assert task.splits["train"].texts[0] == EXPECTED_INPUT[name]
    assert {k: len(v) for k, v in task.splits.items()} == {"train": 27, "validation": 3, "test": 30}
    assert task.splits["test"].labels.tolist() == [i % task.n_classes for i in range(30)]
    assert "/".join(info.hub) in task.source and task.test_is_validation


def test_pubmed_from_the_hub_with_label_names_in_lower_case_and_any_order(hub):
    names = TASKS["pubmed"].label_names
    rows = [{"text": f"T {i}", "label": name.lower()} for i, name in enumerate(reversed(names))]
    splits = {s: [{**row, "text": f"{s} {row['text']}"} for row in rows] for s in ("train", "validation", "test")}
    hub("armanc/pubmed-rct20k", None, splits)
    task = load_task("pubmed")
    assert task.splits["test"].labels.tolist() == [4, 3, 2, 1, 0] and task.splits["test"].texts[0] == ("test t 0",)


def test_hub_classes_in_another_order_are_matched_by_name(hub):
    splits = {s: [{"sentence": f"{s} {i}", "label": i % 2} for i in range(10)] for s in ("train", "validation")}
    hub("nyu-mll/glue", "sst2", splits, ["positive", "negative"])
    assert load_task("sst2").splits["test"].labels[:2].tolist() == [1, 0]


def test_any_failure_of_the_hub_becomes_one_clear_error(monkeypatch):
    def fail(*_, **__):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(TaskError, match=r"ConnectionError: no route\. Without the network.*builtin.*LPFT_DATA"):
        load_task("rte")


def test_boss_is_not_on_the_hub_and_the_error_says_what_to_do():
    with pytest.raises(TaskError, match=r"not on the Hub.*folder sst5 or sst5_3way/.*LPFT_DATA is not set"):
        load_task("sst5")


# --- errors --------------------------------------------------------------------------------------------------------


def test_unknown_task_gives_the_nearest_names(tmp_path):
    own_data(tmp_path / "my_reviews")
    with pytest.raises(TaskError, match="Unknown task 'my_review': did you mean 'my_reviews'"):
        load_task("my_review", data_dir=tmp_path)
    with pytest.raises(TaskError, match="did you mean 'pubmed'"):
        load_task("PubMed20")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "rte", "seed": 1}, r"Options \['seed'\] belong to the built-in task"),
        ({"name": "builtin", "data_dir": "/nowhere/at/all"}, "which is not a folder"),
        ({"name": ""}, "Unknown task ''"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(TaskError, match=message):
        load_task(**arguments)


BAD_ROWS = [
    ('{"text": "a", "label": 0}\n{"body": "b", "label": 1}\n', r"test\.jsonl, line 2: no value for column 'text'"),
    ('{"body": "b", "label": 1}\n', r"test\.jsonl: missing column 'text'; found \['body', 'label'\]"),
    ('{"text": "b"}\n', r"expected labels in column 'label', found none"),
    ('{"text": "a", "label": 2}\n', r"line 1: label 2 is not in the list; expected one of: 0 \(no\), 1 \(yes\)"),
    ('{"text": "a", "label": "maybe"}\n', r'label "maybe" is not in the list'),
    ('{"text": "b", "label": 0}\n{"text": "a", "label": -1}\n', r"line 2: label -1 is not in the list"),
    ('{"text": "a", "label": 0.5}\n', r"label 0.5 is not in the list"),
    ('{"text": "b", "label": 0}\n{"text": "a", "label": null}\n', r"label null is not in the list"),
    ('{"text": "a", "label": true}\n', r"label true is not in the list"),
    ('\n{"text": "  ", "label": 0}\n', r"line 2: empty text in column 'text'"),
    ("", r"test\.jsonl is empty"),
    ('{"text": "a", "label": 0}\n\n{"text": \n', r"test\.jsonl, line 3: not valid JSON"),
    ("[1]\n", r"line 1: expected a JSON object"),
]


@pytest.mark.parametrize(("content", "message"), BAD_ROWS)
def test_bad_rows_are_named_by_file_and_line(tmp_path, content, message):
    folder = own_data(tmp_path / "mine")
    (folder / "test.jsonl").write_text(content)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(TaskError, match=message):
        load_task("mine", data_dir=tmp_path)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before  # and nothing was changed


def test_all_bad_rows_of_all_files_are_named_at_once(tmp_path):
    folder = own_data(tmp_path / "mine")
    (folder / "train.jsonl").write_text(
        '{"text": "a", "label": 0}\n{"text": \n\n{"text": "", "label": 7}\n[1]\n{"label": 0}\n'
    )
    write_jsonl(folder / "test.jsonl", [{"text": f"test {i}", "label": 2 + i} for i in range(14)])
    with pytest.raises(TaskError) as caught:
        load_task("mine", data_dir=tmp_path)
    lines = str(caught.value).replace(f"{folder}{os.sep}", "").splitlines()
    assert [line.split(":")[0] for line in lines] == [
        *(f"train.jsonl, line {n}" for n in (2, 4, 5, 6)), *(f"test.jsonl, line {n}" for n in range(1, 11)),
        "… and 4 more bad rows.",
    ]  # fmt: skip


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "tsv"])
def test_wrong_encoding_names_file_and_line(tmp_path, suffix):
    folder = own_data(tmp_path / "mine")
    (folder / "test.jsonl").unlink()
    (folder / f"test.{suffix}").write_bytes("first\nsecond\ncafé\n".encode("latin-1"))
    with pytest.raises(TaskError, match=rf"test\.{suffix}, line 3: expected UTF-8 text, got the byte 0xe9"):
        load_task("mine", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("test.csv", "text,label\na,0\nb,1,surplus\n", "line 3: expected 2 fields, as in the first line, got 3"),
        ("test.csv", "text,label\nonly text\n", "line 2: expected 2 fields, as in the first line, got 1"),
        ("test.csv", 'text,label\n"over\ntwo lines",0\n\na,7\n', 'line 5: label "7" is not in the list'),
        ("test.csv", 'text,label\n"He" said,1\n', "line 2: does not parse .*double quotes"),
        ("test.tsv", 'text\tlabel\n"never closed\t1\n', "line 2: does not parse"),
        ("test.csv", "text,label\n", "is empty"),
        ("test.csv", "", "is empty"),
        ("test.parquet", "not parquet", "not a readable Parquet file"),
        ("test.txt", "###1\nno tab here\n", "line 2: expected 'LABEL<tab>sentence'"),
    ],
)
def test_damaged_tables_are_named(tmp_path, file, content, message):
    folder = own_data(tmp_path / "mine")
    (folder / "test.jsonl").unlink()
    (folder / file).write_text(content)
    with pytest.raises(TaskError, match=message):
        load_task("mine", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label_names": ["only"]}, "label_names must be a list of at least two"),
        ({"label_names": ["a", "a"]}, "label_names must be a list of at least two different"),
        ({"label_names": None}, "label_names must be"),
        ({"columns": ["label"]}, "expected one or two text columns"),
        ({"columns": ["a", "b", "c", "label"]}, "expected one or two text columns"),
        ({"template": "{text"}, "does not parse"),
        ({"template": "no column"}, "must name at least one column"),
        ({"template": "{text.__class__}"}, "plainly"),
        ({"template": ["{text}"] * 3}, "expected one or two text columns"),
    ],
)
def test_bad_dataset_json(tmp_path, changes, message):
    own_data(tmp_path / "mine", **changes)
    with pytest.raises(TaskError, match=message):
        load_task("mine", data_dir=tmp_path)


def test_missing_or_doubled_files(tmp_path):
    folder = own_data(tmp_path / "mine")
    (folder / "test.csv").write_text("text,label\na,0\n")
    with pytest.raises(TaskError, match="several files for the split 'test'"):
        load_task("mine", data_dir=tmp_path)
    (folder / "test.csv").unlink()
    (folder / "train.jsonl").rename(folder / "elsewhere")
    with pytest.raises(TaskError, match="expected a train split"):
        load_task("mine", data_dir=tmp_path)
    (folder / "elsewhere").rename(folder / "train.jsonl")
    (folder / "test.jsonl").unlink()
    with pytest.raises(TaskError, match="expected validation or test beside train"):
        load_task("mine", data_dir=tmp_path)
    (folder / "train.jsonl").unlink()
    with pytest.raises(TaskError, match="no train, validation or test file"):
        load_task("mine", data_dir=tmp_path)
    (folder / "dataset.json").unlink()
    with pytest.raises(TaskError, match=r"no dataset\.json"):
        load_task("mine", data_dir=tmp_path)


def test_paper_task_with_other_label_order_is_refused(tmp_path):
    write_jsonl(tmp_path / "rte" / "train.jsonl", hub_rows("rte", 20, "t"))
    (tmp_path / "rte" / "dataset.json").write_text('{"label_names": ["not_entailment", "entailment"]}')
    with pytest.raises(TaskError, match="in this order"):
        load_task("rte", data_dir=tmp_path)


def test_ood_task_with_other_labels_is_refused(tmp_path):
    own_data(tmp_path / "mine")
    own_data(tmp_path / "other", label_names=["yes", "no"])
    with pytest.raises(TaskError, match="'other' cannot be a test set of 'mine'"):
        load_task("mine", data_dir=tmp_path, ood=["other"])


def test_texts_shared_by_train_and_test_give_one_warning_with_the_counts(tmp_path):
    folder = own_data(tmp_path / "mine")
    write_jsonl(folder / "test.jsonl", [{"text": t, "label": 0} for t in ("TRAIN  0", "train 1", "new")])
    write_jsonl(folder / "ood_x.jsonl", [{"text": "train 2", "label": 0}])
    with pytest.warns(UserWarning) as caught:
        load_task("mine", data_dir=tmp_path)
    messages = [str(w.message) for w in caught if "also in train" in str(w.message)]
    assert messages == ["Task 'mine': texts that are also in train: 2 of test, 1 of ood_x."]


# --- Split, Task, subsample ----------------------------------------------------------------------------------------


def make_task(n=100, shares=(0.6, 0.3, 0.1)):
    labels = np.repeat(np.arange(len(shares)), [round(n * s) for s in shares])
    order = np.random.default_rng(0).permutation(len(labels))
    split = Split(tuple((f"t{i}",) for i in range(len(labels))), labels[order])
    return Task("t", ("a", "b", "c"), {"train": split, "validation": split, "test": split}, "made")


def test_split_refuses_labels_of_another_length_and_is_read_only():
    with pytest.raises(TaskError, match="one label for each of 2 texts"):
        Split((("a",), ("b",)), np.array([0]))
    split = Split((("a",),), np.array([0]))
    with pytest.raises(ValueError, match="read-only"):
        split.labels[0] = 1


def test_fingerprint_sees_every_text_and_label_and_nothing_else():
    task = make_task()
    assert len(task.fingerprint) == 16 and task.fingerprint == make_task().fingerprint
    train = task.splits["train"]
    one_label = Split(train.texts, np.where(np.arange(100) == 7, (train.labels + 1) % 3, train.labels))
    one_text = Split((("T0",), *train.texts[1:]), train.labels)
    others = [Task("t", task.label_names, {**task.splits, "train": s}, "made") for s in (one_label, one_text)]
    assert len({task.fingerprint, *(t.fingerprint for t in others)}) == 3
    assert Task("renamed", task.label_names, dict(reversed(task.splits.items())), "x").fingerprint == task.fingerprint


@pytest.mark.parametrize("n", [3, 10, 17, 50, 99])
def test_subsample_keeps_class_shares_order_and_rare_classes(n):
    small = subsample(make_task(), n, 20, seed=1)
    train = small.splits["train"]
    assert len(train) == n and len(small.splits["test"]) == 20
    positions = [int(t[0][1:]) for t in train.texts]
    assert positions == sorted(positions) and len(set(positions)) == n
    full = make_task().splits["train"]
    assert train.labels.tolist() == full.labels[positions].tolist()
    counts = Counter(train.labels.tolist())
    assert all(counts[c] >= 1 and abs(counts[c] - n * share) <= 1.0 for c, share in enumerate((0.6, 0.3, 0.1)))


def test_subsample_is_seeded_and_none_or_too_many_keep_all():
    task = make_task()
    assert subsample(task, 20, 20, 0).fingerprint == subsample(task, 20, 20, 0).fingerprint
    assert subsample(task, 20, 20, 0).fingerprint != subsample(task, 20, 20, 1).fingerprint
    assert subsample(task) is task and subsample(task, 1000, 1000, 3) is task
    assert "subset with seed 0" in subsample(task, 20, None, 0).source
    assert subsample(task, 1, None, 0).splits["train"].labels.shape == (1,)
    with pytest.raises(TaskError, match="n_eval must be a positive integer"):
        subsample(task, None, 0)


# --- the real data -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cb", "rte", "cola", "sst5_3way", "semeval_3way"])
def test_real_folders_load_with_every_row(data_dir, name):
    described = json.loads((data_dir / name / "dataset.json").read_text())
    task = load_task(name, data_dir=data_dir)
    assert list(task.label_names) == described["label_names"]
    rows = described["splits"]
    if "test" in rows:
        expected = rows
    else:
        cut = math.ceil(rows["train"] / 10)
        expected = {"train": rows["train"] - cut, "validation": cut, "test": rows["validation"]}
        expected |= {split: n for split, n in rows.items() if split.startswith("ood_")}
    assert {split: len(task.splits[split]) for split in task.splits} == expected


def test_sst5_is_found_in_its_three_way_folder_and_takes_semeval_as_shifted_test(data_dir):
    task = load_task("sst5", data_dir=data_dir, ood=["semeval"])
    assert task.ood_splits == ["ood_semeval"] and len(task.splits["train"]) == 8540
    assert "semeval_3way/" in task.source and "sst5_3way/" in task.source


def test_reading_does_not_import_datasets_until_the_hub_is_asked():
    code = "import sys, lpft_utils.data.tasks; print('datasets' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "False"
    assert readers.READERS.keys() == {".jsonl", ".parquet", ".csv", ".tsv", ".txt"}
