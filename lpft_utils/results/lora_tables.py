"""The tables of the LoRA chapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from lpft_utils.common.table import Table
from lpft_utils.kernel_methods.statistics import alignment, frobenius
from lpft_utils.metrics.intervals import format_interval
from lpft_utils.ntk.engine import kernel
from lpft_utils.ntk.result import load_kernel
from lpft_utils.runs.cache import cache_path, lock
from lpft_utils.runs.execute import load_model
from lpft_utils.runs.profiles import Profile
from lpft_utils.runs.store import Run
from lpft_utils.studies.calibration import temperature_scaled
from lpft_utils.studies.initialisation import examples, initial_model
from lpft_utils.studies.lora import _share
from lpft_utils.training.methods import METHODS


def alignment_table(by_seed: Sequence[pd.DataFrame]) -> Table:
    """Alignments as a table.

    Args:
        by_seed: Results of `alignment_to_ft`, one a seed.

    Returns:
        Indexed by kernel: trained parameters of the backbone, and alignments "mean ± half width".
    """
    titles = {
        "all": "with F of FT",
        "all, centred": "the same, centred",
        "adapted": "with F of the adapted weights",
        "adapted, centred": "the same, centred ",  # column names must differ
    }
    rows = {}
    for name in by_seed[0].index:
        count = int(by_seed[0].loc[name, "parameters"])
        rows[name] = {"parameters": f"{count:,}" if count else ""} | {
            title: format_interval([float(found.loc[name, key]) for found in by_seed], 3)
            for key, title in titles.items()
        }
    return Table(pd.DataFrame.from_dict(rows, orient="index").rename_axis("kernel"))


def trained_table(setting: Profile, runs: Mapping[str, Sequence[Run]], *, n: int = 24) -> Table:
    """LoRA's kernel at the end of training beside the one at its start, first seed.

    Args:
        setting: The profile.
        runs: Runs of LoRA and LP-LoRA by method.
        n: Training examples of the kernel.

    Returns:
        One row a method: ‖F‖ at start and end, the share of A in the trace at both, and their centred alignment.
    """
    rows = {}
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
        rows[METHODS[method].label] = {
            "‖F‖, start": f"{frobenius(found['start'].F):.3g}",
            "‖F‖, end": f"{frobenius(found['end'].F):.3g}",
            "share of A, start": f"{_share(found['start'], 'A'):.1%}",
            "share of A, end": f"{_share(found['end'], 'A'):.1%}",
            "alignment, centred": f"{alignment(found['start'].F, found['end'].F, centered=True):.3f}",
        }
    return Table(pd.DataFrame.from_dict(rows, orient="index").rename_axis("method"))


def cost_table(runs: Mapping[str, Sequence[Run]]) -> Table:
    """What each method costs.

    Args:
        runs: Runs by method, one a seed; with "ft", whose trained parameters are all there are.

    Returns:
        One row a method: trained parameters and their share; MB of their gradients and Adam's two moments (float32);
        MB of what a run stores of the weights; seconds of training; peak memory where a GPU measured it.
    """
    everything = runs["ft"][0].metrics["trainable_parameters"]
    rows = {}
    for method, group in runs.items():
        count = group[0].metrics["trainable_parameters"]
        seconds = [r.metrics["train_seconds"] for r in group if "train_seconds" in r.metrics]
        peak = [r.metrics["peak_memory"] for r in group if r.metrics.get("peak_memory")]
        rows[METHODS[method].label] = {
            "parameters": f"{count:,}" if METHODS[method].head != "lp" else f"{count:,} (after LP)",
            "share": f"{count / everything:.3%}",
            "gradients and Adam (MB)": f"{3 * 4 * count / 1e6:.3g}" if seconds else "none",
            "stored weights (MB)": f"{(group[0].folder / 'model.safetensors').stat().st_size / 1e6:.3g}",
            "seconds": format_interval(seconds, 0) if seconds else "none",
            "peak memory (MB)": f"{max(peak) / 1e6:.0f}" if peak else "not measured on a CPU",
        }
    return Table(pd.DataFrame.from_dict(rows, orient="index").rename_axis("method"))


def results_table(runs: Mapping[str, Sequence[Run]], split: str = "test") -> Table:
    """Accuracy, feature change and calibration on one split.

    Args:
        runs: Runs by method, one a seed.
        split: Name of the split.

    Returns:
        One row a method, each cell "mean ± half width"; ECE without and with temperature scaling (TS).
    """
    rows = {}
    for method, group in runs.items():
        measured = [temperature_scaled(stored, split).metrics for stored in group]
        change = [stored.metrics["change"][split] for stored in group]
        rows[METHODS[method].label] = {
            "accuracy (%)": format_interval([stored.accuracy(split) for stored in group], 1, 100),
            "CS(F)": format_interval([c["CS"] for c in change], 3),
            "Diff(F)": format_interval([c["Diff"] for c in change], 2),
            "FDR(F)": format_interval([c["FDR"] for c in change], 2),
            "‖V‖": ", ".join(f"{stored.metrics['head_norm']:.3g}" for stored in group),
            "ECE": format_interval([before["ECE"] for before, _ in measured], 3),
            "ECE, TS": format_interval([after["ECE"] for _, after in measured], 3),
        }
    return Table(pd.DataFrame.from_dict(rows, orient="index").rename_axis("method"))
