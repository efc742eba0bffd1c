"""Figures of the calibration chapter; each function gives a finished `Figure`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lpft_utils.figures.style import STYLE, legend_below, page_figure
from lpft_utils.metrics.calibration import Reliability
from lpft_utils.training.methods import METHODS

_LARGEST = 220  # points², the marker of the fullest bin
_FADED = "0.45"


@mpl.rc_context(STYLE)
def reliability_diagrams(diagrams: Mapping[str, tuple[Reliability, Reliability]]) -> Figure:
    """Accuracy against confidence, bin by bin, before and after temperature scaling: one panel per method.

    The area of a marker is in proportion to the number of examples in its bin, over all panels.

    Args:
        diagrams: Diagrams before and after, by method.

    Returns:
        The figure.
    """
    most = max(int(diagram.counts.max()) for pair in diagrams.values() for diagram in pair)
    figure, (*places, last) = page_figure(len(diagrams) + 1, 3.0, 2)  # the last one for the legend
    for axes, (method, pair) in zip(places, diagrams.items(), strict=True):
        axes.plot([0, 1], [0, 1], color="0.35", linewidth=1, linestyle="--", label="calibrated")
        _bins(axes, pair[0], most, label="before", **METHODS[method].style("marker"))
        _bins(axes, pair[1], most, label="after", color="black", marker=METHODS[method].marker, hollow=True)
        axes.set(title=METHODS[method].label, xlim=(0, 1.03), ylim=(-0.03, 1.03), aspect="equal")
        axes.set(xlabel="mean confidence in the bin", ylabel="accuracy in the bin")
    last.set_axis_off()
    last.legend(*places[0].get_legend_handles_labels(), loc="center", title="temperature scaling")
    return figure


@mpl.rc_context(STYLE)
def head_scaling(scales: Sequence[float], curves: Mapping[str, Mapping[str, Sequence[float]]], fitted: float) -> Figure:
    """What the length of LP's head does: cross-entropy, and confidence beside accuracy, against the factor on V and b.

    Args:
        scales: The factors s.
        curves: Result of `studies.calibration.scaling_curves` with "train" and "test".
        fitted: 1 / T, with T fitted on validation.

    Returns:
        The figure.
    """
    figure, (left, right) = page_figure(2, 3.4)
    own = METHODS["lp"].color
    for split, line in (("train", ":"), ("test", "-")):
        left.loglog(scales, curves[split]["NLL"], line, color=own, label=split)
    for key, line, color in (("confidence", "-", own), ("accuracy", "--", "black"), ("ECE", ":", "0.3")):
        right.semilogx(scales, curves["test"][key], line, color=color, label=key)
    left.set(xlabel="factor s on V and b", ylabel="cross-entropy")
    left.set_ylim(bottom=max(1e-3, left.get_ylim()[0]))  # on separable data it falls beyond every axis
    right.set(xlabel="factor s on V and b", ylabel="on the test set", ylim=(0, 1.03))
    for axes in (left, right):
        axes.axvline(1, color=_FADED, linewidth=1)
        axes.axvline(fitted, color=_FADED, linewidth=1, linestyle="-.", label="s = 1/T")
    legend_below(figure, 3, fontsize=10)
    return figure


@mpl.rc_context(STYLE)
def temperature_against_norm(groups: Mapping[str, tuple[str, Sequence[float], Sequence[float]]]) -> Figure:
    """The fitted temperature against the norm of the head, one point per run, and the line T ∝ ‖V‖.

    Args:
        groups: By label: a method, for the colour and the marker, the norms and the temperatures. Labels that begin
            with "sweep" are drawn hollow.

    Returns:
        The figure.
    """
    figure, (axes,) = page_figure(1, 3.8)
    for label, (method, norms, temperatures) in groups.items():
        style = {**METHODS[method].style("marker"), "linestyle": "", "label": label, "alpha": 0.8}
        face = "none" if label.startswith("sweep") else style["color"]
        axes.plot(norms, temperatures, markerfacecolor=face, **style)
    axes.set(xscale="log", yscale="log", xlabel="‖V‖ after training", ylabel="fitted temperature T")
    norms, temperatures = (np.concatenate([group[i] for group in groups.values()]) for i in (1, 2))
    if len(norms):
        ends = np.array([norms.min(), norms.max()])
        middle = np.exp(np.log(temperatures).mean() - np.log(norms).mean())
        axes.plot(ends, middle * ends, color=_FADED, linewidth=1, linestyle="--", label="T ∝ ‖V‖")
    axes.axhline(1, color=_FADED, linewidth=1)
    legend_below(figure, 3, fontsize=10)
    return figure


@mpl.rc_context(STYLE)
def before_and_after(
    errors: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float], float]]],
) -> Figure:
    """The ECE by split and method, joined from before to after temperature scaling; one line per seed.

    Args:
        errors: Result of `studies.calibration.errors_by_split`.

    Returns:
        The figure.
    """
    top = max(x for by_method in errors.values() for pair in by_method.values() for x in (*pair[0], *pair[1], pair[2]))
    figure, rows = page_figure(len(errors), 2.6, 1, sharex=True, sharey=True)
    for axes, (title, by_method) in zip(rows, errors.items(), strict=True):
        for i, (method, (before, after, chance)) in enumerate(by_method.items()):
            for pair in zip(before, after, strict=True):
                axes.plot([i - 0.18, i + 0.18], pair, color=METHODS[method].color, linewidth=1, alpha=0.6)
            style = {**METHODS[method].style("marker"), "linestyle": "none"}
            axes.plot(np.full(len(before), i - 0.18), before, **style)
            axes.plot(np.full(len(after), i + 0.18), after, markerfacecolor="white", **style)
            axes.plot([i - 0.36, i + 0.36], [chance, chance], color="0.35", linewidth=1, linestyle="--")
        axes.set(title=title, ylabel="ECE", ylim=(0, 1.08 * top))
        axes.set_xticks(range(len(by_method)), [METHODS[method].label for method in by_method])
        axes.grid(visible=False, axis="x")
    rows[-1].set_xlabel("filled: before, hollow: after temperature scaling; dashed: chance", fontsize=10)
    return figure


def _bins(
    axes: Axes, shown: Reliability, most: int, *, label: str, color: str, marker: str, hollow: bool = False
) -> None:
    some = shown.counts > 0
    x, y, area = shown.confidence[some], shown.accuracy[some], _LARGEST * shown.counts[some] / most
    axes.plot(x, y, color=color, linewidth=1, linestyle=":" if hollow else "-", alpha=0.7)
    axes.scatter(
        x, y, s=np.maximum(area, 4), marker=marker, edgecolor=color, facecolor="none" if hollow else color, label=label
    )
