"""Figures of the kernel chapters; each function gives a finished `Figure`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from lpft_utils.figures.style import CLASS_COLORS, STYLE, WIDTH, legend_below, mean_and_seeds, page_figure
from lpft_utils.studies.linearised import Comparison
from lpft_utils.studies.lora import Concentration
from lpft_utils.training.methods import METHODS


@mpl.rc_context(STYLE)
def kernel_image(K: Tensor, labels: Tensor, label_names: Sequence[str]) -> Figure:
    """A kernel as an image, examples sorted by class, each entry scaled by the two examples' own size.

    Args:
        K: Kernel between examples, shape (N, N).
        labels: Their classes, shape (N,).
        label_names: Class names.

    Returns:
        The figure.
    """
    sizes = K.diagonal().clamp_min(1e-30).sqrt()
    figure = Figure(figsize=(WIDTH, 0.78 * WIDTH))
    axes = figure.subplots()
    image = class_image(axes, K / sizes[:, None] / sizes, labels, label_names, vmax=1)
    figure.colorbar(image, ax=axes, label="cosine of the gradients")
    return figure


def class_image(axes: Axes, values: Tensor, labels: Tensor, label_names: Sequence[str], **options: Any) -> AxesImage:
    """Values of pairs of examples as an image, examples sorted by class, with lines between the classes.

    Args:
        axes: Where to draw.
        values: Shape (N, N).
        labels: Classes of the examples, shape (N,).
        label_names: Class names.
        **options: Of `Axes.imshow`.

    Returns:
        The image.
    """
    order = labels.argsort(stable=True)
    image = axes.imshow(values[order][:, order].double().numpy(), cmap="cividis", **options)
    bounds = np.cumsum([0, *(int((labels == c).sum()) for c in range(len(label_names)))])
    axes.set_xticks((bounds[1:] + bounds[:-1]) / 2 - 0.5, label_names)
    axes.set_yticks((bounds[1:] + bounds[:-1]) / 2 - 0.5, label_names, rotation=90, va="center")
    for bound in bounds[1:-1]:
        axes.axhline(bound - 0.5, color="white", linewidth=0.8)
        axes.axvline(bound - 0.5, color="white", linewidth=0.8)
    axes.grid(visible=False)
    return image


@mpl.rc_context(STYLE)
def linearisation(comparisons: Mapping[str, Comparison]) -> Figure:
    """Real and linearised training from one initialisation: loss and feature change over time, a column per comparison.

    Args:
        comparisons: By title.

    Returns:
        The figure.
    """
    n = len(comparisons)
    figure, axes = page_figure(2 * n, 2.3, n)
    for upper, lower, (title, c) in zip(axes[:n], axes[n:], comparisons.items(), strict=True):
        color = METHODS[c.method].color
        for which, line, label in (("real", "-", "real training"), ("linear", "--", "linearised")):
            upper.plot(c.times, c.loss[which], line, color=color, label=label)
            lower.plot(c.times, c.moved(which), line, color=color, label=label)
        upper.set(title=title, ylim=(0, None))
        lower.set(xlabel="time t = η · step", ylim=(0, None))
        for ax in (upper, lower):  # times differ by orders of magnitude between initialisations
            ax.xaxis.set_major_locator(MaxNLocator(4))
            ax.ticklabel_format(axis="x", scilimits=(-2, 3))
    axes[0].set(ylabel="cross-entropy, training")
    axes[n].set(ylabel="‖φ_t − φ_0‖, test")
    axes[0].legend()
    return figure


@mpl.rc_context(STYLE)
def linearisation_error(comparisons: Mapping[str, Comparison]) -> Figure:
    """Relative error of the linearised logits against how far the features have moved.

    Args:
        comparisons: By name.

    Returns:
        The figure.
    """
    figure, (axes,) = page_figure(1, 3.2)
    for i, (name, c) in enumerate(comparisons.items()):
        line = ("-", "--", ":", "-.")[i % 4]
        axes.loglog(c.moved("real")[1:], c.error(), line, label=name, **METHODS[c.method].style("marker"))
    axes.set(xlabel="‖φ_t − φ_0‖, test, real training", ylabel="relative error of the logits")
    axes.legend()
    return figure


@mpl.rc_context(STYLE)
def predicted_and_measured(comparisons: Mapping[str, Sequence[Comparison]]) -> Figure:
    """Feature change of each test example at the end, predicted against measured: one panel per initialisation.

    Args:
        comparisons: By method, one per seed.

    Returns:
        The figure.
    """
    figure, columns = page_figure(len(comparisons), 3.4)
    for axes, (method, group) in zip(columns, comparisons.items(), strict=True):
        points = [tuple(c.change[k][-1].norm(dim=1).double().numpy() for k in ("linear", "real")) for c in group]
        for i, (linear, real) in enumerate(points):
            label = "a test example" if i == 0 else None
            style = METHODS[method].style("marker")
            axes.plot(linear, real, linestyle="", alpha=0.6, markersize=4, label=label, **style)
        top = 1.05 * max(float(x.max()) for pair in points for x in pair) or 1.0
        axes.plot([0, top], [0, top], color="0.35", linewidth=1, linestyle="--", label="equal")
        axes.set(title=METHODS[method].label, xlabel="predicted ‖φ_t − φ_0‖", xlim=(0, top), ylim=(0, top))
    columns[0].set(ylabel="measured ‖φ_t − φ_0‖")
    columns[0].legend()
    return figure


@mpl.rc_context(STYLE)
def spectra(values: Mapping[str, Mapping[str, Tensor]]) -> Figure:
    """Normalised singular values, one panel per part of the kernel, one line per initialisation.

    Args:
        values: Singular values, the largest 1, by part ("P", "F", "P + F") and method.

    Returns:
        The figure.
    """
    figure, columns = page_figure(len(values), 3.2, sharey=True)
    for axes, (part, lines) in zip(columns, values.items(), strict=True):
        for method, s in lines.items():
            style = METHODS[method].style("linestyle", "label")
            axes.semilogy(np.arange(1, len(s) + 1), s.clamp_min(1e-8), **style)
        axes.set(title=part, xlabel="index")
    columns[0].set(ylabel="singular value / largest", ylim=(1e-6, 1.5))
    legend_below(figure, 4)
    return figure


@mpl.rc_context(STYLE)
def norm_law(scales: Sequence[float], norms: Mapping[str, Sequence[float]]) -> Figure:
    """‖P‖ and ‖F‖ against the factor on the head, with the square law as a line.

    Args:
        scales: Factors on V0.
        norms: Frobenius norms by part, "P" and "F".

    Returns:
        The figure.
    """
    figure, (axes,) = page_figure(1, 3.2)
    x = np.asarray(scales)
    axes.loglog(x, norms["F"], "o", color=METHODS["lp_ft"].color, label="‖F‖, computed")
    axes.loglog(x, norms["F"][0] * (x / x[0]) ** 2, "--", color="0.35", label="square law")
    axes.loglog(x, norms["P"], "s", color=METHODS["lp"].color, label="‖P‖, computed")
    axes.set(xlabel="factor on V0", ylabel="Frobenius norm")
    axes.legend()
    return figure


@mpl.rc_context(STYLE)
def layer_shares(by_method: Mapping[str, pd.DataFrame]) -> Figure:
    """Share of each layer in the trace of F, stacked by kind of parameter, one panel per initialisation.

    Args:
        by_method: Results of `kernels.shares` by method.

    Returns:
        The figure.
    """
    hatches = ("", "//", "..", "xx", "--")
    layers = list(next(iter(by_method.values())).index)
    figure, columns = page_figure(len(by_method), 1.4 + 0.3 * len(layers), sharex=True, sharey=True)
    kinds = sorted({kind for table in by_method.values() for kind in table})
    for axes, (method, table) in zip(columns, by_method.items(), strict=True):
        left = np.zeros(len(layers))
        for i, kind in enumerate(kinds):
            width = table.reindex(index=layers, columns=kinds).fillna(0)[kind].to_numpy()
            axes.barh(layers, width, left=left, color=CLASS_COLORS[i % 5], hatch=hatches[i % 5], label=kind)
            left += width
        axes.set(title=METHODS[method].label)
    columns[len(columns) // 2].set_xlabel("share of the trace of F")
    columns[0].invert_yaxis()
    legend_below(figure, 2)
    return figure


@mpl.rc_context(STYLE)
def norm_sweep(norms: Sequence[float], values: Mapping[str, Sequence[Sequence[float]]]) -> Figure:
    """Quantities against ‖V0‖: seeds as dots, means with 95 % intervals, one panel per quantity.

    Args:
        norms: ‖V0‖, the norm of the initial head, ascending.
        values: One value per seed for each norm, by axis label.

    Returns:
        The figure.
    """
    figure, places = page_figure(len(values), 2.9, 2)
    for axes, (label, rows) in zip(places, values.items(), strict=True):
        mean_and_seeds(axes, norms, rows, "lp_ft")
        axes.set(xscale="log", xlabel="‖V0‖ at initialisation", ylabel=label)
    return figure


@mpl.rc_context(STYLE)
def concentration(sweeps: Mapping[str, Concentration]) -> Figure:
    """LoRA's kernel against FT's of the same weights over ranks: relative error with its prediction, and alignment.

    Args:
        sweeps: By initialisation, "ft" or "lp_ft".

    Returns:
        The figure.
    """
    figure, (left, right) = page_figure(2, 3.9)
    for i, (method, sweep) in enumerate(sweeps.items()):
        style = METHODS[method].style("marker")
        shift = 1.06 ** (2 * i - len(sweeps) + 1)  # so that dots of two initialisations do not hide each other
        ranks = np.array(list(sweep.rms()))
        for axes, column in ((left, "error"), (right, "centred")):
            for r, values in sweep.by_rank(column).items():
                axes.plot(np.full(len(values), r * shift), values, ".", color=METHODS[method].color, alpha=0.3)
        name = f"{METHODS[method].label} initialisation"
        left.plot(ranks * shift, list(sweep.rms().values()), linestyle="", label=name, **style)
        left.plot(ranks, sweep.kappa / np.sqrt(ranks), color=METHODS[method].color, linestyle=("-", "--")[i % 2])
        means = [values.mean() for values in sweep.by_rank("centred").values()]
        right.plot(ranks * shift, means, **style)
        right.axhline(sweep.reference, color=METHODS[method].color, linestyle=(":", (0, (1, 3)))[i % 2])
    left.set(xscale="log", yscale="log", xlabel="rank r", ylabel="relative error of the kernel")
    right.set(xscale="log", xlabel="rank r", ylabel="alignment, centred", ylim=(None, 1.01))
    for axes in (left, right):
        axes.set_xticks(ranks, [str(r) for r in ranks])
        axes.set_xticks([], minor=True)
    legend_below(figure, 2)
    return figure
