"""Figures that the reader moves: a sweep with a slider, and a temperature with its reliability diagram."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lpft_utils.common.validation import Array, Labels, check_real
from lpft_utils.figures.style import PALETTE
from lpft_utils.figures.svg import STYLE, InteractiveFigure, image, lay_out, place, slider_figure
from lpft_utils.metrics.calibration import (
    EDGES,
    Reliability,
    calibration_metrics,
    check_labels,
    check_scores,
    cross_entropy,
    reliability,
    softmax,
)
from lpft_utils.metrics.intervals import Interval, interval
from lpft_utils.training.methods import METHODS

TEMPERATURES = 10 ** (np.arange(-2, 9) / 5)  # few, since every set of a page has numbers for each
_START = 2  # the position of T = 1
_ROOM = 1.4  # of the tallest share, so that the counts stand above it
_TOKEN = '<b data-move="?"></b>'


def sweep_explorer(
    x: Sequence[float], values: Mapping[str, Sequence[Sequence[float]]], *, x_label: str, title: str
) -> InteractiveFigure:
    """Several quantities of LP-FT against one swept number; a slider picks one of its values and says the numbers.

    Args:
        x: Swept values, positive and increasing, length K ≥ 2.
        values: By label of the quantity, one row per swept value (K) with one value per seed.
        x_label: Label of x.
        title: What the figure shows, for screen readers.

    Returns:
        The figure: means, 95 % intervals and seeds.

    Raises:
        ParameterError: If a row is empty or a value is not finite.
        ValueError: If a row is missing.
    """
    xs = check_real(x, "x", ndim=1)
    said, panels, words, places = [], [], [], []
    for label, rows in values.items():
        found = [check_real(row, f"{label} at {v:g}", ndim=1).tolist() for v, row in zip(xs, rows, strict=True)]
        drawn, where = _sweep_panel(xs, found, x_label, label)
        said.append(f"<span>{escape(label)}: {_TOKEN}</span>")
        panels.append(drawn)
        words.append([_in_words(interval(row)) for row in found])
        places += where
    frames = list(zip([f"{v:.4g}" for v in xs], *words, *places, strict=True))
    output = f'<output aria-live="polite"><span>{escape(x_label)}: {_TOKEN}</span>{"".join(said)}</output>'
    return slider_figure(title, x_label, {"": frames}, 0, f'{output}<div class="panels">{"".join(panels)}</div>')


def temperature_explorer(sets: Mapping[str, tuple[Any, Any]], *, fitted: Mapping[str, float]) -> InteractiveFigure:
    """A reliability diagram and the metrics of calibration, which follow a slider for T.

    Args:
        sets: Logits (N, C) and labels (N,) by name, among which the reader chooses.
        fitted: T fitted on validation, by the same names; shown beside them.

    Returns:
        The figure, which begins at T = 1.

    Raises:
        ParameterError: For bad logits or labels.
    """
    states, most = {}, 0
    for name, (logits, labels) in sets.items():
        f = check_scores(logits)
        y = check_labels(labels, f)
        states[f"{name} (N = {len(y)}, fitted T = {fitted[name]:.2f})"] = [
            (f"{T:.2f}", _metrics(f / T, y), reliability(softmax(f / T), y)) for T in TEMPERATURES
        ]
        most = max(most, len(y))
    diagrams = [diagram for chosen in states.values() for *_, diagram in chosen]
    used = np.flatnonzero(sum(diagram.counts for diagram in diagrams))
    figure, upper, lower = _diagram_axes()
    frames = {
        name: [[T, *metrics, *_bars(upper, lower, diagram, used)] for T, metrics, diagram in chosen]
        for name, chosen in states.items()
    }
    output = (
        f'<output aria-live="polite"><span>T = {_TOKEN}</span><span>ECE {_TOKEN}, MCE {_TOKEN}, NLL {_TOKEN}</span>'
        f"<span>mean confidence {_TOKEN}, accuracy {_TOKEN}</span></output>"
    )
    moving = _bar_templates(upper, lower, EDGES, used, min(10, 36 / len(str(most))))
    label = "Reliability diagram: accuracy by confidence, with the number of examples in each bin; numbers in the text."
    note = "Bars: accuracy. Thick ticks: mean confidence. Dashed: perfect calibration. Below: examples in each bin."
    body = f"{output}{image(figure, label, moving)}<p>{note}</p>"
    return slider_figure("Reliability diagram that follows the temperature", "Temperature T", frames, _START, body)


def _sweep_panel(xs: Array, rows: Sequence[Sequence[float]], x_label: str, label: str) -> tuple[str, list[list[str]]]:
    """One quantity: its image, and what fills the templates of its marker at each position of the slider."""
    color = METHODS["lp_ft"].color
    found = [interval(row) for row in rows]
    means = [f.mean for f in found]
    x_seeds, seeds = np.repeat(xs, [len(row) for row in rows]), np.concatenate(rows)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.2, 2.9))
        axes = figure.subplots()
        axes.plot(xs, means, color=color)
        if all(f.n > 1 for f in found):
            ends = [f.low for f in found] + [f.high for f in found][::-1]
            axes.fill(np.concatenate([xs, xs[::-1]]), ends, color=color, alpha=0.2, linewidth=0)
        axes.update_datalim(np.column_stack([x_seeds, seeds]))
        axes.set(xscale="log", xlabel=x_label, title=label)
        axes.set_xticks(xs, [f"{v:g}" for v in xs])
        axes.minorticks_off()
        lay_out(figure)
    right, down = place(axes, xs, means)
    dots = "".join(f"M{a},{b}h0" for a, b in zip(*place(axes, x_seeds, seeds), strict=True))
    _, (bottom, top) = place(axes, xs[[0, 0]], axes.get_ylim())
    moving = (
        f'<path d="{dots}" {_dot(color, 4)}/><path data-move="M?,{top}V{bottom}" stroke="currentColor"/>'
        f'<path data-move="M?,?h0" {_dot("currentColor", 11)}/><path data-move="M?,?h0" {_dot(color, 8)}/>'
    )
    about = f"{label} against {x_label}; the numbers are in the text."
    return image(figure, about, moving), [right, right, down, right, down]


def _dot(color: str, size: int) -> str:
    return f'stroke="{color}" stroke-width="{size}" stroke-linecap="round"'


def _in_words(found: Interval) -> str:
    return f"{found.mean:.3f}" + (f" ({found.low:.3f} to {found.high:.3f})" if found.n > 1 else "")


def _diagram_axes() -> tuple[Figure, Axes, Axes]:
    """What stands still of a reliability diagram: accuracy above, the share of the examples below."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5, 5))
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        upper.plot([0, 1], [0, 1], color=STYLE["text.color"], linestyle="--", linewidth=1)
        upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
        lower.set(ylim=(0, _ROOM), yticks=[], ylabel="examples", xlabel="confidence")
        lay_out(figure)
    return figure, upper, lower


