"""Figures of runs: one function for each, which takes results and returns a finished `Figure`.

One colour, marker and line style for each method everywhere (seaborn's colour-blind palette).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from lpft_utils.common.errors import RunError
from lpft_utils.common.names import split_label
from lpft_utils.common.validation import Array
from lpft_utils.figures.style import CLASS_COLORS, CLASS_MARKERS, STYLE, legend_below, mean_and_seeds, page_figure
from lpft_utils.runs.store import Run, converged
from lpft_utils.training.methods import METHODS


@mpl.rc_context(STYLE)
def logistic_path(about: Mapping[str, Any], norm_init: float) -> Figure:
    """Cross-validated accuracy and ‖V‖ against C.

    Args:
        about: `metrics["lp"]` of a `cv` run: "Cs", "cv_accuracy", "norms", "C".
        norm_init: ‖V‖ of the random head that FT starts from.

    Returns:
        The figure.
    """
    figure, (left, right) = page_figure(2, 3.2)
    left.semilogx(about["Cs"], about["cv_accuracy"], color=METHODS["lp"].color, marker="s")
    left.set(xlabel="C (weak penalty: right)", ylabel="accuracy on held-out folds")
    right.loglog(about["Cs"], about["norms"], color=METHODS["lp"].color, marker="s", label="LP optimum")
    right.axhline(norm_init, color=METHODS["ft"].color, label="random head of FT")
    right.set(xlabel="C", ylabel="‖V‖")
    for axes in (left, right):
        axes.axvline(about["C"], color="0.35", linestyle="--", linewidth=1, label="chosen C")
    legend_below(figure, 3, fontsize=10)
    return figure


@mpl.rc_context(STYLE)
def descent(histories: Sequence[pd.DataFrame], norm_init: float) -> Figure:
    """Accuracy saturates, ‖V‖ goes on: unregularised LP by gradient descent, one line per seed.

    Args:
        histories: Histories of `gd` runs.
        norm_init: ‖V‖ of the random head that FT starts from.

    Returns:
        The figure.
    """
    figure, (left, right) = page_figure(2, 3.2, sharex=True)
    for i, history in enumerate(histories):
        rows = history[history["step"] > 0]
        train, test, lp = ("train", "test", "LP") if i == 0 else (None, None, None)  # one entry of the legend each
        left.semilogx(rows["step"], rows["train_accuracy"], color=METHODS["lp"].color, label=train)
        left.semilogx(rows["step"], rows["test_accuracy"], color="0.35", linestyle="--", label=test)
        right.semilogx(rows["step"], rows["head_norm"], color=METHODS["lp"].color, label=lp)
    right.axhline(norm_init, color=METHODS["ft"].color, label="random head of FT")
    left.set(xlabel="gradient step", ylabel="accuracy")
    right.set(xlabel="gradient step", ylabel="‖V‖")
    legend_below(figure, 4)
    return figure


@mpl.rc_context(STYLE)
def toy_flow(t: Array, distance: Mapping[str, Array], error: Mapping[str, Array]) -> Figure:
    """The two-layer linear model: how far features move, and the error out of distribution, over time.

    Args:
        t: Times, shape (T,).
        distance: ‖B_t − B_0‖ by method, each of shape (T,).
        error: Relative error on out-of-distribution inputs by method, each of shape (T,).

    Returns:
        The figure.
    """
    figure, (left, right) = page_figure(2, 3.2)
    for method in distance:
        style = METHODS[method].style("linestyle", "label")
        left.semilogx(t[1:], distance[method][1:], **style)
        right.semilogx(t[1:], error[method][1:], **style)
    left.set(xlabel="time t", ylabel="‖B(t) − B(0)‖")
    right.set(xlabel="time t", ylabel="error, out of distribution")
    left.legend()
    return figure


@mpl.rc_context(STYLE)
def training(runs: Mapping[str, Sequence[Run]], columns: Mapping[str, str]) -> Figure:
    """What was recorded while training, one panel per quantity; thin lines are seeds, thick ones their mean.

    Args:
        runs: Runs by method, one per seed.
        columns: Axis label by column of the history.

    Returns:
        The figure.

    Raises:
        RunError: If a run recorded no such column, as LP does and training with `n_monitor=0`.
    """
    figure, places = page_figure(len(columns), 3.0, 2)
    for axes, (column, label) in zip(places, columns.items(), strict=True):
        for method, group in runs.items():
            if blind := [run.folder.name for run in group if column not in run.history]:
                raise RunError(
                    f"{blind[0]} recorded no {column!r}: training is monitored where n_monitor is above 0; "
                    "LP has no monitors."
                )
            kept = [run.history.set_index("step")[column].dropna() for run in converged(group)]
            table = pd.concat(kept or [pd.Series(dtype=float)], axis=1)
            axes.plot(table, color=METHODS[method].color, linewidth=0.7, alpha=0.5)
            style = METHODS[method].style("linestyle")
            axes.plot(table.dropna().mean(axis=1), linewidth=2, label=_legend(method, group), **style)
        if column == "head_norm" and len(runs) > 1:
            axes.set_yscale("log")  # FT and LP-FT differ by an order of magnitude
        axes.set(xlabel="optimiser step", ylabel=label)
    places[0].legend()
    return figure


def accuracies(runs: Mapping[str, Sequence[Run]]) -> Figure:
    """Accuracy in and out of distribution by method.

    Args:
        runs: Runs by method, one per seed.

    Returns:
        The figure.
    """
    return _by_split(runs, lambda run: run.metrics["accuracy"], "accuracy", ("train", "validation"))


def feature_change(runs: Mapping[str, Sequence[Run]], key: str, label: str) -> Figure:
    """A measure of feature change by split and method.

    Args:
        runs: Runs by method, one per seed.
        key: "CS", "Diff", "FDR" or "NormF".
        label: Axis label.

    Returns:
        The figure.
    """
    return _by_split(runs, lambda run: {k: v[key] for k, v in run.metrics["change"].items()}, label, ("validation",))


@mpl.rc_context(STYLE)
def _by_split(
    runs: Mapping[str, Sequence[Run]], values: Callable[[Run], Mapping[str, float]], label: str, without: Sequence[str]
) -> Figure:
    """Values by split and method, over the runs that did not diverge."""
    figure, (axes,) = page_figure(1, 3.6)
    splits = [split for split in values(next(iter(runs.values()))[0]) if split not in without]
    for i, (method, group) in enumerate(runs.items()):
        x = [j + 0.22 * (i - (len(runs) - 1) / 2) for j in range(len(splits))]
        rows = [[values(run)[split] for run in converged(group)] for split in splits]
        mean_and_seeds(axes, x, rows, method, linestyle="", label=_legend(method, group))
    axes.set_xticks(range(len(splits)), [split_label(split).replace(" (", "\n(") for split in splits])
    axes.set(ylabel=label)
    axes.margins(x=0.08)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.16), ncols=len(runs))
    return figure


@mpl.rc_context(STYLE)
def feature_map(planes: Mapping[str, Mapping[str, Array]], label_names: Sequence[str]) -> Figure:
    """t-SNE of features and head rows, before and after: one panel per method, at most three beside each other.

    Args:
        planes: Results of `embedding.joint_embedding` by title.
        label_names: Class names.

    Returns:
        The figure.
    """
    n_rows = (len(planes) + 2) // 3
    n_columns = -(-len(planes) // n_rows)
    figure, axes = page_figure(len(planes), 4.6 if n_rows == 1 else 1.2 / n_rows + 2.6, n_columns)
    for ax, (title, plane) in zip(axes, planes.items(), strict=True):
        ax.scatter(*plane["before"].T, s=5, color="0.75", label="φ before")
        for c, name in enumerate(label_names):
            style = {"color": CLASS_COLORS[c % 5], "marker": CLASS_MARKERS[c % 5]}
            ax.scatter(*plane["after"][plane["labels"] == c].T, s=12, linewidth=0, label=f"φ, {name}", **style)
        stars = (("rows_0", 260, "white", "head rows before"), ("rows", 70, "black", "head rows after"))
        for key, size, face, label in stars:  # the first larger, so that it shows where both are in one place
            ax.scatter(*plane[key].T, s=size, marker="*", facecolor=face, edgecolor="black", zorder=3, label=label)
        ax.set(title=title, xticks=[], yticks=[])
        ax.grid(visible=False)
    legend_below(figure, 3, fontsize=10)
    return figure


def _legend(method: str, group: Sequence[Run]) -> str:
    """The method, and how many of its runs diverged: they are not drawn."""
    diverged = len(group) - len(converged(group))
    return METHODS[method].label + (f" ({diverged} diverged)" if diverged else "")
