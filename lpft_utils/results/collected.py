"""Results of sweeps in one tidy file: numbers and curves of every run that is done, and where they come from.

A Parquet file with one row per run, split, metric and step. Columns: "run" (its name), `frame.COLUMNS`, "step" (of a
curve; missing for a final value), "predicted" and "labels" (of an evaluation split's accuracy: the class that was
predicted for each text, and its class; otherwise missing), "spec" and "environment" (JSON texts: all fields of the run;
device, versions and date), "plan" (hash of the plan that the runs were to follow, or "") and "command". A run that is
in the file is never done again.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from lpft_utils.common.errors import RunError
from lpft_utils.common.files import whole
from lpft_utils.results.frame import COLUMNS, results
from lpft_utils.results.plan import load_plan
from lpft_utils.runs.grid import Score
from lpft_utils.runs.run import run
from lpft_utils.training.spec import RunSpec

SECONDS_BETWEEN_WRITES = 60
ORIGIN = ["spec", "environment", "plan", "command"]
PER_TEXT = ["predicted", "labels"]
COLLECTED = ["run", *COLUMNS, "step", *PER_TEXT, *ORIGIN]
_TEXT, _CLASSES = pa.dictionary(pa.int32(), pa.string()), pa.list_(pa.uint16())
_TYPES = {"seed": pa.int64(), "value": pa.float64(), "step": pa.float64(), **dict.fromkeys(PER_TEXT, _CLASSES)}
_SCHEMA = pa.schema([(name, _TYPES.get(name, _TEXT)) for name in COLLECTED])


def collect_run(spec: RunSpec, store: Path, keep: str) -> tuple[Score, pd.DataFrame]:
    """Do a run, or read it: the work of a sweep.

    Args:
        spec: The run.
        store: The run store.
        keep: How much of it to store, one of `store.KEPT`.

    Returns:
        Its score, and its rows without "plan" and "command".
    """
    started = time.perf_counter()
    found = run(spec, store=store, keep=keep)
    metrics = found.metrics
    seconds = max(time.perf_counter() - started, metrics["seconds"])
    curves = pd.DataFrame()
    if not found.history.empty:
        curves = found.history.melt("step", var_name="metric").dropna(subset="value").assign(split="")
    values = results([found])
    if found.kept != "summary":  # whose predictions intervals over texts need
        said: Any = {split: (f.argmax(1), y) for split, (f, y) in found.predictions.items() if split != "train"}
        per_text = values["split"].map(said).where(values["metric"] == "accuracy")
        for i, name in enumerate(PER_TEXT):
            values[name] = per_text.map(lambda both, i=i: both[i], na_action="ignore")
    head = values.iloc[:1].assign(split="", metric="seconds", value=seconds)
    rows = pd.concat([head, values, curves], ignore_index=True)
    rows = rows.assign(**values.iloc[0][["task", "backbone", "method", "seed"]], run=found.folder.name)
    about = {"spec": found.spec.to_dict(), "environment": metrics["environment"]}
    rows = rows.assign(**{name: json.dumps(value) for name, value in about.items()})
    score = Score(found.folder.name, metrics["accuracy"]["validation"], found.diverged, seconds)
    return score, rows


def read_collected(path: Path) -> pd.DataFrame:
    """The rows of a file.

    Args:
        path: The file; need not exist.

    Returns:
        Columns `COLLECTED`, texts as categories.

    Raises:
        RunError: If it is damaged, or no file of results.
    """
    if not path.exists():
        return pd.DataFrame(columns=COLLECTED)
    try:
        return pq.read_table(path, columns=COLLECTED, page_checksum_verification=True).to_pandas()[COLLECTED]
    except (OSError, ValueError, KeyError) as error:
        raise RunError(
            f"{path}: expected results of `lpft sweep` ({error}). Restore it, or delete it: runs that are stored are "
            "read again, others are trained again."
        ) from error


@contextlib.contextmanager
def collecting(
    path: Path, plan: Path | None, command: str
) -> Iterator[tuple[dict[str, Score], Callable[[pd.DataFrame], None]]]:
    """Add rows of runs to a file: every minute and at the end, also when interrupted.

    Args:
        path: The file; need not exist.
        plan: File of the plan that the runs follow.
        command: What was called.

    Yields:
        Scores of the runs that are in the file, and a function that adds the rows of a run.

    Raises:
        RunError: If another process is collecting into the file.
    """
    lock = FileLock(f"{path}.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise RunError(f"{path}: another sweep is writing to it; wait for it, or name another file.") from None
    frames = [read_collected(path)]
    known = scores(frames[0])
    digest = load_plan(plan).hash if plan else ""
    written = time.monotonic()

    def add(rows: pd.DataFrame) -> None:
        nonlocal written
        frames.append(rows.assign(plan=digest, command=command))
        if time.monotonic() > written + SECONDS_BETWEEN_WRITES:
            frames[:] = [pd.concat(frames, ignore_index=True)]
            write_collected(path, frames[0])
            written = time.monotonic()

    try:
        yield known, add
    finally:
        write_collected(path, pd.concat(frames, ignore_index=True))
        lock.release()


def write_collected(path: Path, frame: pd.DataFrame) -> None:
    """Write rows, whole or not at all.

    Args:
        path: The file.
        frame: Columns `COLLECTED`.
    """
    frame = frame.astype({name: "category" for name in COLLECTED if name not in _TYPES})
    with whole(path) as partial:
        table = pa.Table.from_pandas(frame.reindex(columns=COLLECTED), _SCHEMA, preserve_index=False)
        pq.write_table(table, partial, compression="zstd", write_page_checksum=True)


def scores(frame: pd.DataFrame) -> dict[str, Score]:
    """What a sweep has to know of the runs in a file.

    Args:
        frame: Columns `COLLECTED`.

    Returns:
        Scores by name of the run.
    """
    final: Any = frame[frame["step"].isna() & frame["metric"].isin(["accuracy", "diverged", "seconds"])]
    final = final[final["split"] == final["metric"].map({"accuracy": "validation"}).astype(object).fillna("")]
    wide = final.astype({"run": str, "metric": str}).pivot(index="run", columns="metric", values="value")
    wide = wide.reindex(columns=["accuracy", "diverged", "seconds"])
    return {str(row[0]): Score(str(row[0]), row[1], bool(row[2]), row[3]) for row in wide.itertuples()}
