"""What is classified: the paper's 13 tasks, the built-in task, and your own files.

`load_task("rte")` returns texts (template applied) and integer labels in the splits train, validation and test.

Splits follow the paper (Tomihari & Sato 2024): for GLUE, SuperGLUE and Amazon the training set is cut 9:1 in order,
without shuffling, into train and validation, and the public validation set becomes the test set. PubMed is used as
published. DynaSent, SemEval and SST-5 are test sets. A folder that brings its own labelled train, validation and test
is used as it is. `Task.source` says what was done.
"""

import difflib
import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from lpft_utils.common.errors import TaskError, TaskWarning
from lpft_utils.data.catalog import PAPER_TASKS, TASKS, TaskInfo, template_columns
from lpft_utils.data.conversion import to_split, unlabelled
from lpft_utils.data.examples import Split, Task, subsample
from lpft_utils.data.readers import Table, ood_names, read_hub, read_json, read_split

__all__ = ["PAPER_TASKS", "TASKS", "Split", "Task", "TaskInfo", "list_tasks", "load_task", "subsample"]

SOURCES = (None, "builtin", "hub", "files")


def list_tasks() -> list[TaskInfo]:
    """Return what is known about every task that has a name here: the built-in one, then the paper's 13."""
    return list(TASKS.values())


@lru_cache(maxsize=4)
def _generate(**options: Any) -> Task:
    """The built-in task; a chapter asks for the same texts once for every run that it reads."""
    from lpft_utils.data.synthetic import generate

    return generate(**options)


def load_task(
    name: str,
    source: str | None = None,
    *,
    ood: Sequence[str] | None = None,
    data_dir: str | Path | None = None,
    **options: Any,
) -> Task:
    """Load a task with its splits.

    Args:
        name: A name of `list_tasks()`, a folder under the data folder that has a `dataset.json`, or a path to one.
        source: `"builtin"`, `"hub"`, `"files"`, or None: the generator for `"builtin"`, else files where there are
            some, else the Hub.
        ood: Other tasks whose test sets are attached as `ood_<name>`; their label names must be the same. None: the
            task's own (Amazon: DynaSent, SemEval, SST-5; those without files are left out with a warning).
        data_dir: Folder with one folder per task; default: the environment variable `LPFT_DATA`.
        **options: Arguments of `builtin_task.generate` (built-in task only), such as `seed` or `label_noise`.

    Returns:
        The task.

    Raises:
        TaskError: If the task is unknown or its data cannot be used as they are.
    """
    if source not in SOURCES:
        raise TaskError(f"source must be one of {SOURCES}, got {source!r}.")
    data_folder = _data_folder(data_dir)
    if source == "builtin" or (name == "builtin" and source is None):
        if name != "builtin":
            raise TaskError(f"Only the task 'builtin' can be generated, not {name!r}.")
        task = _generate(**options)
    else:
        if options:
            raise TaskError(f"Options {sorted(options)} belong to the built-in task; {name!r} takes none.")
        task = _load(name, source, data_folder)
    wanted = TASKS[name].ood if ood is None and name in TASKS else tuple(ood or ())
    splits, sources = dict(task.splits), [task.source]
    for other in wanted:
        try:
            shifted = load_task(other, None if source == "builtin" else source, ood=(), data_dir=data_folder)
        except TaskError as error:
            if ood is not None:
                raise
            warnings.warn(
                f"Task {name!r} without its out-of-distribution test set {other!r}: {error}", TaskWarning, stacklevel=2
            )
            continue
        if shifted.label_names != task.label_names:
            raise TaskError(
                f"{other!r} cannot be a test set of {name!r}: expected the labels {task.label_names}, "
                f"got {shifted.label_names}."
            )
        splits[f"ood_{Path(other).name}"] = shifted.split("test")
        sources.append(f"ood_{Path(other).name}: {shifted.source}")
    task = replace(task, splits=splits, source="; ".join(sources))
    _warn_about_overlap(task)
    return task


