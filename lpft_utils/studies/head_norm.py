"""The sweep over head norms: what the kernel predicts, and what is shown of the runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import torch

from lpft_utils.common.errors import RunError
from lpft_utils.common.names import split_label
from lpft_utils.common.table import Table
from lpft_utils.kernel_methods.function_space import gradient_flow
from lpft_utils.kernel_methods.weight_space import predict_features
from lpft_utils.ntk import kernel
from lpft_utils.runs.cache import cached
from lpft_utils.runs.profiles import Profile
from lpft_utils.runs.store import Run, converged
from lpft_utils.studies.calibration import evaluation_splits
from lpft_utils.studies.initialisation import cache_key, examples, initial_model

TARGET = 0.3  # training loss at which the heads are compared, as a share of log C


def prediction_table(setting: Profile, seed: int, n: int = 16, *, store: Path | None = None) -> Table:
    """Linearised training from LP's head at each norm of the profile, until the training loss is `TARGET` · log C.

    Args:
        setting: The profile.
        seed: The run's seed.
        n: Training examples, and as many other examples.
        store: The run store, in which the result is kept; default: `paths.run_store()`.

    Returns:
        Indexed by ‖V0‖: the loss at initialisation, the time at which the target is met, and the mean ‖φ_t − φ_0‖ of
        the other examples at that time.
    """
    key = cache_key(setting, "lp_ft", seed, "predicted", list(setting.norms), n, TARGET)
    found = cached(f"{setting.task}-lp_ft-norms-s{seed}-{key}", lambda: _predict(setting, seed, n, store), store)
    rows = [
        {
            "‖V0‖": f"{row['norm']:g}",
            "loss at initialisation": f"{row['loss']:.3f}",
            "time": f"{row['time']:.2g}" if row["met"] else f"> {row['time']:.2g}",
            "predicted ‖φ_t − φ_0‖": f"{row['moved']:.3f}" if row["met"] else "target not met",
        }
        for row in found
    ]
    return Table(pd.DataFrame(rows).set_index("‖V0‖"))


def _predict(setting: Profile, seed: int, n: int, store: Path | None) -> list[dict[str, float]]:
    """Numbers of each norm; where the target is not met, the longest time looked at and no movement."""
    few, other = examples(setting, seed, n)
    model = initial_model(setting, "lp_ft", seed, store=store)
    probed = model.head.weight.norm().item()
    at_probe = kernel(model, few.inputs)
    target = TARGET * math.log(at_probe.n_classes)
    rows = []
    for norm in setting.norms:
        model.scale_head(norm)
        K = at_probe.scaled(norm / probed if probed else 1.0).K.double()
        with torch.no_grad():
            f_0 = model(**few.inputs).logits.double()
        slowest = 1e6 * n / torch.linalg.eigvalsh(K.flatten(2).flatten(0, 1))[-1].item()
        times = torch.cat([torch.zeros(1), torch.logspace(-6, 0, 300)]).double() * slowest
        flow = gradient_flow(K, f_0, few.labels, times)
        met = (flow.loss <= target).nonzero()
        row = {"norm": norm, "loss": flow.loss[0].item(), "met": bool(len(met)), "time": slowest, "moved": 0.0}
        if len(met):
            index = int(met[0])
            assert flow.Q is not None
            moved = predict_features(model, few.inputs, flow.Q[index : index + 1].float(), other.inputs)
            row |= {"time": flow.times[index].item(), "moved": moved.norm(dim=2).mean().item()}
        rows.append(row)
    return rows


def sweep_values(sweep: Mapping[float, Sequence[Run]]) -> dict[str, list[list[float]]]:
    """What the sweep is about, one value per seed for each norm.

    Args:
        sweep: Runs by norm, one per seed.

    Returns:
        By axis label: Diff(F) and CS(F) on the test set, and the accuracy on every test set. Runs that diverged are
        left out; the labels count them.

    Raises:
        RunError: If every run at a norm diverged.
    """
    kept = {norm: converged(group) for norm, group in sweep.items()}
    if lost := [norm for norm, group in kept.items() if not group]:
        raise RunError(f"‖V0‖ = {lost[0]:g}: every run diverged. Leave this norm out, or take a smaller learning rate.")
    n_lost = sum(map(len, sweep.values())) - sum(map(len, kept.values()))
    counted = f" ({n_lost} diverged)" if n_lost else ""
    found = {
        f"{key}(F), test{counted}": [[run.metrics["change"]["test"][key] for run in group] for group in kept.values()]
        for key in ("Diff", "CS")
    }
    for split in evaluation_splits(next(iter(kept.values()))[0]):
        name = f"accuracy, {split_label(split)}{counted}"
        found[name] = [[run.accuracy(split) for run in group] for group in kept.values()]
    return found
