"""The frames of results of kernels, and the tables of the kernel chapters."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lpft_utils.common.environment import environment
from lpft_utils.common.table import Table
from lpft_utils.kernel_methods import statistics
from lpft_utils.results.frame import per_run, select
from lpft_utils.results.tables import column, each, mean, table
from lpft_utils.runs.cache import cache_path
from lpft_utils.runs.execute import load_model
from lpft_utils.runs.profiles import Profile
from lpft_utils.runs.store import Run
from lpft_utils.studies import initialisation as kernels
from lpft_utils.studies.initialisation import Initialisation
from lpft_utils.training.spec import RunSpec

PARTS = {"P": "P", "F": "F", "K": "P+F"}
ROWS = {"method": "initialisation"}


def kernel_results(
    by_seed: Sequence[Mapping[str, Initialisation]], kinds: Sequence[str] = ("ridge",), group: str = ""
) -> pd.DataFrame:
    """What characterises the kernels at initialisation, and how well they fit, one value per row.

    Args:
        by_seed: Results of `initialisations`, one per seed.
        kinds: Kernel regressions to fit: "ridge", "logistic".
        group: Name of these kernels, to tell them from others in the same frame.

    Returns:
        Columns "group", "method", "seed" (the place in `by_seed`), "split", "metric", "value". Metrics: norms of P, F,
        P + F, both FT ratios, effective and numerical ranks, how much the classes stand out in the trace norms of P and
        F, and, where FT is there, alignment of F with its F; of adapters the distance ½ Σ |σ_i − σ'_i| of F's singular
        values from those of the adapted method's F, each divided by their sum (split ""); accuracy of each regression
        with P, F and P + F ("ridge, P", …; train and test), and "majority, kernel", the share of the most frequent
        class of the test texts.
    """
    rows = [
        (group, method, seed, *row)
        for seed, found in enumerate(by_seed)
        for method, at in found.items()
        for row in (*_statistics(at, found), *_fits(at, kinds))
    ]
    return pd.DataFrame(rows, columns=["group", "method", "seed", "split", "metric", "value"])


def collect_kernels(spec: RunSpec, n_kernel: int, run: str, store: Path | None = None) -> pd.DataFrame:
    """Kernels at the initialisations that a run of LP makes, for a file of results (`collected`).

    Args:
        spec: The run of LP.
        n_kernel: Training texts of the kernels, and test texts.
        run: The name of the rows.
        store: The run store; default: `paths.run_store()`.

    Returns:
        Results of `kernel_results` and "seconds", with "run", "task", "backbone", "seed", "spec" (with "n_kernel") and
        "environment".
    """
    fields = spec.replace(learning_rate=None).to_dict()
    place = {name: fields.pop(name) for name in ("task", "backbone", "ood")}
    seed, _, _ = (fields.pop(name) for name in ("seed", "method", "learning_rate"))
    setting = Profile("reference", **place, seeds=(seed,), settings=fields, n_kernel=n_kernel)
    started = time.perf_counter()
    frame = kernel_results([kernels.initialisations(setting, spec.seed, store=store)])
    took = {"method": "lp", "split": "", "metric": "seconds", "value": time.perf_counter() - started}
    frame = pd.concat([frame, pd.DataFrame([took])], ignore_index=True)
    about = {"spec": spec.to_dict() | {"n_kernel": n_kernel}, "environment": environment()}
    frame = frame.assign(run=run, task=spec.task, backbone=spec.backbone, seed=spec.seed)
    return frame.assign(**{name: json.dumps(value) for name, value in about.items()})


def statistics_table(by_seed: Sequence[Mapping[str, Initialisation]]) -> Table:
    """Means over seeds of what characterises the kernels.

    Args:
        by_seed: Results of `initialisations`, one per seed, with "ft".

    Returns:
        Indexed by what is measured, one column per initialisation: all that `kernel_results` says of the kernels.
    """
    frame = select(kernel_results(by_seed, ()), split="")
    shown = table(frame, ROWS, {m: column(m, lambda v: f"{np.mean(v):.3g}") for m in frame["metric"].unique()})
    return Table(shown.T.rename_axis(index="kernel", columns=None))


def regression_table(by_seed: Sequence[Mapping[str, Initialisation]]) -> Table:
    """Accuracy of kernel regression, in percent, means over seeds.

    Args:
        by_seed: Results of `initialisations`, one per seed.

    Returns:
        Indexed by initialisation: train and test accuracy with P, F and P + F for ridge and logistic regression,
        and the published code's measure with P + F, first seed only.
    """
    kinds = ("ridge", "logistic")
    frame = kernel_results(by_seed, kinds)
    names = [f"{kind}, {part}" for kind in kinds for part in PARTS.values()]

    def accuracies(split: str) -> Table:
        return table(frame, ROWS, {n: column(n, lambda v: f"{100 * np.mean(v):.1f}", split=split) for n in names})

    shown = accuracies("train") + " / " + accuracies("test")
    published = map(kernels.as_published, by_seed[0].values())  # slow, and a look at it is enough
    shown["as published"] = [
        f"{100 * p.train_accuracy:.1f} / {100 * p.test_accuracy:.1f}" + ("" if p.converged else " (not converged)")
        for p in published
    ]
    return shown


def alignment_results(close: Mapping[str, Sequence[pd.DataFrame]]) -> pd.DataFrame:
    """Alignments as a frame of results.

    Args:
        close: Results of `alignment_to_ft`, one per seed, by method ("ft", "lp_ft").

    Returns:
        Columns "kernel", "metric", "value", "method", "seed" (the place in the sequence), "split" (always "").
    """
    by_kernel = {(method, seed): found for method, by_seed in close.items() for seed, found in enumerate(by_seed)}
    frame: Any = pd.concat(by_kernel).rename_axis(["method", "seed", "kernel"])
    return frame.melt(ignore_index=False, var_name="metric").reset_index().assign(split="")


def alignment_table(by_seed: Sequence[pd.DataFrame]) -> Table:
    """Alignments as a table.

    Args:
        by_seed: Results of `alignment_to_ft`, one per seed.

    Returns:
        Indexed by kernel: trained parameters of the backbone, and alignments "mean ± half width".
    """
    titles = {
        "with F of FT": "all",
        "the same, centred": "all, centred",
        "with F of the adapted weights": "adapted",
        "the same, centred ": "adapted, centred",  # column names must differ
    }
    count = column("parameters", lambda values: f"{values[0]:,.0f}" if values[0] else "")
    columns = {"parameters": count} | {title: column(metric, mean(3)) for title, metric in titles.items()}
    return table(alignment_results({"ft": by_seed}), "kernel", columns)


def trained_table(setting: Profile, runs: Mapping[str, Sequence[Run]], *, n: int = 24) -> Table:
    """LoRA's kernel after training beside the one at initialisation, first seed.

    Args:
        setting: The profile.
        runs: Runs of LoRA and LP-LoRA by method.
        n: Training examples of the kernel.

    Returns:
        One row per method: ‖F‖ at initialisation and after training, the share of A in the trace at both, and their
        centred alignment.
    """

    def rows(run: Run) -> Iterator[tuple[str, str, str, float]]:
        method, seed = run.spec.method, run.spec.seed
        few, _ = kernels.examples(setting, seed, n)
        folder = cache_path(f"{setting.task}-{method}-trained-s{seed}-{run.folder.name[-10:]}-{n}")
        initial, trained = partial(kernels.initial_model, setting, method, seed), partial(load_model, run)
        F = {}
        for when, model in (("initial", initial), ("trained", trained)):
            found = kernels.stored_kernel(folder / when, model, few.inputs, groups=_factor)
            F[when] = found.F
            yield method, "", f"‖F‖, {when}", statistics.frobenius(found.F)
            yield method, "", f"share of A, {when}", kernels.trace_shares(found).get("A", 0.0)
        yield method, "", "alignment, centred", statistics.alignment(F["initial"], F["trained"], centered=True)

    forms = {"‖F‖, initial": ".3g", "‖F‖, trained": ".3g", "share of A, initial": ".1%", "share of A, trained": ".1%"}
    columns = {metric: column(metric, each(form)) for metric, form in (forms | {"alignment, centred": ".3f"}).items()}
    frame = pd.concat([per_run(group[:1], [method], rows) for method, group in runs.items()])
    return table(frame.rename(columns={"row": "method"}), "method", columns)


def _factor(name: str) -> str:
    return "A" if "lora_A" in name else "B"


def _statistics(at: Initialisation, found: Mapping[str, Initialisation]) -> Iterator[tuple[str, str, float]]:
    P, F = at.train.P, at.train.F
    yield "", "‖P‖", statistics.frobenius(P)
    yield "", "‖F‖", statistics.frobenius(F)
    yield "", "‖P+F‖", statistics.frobenius(P + F)
    yield "", "‖F‖/‖P+F‖", statistics.ft_ratio(P, F)
    yield "", "FT ratio", statistics.residual_ft_ratio(P, F, at.residuals)
    yield "", "effective rank of P", statistics.effective_rank(P)
    yield "", "effective rank of F", statistics.effective_rank(F)
    counts = at.labels.bincount()
    for name, part in (("P", P), ("F", F), ("P+F", P + F)):
        yield "", f"rank of {name}", statistics.numerical_rank(part)
        if name != "P+F" and counts.max() > 1 and len(counts.nonzero()) > 1:
            yield "", f"classes in {name}", statistics.class_contrast(part, at.labels)
    if "ft" in found:
        yield "", "alignment with F of FT", statistics.alignment(F, found["ft"].train.F)
    if full := found.get({"lora": "ft", "lp_lora": "lp_ft"}.get(at.method, "")):
        ours, theirs = (s / s.sum() for s in (statistics.spectrum(F), statistics.spectrum(full.train.F)))
        yield "", "distance of spectra", 0.5 * (ours - theirs).abs().sum().item()


def _fits(at: Initialisation, kinds: Sequence[str]) -> Iterator[tuple[str, str, float]]:
    yield "test", "majority, kernel", at.test_labels.bincount().max().item() / len(at.test_labels)
    for kind in kinds:
        for part, name in PARTS.items():
            fit = at.regression(part, kind)
            yield "train", f"{kind}, {name}", fit.accuracy(at.labels, "train")
            yield "test", f"{kind}, {name}", fit.accuracy(at.test_labels, "test")