def _data_folder(data_dir: str | Path | None) -> Path | None:
    given = data_dir or os.environ.get("LPFT_DATA")
    if not given:
        return None
    folder = Path(given).expanduser()
    if not folder.is_dir():
        origin = "data_dir" if data_dir else "LPFT_DATA"
        raise TaskError(f"{origin} is {str(given)!r}, which is not a folder.")
    return folder


def _load(name: str, source: str | None, data_folder: Path | None) -> Task:
    info = TASKS.get(name) if name != "builtin" else None
    folder = _find_folder(name, info, data_folder) if source != "hub" else None
    if folder is not None:
        return _from_folder(name, info, folder)
    if info is None:
        raise TaskError(_unknown_message(name, data_folder))
    if source == "files" or info.hub_id is None:
        why = "" if source == "files" else f"{name!r} is not on the Hub in this form. "
        looked = f"no such folder in {data_folder}" if data_folder else "LPFT_DATA is not set"
        raise TaskError(
            f"{why}Expected files in a folder {' or '.join(info.folders or (name,))}/ under the data folder, but "
            f"{looked}. Put train, validation, test (.jsonl, .parquet, .csv or .tsv) there and set LPFT_DATA, or use "
            "the built-in task (task 'builtin')."
        )
    return _from_hub(info)


def _find_folder(name: str, info: TaskInfo | None, data_folder: Path | None) -> Path | None:
    if data_folder is not None:
        for folder in info.folders or (name,) if info else (name,):
            if name and (data_folder / folder).is_dir():
                return data_folder / folder
    if info is None and name and (Path(name).expanduser() / "dataset.json").is_file():
        return Path(name).expanduser()
    return None


def _unknown_message(name: str, data_folder: Path | None) -> str:
    own = [path.parent.name for path in sorted(data_folder.glob("*/dataset.json"))] if data_folder else []
    known = sorted({*TASKS, *own})
    near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
    hint = f" Nearest: {', '.join(near)}." if near else ""
    return (
        f"Unknown task {name!r}.{hint} Known: {', '.join(known)}. Own data: a folder with dataset.json under LPFT_DATA "
        "or a path to one."
    )


def _from_folder(name: str, info: TaskInfo | None, folder: Path) -> Task:
    description = read_json(folder / "dataset.json") if (folder / "dataset.json").is_file() else None
    if description is not None and not isinstance(description, dict):
        raise TaskError(f"{folder / 'dataset.json'}: expected a JSON object, got {type(description).__name__}.")
    if info is None:
        if description is None:
            raise TaskError(
                f"{folder} has no dataset.json. It must say at least "
                '{"label_names": ["no", "yes"], "columns": ["text", "label"]}.'
            )
        info = _own_info(name, folder / "dataset.json", description)
    elif description is not None and tuple(description.get("label_names", info.label_names)) != info.label_names:
        raise TaskError(
            f"{folder / 'dataset.json'}: label_names of {info.name!r} must be {list(info.label_names)} in this order, "
            f"got {description['label_names']}."
        )
    names = ["train", "validation", "test", *ood_names(folder)]
    tables = {split: table for split in names if (table := read_split(folder, split)) is not None}
    if not tables:
        raise TaskError(
            f"{folder} has no train, validation or test file (.jsonl, .json, .parquet, .csv, .tsv or .txt)."
        )
    notes = []
    if info.rule == "cut" and "test" in tables and "validation" in tables and unlabelled(tables["test"], info):
        del tables["test"]  # as on the Hub, where the labels of GLUE's test sets are withheld
        notes.append("unlabelled test file not used")
    return _build(info, tables, f"files in {folder.name}/", notes)


