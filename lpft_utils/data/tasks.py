"""What is classified: the paper's 13 tasks, the two built-in tasks, and your own files.

`load_task("rte")` returns texts (template applied) and integer labels in the splits train, validation and test.

Splits follow the paper (Tomihari & Sato 2024): for GLUE, SuperGLUE and Amazon the training set is cut 9:1 in order,
without shuffling, into train and validation, and the public validation set becomes the test set. PubMed is used as
published. DynaSent, SemEval and SST-5 are test sets. A folder that brings its own labelled train, validation and test
is used as it is. `Task.source` says what was done.
"""

import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lpft_utils.common.errors import TaskError, TaskWarning
from lpft_utils.common.names import nearest
from lpft_utils.data import snippets, synthetic
from lpft_utils.data.catalog import PAPER_TASKS, TASKS, TaskInfo, template_columns
from lpft_utils.data.conversion import to_split, unlabelled
from lpft_utils.data.examples import Split, Task, subsample
from lpft_utils.data.readers import READERS, Table, ood_names, read_hub, read_json, read_split

__all__ = ["PAPER_TASKS", "TASKS", "Split", "Task", "TaskInfo", "load_task", "subsample"]


def load_task(
    name: str, *, ood: str | Sequence[str] | None = None, data_dir: str | Path | None = None, **options: Any
) -> Task:
    """Load a task with its splits: built in, from files or otherwise from the Hub.

    Args:
        name: A name of `TASKS`, a folder under the data folder that has a `dataset.json`, or a path to one.
        ood: Other tasks, or the name of one, whose test sets are attached as `ood_<name>`; their label names must be
            the same. None: the task's own (Amazon: DynaSent, SemEval, SST-5; those without files are left out with a
            warning).
        data_dir: Folder with one folder per task; default: the environment variable `LPFT_DATA`.
        **options: Arguments of `synthetic.generate` (task `synthetic` only), such as `seed` or `label_noise`.

    Returns:
        The task.

    Raises:
        TaskError: If the task is unknown or its data cannot be used as they are.
    """
    data_folder = _data_folder(data_dir)
    if name == "synthetic":
        task = synthetic.generate(**options)
    elif options:
        raise TaskError(f"Options {sorted(options)} belong to the task 'synthetic'; {name!r} takes none.")
    elif name == "snippets":
        task = snippets.load()
    else:
        task = _load(name, data_folder)
    wanted = [ood] if isinstance(ood, str) else TASKS[name].ood if ood is None and name in TASKS else ood
    splits, sources = dict(task.splits), [task.source]
    for other in wanted or ():
        try:
            shifted = load_task(other, ood=(), data_dir=data_folder)
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
    if given and not Path(given).expanduser().is_dir():
        raise TaskError(f"{'data_dir' if data_dir else 'LPFT_DATA'} is {str(given)!r}, which is not a folder.")
    return Path(given).expanduser() if given else None


def _load(name: str, data_folder: Path | None) -> Task:
    info = TASKS.get(name)
    names = (info.folders or (name,)) if info else (name,)
    folders = [data_folder / folder for folder in names] if data_folder and name else []
    if not info and name and Path(name, "dataset.json").expanduser().is_file():
        folders.append(Path(name).expanduser())
    for folder in folders:
        if folder.is_dir():
            return _from_folder(name, info, folder)
    if info is None:
        raise TaskError(_unknown_message(name, data_folder))
    if not info.hub:
        looked = f"no such folder in {data_folder}" if data_folder else "LPFT_DATA is not set"
        raise TaskError(
            f"{name!r} is not on the Hub in this form. Expected files in a folder {' or '.join(names)}/ under the data "
            f"folder, but {looked}. Put train, validation, test (.jsonl, .parquet, .csv or .tsv) there and set "
            "LPFT_DATA, or use a built-in task ('snippets' or 'synthetic')."
        )
    wanted = ("train", "validation") if info.rule == "cut" else ("train", "validation", "test")
    tables = {split: read_hub(info.hub, split, name) for split in wanted}
    return _build(info, tables, f"Hub {'/'.join(info.hub)}", [info.hub_note] if info.hub_note else [])


def _unknown_message(name: str, data_folder: Path | None) -> str:
    if Path(name).suffix in READERS:
        return f"{name!r} is a file, not a task: lpft new-data {name} --text COLUMN --label COLUMN makes a task of it."
    own = [path.parent.name for path in sorted(data_folder.glob("*/dataset.json"))] if data_folder else []
    hint = nearest(name, sorted({*TASKS, *own}))
    return f"Unknown task {name!r}: {hint}. Own data: a folder with dataset.json under LPFT_DATA or a path to one."


