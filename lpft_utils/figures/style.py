"""One colour, marker and line style for each method everywhere (seaborn's colour-blind palette)."""

from __future__ import annotations

from typing import Any

import seaborn as sns

LABELS = {"lp": "LP", "ft": "FT", "lp_ft": "LP-FT", "lora": "LoRA", "lp_lora": "LP-LoRA"}
PALETTE = sns.color_palette("colorblind").as_hex()


COLORS = dict(zip(LABELS, (PALETTE[i] for i in (0, 3, 2, 4, 5)), strict=True))


MARKERS = {"lp": "s", "ft": "o", "lp_ft": "^", "lora": "D", "lp_lora": "v"}


LINES = {"lp": ":", "ft": "-", "lp_ft": "--", "lora": "-.", "lp_lora": (0, (3, 1, 1, 1))}


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
