"""Every file format, and what is said of files and rows that cannot be read."""

import json
import os

import pandas as pd
import pytest
from task_files import hub_rows, own_data, write_jsonl

from lpft_utils.common.errors import TaskError
from lpft_utils.data.tasks import TASKS, load_task

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
    for name, split in (
        ("amazon", "train"),
        ("amazon", "test"),
        *((n, "test") for n in ("dynasent", "semeval", "sst5")),
    ):
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


def test_byte_order_mark_and_windows_line_ends_do_no_harm(tmp_path):
    folder = own_data(tmp_path / "mine")
    rows = b"".join(b'{"text": "t%d", "label": %d}\r\n' % (i, i % 2) for i in range(6))
    (folder / "test.jsonl").write_bytes(b"\xef\xbb\xbf" + rows)
    assert load_task("mine", data_dir=tmp_path).splits["test"].texts[0] == ("t0",)


# --- what cannot be read ---


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
    ],
)
def test_damaged_tables_are_named(tmp_path, file, content, message):
    folder = own_data(tmp_path / "mine")
    (folder / "test.jsonl").unlink()
    (folder / file).write_text(content)
    with pytest.raises(TaskError, match=message):
        load_task("mine", data_dir=tmp_path)
