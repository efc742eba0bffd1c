"""Reading rows: JSON lines, JSON, Parquet, CSV, TSV, PubMed's text format, and the Hugging Face Hub.

Every reader returns a `Table` that knows where each row came from, so that a later error can name file and line.
"""

import io
import json
import warnings
from collections.abc import Callable, Sequence
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
        rows: Column name to value, one dict a row.
        columns: All column names.
        origin: File or Hub split, for messages.
        numbers: Number of each row within the origin.
        unit: What `numbers` counts, `"line"` or `"row"` (both from 1).
        notes: What was left out while reading, for the task's `source`.
    """

    rows: list[dict[str, Any]]
    columns: list[str]
    origin: str
    numbers: Sequence[int]
    unit: str = "line"
    notes: list[str] = field(default_factory=list)

    def at(self, i: int) -> str:
        """Return "file, line n" of row i (from 0)."""
        return f"{self.origin}, {self.unit} {self.numbers[i]}"


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


def _read_json_rows(path: Path) -> Table:
    text = read_text(path)
    if path.suffix == ".json" and text.lstrip().startswith("["):
        rows, numbers, unit = read_json(path), None, "row"
    else:
        rows, lines, unit = [], [], "line"
        for number, line in enumerate(text.split("\n"), start=1):  # not splitlines(): texts may hold U+2028
            if not line.strip():
                continue
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise TaskError(
                    f"{path}, line {number}: not valid JSON ({error.msg}). Each line must be one JSON object."
                ) from error
            lines.append(number)
        numbers = lines
    numbers = numbers if numbers is not None else range(1, len(rows) + 1)
    for number, row in zip(numbers, rows, strict=True):
        if not isinstance(row, dict):
            raise TaskError(f"{path}, {unit} {number}: expected a JSON object, got {json.dumps(row)[:60]}.")
    columns = list(dict.fromkeys(column for row in rows for column in row))
    return Table(rows, columns, str(path), numbers, unit)


def _read_parquet(path: Path) -> Table:
    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise TaskError(f"{path} is not a readable Parquet file: {error}") from error
    return Table(table.to_pylist(), table.column_names, str(path), range(1, len(table) + 1), "row")


def _read_delimited(path: Path) -> Table:
    # CSV quoting also for TSV: BOSS writes its files with pandas.DataFrame.to_csv(sep="\t").
    text = read_text(path)
    if not text.strip():
        return Table([], [], str(path), [], "row")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # else surplus fields are dropped silently
            frame = pd.read_csv(
                io.StringIO(text),
                sep="\t" if path.suffix == ".tsv" else ",",
                dtype=str,
                keep_default_na=False,  # "NA" and "None" are texts
                index_col=False,
            )
    except (pd.errors.ParserError, pd.errors.ParserWarning) as error:
        raise TaskError(
            f"{path} does not parse: {error}. Put texts with separators or quotes in double quotes."
        ) from error
    rows = frame.to_dict("records")
    table = Table(rows, list(frame.columns), str(path), range(1, len(rows) + 1), "row")
    return _drop_unusable_boss_rows(table) if table.columns == ["Text", "Label"] else table


def _drop_unusable_boss_rows(table: Table) -> Table:
    """Leave out BOSS rows without text or label, as the paper's reference code does."""
    good = [
        i
        for i, row in enumerate(table.rows)
        if str(row["Text"]).strip() and str(row["Label"]).strip() not in ("", "nan")
    ]
    dropped = len(table.rows) - len(good)
    if dropped:
        table.notes.append(f"{dropped} rows of {Path(table.origin).name} without text or label left out")
        warnings.warn(f"{table.origin}: left out {dropped} rows without text or label.", TaskWarning, stacklevel=2)
    numbers = [table.numbers[i] for i in good]
    return Table([table.rows[i] for i in good], table.columns, table.origin, numbers, "row", table.notes)


def _read_pubmed(path: Path) -> Table:
    """Read PubMed RCT as published: `###id`, then `LABEL<tab>sentence` lines, then an empty line."""
    rows, numbers = [], []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        line = line.rstrip("\r")
        if not line.strip() or line.startswith("###"):
            continue
        label, tab, text = line.partition("\t")
        if not tab:
            raise TaskError(f"{path}, line {number}: expected 'LABEL<tab>sentence' or '###id', got {line[:60]!r}.")
        rows.append({"label": label, "text": text})
        numbers.append(number)
    return Table(rows, ["label", "text"], str(path), numbers)


READERS: dict[str, Callable[[Path], Table]] = {
    ".jsonl": _read_json_rows,
    ".json": _read_json_rows,
    ".parquet": _read_parquet,
    ".csv": _read_delimited,
    ".tsv": _read_delimited,
    ".txt": _read_pubmed,
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
    if not shards:
        return None
    tables = [_read_parquet(path) for path in shards]
    rows = [row for table in tables for row in table.rows]
    return Table(rows, tables[0].columns, str(folder / f"{stems[0]}-*.parquet"), range(1, len(rows) + 1), "row")


def ood_names(folder: Path) -> list[str]:
    """Return the names of the `ood_*` splits for which `folder` has a file, sorted."""
    return sorted({path.stem for path in folder.glob("ood_*") if path.suffix in READERS})


def read_hub(hub_id: str, config: str | None, split: str, task: str) -> Table:
    """Read one split of a data set of the Hugging Face Hub; no code of the data set is run.

    Args:
        hub_id: Data set, such as `"aps/super_glue"`.
        config: Configuration, such as `"rte"`.
        split: Split on the Hub.
        task: The task's name, for the message.

    Returns:
        The rows; integer class labels are replaced by their names, so that another order on the Hub does no harm.

    Raises:
        TaskError: If the data set cannot be had; names the two ways that need no network.
    """
    import datasets  # a second of import time that the other sources do not need

    where = "/".join(part for part in (hub_id, config) if part)
    try:
        data = datasets.load_dataset(hub_id, config, split=split)
    except Exception as error:  # many libraries deep: requests, httpx, huggingface_hub and datasets raise their own
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise TaskError(
            f"Cannot load {where} (split {split}) from the Hugging Face Hub: {reason}. Without the network: use the "
            f"built-in task (task 'builtin'), or put the files into a folder {task}/ under a data folder and set "
            "LPFT_DATA to it."
        ) from error
    rows = [dict(row) for row in data]
    for column, feature in data.features.items():
        if isinstance(feature, datasets.ClassLabel):
            for row in rows:
                value = row[column]
                row[column] = feature.int2str(value) if value is not None and value >= 0 else value
    return Table(rows, list(data.column_names), f"Hub {where}, split {split}", range(1, len(rows) + 1), "row")
