"""The tables of the LoRA chapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import pandas as pd

from lpft_utils.common.table import Table
from lpft_utils.kernel_methods.statistics import alignment, frobenius
from lpft_utils.results.frame import marks, results
from lpft_utils.results.tables import column, each, mean, table
from lpft_utils.runs.cache import cache_path
from lpft_utils.runs.execute import load_model
from lpft_utils.runs.profiles import Profile
from lpft_utils.runs.store import Run
from lpft_utils.studies.initialisation import examples, initial_model, stored_kernel, trace_shares
from lpft_utils.training.methods import METHODS


def alignment_results(close: Mapping[str, Sequence[pd.DataFrame]]) -> pd.DataFrame:
    """Alignments as a frame of results.

    Args:
        close: Results of `alignment_to_ft`, one per seed, by method ("ft", "lp_ft").

    Returns:
        Columns "kernel", "metric", "value", "method", "seed" (the place in the sequence), "split" (always "").
    """
    return pd.concat(
        [
            found.reset_index(names="kernel")
            .melt("kernel", var_name="metric")
            .assign(method=method, seed=seed, split="")
            for method, by_seed in close.items()
            for seed, found in enumerate(by_seed)
        ],
        ignore_index=True,
    )


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


def trained_table(
    setting: Profile, runs: Mapping[str, Sequence[Run]], *, n: int = 24, store: Path | None = None
) -> Table:
    """LoRA's kernel after training beside the one at initialisation, first seed.

    Args:
        setting: The profile.
        runs: Runs of LoRA and LP-LoRA by method.
        n: Training examples of the kernel.
        store: The run store; default: `paths.run_store()`.

    Returns:
        One row per method: ‖F‖ at initialisation and after training, the share of A in the trace at both, and their
        centred alignment.
    """
    rows: list[tuple[str, str, str, float]] = []
    for method, (stored, *_) in runs.items():
        rows += [(method, *mark) for mark in marks(stored)]
        if stored.diverged:
            continue
        seed = stored.spec.seed
        few, _ = examples(setting, seed, n)
        folder = cache_path(f"{setting.task}-{method}-trained-s{seed}-{stored.folder.name[-10:]}-{n}", store)
        models = {
            "initial": partial(initial_model, setting, method, seed, store=store),
            "trained": partial(load_model, stored),
        }
        found = {
            when: stored_kernel(folder / when, model, few.inputs, groups=lambda k: "A" if "lora_A" in k else "B")
            for when, model in models.items()
        }
        rows += [(method, "", f"‖F‖, {when}", frobenius(k.F)) for when, k in found.items()]
        rows += [(method, "", f"share of A, {when}", trace_shares(k).get("A", 0.0)) for when, k in found.items()]
        rows += [(method, "", "alignment, centred", alignment(*(k.F for k in found.values()), centered=True))]
    forms = {"‖F‖, initial": ".3g", "‖F‖, trained": ".3g", "share of A, initial": ".1%", "share of A, trained": ".1%"}
    forms |= {"alignment, centred": ".3f"}
    frame = pd.DataFrame(rows, columns=["method", "split", "metric", "value"])
    return table(frame, "method", {metric: column(metric, each(form)) for metric, form in forms.items()})


def cost_table(runs: Mapping[str, Sequence[Run]]) -> Table:
    """What each method costs.

    Args:
        runs: Runs by method, one per seed; with "ft", whose trained parameters are all there are.

    Returns:
        One row per method: trained parameters and their share; MB of their gradients and Adam's two moments (float32);
        MB of what a run stores of the weights; seconds of training; peak memory where a GPU measured it.
    """
    everything = runs["ft"][0].metrics["trainable_parameters"]
    rows = {}
    for method, (stored, *_) in runs.items():
        n, record = stored.metrics["trainable_parameters"], METHODS[method]
        tuned = "epochs" in record.fields
        rows[record.label] = {
            "parameters": f"{n:,}" + (" (after LP)" if tuned and record.head == "lp" else ""),
            "share": f"{n / everything:.3%}",
            "gradients and Adam (MB)": f"{3 * 4 * n / 1e6:.3g}" if tuned else "none",
            "stored weights (MB)": f"{(stored.folder / 'model.safetensors').stat().st_size / 1e6:.3g}",
        }
    measured = table(
        results(runs),
        "method",
        {
            "seconds": column("train_seconds", mean(0)),
            "peak memory (MB)": column("peak_memory", lambda values: f"{max(values) / 1e6:.0f}"),
        },
    )
    measured["seconds"] = measured["seconds"].replace("", "none")
    measured["peak memory (MB)"] = measured["peak memory (MB)"].replace("", "not measured on a CPU")
    return Table(pd.DataFrame.from_dict(rows, orient="index").join(measured).rename_axis("method"))


def results_table(runs: Mapping[str, Sequence[Run]], split: str = "test") -> Table:
    """Accuracy, feature change and calibration on one split.

    Args:
        runs: Runs by method, one per seed.
        split: Name of the split.

    Returns:
        One row per method, each cell "mean ± half width", ‖V‖ of every seed; ECE without and with temperature scaling
        (TS).
    """
    titles = {"accuracy (%)": "accuracy", "CS(F)": "CS", "Diff(F)": "Diff", "FDR(F)": "FDR"}
    columns = {title: column(metric, split=split) for title, metric in titles.items()}
    columns |= {"‖V‖": column("head_norm")} | {metric: column(metric, split=split) for metric in ("ECE", "ECE, TS")}
    return table(results(runs), "method", columns)
