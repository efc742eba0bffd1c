"""`new_data`: from one table to a task, and what is said about it; nothing is left of what fails."""

import json
from collections import Counter

import pandas as pd
import pytest

from lpft_utils.common.errors import TaskError
from lpft_utils.data.own import new_data
from lpft_utils.data.tasks import load_task

COUNTS = {"billing": 60, "bug": 30, "question": 13, "spam": 4, "legal": 2}


def table(counts=COUNTS):
    return pd.DataFrame(
        [(f"{name} text {i}", f"title {i}", name) for name, n in counts.items() for i in range(n)],
        columns=["body", "title", "kind"],
    ).sample(frac=1, random_state=3)


def save(frame, path):
    {
        ".csv": lambda: frame.to_csv(path, index=False, encoding="utf-8-sig"),
        ".tsv": lambda: frame.to_csv(path, index=False, sep="\t"),
        ".jsonl": lambda: frame.to_json(path, orient="records", lines=True, force_ascii=False),
        ".parquet": lambda: frame.to_parquet(path),
    }[path.suffix]()
    return path


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_every_kind_of_file_becomes_the_same_task(ending, tmp_path):
    said = new_data(save(table(), tmp_path / f"in{ending}"), ["body"], "kind", "tickets", tmp_path / "data")
    task = load_task("tickets", data_dir=tmp_path / "data")
    assert task.label_names == ("billing", "bug", "legal", "question", "spam")
    found = {split: Counter(task.label_names[y] for y in part.labels) for split, part in task.splits.items()}
    assert found["test"] == found["validation"] == {"billing": 6, "bug": 3, "question": 1, "spam": 1}
    assert found["train"] == {"billing": 48, "bug": 24, "question": 11, "spam": 2, "legal": 2}
    given = dict(zip(table()["body"], table()["kind"], strict=True))
    read = [(t[0], task.label_names[y]) for s in task.splits.values() for t, y in zip(s.texts, s.labels, strict=True)]
    assert len(read) == len(given) and dict(read) == given
    assert "fewer than 4 texts, all in train: legal" in said and "109 rows" in said
    assert ("UTF-8 with a byte order mark" in said) == (ending == ".csv")


def test_two_columns_make_pairs_and_the_seed_decides_the_split(tmp_path):
    file = save(table(), tmp_path / "in.csv")
    tasks = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        new_data(file, ["title", "body"], "kind", name, tmp_path, seed)
        tasks.append(load_task(name, data_dir=tmp_path))
    assert all(len(text) == 2 and text[0].startswith("title ") for text in tasks[0].splits["train"].texts)
    assert tasks[0].fingerprint == tasks[1].fingerprint != tasks[2].fingerprint


def test_empty_cells_repeated_texts_and_torn_ones_are_left_out_and_counted(tmp_path):
    extra = [("", "t", "bug"), ("  ", "t", "bug"), ("no label", "t", ""), ("Once MORE", "t", "bug")]
    extra += [("once  more", "t", "bug"), ("torn", "t", "bug"), ("Torn", "t", "spam")]
    frame = pd.concat([table(), pd.DataFrame(extra, columns=["body", "title", "kind"])])
    said = new_data(save(frame, tmp_path / "in.csv"), ["body"], "kind", "t", tmp_path).splitlines()
    assert "empty cells in column 'body': 2; these rows are left out" in said
    assert "empty cells in column 'kind': 1; these rows are left out" in said
    assert "repeated texts: 1; the first of each is kept" in said
    assert "texts with different labels: 1; all 2 rows left out" in said
    task = load_task("t", data_dir=tmp_path)
    texts = [t[0] for split in task.splits.values() for t in split.texts]
    assert Counter(texts) == Counter([*table()["body"], "Once MORE"])


