"""The tasks that are known by name (`catalog.yml`): the 13 of the paper and the two built-in ones.

Columns, templates and label orders follow Tomihari & Sato (NeurIPS 2024, arXiv 2405.16747) and its reference code
`tom4649/lp-ft_ntk`.
"""

import string
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lpft_utils.common.errors import TaskError


@dataclass(frozen=True)
class TaskInfo:
    """What is known about a task before its data are read.

    Attributes:
        name: Short name for `load_task`.
        label_names: Class names; their order is the label integer.
        template: One or two format strings over the columns, such as `("{premise}", "{hypothesis}")`.
        rule: `"cut"`: train is cut 9:1 in order into train and validation, the public validation set is the test set;
            `"published"`: train, validation and test as published; `"test"`: published as a test set only.
        hub: Data set on the Hugging Face Hub and its configuration; empty where there is none that fits.
        hub_note: How the Hub's version differs from the published one.
        folders: Folder names under the data folder, in order of preference; the first is the task's name.
        ood: Tasks whose test sets are attached by default.
        lower: Whether the text is lower-cased.
        label_column: Column of the label.
        metric: What the paper measures success by: "accuracy" or "MCC", Matthews correlation.
    """

    name: str
    label_names: tuple[str, ...]
    template: tuple[str, ...]
    rule: str = "cut"
    hub: tuple[str, ...] = ()
    hub_note: str = ""
    folders: tuple[str, ...] = ()
    ood: tuple[str, ...] = ()
    lower: bool = False
    label_column: str = "label"
    metric: str = "accuracy"

    @property
    def columns(self) -> tuple[str, ...]:
        """Text columns used by the template, without repeats."""
        return template_columns(self.template)


def template_columns(template: tuple[str, ...]) -> tuple[str, ...]:
    """Return the column names in the format strings.

    Args:
        template: Format strings such as `"{premise}"`.

    Returns:
        Column names in the order of their first use.

    Raises:
        TaskError: If a string does not parse or holds anything but plain column names.
    """
    columns: dict[str, None] = {}
    for segment in template:
        try:
            fields = [name for _, name, _, _ in string.Formatter().parse(segment) if name is not None]
        except ValueError as error:
            raise TaskError(f"Template {segment!r} does not parse: {error}. Write columns as {{column}}.") from error
        if not fields or any(not name or set(name) & set(".[]!") for name in fields):
            raise TaskError(f"Template {segment!r} must name at least one column, each plainly, as {{column}}.")
        columns.update(dict.fromkeys(fields))
    return tuple(columns)


def _read(part: str) -> dict[str, TaskInfo]:
    entries: Any = yaml.safe_load(Path(__file__).with_suffix(".yml").read_text(encoding="utf-8"))[part]
    for about in entries.values():
        about |= {field: tuple(value) for field, value in about.items() if isinstance(value, list)}
    return {name: TaskInfo(name, **about) for name, about in entries.items()}


TASKS: dict[str, TaskInfo] = _read("built_in") | _read("paper")
PAPER_TASKS: tuple[str, ...] = tuple(_read("paper"))
