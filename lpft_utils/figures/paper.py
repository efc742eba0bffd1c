"""The figures of the paper, on any runs: one function for each kind. What was not run is named below the figure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from lpft_utils.common.errors import ParameterError
from lpft_utils.common.names import split_label
from lpft_utils.figures import kernels, runs
from lpft_utils.figures.embedding import joint_embedding
from lpft_utils.figures.style import STYLE, legend_below, mean_and_seeds, page_figure
from lpft_utils.kernel_methods.statistics import block_trace_norms, spectrum
from lpft_utils.runs.store import Run, converged
from lpft_utils.studies.paper import Experiments
from lpft_utils.training.methods import METHODS

Panel = Callable[[Any], None]


def paper_figure(number: int, found: Mapping[str, Experiments]) -> Figure:
    """A figure of the paper, drawn from experiments.

    Args:
        number: Its number, among `FIGURES`.
        found: Experiments by task; where none of them is one of the figure's tasks, all are shown.

    Returns:
        The figure; below it stands what is missing.

    Raises:
        ParameterError: If there is no such figure.
    """
    if number not in FIGURES:
        raise ParameterError(f"figure: expected one of {', '.join(map(str, FIGURES))}, got {number}.")
    tasks, draw = FIGURES[number]
    return draw({task: found[task] for task in tasks if task in found} or found)


def norms_and_accuracy(found: Mapping[str, Experiments]) -> Figure:
    """Figures 1 and 4: accuracy and ‖V‖ during LP, FT and LoRA, and ‖V‖ after training.

    Args:
        found: Experiments by task.

    Returns:
        The figure; accuracy grey and dashed, ‖V‖ in the method's colour.
    """
    panels: dict[str, Panel | None] = {}
    for task, e in found.items():
        for method, group in (("lp", e.descents), ("ft", e.runs["ft"]), ("lora", e.runs["lora"])):
            kept = [r for r in converged(group) if "train_accuracy" in r.history]
            panels[f"{METHODS[method].label}, {task}"] = partial(_course, method, kept[0]) if kept else None
        tuned = {m: kept for m, group in e.runs.items() if (kept := converged(group))}
        panels[f"after training, {task}"] = partial(_norms_after, tuned) if tuned else None
    return _draw(panels, 2)


def spectra(found: Mapping[str, Experiments]) -> Figure:
    """Figures 2 and 7: singular values of P, and of F at every initialisation, over the largest.

    Args:
        found: Experiments by task.

    Returns:
        The figure; P dotted.
    """
    return _draw({task: partial(_spectra, e.kernels[0]) if e.kernels else None for task, e in found.items()}, 2)


def sweep(splits: Sequence[str], found: Mapping[str, Experiments]) -> Figure:
    """Figures 3, 10 and 11: Diff(F) against ‖V0‖ where the head is scaled, the random one and LP's.

    Args:
        splits: The splits shown, of experiments that have them; otherwise all evaluation splits.
        found: Experiments by task.

    Returns:
        The figure; at each mean norm the seeds, their mean and its 95 % interval; dashed lines at the norm of the head
        before it is scaled.
    """
    panels: dict[str, Panel | None] = {}
    for task, e in found.items():
        runs_here = [r for curve in e.sweep.values() for group in curve.values() for r in converged(group)]
        own = dict.fromkeys(
            name for r in runs_here for name in r.metrics["change"] if name not in ("train", "validation")
        )
        for split in [name for name in splits if name in own] or own or splits:
            panels[f"{task}, {split_label(split)}"] = partial(_sweep, e.sweep, split) if runs_here else None
        if len(e.sweep) == 1:
            panels[f"the other head’s sweep, {task}"] = None
    return _draw(panels, 2)


def feature_maps(methods: Sequence[str], found: Mapping[str, Experiments]) -> Figure:
    """Figures 5 and 6: t-SNE of features and head rows before and after tuning, first seed.

    Args:
        methods: One panel each.
        found: Experiments by task; the first is shown.

    Returns:
        The figure.
    """
    e = next(iter(found.values()))
    shown = {m: kept[0] for m in methods if (kept := converged(e.runs[m]))}
    missing = [f"{METHODS[m].label}, {e.setting.task}" for m in methods if m not in shown]
    if not shown:
        return _draw(dict.fromkeys(missing), 1)
    names = next(iter(shown.values())).metrics["task"]["label_names"]
    planes = {METHODS[m].label: joint_embedding(r) for m, r in shown.items()}
    return _say_missing(runs.feature_map(planes, names), missing)


def heat_maps(parts: Sequence[str], found: Mapping[str, Experiments]) -> Figure:
    """Figures 8 and 9: trace norms of the blocks K(x_i, x_j), training texts sorted by class, first seed.

    Args:
        parts: "P", or initialisations whose F is shown.
        found: Experiments by task.

    Returns:
        The figure, a row for each task; colours from 0 to the 99th percentile of a panel.
    """
    panels: dict[str, Panel | None] = {}
    for task, e in found.items():
        for part in parts:
            title = f"P, {task}" if part == "P" else f"F of {METHODS[part].label}, {task}"
            panels[title] = partial(_heat_map, part, e) if e.kernels else None
    return _draw(panels, len(parts))


@mpl.rc_context(STYLE)
def _draw(panels: Mapping[str, Panel | None], n_columns: int) -> Figure:
    """The panels that there are, by title, and a line that names the others."""
    there = {title: panel for title, panel in panels.items() if panel is not None}
    figure, places = page_figure(max(len(there), 1), 2.9, min(n_columns, max(len(there), 1)))
    for axes, (title, panel) in zip(places, there.items(), strict=False):
        panel(axes)
        axes.set_title(title.replace(", ", "\n"))
    if not there:
        places[0].set_axis_off()
    legend_below(figure, 3)
    return _say_missing(figure, [title for title, panel in panels.items() if panel is None])


def _say_missing(figure: Figure, missing: Sequence[str]) -> Figure:
    if missing:
        figure.suptitle(f"missing: {'; '.join(missing)}", fontsize=10, wrap=True)
    return figure


def _course(method: str, run: Run, axes: Any) -> None:
    history, norm = run.history, axes.twinx()
    for split, line in (("train", "-"), ("test", "--")):
        axes.plot(history["step"], history[f"{split}_accuracy"], line, color="0.55", label=f"accuracy, {split}")
    norm.plot(history["step"], history["head_norm"], linewidth=2, **METHODS[method].style("linestyle"))
    norm.set_ylabel("‖V‖", color=METHODS[method].color)
    norm.grid(visible=False)
    axes.set(xlabel="step", ylabel="accuracy", ylim=(0, 1), xscale="log" if method == "lp" else "linear")


def _norms_after(tuned: Mapping[str, Sequence[Run]], axes: Any) -> None:
    for place, (method, group) in enumerate(tuned.items()):
        mean_and_seeds(axes, [place], [[r.metrics["head_norm"] for r in group]], method)
    axes.set_xticks(range(len(tuned)), [METHODS[m].label for m in tuned], rotation=30)
    axes.set(yscale="log", ylabel="‖V‖")


def _spectra(at: Mapping[str, Any], axes: Any) -> None:
    P = spectrum(at["ft"].train.P)
    axes.semilogy(np.arange(1, len(P) + 1), P.clamp_min(1e-8), ":", color="0.35", label="P")
    for method, start in at.items():
        s = spectrum(start.train.F)
        style = METHODS[method].style("linestyle")
        axes.semilogy(np.arange(1, len(s) + 1), s.clamp_min(1e-8), label=f"F of {METHODS[method].label}", **style)
    axes.set(xlabel="index", ylabel="singular value / largest", ylim=(1e-6, 1.5))


def _sweep(curves: Mapping[str, Mapping[float, Sequence[Run]]], split: str, axes: Any) -> None:
    for method, curve in curves.items():
        kept = {place: group for place, runs_there in curve.items() if (group := converged(runs_there))}
        norms = [[r.history["head_norm"].iloc[0] for r in group] for group in kept.values()]
        rows = [[r.metrics["change"][split]["Diff"] for r in group] for group in kept.values()]
        mean_and_seeds(axes, [float(np.mean(row)) for row in norms], rows, method, label=METHODS[method].label)
        unscaled = [r.history["head_norm"].iloc[0] / r.metrics["head_scale"] for group in kept.values() for r in group]
        axes.axvline(float(np.mean(unscaled)), linestyle="--", linewidth=1, **METHODS[method].style())
    axes.set(xscale="log", xlabel="‖V0‖", ylabel="Diff(F)")


def _heat_map(part: str, e: Experiments, axes: Any) -> None:
    at = e.kernels[0]["ft" if part == "P" else part]
    norms = block_trace_norms(at.train.P if part == "P" else at.train.F).cpu()
    names = e.runs["lp"][0].metrics["task"]["label_names"]
    kernels.class_image(axes, norms, at.labels, names, vmin=0, vmax=float(np.percentile(norms, 99)) or 1.0)
    axes.tick_params(labelsize=10)


_BOSS = ("test", "ood_dynasent", "ood_semeval")
_FOUR = ("cb", "rte", "boolq", "wic")
# The tasks that a figure is about, and what draws it from experiments by task.
FIGURES: dict[int, tuple[tuple[str, ...], Callable[[Mapping[str, Experiments]], Figure]]] = {
    1: (("rte",), norms_and_accuracy),
    2: (("cb",), spectra),
    3: (("amazon",), partial(sweep, ("ood_sst5",))),
    4: (("cb", "rte"), norms_and_accuracy),
    5: (("cb",), partial(feature_maps, ("ft", "lp_ft"))),
    6: (("cb",), partial(feature_maps, ("lora", "lp_lora"))),
    7: (("rte", "boolq", "wic"), spectra),
    8: (_FOUR, partial(heat_maps, ("P", "ft", "lp_ft"))),
    9: (_FOUR, partial(heat_maps, ("lora", "lp_lora"))),
    10: (("amazon",), partial(sweep, _BOSS)),
    11: (("cb", "rte"), partial(sweep, ("test",))),
}
