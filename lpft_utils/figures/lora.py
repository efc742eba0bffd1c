"""Figures of the LoRA chapter; each function gives a finished `Figure`."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from lpft_utils.figures.style import STYLE, legend_below, page_figure
from lpft_utils.studies.lora import Concentration
from lpft_utils.training.methods import METHODS


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
        right.plot(ranks * shift, means, label=name, **style)
        right.axhline(sweep.reference, color=METHODS[method].color, linestyle=(":", (0, (1, 3)))[i % 2])
    left.set(xscale="log", yscale="log", xlabel="rank r", ylabel="relative error of the kernel")
    right.set(xscale="log", xlabel="rank r", ylabel="alignment, centred", ylim=(None, 1.01))
    for axes in (left, right):
        axes.set_xticks(ranks, [str(r) for r in ranks])
        axes.set_xticks([], minor=True)
    legend_below(figure, left, 2)
    return figure
