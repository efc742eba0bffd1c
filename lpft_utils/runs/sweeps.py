"""Sweeps: the same run at several settings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from lpft_utils.common.errors import RunError
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
    bar = tqdm(specs.items(), desc="head norm", disable=not progress, leave=False)
    return {norm: run_seeds(scaled, seeds, store=store, progress=progress) for norm, scaled in bar}
