"""What all figures share; a method's colour, marker and line style stand in its record (`training.methods`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lpft_utils.metrics.intervals import interval
from lpft_utils.training.methods import METHODS

PALETTE = sns.color_palette("colorblind").as_hex()
WIDTH = 5.0  # inches: drawn for one column, so that lettering is at least 9 pixels high on a phone
CLASS_COLORS = tuple(PALETTE[i] for i in (0, 1, 2, 4, 9))
CLASS_MARKERS = ("o", "s", "^", "D", "v")
STYLE: dict[Any, Any] = {  # matplotlib types its keys as literals
    **sns.axes_style("whitegrid"),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "font.size": 11,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}


def page_figure(n: int, height: float, n_columns: int | None = None, **options: Any) -> tuple[Figure, list[Axes]]:
    """A figure of the page's width with axes beside each other.

    Args:
        n: How many axes.
        height: Height of one row, in inches.
        n_columns: How many stand in one row; None means all.
        **options: Of `Figure.subplots`, such as `sharey`.

    Returns:
        The figure and its n axes, row by row.
    """
    n_columns = n_columns or n
    n_rows = -(-n // n_columns)
    figure = Figure(figsize=(WIDTH, height * n_rows))
    axes = figure.subplots(n_rows, n_columns, squeeze=False, **options).ravel().tolist()
    for unused in axes[n:]:
        unused.remove()
    return figure, axes[:n]


def legend_below(figure: Figure, n_columns: int, **options: Any) -> None:
    """One legend for the whole figure, below it, of what is labelled in its axes; each label once."""
    labelled = {n: h for axes in figure.axes for h, n in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(labelled.values(), labelled.keys(), loc="outside lower center", ncols=n_columns, **options)


def mean_and_seeds(
    axes: Axes, x: Sequence[float], rows: Sequence[Sequence[float]], method: str, **options: Any
) -> None:
    """At each x a dot for each seed, a marker for their mean, and a bar for its 95 % interval.

    Args:
        axes: Where to draw.
        x: K places.
        rows: K rows of one value per seed.
        method: Whose colour and marker to use.
        **options: Of `Axes.errorbar`, such as `label`.
    """
    for place, row in zip(x, rows, strict=True):
        axes.plot([place] * len(row), row, ".", color=METHODS[method].color, alpha=0.45, markersize=4)
    found = [interval(row or [math.nan]) for row in rows]  # of no seed nothing is drawn
    means = [f.mean for f in found]
    widths = [f.half_width for f in found] if all(f.n > 1 for f in found) else None
    axes.errorbar(list(x), means, yerr=widths, capsize=3, **METHODS[method].style("marker"), **options)
