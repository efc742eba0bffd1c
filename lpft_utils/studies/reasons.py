"""Why features move less after LP: head length × head direction × learning rate, all combinations, from one φ."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from itertools import product
from pathlib import Path

import pandas as pd
import torch
from scipy.stats import gmean
from torch import Tensor, nn

from lpft_utils.common.table import Table
from lpft_utils.models.classifier import Classifier
from lpft_utils.runs.cache import cached
from lpft_utils.runs.profiles import Profile
from lpft_utils.studies.initialisation import Examples, cache_key, examples, initial_model

FACTOR = 10.0  # between the two lengths, and between the two learning rates
DIRECTIONS = {"random": "ft", "LP": "lp_ft"}
FACTORS = ["direction", "‖V‖", "η"]


def factorial(
    setting: Profile, seed: int, *, held: bool = False, steps: int = 10, n: int = 8, store: Path | None = None
) -> pd.DataFrame:
    """Train everything from each combination of two directions, two lengths and two learning rates.

    Full-batch Adam without dropout or weight decay. The lengths are that of FT's random head and `FACTOR` times it (b
    is scaled along), the learning rates FT's and 1 / `FACTOR` of it.

    Args:
        setting: The profile.
        seed: The run's seed.
        held: Train f − f_0 in place of f, so that all heads start from equal probabilities: the residual is held.
        steps: Steps.
        n: Training examples, and as many other examples, whose features are looked at.
        store: The run store, in which the result is kept; default: `paths.run_store()`.

    Returns:
        Eight rows: "direction", "‖V‖", "η", then the mean initial "residual" ‖p − e_y‖, the mean cross-entropy
        "before" and "after" on the training examples, and the mean ‖φ − φ_0‖ of the others, "moved".
    """
    key = cache_key(setting, "lp_ft", seed, "reasons", held, steps, n, FACTOR, setting.spec("ft").learning_rate)

    def compute() -> list[dict[str, float | str]]:
        few, other = examples(setting, seed, n)
        models = {d: initial_model(setting, method, seed, store=store) for d, method in DIRECTIONS.items()}
        shortest, rate = models["random"].head.weight.norm().item(), setting.spec("ft").learning_rate
        assert rate is not None
        rows = []
        for (direction, model), length, eta in product(
            models.items(), (shortest, FACTOR * shortest), (rate, rate / FACTOR)
        ):
            scaled = copy.deepcopy(model).eval()
            scaled.scale_head(length)
            rows.append(dict(zip(FACTORS, (direction, length, eta), strict=True)))
            rows[-1] |= _train(scaled, few, other, eta, steps, held)
        return rows

    return pd.DataFrame(cached(f"{setting.task}-reasons-s{seed}-{key}", compute, store))


def factorial_table(cells: pd.DataFrame) -> Table:
    """The cells of `factorial` as a page shows them.

    Args:
        cells: Its result.

    Returns:
        One row per combination.
    """
    names = {"residual": "initial residual", "before": "loss before", "after": "loss after"}
    digits = pd.Series({"‖V‖": 2, "residual": 3, "before": 3, "after": 3, "moved": 3})
    return Table(cells.round(digits).rename(columns={**names, "moved": "mean ‖φ − φ_0‖"}).set_index("direction"))


def effects_table(cells: Mapping[str, pd.DataFrame]) -> Table:
    """By what factor each change alone multiplies the movement of the features.

    Args:
        cells: Results of `factorial` by title.

    Returns:
        One row per change, one column per title: the geometric mean over the four pairs of cells that differ in it
        alone, and the smallest and the largest of the four.
    """
    changes = {
        f"head {FACTOR:g} times as long": ("‖V‖", max, min),
        "LP's direction, not the random one": ("direction", lambda _: "LP", lambda _: "random"),
        f"learning rate / {FACTOR:g}": ("η", min, max),
    }
    rows: dict[str, dict[str, str]] = {}
    for title, frame in cells.items():
        for change, (factor, after, before) in changes.items():
            moved = frame.pivot(index=[f for f in FACTORS if f != factor], columns=factor, values="moved")
            ratio = moved[after(frame[factor])] / moved[before(frame[factor])]
            found = f"× {gmean(ratio):.2g} ({ratio.min():.2g} … {ratio.max():.2g})"
            rows.setdefault(change, {})[title] = found
    return Table(pd.DataFrame(rows).T.rename_axis("one change"))


def _train(model: Classifier, few: Examples, other: Examples, eta: float, steps: int, held: bool) -> dict[str, float]:
    """What happened to the residual, the loss and the features of the other examples; the model is trained in place."""

    def logits() -> Tensor:
        return model(**few.inputs).logits

    def features() -> Tensor:
        with torch.no_grad():
            return model.features(**other.inputs)

    with torch.no_grad():
        f_0, phi_0 = logits(), features()
    shift = f_0 if held else torch.zeros_like(f_0)
    residual = (f_0 - shift).softmax(1) - nn.functional.one_hot(few.labels, f_0.shape[1])
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=eta)
    losses = []
    for step in range(steps + 1):
        loss = nn.functional.cross_entropy(logits() - shift, few.labels)
        losses.append(loss.item())
        if step < steps:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return {
        "residual": residual.norm(dim=1).mean().item(),
        "before": losses[0],
        "after": losses[-1],
        "moved": (features() - phi_0).norm(dim=1).mean().item(),
    }
