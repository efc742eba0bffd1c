"""The ledger as one figure: how far each endpoint is from its threshold, and its outcome in words."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from lpft_utils.figures.style import PALETTE, STYLE

COLORS = {"holds": PALETTE[2], "fails": PALETTE[3]}  # all else is grey: the words beside the marks say what it is
MARKERS = {"tuned": "o", "same": "s"}


@mpl.rc_context(STYLE)
def ledger(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Endpoints in the unit of their smallest effect of interest, from the threshold, claim by claim.

    Args:
        rows: Rows of the ledger as `Row.to_dict` gives them, with "word", the outcome in short.

    Returns:
        The figure: narrow and high, so that it can be read on a phone.
    """
    lines: list[tuple[str, Mapping[str, Any]]] = []
    for _, group in itertools.groupby(rows, key=lambda row: row["id"].split("/")[0]):
        of_claim = list(group)
        lines += [(text, {}) for text in textwrap.wrap(f"{of_claim[0]['claim']}: {of_claim[0]['statement']}", 64)]
        lines += [(row["task"] + (", same rate" if row["rate"] == "same" else ""), row) for row in of_claim]
    figure = Figure(figsize=(5.0, 1 + 0.19 * len(lines)))
    axes = figure.subplots()
    axes.axvspan(-1, 1, color="0.93", zorder=0)
    axes.axvline(0, color="0.2", linewidth=1)
    for y, (text, row) in enumerate(lines):
        if not row:
            heading = axes.annotate(text, (0.01, y), xycoords=("figure fraction", "data"), va="center")
            heading.set(fontsize=9, weight="bold", in_layout=False)
            continue
        color = COLORS.get(row["word"], "0.45")
        axes.annotate(row["word"], (1.02, y), xycoords=("axes fraction", "data"), va="center", color=color, fontsize=9)
        if row["distance"] is not None:
            half = 0.0 if row["low"] is None else (row["high"] - row["low"]) / 2
            axes.errorbar(row["distance"] / row["smallest"], y, xerr=half / row["smallest"], color=color, capsize=2,
                          marker=MARKERS[row["rate"]], markersize=5)  # fmt: skip
    places = [(y, text) for y, (text, row) in enumerate(lines) if row]
    axes.set_yticks([y for y, _ in places], [text for _, text in places], fontsize=9)
    axes.set(ylim=(len(lines) - 0.4, -0.8), xlabel="distance from the threshold, in smallest effects of interest")
    axes.set_xscale("asinh", linear_width=1)  # linear near 0, where it decides; differences of Diff are far away
    axes.xaxis.set_major_locator(FixedLocator([-100, -10, -1, 0, 1, 10, 100]))
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    axes.set_xlim(*np.array([-1.2, 1.2]) * max(2.0, *(abs(x) for x in axes.get_xlim())))
    axes.grid(visible=False, axis="y")
    return figure
