"""Reading rows: JSON lines, Parquet, CSV, TSV, and the Hugging Face Hub.

Every reader returns a `Table`: one data frame whose index says where in the file each row stands. Rows that cannot be
read are kept as a list, so that one error can name them all.
"""

import csv
import io
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow
import pyarrow.parquet

from lpft_utils.common.errors import TaskError, TaskWarning

SPLIT_ALIASES = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}


@dataclass
class Table:
    """Rows of one split and where they came from.

    Attributes:
        frame: The rows that could be read, a `pandas.DataFrame`; the index is each row's number in `origin`.
        origin: File or Hub split, for messages.
        unit: What the index counts, `"line"` or `"row"` (both from 1).
        bad: What is wrong with the other rows, by number.
        notes: What was left out while reading, for the task's `source`.
    """

    frame: Any
    origin: str
    unit: str = "row"
    bad: dict[int, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def _table(rows: Mapping[int, Mapping[str, Any]], path: Path, unit: str, bad: dict[int, str]) -> Table:
    """A table of rows by number; values keep their types."""
    return Table(pd.DataFrame(list(rows.values()), index=list(rows), dtype=object), str(path), unit, bad)


def read_text(path: Path) -> str:
    """Read a UTF-8 file (with or without byte order mark).

    Args:
        path: The file.

    Returns:
        Its text.

    Raises:
        TaskError: If it cannot be read or is not UTF-8; names file and line.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TaskError(f"Cannot read {path}: {error.strerror}.") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise TaskError(
            f"{path}, line {line}: expected UTF-8 text, got the byte 0x{data[error.start]:02x}. "
            "Save the file as UTF-8 (for Latin-1: iconv -f latin1 -t utf-8 old > new)."
        ) from error


def read_json(path: Path) -> Any:
    """Read one JSON document such as `dataset.json`.

    Args:
        path: The file.

    Returns:
        The parsed value.

    Raises:
        TaskError: If it is no JSON; names file and line.
    """
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise TaskError(f"{path}, line {error.lineno}: not valid JSON ({error.msg}).") from error


def _read_json_lines(path: Path) -> Table:
    rows, bad = {}, {}
    for number, line in enumerate(read_text(path).split("\n"), start=1):  # not splitlines(): texts may hold U+2028
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            bad[number] = f"not valid JSON ({error.msg}); each line must be one JSON object"
            continue
        if isinstance(row, dict):
            rows[number] = row
        else:
            bad[number] = f"expected a JSON object, got {json.dumps(row)[:60]}"
    return _table(rows, path, "line", bad)


def _read_parquet(path: Path, *shards: Path) -> Table:
    try:
        rows = pyarrow.parquet.read_table([path, *shards]).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise TaskError(f"{path} is not a readable Parquet file: {error}") from error
    return _table(dict(enumerate(rows, start=1)), path, "row", {})


def _read_delimited(path: Path) -> Table:
    # CSV quoting also for TSV: BOSS writes its files with pandas.DataFrame.to_csv(sep="\t").
    lines = io.StringIO(read_text(path), newline="")
    reader = csv.reader(lines, delimiter="\t" if path.suffix == ".tsv" else ",", strict=True)
    header, rows, bad = next(reader, []), {}, {}
    if len(set(header)) < len(header):
        raise TaskError(f"{path}: expected columns of different names, got {header}.")
    while True:
        number = reader.line_num + 1  # a quoted text may go on for several lines
        try:
            fields = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            bad[number] = f"does not parse ({error}); put texts with separators or quotes in double quotes"
            continue
        if fields and len(fields) != len(header):
            bad[number] = f"expected {len(header)} fields, as in the first line, got {len(fields)}"
        elif fields:
            rows[number] = dict(zip(header, fields, strict=True))
    table = _table(rows, path, "line", bad)
    return _drop_unusable_boss_rows(table) if header == ["Text", "Label"] and rows else table


def _drop_unusable_boss_rows(table: Table) -> Table:
    """Leave out BOSS rows without text or label, as the paper's reference code does."""
    stripped = table.frame.map(str.strip)
    good = (stripped["Text"] != "") & ~stripped["Label"].isin(["", "nan"])
    if dropped := int((~good).sum()):
        table.notes.append(f"{dropped} rows of {Path(table.origin).name} without text or label left out")
        warnings.warn(f"{table.origin}: left out {dropped} rows without text or label.", TaskWarning, stacklevel=2)
        table.frame = table.frame[good]
    return table


READERS: dict[str, Callable[[Path], Table]] = {
    ".jsonl": _read_json_lines,
    ".parquet": _read_parquet,
    ".csv": _read_delimited,
    ".tsv": _read_delimited,
}


def read_split(folder: Path, split: str) -> Table | None:
    """Read a split of a folder: one file, or Parquet shards named `train-00000-of-00002.parquet` as on the Hub.

    Args:
        folder: The task's folder.
        split: Split name; `validation` is also found as `valid`, `val` or `dev`.

    Returns:
        The rows, or None if the folder has no file for this split.

    Raises:
        TaskError: If two files claim the same split or the file cannot be read.
    """
    stems = SPLIT_ALIASES.get(split, (split,))
    found = [path for stem in stems for suffix in READERS if (path := folder / f"{stem}{suffix}").is_file()]
    if len(found) > 1:
        names = [path.name for path in found]
        raise TaskError(f"{folder} has several files for the split {split!r}: {names}. Keep one.")
    if found:
        return READERS[found[0].suffix](found[0])
    shards = sorted(path for stem in stems for path in folder.glob(f"{stem}-*-of-*.parquet"))
    return _read_parquet(*shards) if shards else None


def ood_names(folder: Path) -> list[str]:
    """Return the names of the `ood_*` splits for which `folder` has a file, sorted."""
    return sorted({path.stem for path in folder.glob("ood_*") if path.suffix in READERS})


def read_hub(hub: Sequence[str], split: str, task: str) -> Table:
    """Read one split of a data set of the Hugging Face Hub; no code of the data set is run.

    Args:
        hub: Data set and configuration, such as `("aps/super_glue", "rte")`.
        split: Split on the Hub.
        task: The task's name, for the message.

    Returns:
        The rows; integer class labels are replaced by their names, so that another order on the Hub does no harm.

    Raises:
        TaskError: If the data set cannot be had; names the two ways that need no network.
    """
    import datasets  # a second of import time that the other sources do not need

    where = "/".join(hub)
    try:
        data = datasets.load_dataset(*hub, split=split)
    except Exception as error:  # many libraries deep: requests, httpx, huggingface_hub and datasets raise their own
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise TaskError(
            f"Cannot load {where} (split {split}) from the Hugging Face Hub: {reason}. Without the network: use the "
            f"built-in task (task 'snippets'), or put the files into a folder {task}/ under a data folder and set "
            "LPFT_DATA to it."
        ) from error
    frame: Any = data.to_pandas()
    frame = frame.astype(object).set_index(pd.RangeIndex(1, len(data) + 1))
    for column, feature in data.features.items():
        if isinstance(feature, datasets.ClassLabel):
            names = dict(enumerate(feature.names))
            frame[column] = frame[column].map(lambda value, names=names: names.get(value, value))
    return Table(frame, f"Hub {where}, split {split}")
