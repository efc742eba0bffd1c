"""Figures of distribution shift: accuracies on the line, and what LP-FT gains by size of shift."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.special import logit

from lpft_utils.common.names import split_label
from lpft_utils.figures.style import PALETTE, STYLE, legend_below, page_figure
from lpft_utils.metrics.shift import fitted_line
from lpft_utils.training.methods import METHODS

_SOURCES = {"marker": ("D", "s", "o"), "color": ("0.45", PALETTE[0], PALETTE[3])}
_NEAR = 10  # points: two marks of one set that are nearer share a label
_TICKS = (0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)  # accuracies


@mpl.rc_context(STYLE)
def on_the_line(points: pd.DataFrame, judged: str = "lp_ft") -> Figure:
    """Accuracy out of distribution against accuracy in distribution on logit axes, one panel per set.

    Args:
        points: Rows of `results.shift.pairs` of one task, one dot for each.
        judged: The method that the line is not fitted to.

    Returns:
        The figure: solid, the line of all other runs; dashed, equal accuracies.
    """
    figure, panels = page_figure(max(1, len(points["split"].unique())), 2.6, 2)
    for axes, (split, rows) in zip(panels, points.groupby("split", sort=False), strict=False):
        everything = logit(rows[["inside", "outside"]].to_numpy())
        x = np.array([everything.min() - 0.2, everything.max() + 0.2])
        axes.plot(x, x, "--", color="0.6", linewidth=1, label="equal")
        others = rows[rows["method"] != judged]
        slope, intercept = fitted_line(others["inside"], others["outside"])
        axes.plot(x, slope * x + intercept, color="0.2", linewidth=1, label=f"line without {METHODS[judged].label}")
        for method, dots in rows.groupby("method", sort=False):
            style = METHODS[str(method)].style("marker", "label") | {"linestyle": "", "markersize": 5, "alpha": 0.7}
            axes.plot(logit(dots["inside"]), logit(dots["outside"]), **style)
        ticks = [p for p in _TICKS if x[0] < logit(p) < x[1]]
        axes.set_xticks(logit(ticks), [f"{100 * p:.0f}" for p in ticks])
        axes.set_yticks(logit(ticks), [f"{100 * p:.0f}" for p in ticks])
        axes.set(title=split_label(str(split)), xlim=x, ylim=x, xlabel="test (%)", ylabel="shifted set (%)")
    legend_below(figure, 3)
    return figure


@mpl.rc_context(STYLE)
def gains_by_shift(gains: pd.DataFrame) -> Figure:
    """What LP-FT gains over FT on each set, against the size of the shift.

    Args:
        gains: Rows of `results.shift.gains` and `published_gains`, with a column "source".

    Returns:
        The figure: one mark per set, with its 95 % interval over seeds where there is one.
    """
    figure, (axes,) = page_figure(1, 3.8)
    axes.axhline(0, color="0.2", linewidth=1)
    named: list[tuple[str, float]] = []
    for i, (source, rows) in enumerate(gains.groupby("source", sort=False)):
        style: Any = {name: values[i % 3] for name, values in _SOURCES.items()}
        axes.errorbar(rows["drop"], rows["gain"], yerr=rows["half"].fillna(0), linestyle="", label=source, **style)
        for split, drop, gain in rows[["split", "drop", "gain"]].itertuples(index=False):
            name = split_label(split).removesuffix(" (OOD)").removesuffix(" 3way")
            if not any(name == other and abs(drop - x) < _NEAR for other, x in named):
                axes.annotate(name, (drop, gain), (3, 5), textcoords="offset points", fontsize=9, rotation=35)
                named.append((name, drop))
    axes.set(xlabel="size of the shift: FT on test − FT on the set (points)", ylabel="LP-FT − FT on the set (points)")
    axes.margins(x=0.15)
    legend_below(figure, 1)
    return figure
