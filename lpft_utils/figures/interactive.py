"""Figures that the reader moves: a sweep with a slider, and a temperature with its reliability diagram."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from scipy import special

from lpft_utils.common.errors import ParameterError
from lpft_utils.common.validation import check_integer, is_number
from lpft_utils.figures import svg as core
from lpft_utils.figures.style import PALETTE
from lpft_utils.figures.svg import InteractiveFigure
from lpft_utils.metrics.calibration import BINS, calibration_metrics, reliability, softmax
from lpft_utils.metrics.validation import check_labels, check_scores
from lpft_utils.training.methods import METHODS

_DASHES = ("", "6 3", "2 3", "8 3 2 3", "1 2")

_SWEEP_JS = """
const input = root.querySelector("input"), lines = root.querySelectorAll("output span");
const marks = root.querySelectorAll("[data-mark]");
function show() {
  const i = +input.value;
  input.setAttribute("aria-valuetext", data.texts[i][0]);
  lines.forEach((line, k) => { line.textContent = data.texts[i][k]; });
  marks.forEach((mark, k) => {
    mark.setAttribute("transform", "translate(" + data.x[i] + ",0)");
    mark.querySelectorAll("circle").forEach((dot, j) => dot.setAttribute("cy", data.y[k][j][i]));
  });
}
input.addEventListener("input", show);
show();
"""

_TEMPERATURE_JS = """
const input = root.querySelector("input"), select = root.querySelector("select"), out = root.querySelector("output");
const lines = out.querySelectorAll("span"), B = data.bins;
const bars = root.querySelectorAll("[data-bar]"), ticks = root.querySelectorAll("[data-tick]");
const shares = root.querySelectorAll("[data-share]"), counts = root.querySelectorAll(".count");
function binOf(c) {  // edges (k/B, (k+1)/B]
  let b = Math.min(B - 1, Math.max(0, Math.ceil(c * B) - 1));
  while (b > 0 && c <= b / B) b--;
  while (b < B - 1 && c > (b + 1) / B) b++;
  return b;
}
function measure(set, T) {
  const N = set.y.length, C = set.f.length / N;
  const n = new Array(B).fill(0), conf = new Array(B).fill(0), right = new Array(B).fill(0);
  let nll = 0, confidence = 0, accuracy = 0;
  for (let i = 0; i < N; i++) {
    const f = set.f.slice(i * C, (i + 1) * C), top = Math.max(...f);
    let total = 0;
    for (const v of f) total += Math.exp((v - top) / T);
    const c = 1 / total, hit = f.indexOf(top) === set.y[i] ? 1 : 0, b = binOf(c);
    nll += Math.log(total) - (f[set.y[i]] - top) / T;
    confidence += c; accuracy += hit; n[b]++; conf[b] += c; right[b] += hit;
  }
  let ece = 0, mce = 0;
  for (let b = 0; b < B; b++) {
    ece += Math.abs(right[b] - conf[b]) / N;
    if (n[b]) mce = Math.max(mce, Math.abs(right[b] - conf[b]) / n[b]);
  }
  return {N, n, conf, right, ece, mce, nll: nll / N, confidence: confidence / N, accuracy: accuracy / N};
}
function show() {
  const k = select ? select.selectedIndex : 0;  // not its value, from which the browser strips spaces
  const name = data.names[k], set = data.sets[k], T = Math.pow(10, input.value / 100);
  const m = measure(set, T), most = Math.max(...m.n), d = (v) => v.toFixed(data.digits);
  for (let b = 0; b < B; b++) {
    const some = m.n[b] > 0, acc = some ? m.right[b] / m.n[b] : 0, c = some ? m.conf[b] / m.n[b] : 0;
    bars[b].setAttribute("y", data.y0 - acc * data.height);
    bars[b].setAttribute("height", acc * data.height);
    ticks[b].setAttribute("visibility", some ? "visible" : "hidden");
    for (const end of ["y1", "y2"]) ticks[b].setAttribute(end, data.y0 - c * data.height);
    shares[b].setAttribute("height", m.n[b] / most * data.below);
    shares[b].setAttribute("y", data.y1 - m.n[b] / most * data.below);
    counts[b].setAttribute("y", data.y1 - m.n[b] / most * data.below - 3);
    counts[b].textContent = some ? m.n[b] : "";
  }
  const at = "T = " + T.toFixed(2);
  input.setAttribute("aria-valuetext", at);
  lines[0].textContent = name + ", " + at + " (N = " + m.N + ")" + set.about;
  lines[1].textContent = "ECE " + d(m.ece) + ", MCE " + d(m.mce) + ", NLL " + d(m.nll);
  lines[2].textContent = "mean confidence " + d(m.confidence) + ", accuracy " + d(m.accuracy);
  for (const key of ["ece", "mce", "nll", "confidence", "accuracy"]) out.dataset[key] = m[key];
  out.dataset.counts = m.n.join(" ");
}
input.addEventListener("input", show);
if (select) select.addEventListener("change", show);
show();
"""


def sweep_explorer(
    x: Sequence[float],
    panels: Mapping[str, Mapping[str, Mapping[str, Any]]],
    *,
    x_label: str,
    title: str,
    digits: int = 3,
    start: int = 0,
    log: bool = True,
) -> InteractiveFigure:
    """Several quantities against one swept number; a slider picks one of its values, and the numbers are said in words.

    Args:
        x: Swept values, increasing, length K ≥ 2.
        panels: By label of the quantity and name of the series: "mean" (K values), optionally "low" and "high" (the
            interval, K values each, NaN for none) and "seeds" (a list of runs, each of K values). A series named
            after a method ("lp_ft") gets its label and colour.
        x_label: Label of x.
        title: What the figure shows, for screen readers.
        digits: Decimals in words.
        start: Position of the slider at first.
        log: Whether x is drawn on a logarithmic axis.

    Returns:
        The figure.

    Raises:
        ParameterError: If lengths differ, x does not increase (or is not positive with `log`), means are not finite,
            other values infinite, low is above high, a key or name is none, or `start` is no position.
    """
    xs = core.numbers("x", x)
    if (
        xs.ndim != 1
        or len(xs) < 2
        or not (np.isfinite(xs).all() and (np.diff(xs) > 0).all() and (xs[0] > 0 or not log))
    ):
        raise ParameterError(f"expected at least two increasing{' positive' * log} values of x, got {x!r}")
    check_integer("start", start, 0, len(xs) - 1)
    check_integer("digits", digits, 0, core.MOST_DIGITS)
    if not panels or not all(panels.values()):
        raise ParameterError("expected at least one panel, each with at least one series")
    core.check_names("names of panels and series", [*panels, *(name for group in panels.values() for name in group)])
    clean = {
        panel: {name: core.series(f"{panel}, {name}", given, len(xs)) for name, given in group.items()}
        for panel, group in panels.items()
    }
    names = list(dict.fromkeys(name for group in clean.values() for name in group))
    styles = {
        name: (METHODS[name].color if name in METHODS else PALETTE[i % len(PALETTE)], _DASHES[i % len(_DASHES)])
        for i, name in enumerate(names)
    }
    across = core.Axis(xs[0], xs[-1], 46, 288, log)
    drawn, heights = [], []
    for panel, group in clean.items():
        values = np.concatenate([np.ravel(v) for series in group.values() for v in series.values()])
        low, high = np.nanmin(values), np.nanmax(values)
        margin = 0.06 * (high - low) or 0.05 * abs(high) or 0.5
        up = core.Axis(low - margin, high + margin, 170, 26)
        heights.append([[up(v) for v in series["mean"]] for series in group.values()])
        parts = [core.y_axis(across, up, panel), core.x_axis(across, up.start, x_label)]
        parts += [_draw(series, across, up, xs, *styles[name]) for name, series in group.items()]
        dots = "".join(
            f'<circle cx="0" cy="{ys[start]}" r="5" fill="{styles[name][0]}" stroke="currentColor" stroke-width="1.5"/>'
            for name, ys in zip(group, heights[-1], strict=True)
        )
        line = '<line x1="0" x2="0" y1="26" y2="170" stroke="currentColor" stroke-width="1.5"/>'
        parts.append(f'<g data-mark="" transform="translate({across(xs[start])},0)">{line}{dots}</g>')
        label = f"{panel} against {x_label}: {', '.join(_label(name) for name in group)}; the numbers are in the text."
        drawn.append(core.svg(300, 206, label, parts))
    texts = [
        [f"{x_label}: {value:.4g}"]
        + [_sentence(panel, group, i, digits, len(names) > 1) for panel, group in clean.items()]
        for i, value in enumerate(xs)
    ]
    body = core.slider(x_label, 0, len(xs) - 1, start, texts[start][0]) + core.output(texts[start])
    if len(names) > 1:
        body += f'<p class="key">{"".join(_key(name, *styles[name]) for name in names)}</p>'
    body += f'<div class="panels">{"".join(drawn)}</div>'
    return core.figure(title, body, {"x": [across(v) for v in xs], "y": heights, "texts": texts}, _SWEEP_JS)


def temperature_explorer(
    sets: Mapping[str, tuple[Any, Any]],
    *,
    fitted: Mapping[str, float] | None = None,
    title: str = "Reliability diagram that follows the temperature",
    bins: int = BINS,
    t_min: float = 0.1,
    t_max: float = 10.0,
    max_examples: int = 1000,
    digits: int = 3,
) -> InteractiveFigure:
    """A reliability diagram, ECE, MCE, NLL and mean confidence that follow a slider for T; computed in the page.

    Args:
        sets: Logits (N, C) and labels (N,) by name; with several, the reader chooses one.
        fitted: T fitted on validation by name, to be said beside the numbers.
        title: What the figure shows, for screen readers.
        bins: Number of bins (lo, hi].
        t_min: Smallest T.
        t_max: Largest T.
        max_examples: Above so many, an even random sample (seed 0) is embedded, so that the page stays small.
        digits: Decimals in words.

    Returns:
        The figure, which starts at T = 1. Logits are rounded to 4 decimals, and differences of them cut at 1e12.

    Raises:
        ParameterError: For no sets, bad names, logits or labels, a fitted T that is none or of no set, bounds that do
            not enclose 1, or numbers of bins, examples or digits that are none.
    """
    check_integer("bins", bins)
    check_integer("max_examples", max_examples)
    check_integer("digits", digits, 0, core.MOST_DIGITS)
    if not sets:
        raise ParameterError("expected at least one named set of logits and labels")
    if not (is_number(t_min) and is_number(t_max) and 0 < t_min < 1 < t_max):
        raise ParameterError(f"t_min and t_max must be positive and enclose 1, got {t_min!r} and {t_max!r}")
    names = list(sets)
    core.check_names("names of sets", names)
    _check_fitted(fitted or {}, names)
    data: dict[str, Any] = {"bins": bins, "digits": digits, "names": names, "sets": []}
    for name, (logits, labels) in sets.items():
        f = check_scores(logits)
        y = check_labels(labels, f)
        T = (fitted or {}).get(name)
        about = "" if T is None else f"; fitted on validation: T = {T:.2f}"
        if len(y) > max_examples:
            keep = np.sort(np.random.default_rng(0).choice(len(y), max_examples, replace=False))
            about += f"; {max_examples} examples drawn from {len(y)}"
            f, y = f[keep], y[keep]
        with np.errstate(over="ignore"):  # only differences count
            below = np.maximum(f - f.max(axis=1, keepdims=True), -1e12)
        rounded = np.round(below, 4) + 0.0  # no "-0.0"
        data["sets"].append({"f": rounded.ravel().tolist(), "y": y.tolist(), "about": about})
    across, up = core.Axis(0, 1, 34, 350), core.Axis(0, 1, 250, 30)
    data |= {"y0": up.start, "height": up.start - up.end, "y1": 352, "below": 52}
    first = data["sets"][0]
    y = np.asarray(first["y"])
    f = np.asarray(first["f"]).reshape(len(y), -1)
    p = softmax(f)
    nll = np.mean(special.logsumexp(f, axis=1) - f[np.arange(len(y)), y])  # of p it is ∞ where p_y rounds to 0
    m = calibration_metrics(p, y) | {"NLL": float(nll)}
    text = [
        f"{names[0]}, T = 1.00 (N = {len(y)}){first['about']}",
        f"ECE {m['ECE']:.{digits}f}, MCE {m['MCE']:.{digits}f}, NLL {m['NLL']:.{digits}f}",
        f"mean confidence {m['confidence']:.{digits}f}, accuracy {m['accuracy']:.{digits}f}",
    ]
    options = "".join(f"<option>{escape(name)}</option>" for name in names)
    choice = f'<label>Model and data <select autocomplete="off">{options}</select></label>' if len(names) > 1 else ""
    ends = round(100 * np.log10(t_min)), round(100 * np.log10(t_max))
    body = (
        choice
        + core.slider("Temperature T", *ends, 0, "T = 1.00")
        + core.output(text)
        + _diagram(reliability(p, y, bins), across, up, data)
        + '<p class="note">Bars: accuracy. Thick ticks: mean confidence. Dashed: perfect calibration. Below: examples '
        "in each bin.</p>"
    )
    return core.figure(title, body, data, _TEMPERATURE_JS)


def _check_fitted(fitted: Mapping[str, float], names: Sequence[str]) -> None:
    for name, T in fitted.items():
        if name not in names:
            raise ParameterError(f"fitted has {name!r}, which is not among the sets: {', '.join(names)}")
        if not is_number(T) or T <= 0:
            raise ParameterError(f"fitted T of {name!r} must be a positive number, got {T!r}")


def _label(name: str) -> str:
    return METHODS[name].label if name in METHODS else name


def _key(name: str, color: str, dash: str) -> str:
    line = f'<line x1="0" x2="40" y1="8" y2="8" stroke="{color}" stroke-width="4" stroke-dasharray="{dash}"/>'
    return f'<span><svg viewBox="0 0 40 16" aria-hidden="true">{line}</svg> {escape(_label(name))}</span>'


def _sentence(panel: str, group: Mapping[str, Mapping[str, np.ndarray]], i: int, digits: int, named: bool) -> str:
    parts = []
    for name, series in group.items():
        text = f"{series['mean'][i]:.{digits}f}"
        if "low" in series and np.isfinite([series["low"][i], series["high"][i]]).all():
            text += f" ({series['low'][i]:.{digits}f} to {series['high'][i]:.{digits}f})"
        parts.append(f"{_label(name)} {text}" if named else text)
    return f"{panel}: {', '.join(parts)}"


def _draw(
    series: Mapping[str, np.ndarray], across: core.Axis, up: core.Axis, xs: np.ndarray, color: str, dash: str
) -> str:
    """Band, line and seeds' dots of one series."""

    def points(values: np.ndarray) -> list[str]:
        return [f"{across(a)},{up(b)}" for a, b in zip(xs, values, strict=True) if np.isfinite(b)]

    parts = []
    if "low" in series:
        corners = points(series["low"]) + points(series["high"])[::-1]
        parts.append(f'<polygon points="{" ".join(corners)}" fill="{color}" fill-opacity="0.2"/>')
    line = " ".join(points(series["mean"]))
    parts.append(f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="2" stroke-dasharray="{dash}"/>')
    for seed in series.get("seeds", ()):
        dots = (point.split(",") for point in points(seed))
        parts += [f'<circle cx="{a}" cy="{b}" r="2" fill="{color}" fill-opacity="0.7"/>' for a, b in dots]
    return "".join(parts)


def _diagram(shown: Any, across: core.Axis, up: core.Axis, data: Mapping[str, Any]) -> str:
    """The diagram at T = 1: bars, ticks of mean confidence, and the counts below."""
    blue, width = PALETTE[0], (across.end - across.start) / data["bins"]
    parts = [core.y_axis(across, up, "accuracy")]
    for b, n in enumerate(shown.counts):
        left = across.start + b * width
        box = f'x="{left + 1:.2f}" width="{width - 2:.2f}"'
        accuracy, confidence = (float(np.nan_to_num(v[b])) for v in (shown.accuracy, shown.confidence))
        tall = n / shown.counts.max() * data["below"]
        parts += [
            f'<rect data-bar="" {box} fill="{blue}" y="{up(accuracy)}" height="{accuracy * data["height"]:.1f}"/>',
            f'<rect data-share="" {box} fill="currentColor" fill-opacity="0.6" y="{data["y1"] - tall:.1f}" '
            f'height="{tall:.1f}"/>',
            f'<text class="count" x="{left + width / 2:.2f}" y="{data["y1"] - tall - 3:.1f}" text-anchor="middle">'
            f"{n or ''}</text>",
        ]
        seen = "visible" if n else "hidden"
        ends = f'x1="{left:.2f}" x2="{left + width:.2f}" y1="{up(confidence)}" y2="{up(confidence)}"'
        parts.append(f'<line data-tick="" {ends} visibility="{seen}" stroke="currentColor" stroke-width="3"/>')
    corners = f'x1="{across.start}" y1="{up.start}" x2="{across.end}" y2="{up.end}"'
    parts.append(f'<line {corners} stroke="currentColor" stroke-dasharray="5 4"/>')
    parts.append(core.x_axis(across, data["y1"], "confidence"))
    label = "Reliability diagram: accuracy by confidence, with the number of examples in each bin; numbers in the text."
    return core.svg(360, 394, label, parts)
