"""Figures with a slider: matplotlib draws what stands still, Python computes every position, a short script shows one.

Such a figure is one self-contained piece of HTML: it works offline, from disk and in a notebook. What moves is an
element with a template, `data-move="M?,20V?"`; a frame is the list of tokens that fill the "?" of all templates, in the
order of the document. The first state is filled in here, so that the page says something without JavaScript.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from lpft_utils.figures import style

INK = "#010203"  # of text, axes and grid: the page's own colour takes its place
STYLE: dict[Any, Any] = {
    **style.STYLE,
    **dict.fromkeys(
        ("axes.edgecolor", "axes.labelcolor", "grid.color", "text.color", "xtick.color", "ytick.color"), INK
    ),
    "figure.dpi": 72,  # a pixel is a unit of the SVG
    "font.sans-serif": ["DejaVu Sans"],
    "grid.alpha": 0.2,
    "svg.fonttype": "none",
}
_CSS, _SCRIPT = (Path(__file__).with_name(f"slider.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))


@dataclass(frozen=True)
class InteractiveFigure:
    """A figure with a slider: shown when it is the last expression of a notebook cell.

    Attributes:
        html: The figure, ready to be placed on a page any number of times beside others.
    """

    html: str

    def _repr_html_(self) -> str:
        return self.html


def lay_out(figure: Figure) -> None:
    """Fix where everything in the figure lies, so that `place` tells where it will be drawn."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def place(axes: Axes, x: ArrayLike, y: ArrayLike) -> tuple[list[str], list[str]]:
    """Where points of the axes lie in the SVG, rounded to units.

    Args:
        axes: Axes of a figure after `lay_out`.
        x: Shape (K,).
        y: Shape (K,).

    Returns:
        Coordinates to the right and downwards, K each.
    """
    points = axes.transData.transform(np.column_stack([x, y]))
    down = axes.figure.bbox.height - points[:, 1]
    return [f"{v:.0f}" for v in points[:, 0]], [f"{v:.0f}" for v in down]


def image(figure: Figure, label: str, moving: str) -> str:
    """The figure as inline SVG, with what moves on top.

    Nothing in it has an id, so that no two figures on a page can clash: clips and markers, which need one, are not
    drawn.

    Args:
        figure: A figure drawn in `STYLE` without markers, after `lay_out`.
        label: Its description for screen readers.
        moving: SVG elements.

    Returns:
        The element.
    """
    with mpl.rc_context(STYLE):
        figure.savefig(buffer := io.StringIO(), format="svg", transparent=True)
    body = buffer.getvalue().partition("<svg")[2].partition(">")[2]
    body = re.sub(r"<metadata>.*?</metadata>|<defs>.*?</defs>|<!--.*?-->|<use [^>]*/>", "", body, flags=re.DOTALL)
    body = re.sub(r' (id="[^"]*"|clip-path="[^"]*"|transform="rotate\(-0[^"]*")', "", body)
    body = re.sub(r"\s*\n\s*", "", body).replace(INK, "currentColor").removesuffix("</svg>")
    body = re.sub(r"(\d\.\d)\d+", r"\1", body)  # a tenth of a unit is enough
    width, height = figure.bbox.size
    return f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(label)}">{body}{moving}</svg>'


def slider_figure(
    title: str, label: str, frames: Mapping[str, Sequence[Sequence[str]]], start: int, body: str
) -> InteractiveFigure:
    """The finished figure: a choice of frames, a slider and the body.

    Args:
        title: Name of the whole for screen readers.
        label: Label of the slider.
        frames: By choice, as many frames as the slider has positions; "" alone offers no choice. The first token of a
            frame says where the slider stands; tokens are numbers in words, without "|".
        start: Position of the slider at first.
        body: HTML and SVG with templates, all text from outside escaped.

    Returns:
        The figure.
    """
    first = next(iter(frames.values()))
    tokens = iter(first[start])

    def first_state(element: re.Match[str]) -> str:
        filled = re.sub("[?]", lambda _: next(tokens), element[2])
        return f'<path d="{filled}"{element[0][5:]}' if element[1] == "path" else element[0] + filled

    body = re.sub(r'<(\w+) data-move="([^"]*)"[^>]*>', first_state, body)
    options = "".join(f"<option>{escape(name)}</option>" for name in frames)
    choice = f'<label>Show <select autocomplete="off">{options}</select></label>' if any(frames) else ""
    control = f'<input type="range" min="0" max="{len(first) - 1}" value="{start}" autocomplete="off">'
    data = json.dumps([["|".join(frame) for frame in chosen] for chosen in frames.values()], separators=(",", ":"))
    return InteractiveFigure(
        f'<div class="lpft-slider" role="group" aria-label="{escape(title)}"><style>{_CSS}</style>'
        f"{choice}<label>{escape(label)} {control}</label>{body}"
        "<noscript><p>Moving this figure needs JavaScript; it shows its first state.</p></noscript>"
        f'<script>(function () {{"use strict";const frames = {data};{_SCRIPT}}})();</script></div>'
    )