def _own_info(name: str, path: Path, description: dict[str, Any]) -> TaskInfo:
    labels = description.get("label_names")
    if not isinstance(labels, list) or len(set(map(str, labels))) != len(labels) or len(labels) < 2:
        raise TaskError(f"{path}: label_names must be a list of at least two different names, got {labels!r}.")
    label_column = description.get("label_column", "label")
    template = description.get("template")
    if template is None:
        columns = description.get("text_columns")
        if columns is None:
            columns = [c for c in description.get("columns", []) if c not in (label_column, "idx", "id")]
        if not isinstance(columns, list) or len(columns) not in (1, 2):
            raise TaskError(
                f"{path}: expected one or two text columns, got {columns!r}. Name them in text_columns, or write a "
                'template such as "{title}: {body}" (a list of two for sentence pairs).'
            )
        template = ["{" + str(column) + "}" for column in columns]
    template = [template] if isinstance(template, str) else template
    if not isinstance(template, list) or len(template) not in (1, 2) or not all(isinstance(t, str) for t in template):
        raise TaskError(f"{path}: template must be a string or a list of one or two strings, got {template!r}.")
    template_columns(tuple(template))  # raises where it does not parse
    task_name = str(description.get("name") or Path(name).name)
    return TaskInfo(task_name, tuple(map(str, labels)), tuple(template), label_column=label_column)


def _from_hub(info: TaskInfo) -> Task:
    assert info.hub_id is not None
    wanted = ("train", "validation") if info.rule == "cut" else ("train", "validation", "test")
    tables = {split: read_hub(info.hub_id, info.hub_config, split, info.name) for split in wanted}
    origin = "Hub " + "/".join(part for part in (info.hub_id, info.hub_config) if part)
    return _build(info, tables, origin, [info.hub_note] if info.hub_note else [])


def _build(info: TaskInfo, tables: dict[str, Table], origin: str, notes: list[str]) -> Task:
    splits = {name: to_split(table, info) for name, table in tables.items()}
    notes = [*notes, *(note for table in tables.values() for note in table.notes)]
    if "train" not in splits:
        if info.rule != "test" or "test" not in splits:
            raise TaskError(f"Task {info.name!r} ({origin}): expected a train split, found {sorted(splits)}.")
        notes.append("test set only, as in the paper")
    elif "validation" not in splits or "test" not in splits:
        if "validation" not in splits and "test" not in splits:
            raise TaskError(f"Task {info.name!r} ({origin}): expected validation or test beside train, found neither.")
        if "test" not in splits:
            splits["test"] = splits.pop("validation")
            notes.append("train cut 9:1 in order into train and validation, the public validation set is the test set")
        else:
            notes.append("train cut 9:1 in order into train and validation")
        n = len(splits["train"])
        n_validation = math.ceil(n / 10)  # rounds as datasets.train_test_split(test_size=0.1, shuffle=False)
        if n_validation == n:
            raise TaskError(f"Task {info.name!r} ({origin}): {n} training example(s) are too few to cut 9:1.")
        train = splits["train"]
        splits["train"] = train.take(range(n - n_validation))
        splits["validation"] = train.take(range(n - n_validation, n))
    else:
        notes.append("train, validation and test as given")
    order = ("train", "validation", "test", *sorted(name for name in splits if name.startswith("ood_")))
    splits = {name: splits[name] for name in order if name in splits}
    return Task(info.name, info.label_names, splits, f"{origin} ({'; '.join(notes)})")


def _warn_about_overlap(task: Task) -> None:
    """Warn once if a test text, apart from capitals and spacing, is also a training text."""
    if "train" not in task.splits:
        return

    def keys(split: Split) -> list[tuple[str, ...]]:
        return [tuple(" ".join(segment.casefold().split()) for segment in text) for text in split.texts]

    seen = set(keys(task.splits["train"]))
    counts = {name: sum(key in seen for key in keys(task.splits[name])) for name in ("test", *task.ood_splits)}
    shared = ", ".join(f"{count} of {name}" for name, count in counts.items() if count)
    if shared:
        warnings.warn(f"Task {task.name!r}: texts that are also in train: {shared}.", TaskWarning, stacklevel=3)
