"""What the figures that a reader moves share: one self-contained piece of HTML with inline SVG, style and script.

No library and no address: it works offline, from disk and in a notebook. The first state is drawn here, in Python, so
that the page says something without JavaScript; the script only moves what is drawn.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpft_utils.common.errors import ParameterError

SERIES_KEYS = ("mean", "low", "high", "seeds")
MOST_DIGITS = 15  # a float has no more
STYLE = """
.lpft-interactive { color: var(--pst-color-text-base, currentColor); margin: 1rem 0; max-width: 46rem; }
.lpft-interactive label { display: block; font-weight: 600; margin: .3rem 0; }
.lpft-interactive input, .lpft-interactive select { display: block; box-sizing: border-box; width: 100%;
  max-width: 34rem; margin: .3rem 0; font: inherit; min-height: 1.6rem; accent-color: #0173b2; }
.lpft-interactive select { color: var(--pst-color-text-base, inherit); padding: .2rem;
  background: var(--pst-color-background, transparent); border: 1px solid currentColor; }
.lpft-interactive output { display: block; font-variant-numeric: tabular-nums; margin: .5rem 0; min-height: 3em; }
.lpft-interactive output span { display: block; }
.lpft-interactive .panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(17rem, 100%), 1fr));
  gap: .5rem; }
.lpft-interactive svg { display: block; width: 100%; height: auto; max-width: 34rem; }
.lpft-interactive svg text { fill: currentColor; stroke: none; font: 12px sans-serif; }
.lpft-interactive svg .count { font-size: 10px; }
.lpft-interactive .key, .lpft-interactive .note { margin: .3rem 0; font-size: .95em; }
.lpft-interactive .key svg { display: inline-block; width: 2rem; height: .8rem; vertical-align: middle; }
.lpft-interactive .key span { display: inline-block; margin-right: 1rem; }
html[data-theme=dark] .bd-content div.cell_output .output.text_html:has(div.lpft-interactive) {
  background: transparent; color: inherit; padding: 0; } /* the theme puts HTML output on a light card */
