"""The tables of the LoRA chapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from lpft_utils.common.table import Table
from lpft_utils.kernel_methods.statistics import alignment, frobenius
from lpft_utils.ntk.engine import kernel
from lpft_utils.ntk.result import load_kernel
from lpft_utils.results.frame import results, select
from lpft_utils.results.tables import column, each, mean, table
from lpft_utils.runs.cache import cache_path, lock
from lpft_utils.runs.execute import load_model
from lpft_utils.runs.profiles import Profile
from lpft_utils.runs.store import Run
from lpft_utils.studies.initialisation import examples, initial_model
from lpft_utils.studies.lora import _share
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


def trained_table(setting: Profile, runs: Mapping[str, Sequence[Run]], *, n: int = 24) -> Table:
    """LoRA's kernel at the end of training beside the one at its start, first seed.

    Args:
        setting: The profile.
        runs: Runs of LoRA and LP-LoRA by method.
        n: Training examples of the kernel.

    Returns:
        One row per method: ‖F‖ at start and end, the share of A in the trace at both, and their centred alignment.
    """
    rows = []
    for method, group in runs.items():
        stored = group[0]
        few, _ = examples(setting, stored.spec.seed, n)
        folder = cache_path(f"{setting.task}-{method}-trained-s{stored.spec.seed}-{stored.folder.name[-10:]}-{n}")
        found = {}
        for when in ("start", "end"):
            path = folder / when / "kernel.safetensors"
            with lock(path.parent):
                if not path.exists():
                    model = load_model(stored) if when == "end" else initial_model(setting, method, stored.spec.seed)
                    kernel(model, few.inputs, groups=lambda k: "A" if "lora_A" in k else "B", folder=path.parent)
            found[when] = load_kernel(path)
        rows += [(method, "", f"‖F‖, {when}", frobenius(k.F)) for when, k in found.items()]
        rows += [(method, "", f"share of A, {when}", _share(k, "A")) for when, k in found.items()]
        rows += [(method, "", "alignment, centred", alignment(found["start"].F, found["end"].F, centered=True))]
    frame = pd.DataFrame(rows, columns=["method", "split", "metric", "value"])
    forms = {"‖F‖, start": ".3g", "‖F‖, end": ".3g", "share of A, start": ".1%", "share of A, end": ".1%"}
    forms |= {"alignment, centred": ".3f"}
    return table(frame, "method", {metric: column(metric, each(form)) for metric, form in forms.items()})


def cost_table(runs: Mapping[str, Sequence[Run]]) -> Table:
    """What each method costs.

    Args:
        runs: Runs by method, one per seed; with "ft", whose trained parameters are all there are.

    Returns:
        One row per method: trained parameters and their share; MB of their gradients and Adam's two moments (float32);
        MB of what a run stores of the weights; seconds of training; peak memory where a GPU measured it.
    """
    frame = results(runs)
    everything = select(frame, method="ft", metric="trainable_parameters")["value"].iloc[0]
    counted = {
        "parameters": lambda values: f"{values[0]:,.0f}",
        "share": lambda values: f"{values[0] / everything:.3%}",
        "gradients and Adam (MB)": lambda values: f"{3 * 4 * values[0] / 1e6:.3g}",
    }
    shown = table(
        frame,
        "method",
        {title: column("trainable_parameters", form) for title, form in counted.items()}
        | {"seconds": column("train_seconds", mean(0))}
        | {"peak memory (MB)": column("peak_memory", lambda values: f"{max(values) / 1e6:.0f}")},
    )
    sizes = [(group[0].folder / "model.safetensors").stat().st_size for group in runs.values()]
    shown.insert(3, "stored weights (MB)", [f"{size / 1e6:.3g}" for size in sizes])
    shown.loc[shown["seconds"] == "", ["gradients and Adam (MB)", "seconds"]] = "none"
    shown.loc[shown["peak memory (MB)"] == "", "peak memory (MB)"] = "not measured on a CPU"
    shown.loc[
        [METHODS[m].label for m in runs if METHODS[m].head == "lp" and "epochs" in METHODS[m].fields], "parameters"
    ] += " (after LP)"
    return shown


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
