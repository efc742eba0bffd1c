"""Tasks: every format, every one of the 13 specs, the paper's split rule, own data, and every error path."""

import json
import math
import subprocess
import sys
import warnings

import datasets
import pytest
from task_files import hub_rows, own_data, write_jsonl

from lpft_utils.common.errors import TaskError
from lpft_utils.data import readers
from lpft_utils.data.tasks import PAPER_TASKS, TASKS, load_task, subsample

SUPERGLUE = {"cb", "rte", "boolq", "wic", "wsc"}
GLUE = {"cola", "mrpc", "sst2"}
BOSS_TESTS = {"dynasent", "semeval", "sst5"}


# --- the catalogue -------------------------------------------------------------------------------------------------


def test_knows_the_13_tasks_of_the_paper_and_the_two_built_in_ones():
    assert set(PAPER_TASKS) == SUPERGLUE | GLUE | BOSS_TESTS | {"amazon", "pubmed"}
    assert list(TASKS) == ["snippets", "synthetic", *PAPER_TASKS]
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
    with pytest.raises(TaskError, match=r"ConnectionError: no route\. Without the network.*'snippets'.*LPFT_DATA"):
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
        ({"name": "rte", "seed": 1}, r"Options \['seed'\] belong to the task 'synthetic'"),
        ({"name": "synthetic", "data_dir": "/nowhere/at/all"}, "which is not a folder"),
        ({"name": ""}, "Unknown task ''"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(TaskError, match=message):
        load_task(**arguments)


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
    assert readers.READERS.keys() == {".jsonl", ".parquet", ".csv", ".tsv"}