"""


@dataclass(frozen=True)
class InteractiveFigure:
    """A figure to move: shown when it is the last expression of a notebook cell.

    Attributes:
        html: The figure, ready to be placed on a page any number of times beside others.
    """

    html: str

    def _repr_html_(self) -> str:
        return self.html


@dataclass(frozen=True)
class Axis:
    """A map from values to SVG units.

    Attributes:
        low: Smallest value.
        high: Largest value.
        start: Where `low` is drawn.
        end: Where `high` is drawn.
        log: Whether the axis is logarithmic.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Where `value` is drawn, rounded to a tenth of a unit."""
        a, b, v = np.log([self.low, self.high, value]) if self.log else (self.low, self.high, value)
        return round(float(self.start + (v - a) / (b - a) * (self.end - self.start)), 1)

    def ticks(self) -> list[float]:
        """At most about five round numbers within the axis, and at least two where the values are not nearly equal."""
        if self.log:
            decades = range(int(np.floor(np.log10(self.low))), int(np.ceil(np.log10(self.high))) + 1)
            for steps in ((1, 2, 5), (1, 3), (1,)):
                inside = [s * 10.0**k for k in decades for s in steps if self.low <= s * 10.0**k <= self.high]
                if len(inside) <= 5:
                    break
            if len(inside) >= 2:  # else so short an axis that equal steps serve it
                return inside[:: -(-len(inside) // 5)]
        rough = (self.high - self.low) / 4
        exponent = int(np.floor(np.log10(rough)))
        unit = 10.0**exponent
        step = unit * next(s for s in (1, 2, 2.5, 5, 10) if s * unit >= rough * 0.999)
        first, last = np.ceil(self.low / step - 1e-9), np.floor(self.high / step + 1e-9)
        return [float(round(k * step, 2 - exponent)) + 0.0 for k in np.arange(first, last + 1)]


_LINE = '<line x1="{}" y1="{}" x2="{}" y2="{}" stroke="currentColor" stroke-opacity="{}"/>'


def y_axis(x: Axis, y: Axis, label: str) -> str:
    """Grid lines with numbers; the label stands above the axis, where it needs no turning."""
    parts = [f'<text x="{x.start}" y="{y.end - 10}">{escape(label)}</text>']
    for value in y.ticks():
        parts.append(_LINE.format(x.start, y(value), x.end, y(value), 0.2))
        parts.append(f'<text x="{x.start - 4}" y="{y(value) + 4}" text-anchor="end">{value:g}</text>')
    return "".join(parts)


def x_axis(x: Axis, bottom: float, label: str) -> str:
    """The horizontal axis at height `bottom`, with numbers and label."""
    parts = [_LINE.format(x.start, bottom, x.end, bottom, 1)]
    for value in x.ticks():
        parts.append(_LINE.format(x(value), bottom, x(value), bottom + 4, 1))
        parts.append(f'<text x="{x(value)}" y="{bottom + 16}" text-anchor="middle">{value:g}</text>')
    middle = (x.start + x.end) / 2
    return "".join(parts) + f'<text x="{middle}" y="{bottom + 32}" text-anchor="middle">{escape(label)}</text>'


def check_names(what: str, names: Iterable[Any]) -> None:
    """Raise ParameterError unless all names are strings."""
    for name in names:
        if not isinstance(name, str):
            raise ParameterError(f"expected {what} as strings, got {name!r}; pass str({name!r})")


def numbers(what: str, values: Any) -> NDArray[np.float64]:
    """The values as an array, or ParameterError where they are no numbers or lists of different lengths."""
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ParameterError(f"{what}: expected numbers, got {values!r}: {error}") from error


def series(where: str, given: Mapping[str, Any], K: int) -> dict[str, NDArray[np.float64]]:
    """One line of a figure with its interval and seeds, checked.

    Args:
        where: Its name in errors.
        given: `mean`, and perhaps `low`, `high` and `seeds`.
        K: How many values each has.

    Returns:
        What was given, as arrays.

    Raises:
        ParameterError: For a key that is none, other lengths, values that cannot be drawn, or low above high.
    """
    if "mean" not in given or ("low" in given) != ("high" in given):
        raise ParameterError(
            f"{where}: expected mean, and low and high together or neither; got {', '.join(map(str, given))}"
        )
    if unknown := [str(key) for key in given if key not in SERIES_KEYS]:
        raise ParameterError(f"{where}: expected {', '.join(SERIES_KEYS)}; got {', '.join(unknown)}")
    found = {key: numbers(f"{where}, {key}", given[key]) for key in SERIES_KEYS if key in given}
    for key, values in found.items():
        if values.shape[-1:] != (K,) or values.ndim != 1 + (key == "seeds"):
            raise ParameterError(f"{where}: expected {K} values of {key}, got shape {values.shape}")
    if not np.isfinite(found["mean"]).all():
        raise ParameterError(f"{where}: the means are not all finite: {found['mean']}")
    for key, values in found.items():
        if np.isinf(values).any():
            raise ParameterError(f"{where}: {key} has infinite values; use NaN for what is not to be drawn: {values}")
    if "low" in found and (crossed := found["low"] > found["high"]).any():
        i = int(crossed.argmax())
        raise ParameterError(f"{where}: low must not be above high, got {found['low'][i]} and {found['high'][i]}")
    return found


def svg(width: int, height: int, label: str, body: Sequence[str]) -> str:
    """An image of SVG elements with its description for screen readers."""
    name = f'role="img" aria-label="{escape(label)}"'
    return f'<svg viewBox="0 0 {width} {height}" {name} xmlns="http://www.w3.org/2000/svg">{"".join(body)}</svg>'


def slider(label: str, low: int, high: int, value: int, text: str) -> str:
    """A labelled native slider over integers; `text` is what it is said to stand at."""
    about = f'min="{low}" max="{high}" step="1" value="{value}" aria-valuetext="{escape(text)}" autocomplete="off"'
    return f'<label>{escape(label)} <input type="range" {about}></label>'


def output(lines: Sequence[str]) -> str:
    """The numbers of the state in words, read aloud when they change."""
    return f'<output aria-live="polite">{"".join(f"<span>{escape(line)}</span>" for line in lines)}</output>'


def figure(title: str, body: str, data: Any, script: str) -> InteractiveFigure:
    """The finished figure.

    Args:
        title: Name of the whole for screen readers.
        body: Controls, SVG and output.
        data: What the script needs, as JSON.
        script: Body of a JavaScript function of `root` (the figure's element) and `data`.

    Returns:
        The figure. Its id is a hash of its content; the script looks only inside its own element and leaves no name.
    """
    # "<" as an escape: no string in the data can end the script element
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    name = "lpft-" + hashlib.sha256((title + body + text + script).encode()).hexdigest()[:12]
    return InteractiveFigure(
        f'<div class="lpft-interactive" id="{name}" role="group" aria-label="{escape(title)}"><style>{STYLE}</style>'
        f"{body}<noscript><p>Moving this figure needs JavaScript; it shows its first state.</p></noscript>"
        # currentScript first, so that the same figure may stand on a page twice
        f'<script>(function () {{"use strict";const own = document.currentScript;'
        f'const root = (own && own.closest(".lpft-interactive")) || document.getElementById("{name}");'
        f"const data = {text};\n{script}\n}})();</script></div>"
    )
