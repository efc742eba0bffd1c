"""From rows to examples: columns, input template and labels, with errors that name file and line."""

import json
import math
from typing import Any

import numpy as np

from lpft_utils.common.errors import TaskError
from lpft_utils.data.catalog import TaskInfo
from lpft_utils.data.examples import Split
from lpft_utils.data.readers import Table


def unlabelled(table: Table, info: TaskInfo) -> bool:
    """Return whether no row has a label (absent, or -1 as on the Hub)."""
    column = _find_column(table, info.label_column)
    return column is None or all(str(row.get(column)) in ("-1", "None") for row in table.rows)


def _find_column(table: Table, wanted: str) -> str | None:
    """Return the table's column of that name; capitals do not matter (BOSS writes Text, Label)."""
    if wanted in table.columns:
        return wanted
    same = [column for column in table.columns if str(column).casefold() == wanted.casefold()]
    return same[0] if len(same) == 1 else None


def to_split(table: Table, info: TaskInfo) -> Split:
    """Apply the task's template to every row and turn the labels into class indices.

    Args:
        table: Rows with the task's text columns and its label column; capitals in their names do not matter.
        info: Template, label names and label column.

    Returns:
        The examples, in the order of the rows.

    Raises:
        TaskError: If there is no row, a column or value is missing, a text is empty, or a label is not in the list.
    """
    if not table.rows:
        raise TaskError(f"{table.origin} is empty: expected at least one labelled example.")
    columns = {}
    for wanted in (*info.columns, info.label_column):
        column = _find_column(table, wanted)
        if column is None:
            raise TaskError(f"{table.origin}: missing column {wanted!r}; found {table.columns}.")
        columns[wanted] = column
    label_column = columns.pop(info.label_column) if info.label_column not in info.columns else info.label_column
    texts, labels = [], []
    for i, row in enumerate(table.rows):
        values = {}
        for wanted, column in columns.items():
            value = row.get(column)
            if value is None or value != value:  # absent in this row (NaN in tables)
                raise TaskError(f"{table.at(i)}: no value for column {column!r}.")
            values[wanted] = value.lower() if info.lower and isinstance(value, str) else value
            if not str(value).strip():
                raise TaskError(f"{table.at(i)}: empty text in column {column!r}. Remove or repair the row.")
        texts.append(tuple(segment.format_map(values) for segment in info.template))
        labels.append(_to_label(row.get(label_column), info.label_names, table, i))
    return Split(tuple(texts), np.array(labels, dtype=np.int64))


def _to_label(value: Any, names: tuple[str, ...], table: Table, i: int) -> int:
    """Return the class index of a label given as integer, digits, or name (capitals do not matter)."""
    text = str(value).strip()
    if text in names:
        return names.index(text)
    folded = [name.casefold() for name in names]
    if text.casefold() in folded:
        return folded.index(text.casefold())
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if number in range(len(names)):
        return int(number)
    allowed = ", ".join(f"{index} ({name})" for index, name in enumerate(names))
    shown = json.dumps(value, default=str)
    raise TaskError(f"{table.at(i)}: label {shown} is not in the list. Expected one of: {allowed}.")
