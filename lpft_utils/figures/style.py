"""What all figures share; a method's colour, marker and line style stand in its record (`training.methods`)."""

from __future__ import annotations

from typing import Any

import seaborn as sns

PALETTE = sns.color_palette("colorblind").as_hex()
WIDTH = 7.2  # inches; at most two panels beside each other, so that text stays readable on a phone
CLASS_COLORS = tuple(PALETTE[i] for i in (0, 1, 2, 4, 9))
CLASS_MARKERS = ("o", "s", "^", "D", "v")
STYLE: dict[Any, Any] = {  # matplotlib types its keys as literals
    **sns.axes_style("whitegrid"),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.size": 11,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}
