"""Sweeps: the same run at several settings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from lpft_utils.common.errors import RunError
from lpft_utils.runs.paper_settings import FACTORS
from lpft_utils.runs.run import run_seeds
from lpft_utils.runs.store import Run
from lpft_utils.training.methods import METHODS
from lpft_utils.training.spec import RunSpec


def head_norm_sweep(
    spec: RunSpec, norms: Sequence[float], seeds: Sequence[int], *, store: Path | None = None, progress: bool = False
) -> dict[float, list[Run]]:
    """Fine-tuning from LP's head scaled to several norms: its direction stays, ‖V0‖ is swept.

    Args:
        spec: What to run, of method "lp_ft" or "lp_lora"; its own seed and head norm are ignored.
        norms: Values of ‖V0‖_F, all positive and different.
        seeds: Seeds.
        store: The run store; default: `paths.run_store()`.
        progress: Whether to show progress bars.

    Returns:
        Runs by norm, in the order of `norms`; each list in the order of `seeds`.

    Raises:
        RunError: If the method has no head of LP to scale, a norm is not positive or there twice, or there is none.
    """
    specs = _specs(spec, "head_norm", norms)  # every norm is checked before any run
    bar = tqdm(specs.items(), desc="head norm", disable=not progress, leave=False)
    return {norm: run_seeds(scaled, seeds, store=store, progress=progress) for norm, scaled in bar}


def head_factor_sweep(
    specs: Sequence[RunSpec], seeds: Sequence[int], factors: Sequence[float] = FACTORS, *, store: Path | None = None,
    progress: bool = False,
) -> dict[float, list[Run]]:  # fmt: skip
    """Fine-tuning from scaled heads, the random one of FT and LP's: both curves of the paper's Figures 3, 10 and 11.

    Args:
        specs: One spec per curve, such as those of "ft" and "lp_ft"; their own seed and factor are ignored.
        seeds: Seeds.
        factors: Factors on the head, all positive and different; default: the paper's.
        store: The run store; default: `paths.run_store()`.
        progress: Whether to show progress bars.

    Returns:
        Runs by factor, in the order of `factors`, of all curves: ready for `claims.evaluate`.

    Raises:
        RunError: If a method tunes no head, a factor is not positive or there twice, or there is none.
    """
    curves = [_specs(spec, "head_factor", factors) for spec in specs]
    bar = tqdm(factors, desc="head factor", disable=not progress, leave=False)
    return {
        float(f): [run for curve in curves for run in run_seeds(curve[f], seeds, store=store, progress=progress)]
        for f in bar
    }


def _specs(spec: RunSpec, field: str, values: Sequence[float]) -> dict[float, RunSpec]:
    scalable = [name for name, method in METHODS.items() if field in method.fields]
    if spec.method not in scalable:
        raise RunError(f"{field}_sweep: expected a spec of method {' or '.join(scalable)}, got {spec.method!r}.")
    specs = {float(value): spec.replace(**{field: float(value)}) for value in values}
    if not specs or len(specs) < len(values):
        raise RunError(f"{field}_sweep: expected one or more different {field[5:]}s, got {list(values)}.")
    return specs