def _from_folder(name: str, info: TaskInfo | None, folder: Path) -> Task:
    path, own = folder / "dataset.json", info is None
    description = read_json(path) if path.is_file() else {}
    if not isinstance(description, dict):
        raise TaskError(f"{path}: expected a JSON object, got {type(description).__name__}.")
    if info is None:
        if not description:
            raise TaskError(
                f"{folder} has no dataset.json. It must say at least "
                '{"label_names": ["no", "yes"], "columns": ["text", "label"]}.'
            )
        info = _own_info(name, path, description)
    elif tuple(description.get("label_names", info.label_names)) != info.label_names:
        raise TaskError(
            f"{path}: label_names of {info.name!r} must be {list(info.label_names)} in this order, "
            f"got {description['label_names']}."
        )
    names = ["train", "validation", "test", *ood_names(folder)]
    tables = {split: table for split in names if (table := read_split(folder, split)) is not None}
    if not tables:
        raise TaskError(f"{folder} has no train, validation or test file (.jsonl, .parquet, .csv or .tsv).")
    notes = []
    if "test" in tables and unlabelled(tables["test"], info):
        if own or not info.hub or "validation" not in tables:
            raise TaskError(
                f"{tables['test'].origin}: expected labels in column {info.label_column!r}, found none; the columns "
                f"are {list(tables['test'].frame)}. Name the right one in dataset.json (label_column), label these "
                "texts, or remove the file: the validation set is then the test set."
            )
        del tables["test"]  # as on the Hub, where the labels of GLUE's test sets are withheld
        notes.append("unlabelled test file not used")
    return _build(info, tables, f"files in {folder.name}/", notes)


def _own_info(name: str, path: Path, description: dict[str, Any]) -> TaskInfo:
    labels = description.get("label_names")
    if not isinstance(labels, list) or len(set(map(str, labels))) != len(labels) or len(labels) < 2:
        raise TaskError(f"{path}: label_names must be a list of at least two different names, got {labels!r}.")
    label_column = description.get("label_column", "label")
    columns = [c for c in description.get("columns", []) if c not in (label_column, "idx", "id")]
    columns = description.get("text_columns", columns)
    columns = [columns] if isinstance(columns, str) else columns
    template = description.get("template", [f"{{{column}}}" for column in columns])
    template = [template] if isinstance(template, str) else template
    if not isinstance(template, list) or len(template) not in (1, 2) or not all(isinstance(t, str) for t in template):
        raise TaskError(
            f"{path}: expected one or two text columns, got {template!r}. Name them in text_columns, or write a "
            'template such as "{title}: {body}" (a list of two for sentence pairs).'
        )
    template_columns(tuple(template))  # raises where it does not parse
    task_name = str(description.get("name") or Path(name).name)
    return TaskInfo(task_name, tuple(map(str, labels)), tuple(template), label_column=label_column)


def _build(info: TaskInfo, tables: dict[str, Table], origin: str, notes: list[str]) -> Task:
    where = f"Task {info.name!r} ({origin})"
    splits, problems = {}, []
    for name, table in tables.items():
        try:
            splits[name] = to_split(table, info)
        except TaskError as error:
            problems.append(str(error))
    if problems:
        raise TaskError("\n".join(problems))
    notes = [*notes, *(note for table in tables.values() for note in table.notes)]
    test_is_validation = False
    if "train" not in splits:
        if info.rule != "test" or "test" not in splits:
            raise TaskError(f"{where}: expected a train split, found {sorted(splits)}.")
        notes.append("test set only, as in the paper")
    elif "validation" in splits and "test" in splits:
        notes.append("train, validation and test as given")
    else:
        cut = "train cut 9:1 in order into train and validation"
        if "test" not in splits:
            if "validation" not in splits:
                raise TaskError(f"{where}: expected validation or test beside train, found neither.")
            splits["test"] = splits.pop("validation")
            test_is_validation = True
            cut += ", the public validation set is the test set"
        notes.append(cut)
        train = splits["train"]
        n = len(train) - math.ceil(len(train) / 10)  # as datasets.train_test_split(test_size=0.1, shuffle=False)
        if n == 0:
            raise TaskError(f"{where}: {len(train)} training example(s) are too few to cut 9:1.")
        splits["train"], splits["validation"] = train.take(range(n)), train.take(range(n, len(train)))
    order = ("train", "validation", "test", *sorted(name for name in splits if name.startswith("ood_")))
    splits = {name: splits[name] for name in order if name in splits}
    source = f"{origin} ({'; '.join(notes)})"
    return Task(info.name, info.label_names, splits, source, test_is_validation=test_is_validation)


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
