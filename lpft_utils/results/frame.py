"""The one frame of results: one row per run, split and metric."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import pandas as pd

from lpft_utils.common.errors import ParameterError
from lpft_utils.runs.store import Run
from lpft_utils.studies.calibration import evaluation_splits, temperature_scaled

COLUMNS = ["task", "backbone", "method", "seed", "split", "metric", "value"]
PER_RUN = ("head_norm", "head_norm_0", "head_norm_init", "train_seconds", "peak_memory", "trainable_parameters")
CALIBRATION = ("confidence", "ECE", "MCE", "NLL")
VALIDATION = "test is the validation set"


def results(runs: Iterable[Run] | Mapping[Any, Iterable[Run]]) -> pd.DataFrame:
    """All metrics of runs, one value per row.

    Of a diverged run there are its `marks` alone: whatever mean is taken leaves it out, and it can be counted.

    Args:
        runs: Runs, or groups of runs by name.

    Returns:
        Columns `COLUMNS`, for groups after a column "group". Metrics with a split: "accuracy", "MCC" (Matthews
        correlation), "majority" (share of the most frequent class), "loss" and those of
        `feature_change.feature_change`, and on evaluation splits "confidence", "ECE", "MCE", "NLL", after temperature
        scaling with ", TS". What an older run did not measure has no row. With split "": `PER_RUN` as far
        as measured (seconds, bytes), "T", and "head_norm_tenth", ‖V‖ after a tenth of the steps of a gradient descent.
        And the `marks`.
    """
    if isinstance(runs, Mapping):
        frames = [results(group).assign(group=name) for name, group in runs.items()]
        return pd.concat(frames, ignore_index=True).reindex(columns=["group", *COLUMNS])
    rows = [
        (run.spec.task, run.spec.backbone, run.spec.method, run.spec.seed, *row) for run in runs for row in _rows(run)
    ]
    return pd.DataFrame(rows, columns=COLUMNS).astype({"value": float})


def check_measured(frame: pd.DataFrame) -> None:
    """Refuse a frame with published numbers in it: a mean must not be taken over them.

    Args:
        frame: A frame of results.

    Raises:
        ParameterError: If there is a column "source".
    """
    if "source" in frame:
        raise ParameterError("expected measured results alone: published numbers stand beside them, never among them.")


def select(frame: pd.DataFrame, **where: Any) -> Any:
    """The rows that have these values.

    Args:
        frame: A frame of results.
        **where: Values by column.

    Returns:
        The rows.
    """
    chosen: Any = frame  # pandas' annotations do not know what a selection of rows is
    for column, value in where.items():
        chosen = chosen[chosen[column] == value]
    return chosen


def marks(run: Run) -> Iterator[tuple[str, str, float]]:
    """What every frame says about a run before its values: `table` reads it.

    Args:
        run: The run.

    Yields:
        Split, metric and value: "diverged" (0 or 1) for the run, split ""; if it is 1, the same for each of its splits;
        and `VALIDATION` = 1 where the test set is the published validation set.
    """
    yield "", "diverged", run.diverged
    if run.diverged:
        yield from ((split, "diverged", 1) for split in run.metrics["accuracy"])
    if run.metrics.get("task", {}).get("test_is_validation"):
        yield "test", VALIDATION, 1


def per_run(
    runs: Iterable[Run], names: Iterable[str], compute: Callable[[Run], Iterable[tuple[str, str, str, float]]]
) -> pd.DataFrame:
    """A frame of what is computed from each run that did not diverge.

    Args:
        runs: Runs of one method.
        names: Names of the rows that a run has a part in, whether it diverged or not.
        compute: From a run to row, split, metric and value.

    Returns:
        Columns "row", "split", "metric", "value".
    """
    found = []
    for run in runs:
        found += [(name, *mark) for name in names for mark in marks(run)]
        found += [] if run.diverged else compute(run)
    return pd.DataFrame(found, columns=["row", "split", "metric", "value"])


def validation_note(frame: pd.DataFrame) -> str:
    """What a table of values on "test" has to say where that is the published validation set.

    Args:
        frame: The frame of results that it is made from.

    Returns:
        The note, which names the tasks if there are others in the frame; "" if there is nothing to say.
    """
    about = select(frame, metric=VALIDATION)
    some = "task" in frame and 0 < about["task"].nunique() < frame["task"].nunique()
    tasks = f" of {', '.join(about['task'].unique())}" if some else ""
    return f"“test”{tasks}: the published validation set, since the test labels are not public." if len(about) else ""


def evaluated_splits(frame: pd.DataFrame) -> list[str]:
    """The test set and the out-of-distribution sets in a frame, in its order."""
    return [name for name in frame["split"].unique() if name == "test" or name.startswith("ood_")]


def _rows(run: Run) -> Iterator[tuple[str, str, float]]:
    """Split, metric and value."""
    yield from marks(run)
    if run.diverged:
        return
    for metric in ("accuracy", "MCC", "majority", "loss"):
        for split, value in run.metrics.get(metric, {}).items():
            yield split, metric, value
    for split, change in run.metrics.get("change", {}).items():
        for metric, value in change.items():
            yield split, metric, value
    for metric in PER_RUN:
        if run.metrics.get(metric) is not None:
            yield "", metric, run.metrics[metric]
    if run.spec.method == "lp" and run.spec.lp == "gd":
        step, norm = (run.history[name].to_numpy() for name in ("step", "head_norm"))
        yield "", "head_norm_tenth", norm[step <= step[-1] // 10][-1]
    if run.kept != "summary" and "validation" in run.predictions:
        yield "", "T", temperature_scaled(run, "validation").fit.T
        for split in evaluation_splits(run):
            for suffix, found in zip(("", ", TS"), temperature_scaled(run, split).metrics, strict=True):
                for metric in CALIBRATION:
                    yield split, metric + suffix, found[metric]