def test_numbers_are_classes_in_their_order(tmp_path):
    rows = [{"text": f"text {i}", "y": float(i % 3 - 1) if i % 2 else i % 3 - 1} for i in range(60)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    new_data(tmp_path / "in.jsonl", ["text"], "y", "stars", tmp_path)
    task = load_task("stars", data_dir=tmp_path)
    assert task.label_names == ("-1", "0", "1")
    for split in task.splits.values():
        assert [int(t[0].split()[1]) % 3 for t in split.texts] == split.labels.tolist()


GOOD = "body,kind\n" + "".join(f"text {i},{'ab'[i % 2]}\n" for i in range(20))


@pytest.mark.parametrize(
    ("name", "content", "text", "label", "message"),
    [
        ("in.csv", GOOD, ["Body"], "kind", r"missing column 'Body'; found \['body', 'kind'\]"),
        ("in.csv", GOOD, ["body"], "class", "missing column 'class'"),
        ("in.csv", GOOD.replace(",", ";"), ["body"], "kind", "separated by ';': save it with commas"),
        ("in.csv", GOOD, ["body"], "body", "another for the label"),
        ("in.csv", GOOD, [], "kind", "one or two text columns"),
        ("in.csv", GOOD + "text,a,b\n", ["body"], "kind", "line 22: expected 2 fields"),
        ("in.csv", GOOD.replace("kind", "body", 1), ["body"], "kind", "columns of different names"),
        ("in.csv", "body,kind\n", ["body"], "kind", "has no rows"),
        ("in.csv", "body,kind\n,a\nx,\n", ["body"], "kind", "no row has both"),
        ("in.csv", "body,kind\n" + "".join(f"t{i},{i}\n" for i in range(9)), ["body"], "kind", "of which rarer: 9"),
        ("in.csv", GOOD.replace(",b", ",a"), ["body"], "kind", "two or more classes"),
        ("in.csv", GOOD.replace("body", "a.b"), ["a.b"], "kind", "each plainly"),
        ("in.csv", GOOD.encode() + "café,a\n".encode("latin1"), ["body"], "kind", "line 22: expected UTF-8"),
        ("in.json", "[]", ["body"], "kind", r"ends in .jsonl"),
        ("in.parquet", "no", ["body"], "kind", "not a readable Parquet file"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_named_and_nothing_is_written(name, content, text, label, message, tmp_path):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(TaskError, match=message):
        new_data(tmp_path / name, text, label, "mine", tmp_path / "data")
    assert not list(tmp_path.glob("data/*"))


@pytest.mark.parametrize("name", ["rte", "a/b", "..", "", ".x"])
def test_a_name_that_is_taken_or_no_folder_is_refused(name, tmp_path):
    with pytest.raises(TaskError, match="cannot name a new task"):
        new_data(save(table(), tmp_path / "in.csv"), ["body"], "kind", name, tmp_path)


def test_what_exists_is_not_overwritten(tmp_path):
    file = save(table(), tmp_path / "in.csv")
    (tmp_path / "mine").mkdir()
    with pytest.raises(TaskError, match="exists and is not overwritten"):
        new_data(file, ["body"], "kind", "mine", tmp_path)
    assert not list((tmp_path / "mine").iterdir())


def test_a_file_given_as_a_task_leads_to_the_command():
    with pytest.raises(TaskError, match=r"lpft new-data my\.csv --text COLUMN --label COLUMN"):
        load_task("my.csv")


def test_a_label_column_of_another_name_is_named_with_those_that_are_there(tmp_path):
    new_data(save(table(), tmp_path / "in.csv"), ["body"], "kind", "t", tmp_path)
    about = json.loads((tmp_path / "t" / "dataset.json").read_text())
    (tmp_path / "t" / "dataset.json").write_text(json.dumps(about | {"label_column": "class"}))
    with pytest.raises(TaskError, match=r"column 'class', found none; the columns are \['body', 'kind'\]"):
        load_task("t", data_dir=tmp_path)
    (tmp_path / "t" / "dataset.json").write_text(json.dumps(about | {"text_columns": "body"}))
    assert len(load_task("t", data_dir=tmp_path).splits["test"]) == 11
