"""From rows to examples: columns, input template and labels; one error names every row that is bad."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from lpft_utils.common.errors import TaskError
from lpft_utils.data.catalog import TaskInfo
from lpft_utils.data.examples import Split
from lpft_utils.data.readers import Table

SHOWN = 10  # bad rows that an error quotes


def unlabelled(table: Table, info: TaskInfo) -> bool:
    """Return whether there are rows and none has a label (absent, or -1 as on the Hub)."""
    column = _find_column(table, info.label_column)
    return len(table.frame) > 0 and (column is None or table.frame[column].map(str).isin(["-1", "None", "nan"]).all())


def _find_column(table: Table, wanted: str) -> str | None:
    """Return the table's column of that name; capitals do not matter (BOSS writes Text, Label)."""
    if wanted in table.frame:
        return wanted
    same = [column for column in table.frame if str(column).casefold() == wanted.casefold()]
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
    if table.frame.empty:
        nothing = f"{table.origin} is empty: expected at least one labelled example."
        raise TaskError(list_bad(table, table.bad) if table.bad else nothing)
    names = {wanted: _find_column(table, wanted) for wanted in (*info.columns, info.label_column)}
    for wanted, column in names.items():
        if column is None:
            raise TaskError(f"{table.origin}: missing column {wanted!r}; found {list(table.frame)}.")
    bad = dict(table.bad)
    texts = table.frame[[names[wanted] for wanted in info.columns]]
    for column in texts:
        absent = texts[column].isna()
        empty = texts[column].map(str).str.strip() == ""
        bad |= {n: f"no value for column {column!r}" for n in texts.index[absent]}
        bad |= {n: f"empty text in column {column!r}; remove or repair the row" for n in texts.index[empty & ~absent]}
    given = table.frame[names[info.label_column]]
    labels = given.map(_class_index(info.label_names))
    allowed = ", ".join(f"{index} ({name})" for index, name in enumerate(info.label_names))
    for n, value in given[labels < 0].items():
        shown = "null" if value != value else json.dumps(value, default=str)
        bad.setdefault(n, f"label {shown} is not in the list; expected one of: {allowed}")
    if bad:
        raise TaskError(list_bad(table, bad))
    if info.lower:
        texts = texts.map(lambda value: value.lower() if isinstance(value, str) else value)
    rows = texts.set_axis(list(info.columns), axis=1).to_dict("records")
    return Split(
        tuple(tuple(t.format_map(row) for t in info.template) for row in rows), labels.to_numpy(dtype=np.int64)
    )


def list_bad(table: Table, bad: Mapping[int, str]) -> str:
    """One line for each of the first bad rows, and how many more there are."""
    lines = [f"{table.origin}, {table.unit} {number}: {bad[number]}." for number in sorted(bad)]
    more = [f"… and {len(lines) - SHOWN} more bad rows."] if len(lines) > SHOWN else []
    return "\n".join(lines[:SHOWN] + more)


def _class_index(names: tuple[str, ...]) -> Callable[[Any], int]:
    """Function from a label to its class index, or -1: a name (capitals do not matter), otherwise the index itself."""
    exact = {name: index for index, name in enumerate(names)}
    folded = {name.casefold(): index for name, index in reversed(exact.items())}
    numbers = {form: index for index in range(len(names)) for form in (str(index), f"{index}.0")}
    if any(numbers.get(name, index) != index for name, index in exact.items()):
        numbers = {}  # where the names are numbers, such as 1 to 5 stars, a label is a name
    known = numbers | folded

    def index_of(value: Any) -> int:
        text = str(value).strip()
        return exact.get(text, known.get(text.casefold(), -1))

    return index_of
