"""Sweeps: the same run at several settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    scalable = [name for name, method in METHODS.items() if "head_norm" in method.fields]
    if spec.method not in scalable:
        raise RunError(f"head_norm_sweep: expected a spec of method {' or '.join(scalable)}, got {spec.method!r}.")
    specs = {float(norm): spec.replace(head_norm=float(norm)) for norm in norms}  # every norm is checked before any run
    if not specs or len(specs) < len(norms):
        raise RunError(f"head_norm_sweep: expected one or more different norms, got {list(norms)}.")
    return _sweep(specs, seeds, store, progress)


def head_factor_sweep(
    specs: Sequence[RunSpec],
    seeds: Sequence[int],
    factors: Sequence[float] = FACTORS,
    *,
    store: Path | None = None,
    progress: bool = False,
) -> dict[float, list[Run]]:
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
    if untuned := [spec.method for spec in specs if "head_factor" not in METHODS[spec.method].fields]:
        raise RunError(f"head_factor_sweep: expected methods that tune from a head, got {untuned[0]!r}.")
    if not specs or not factors or len({float(factor) for factor in factors}) < len(factors):
        raise RunError(f"head_factor_sweep: expected specs and different factors, got {list(factors)}.")
    curves = [{float(f): spec.replace(head_factor=float(f)) for f in factors} for spec in specs]
    swept = [_sweep(curve, seeds, store, progress) for curve in curves]
    return {factor: [run for runs in swept for run in runs[factor]] for factor in swept[0]}


def _sweep(
    specs: Mapping[float, RunSpec], seeds: Sequence[int], store: Path | None, progress: bool
) -> dict[float, list[Run]]:
    bar = tqdm(specs.items(), desc="head", disable=not progress, leave=False)
    return {value: run_seeds(spec, seeds, store=store, progress=progress) for value, spec in bar}
