"""From one table of labelled texts to a task: the command `lpft new-data`.

Rows without a text or label are left out, and so are repeated texts, so that none is in two splits. Every class is cut
on its own: a tenth of it, at least one text, is the validation set, as much the test set.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lpft_utils.common.errors import TaskError
from lpft_utils.common.files import whole
from lpft_utils.data.catalog import TASKS
from lpft_utils.data.conversion import list_bad
from lpft_utils.data.readers import READERS
from lpft_utils.data.tasks import load_task

SMALLEST = 4  # of a class that is cut: two texts to train on, one to validate, one to test


def new_data(file: Path, text: Sequence[str], label: str, name: str, into: Path, seed: int = 0) -> str:
    """Make the folder of a task, with its splits and its `dataset.json`, written whole or not at all.

    Args:
        file: CSV or TSV with a header line, JSON lines, or Parquet; texts in UTF-8.
        text: One or two text columns; of two, an example is a pair of texts.
        label: The column of the classes.
        name: Name of the task and of its folder.
        into: The data folder in which the task's folder is made.
        seed: Seed of the split.

    Returns:
        What was found and what was made of it, for the reader.

    Raises:
        TaskError: If the file cannot be read, a column is absent or holds no classes, or the folder exists.
    """
    folder = into / name
    if name in TASKS or Path(name).name != name or name[:1] in (".", ""):
        raise TaskError(f"{name!r} cannot name a new task: expected a plain folder name that no known task has.")
    if folder.exists():
        raise TaskError(f"{folder} exists and is not overwritten: choose another --name or --into, or remove it.")
    frame, said = _labelled(file, list(text), label)
    frame, more = _distinct(frame, list(text), label)
    names = sorted(frame[label].unique(), key=_order)
    cut = _cut(frame[label], f"column {label!r} of {file}", seed)
    by_class = pd.crosstab(frame[label], cut).reindex(index=names, columns=["train", "validation", "test"])
    with whole(folder) as partial:
        partial.mkdir()
        for split, rows in frame.groupby(cut):
            rows[[*text, label]].to_json(partial / f"{split}.jsonl", orient="records", lines=True, force_ascii=False)
        about = {"name": name, "label_names": names, "text_columns": list(text), "label_column": label}
        (partial / "dataset.json").write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        load_task(str(partial.resolve()), data_dir=into)  # it can be read, or nothing is left of it
    words = frame[list(text)].agg(" ".join, axis=1).str.split().str.len()
    said += [*more, f"words of a text: {words.min()} to {words.max()}, median {words.median():.0f}"]
    said += [f"texts by class and split (8 : 1 : 1 within each class, seed {seed}):", by_class.to_string()]
    if few := [c for c in names if by_class.loc[c].sum() < SMALLEST]:
        said.append(f"fewer than {SMALLEST} texts, all in train: {', '.join(few)}")
    return "\n".join([*said, f"written: {folder}; train with: LPFT_DATA={into} lpft run --task {name} --method lp_ft"])


def _labelled(file: Path, text: list[str], label: str) -> tuple[Any, list[str]]:
    """The rows that have all their texts and a label, a class name; and what is to be said about the others."""
    if file.suffix not in READERS:
        raise TaskError(f"{file}: expected a file that ends in {', '.join(READERS)}.")
    if len(text) not in (1, 2) or len({*text, label}) <= len(text):
        raise TaskError(f"expected one or two text columns and another for the label, got {text} and {label!r}.")
    table = READERS[file.suffix](file)
    if table.bad:
        raise TaskError(list_bad(table, table.bad))
    if table.frame.empty:
        raise TaskError(f"{file} has no rows: expected labelled texts below a header.")
    if absent := [column for column in (*text, label) if column not in table.frame]:
        other = next((f", separated by {s!r}: save it with commas" for s in ";\t|" if s in "".join(table.frame)), "")
        raise TaskError(f"{file}: missing column {', '.join(map(repr, absent))}; found {list(table.frame)}{other}.")
    frame = table.frame[[*text, label]].map(_as_text)
    marked = file.read_bytes()[:3] == b"\xef\xbb\xbf"
    said = [f"{file}: {len(frame)} rows, UTF-8{' with a byte order mark' * marked}"]
    empty = frame == ""
    said += [f"empty cells in column {c!r}: {n}; these rows are left out" for c, n in empty.sum().items() if n]
    if empty.any(axis=1).all():
        raise TaskError(f"{file}: no row has both its texts and a label.")
    return frame[~empty.any(axis=1)], said


def _distinct(frame: Any, text: list[str], label: str) -> tuple[Any, list[str]]:
    """Every text once, capitals and spacing aside; none of those with several labels."""
    key = frame[text].agg(lambda row: tuple(" ".join(cell.casefold().split()) for cell in row), axis=1)
    torn = frame.groupby(key)[label].transform("nunique") > 1
    again = ~torn & key.duplicated()
    said = [f"repeated texts: {again.sum()}; the first of each is kept"] * bool(again.any())
    said += [f"texts with different labels: {key[torn].nunique()}; all {torn.sum()} rows left out"] * bool(torn.any())
    return frame[~torn & ~again], said


def _cut(labels: Any, what: str, seed: int) -> Any:
    """The split of each row: a tenth of every class, at least one row, to validate, and as many to test."""
    order = labels.sample(frac=1, random_state=seed)
    size, place = order.groupby(order).transform("size"), order.groupby(order).cumcount()
    n_classes, rare = labels.nunique(), (labels.value_counts() < SMALLEST).sum()
    if n_classes < 2 or 2 * rare > n_classes:
        found = f"different values found: {n_classes}, of which rarer: {rare}"
        raise TaskError(f"{what}: expected two or more classes, most of {SMALLEST} or more different texts; {found}.")
    held = (size / 10).round().clip(lower=1).where(size >= SMALLEST, 0)
    cut = pd.Series("train", order.index, name="split").mask(place < 2 * held, "validation").mask(place < held, "test")
    return cut.reindex(labels.index)


def _as_text(value: Any) -> str:
    """A cell as text, "" where it is empty; 1.0 is the class 1."""
    if value is None or value != value:
        return ""
    return str(int(value) if isinstance(value, float) and value.is_integer() else value).strip()


def _order(name: str) -> tuple[float, str]:
    """Whole numbers by value, then names."""
    return (int(name) if name.removeprefix("-").isdecimal() else float("inf")), name