def _metrics(f: Array, y: Labels) -> list[str]:
    found = calibration_metrics(softmax(f), y) | {"NLL": cross_entropy(f, y)}  # of p it is ∞ where p_y underflows
    return [f"{found[key]:.3f}" for key in ("ECE", "MCE", "NLL", "confidence", "accuracy")]


def _bars(upper: Axes, lower: Axes, shown: Reliability, used: NDArray[np.intp]) -> list[str]:
    """What fills the templates of `_bar_templates`: heights of bars, places of ticks, heights of shares, counts."""
    counts = shown.counts[used]
    accuracy, confidence = (np.nan_to_num(v[used]) for v in (shown.accuracy, shown.confidence))
    ticks = [y if n else "-9" for y, n in zip(place(upper, used, confidence)[1], counts, strict=True)]  # out of sight
    bars, shares = upper.bbox.height * accuracy, lower.bbox.height / _ROOM * counts / counts.max()
    return [*(f"{h:.0f}" for h in bars), *ticks, *(f"{h:.0f}" for h in shares), *(str(n or "") for n in counts)]


def _bar_templates(upper: Axes, lower: Axes, edges: Array, used: NDArray[np.intp], size: float) -> str:
    left, (base, *_) = place(upper, edges[used] + 0.004, 0 * used)
    right, (floor, *_) = place(lower, edges[used + 1] - 0.004, 0 * used)
    middle, (top, *_) = place(lower, (edges[used] + edges[used + 1]) / 2, 0 * used + 1.1)
    sides = list(zip(left, right, strict=True))
    bars, shares = ("".join(f"M{a},{low}v-?H{b}V{low}" for a, b in sides) for low in (base, floor))
    ticks = "".join(f"M{a},?H{b}" for a, b in sides)
    about = f'y="{top}" text-anchor="middle" font-size="{size:.0f}" fill="currentColor"'
    counts = "".join(f'<text data-move="?" x="{x}" {about}></text>' for x in middle)
    return (
        f'<path data-move="{bars}" fill="{PALETTE[0]}"/>'
        f'<path data-move="{ticks}" stroke="currentColor" stroke-width="3"/>'
        f'<path data-move="{shares}" fill="currentColor" fill-opacity="0.6"/>{counts}'
    )
