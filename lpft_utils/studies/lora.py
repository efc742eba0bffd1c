"""What the LoRA chapter computes on its task: concentration over ranks, kernels of other adapters, costs.

Everything that takes more than a few seconds is kept in the run store.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lpft_utils.kernel_methods.statistics import alignment
from lpft_utils.models.adapters import add_ia3
from lpft_utils.models.classifier import Classifier
from lpft_utils.models.heads import initial_head
from lpft_utils.ntk import Kernel
from lpft_utils.runs.cache import cache_path, cached
from lpft_utils.runs.profiles import Profile
from lpft_utils.runs.run import run
from lpft_utils.studies.initialisation import cache_key, examples, initial_model, initialisations, stored_kernel
from lpft_utils.studies.lora_kernel import (
    RANKS,
    adapted_weights,
    concentration,
    ft_kernel,
    layer_factors,
    relative_standard_deviation,
)
from lpft_utils.training.methods import METHODS

ADAPTED_FROM = {"ft": "lora", "lp_ft": "lp_lora"}  # the same head, with an adapter in place of the weights
N_SHUFFLES = 10


@dataclass(frozen=True)
class Concentration:
    """How close LoRA's kernel comes to FT's of the same weights as r grows.

    Attributes:
        table: Result of `lora_kernel.concentration`.
        kappa: Predicted root mean square of the relative error at r = 1; at r it is κ / √r.
        reference: Centred alignment of `reference_kernel` with the same FT kernel.
    """

    table: pd.DataFrame
    kappa: float
    reference: float

    def rms(self) -> dict[int, float]:
        """Root mean square of the relative error over draws, by r."""
        return {r: math.sqrt((e**2).mean()) for r, e in self.by_rank("error").items()}

    def by_rank(self, column: str) -> dict[int, np.ndarray]:
        """Values of a column, one per draw, by r."""
        return {int(r): rows[column].to_numpy() for r, rows in self.table.groupby("r")}  # pyright: ignore


def rank_sweep(
    setting: Profile,
    method: str,
    seed: int,
    *,
    n: int = 24,
    n_draws: int = 16,
    store: Path | None = None,
) -> Concentration:
    """LoRA's kernel against FT's of the same weights at an initialisation, over ranks and Gaussian draws of A.

    Args:
        setting: The profile.
        method: "ft" (random head) or "lp_ft" (LP's head).
        seed: The run's seed.
        n: Training examples of the kernel.
        n_draws: Draws of A at each rank.
        store: The run store; default: `paths.run_store()`.

    Returns:
        The sweep, from the store if it is there.
    """

    def compute() -> dict[str, Any]:
        model = initial_model(setting, method, seed, store=store)
        few, _ = examples(setting, seed, n)
        factors = layer_factors(model, few.inputs, adapted_weights(model))
        table = concentration(factors, n_draws=n_draws, seed=seed)
        with torch.no_grad():
            phi = model.features(**few.inputs)
        bare = reference_kernel(phi @ phi.T, model.head.weight.detach())
        return {
            "kappa": relative_standard_deviation(factors),
            "reference": alignment(bare, ft_kernel(factors), centered=True),
            "rows": table.to_dict("records"),
        }

    key = cache_key(setting, method, seed, "ranks", 2, n, n_draws, list(RANKS), "gaussian")
    found = cached(f"{setting.task}-{method}-ranks-s{seed}-{key}", compute, store)
    return Concentration(pd.DataFrame(found["rows"]), found["kappa"], found["reference"])


def parts(setting: Profile, method: str, seed: int, *, store: Path | None = None) -> dict[str, Kernel]:
    """Kernels of parts of the parameters at an initialisation, and of other adapters with the same head.

    Args:
        setting: The profile.
        method: "ft" (random head) or "lp_ft" (LP's head).
        seed: The run's seed.
        store: The run store; default: `paths.run_store()`.

    Returns:
        Train × train kernels: "FT" (all of the backbone), "FT, adapted weights" (those that LoRA adapts), "LoRA",
        "IA³" and "biases".
    """
    lora = ADAPTED_FROM[method]
    found = initialisations(setting, seed, (method, lora), store=store)
    folder = cache_path(f"{setting.task}-{method}-parts-s{seed}-{cache_key(setting, method, seed, 'parts', 1)}", store)
    train, _ = examples(setting, seed)
    out = {"FT": found[method].train, "LoRA": found[lora].train}
    for name, chosen in {"FT, adapted weights": adapted_weights, "IA³": None, "biases": _biases}.items():

        def model(chosen: Callable[[Classifier], Collection[str]] | None = chosen) -> Classifier:
            model = initial_model(setting, method, seed, store=store)
            if chosen is None:
                return add_ia3(model)
            wanted = chosen(model)
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(name in wanted)
            return model

        out[name] = stored_kernel(folder / re.sub(r"\W+", "_", name), model, train.inputs)
    return out


def reference_kernel(gram: Tensor, V: Tensor) -> Tensor:
    """The F that any features with Θ_φ(x, x') = ⟨φ(x), φ(x')⟩ I would have: it knows φ and the head, and no gradient.

    Args:
        gram: Inner products of the features, shape (N, N).
        V: The head, shape (C, H).

    Returns:
        ⟨φ(x), φ(x')⟩ (V Vᵀ)_cd, shape (N, C, N, C).
    """
    V = V.to(gram.dtype)
    return torch.einsum("nm,cd->ncmd", gram, V @ V.T)


def alignment_to_ft(setting: Profile, method: str, seed: int, *, store: Path | None = None) -> pd.DataFrame:
    """How alike the kernels of adapters are to FT's, with two references that adapters must beat.

    Args:
        setting: The profile.
        method: "ft" (random head) or "lp_ft" (LP's head).
        seed: The run's seed.
        store: The run store; default: `paths.run_store()`.

    Returns:
        Indexed by kernel: "parameters", alignment with F of FT ("all", "all, centred") and with FT's F of the weights
        that LoRA adapts ("adapted", "adapted, centred"). Rows are those of `parts`, "features and head"
        (`reference_kernel`), and "LoRA, texts shuffled": the mean over random orders of LoRA's texts.
    """
    found = parts(setting, method, seed, store=store)
    probed = run(setting.spec("lp", seed=seed), store=store)
    V = probed.V if METHODS[method].head == "lp" else initial_head(*probed.V.shape, seed=seed)
    targets = {"all": found["FT"].F, "adapted": found["FT, adapted weights"].F}

    def likeness(K: Tensor) -> dict[str, float]:
        return {
            f"{name}{', centred' if centred else ''}": alignment(K, target, centered=centred)
            for name, target in targets.items()
            for centred in (False, True)
        }

    rows = {name: {"parameters": float(k.spec["parameters"]), **likeness(k.F)} for name, k in found.items()}
    inner = found["FT"].gram - float(found["FT"].spec["bias"])  # ⟨φ, φ'⟩ without the 1 of the bias
    rows["features and head"] = {"parameters": 0.0, **likeness(reference_kernel(inner, V))}
    generator = torch.Generator().manual_seed(seed)
    F = found["LoRA"].F
    orders = [torch.randperm(len(F), generator=generator) for _ in range(N_SHUFFLES)]
    shuffled = pd.DataFrame([likeness(F[order][:, :, order]) for order in orders]).mean()
    rows["LoRA, texts shuffled"] = {"parameters": 0.0, **shuffled.to_dict()}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("kernel")


def _biases(model: Classifier) -> list[str]:
    """What BitFit trains: every bias of the backbone."""
    return [n for n, _ in model.named_parameters() if n.startswith("backbone.") and n.endswith(".bias")]
