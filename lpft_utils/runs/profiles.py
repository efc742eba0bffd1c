"""Profiles decide all sizes of the book in one place, `profiles.yml`; `paper_settings` has the published settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from lpft_utils.common.errors import ParameterError
from lpft_utils.common.names import nearest
from lpft_utils.runs.paper_settings import paper_settings
from lpft_utils.training.methods import METHODS
from lpft_utils.training.spec import RunSpec


@dataclass(frozen=True)
class Profile:
    """Sizes and settings of one way to run the book.

    Attributes:
        name: "smoke", "laptop" or "gpu".
        task: Task of the chapters.
        backbone: Backbone of the chapters.
        seeds: Seeds over which means and intervals are taken.
        settings: Further fields of `RunSpec` for every method.
        learning_rates: Learning rate by method, where it differs from that of the method's record.
        ood: Tasks attached as out-of-distribution test sets; None means the task's own.
        n_kernel: Training examples, and as many test examples, of a kernel.
        sweep: Fields of `RunSpec` for the sweep over head norms, where they differ from `settings`.
        norms: Head norms ‖V0‖_F of that sweep.
        factors: Factors on the heads of FT and LP-FT, for both curves of the paper's sweep.
        given: Fields of `RunSpec` by method, in place of the profile's and the published ones.
    """

    name: str
    task: str
    backbone: str
    seeds: tuple[int, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    learning_rates: dict[str, float] = field(default_factory=dict)
    ood: tuple[str, ...] | None = None
    n_kernel: int = 250
    sweep: dict[str, Any] = field(default_factory=dict)
    norms: tuple[float, ...] = (0.5, 1.6, 5.0, 16.0, 50.0)
    factors: tuple[float, ...] = ()
    given: dict[str, dict[str, Any]] = field(default_factory=dict)

    def sweep_spec(self) -> RunSpec:
        """The `RunSpec` of LP-FT at the sizes of the sweep over head norms."""
        return self.spec("lp_ft", **self.sweep)

    def spec(self, method: str, **changes: Any) -> RunSpec:
        """The `RunSpec` of a method under this profile.

        For "gpu" the published batch size and learning rate of the task are used where the paper gives them.

        Args:
            method: "lp", "ft", "lp_ft", "lora" or "lp_lora".
            **changes: Fields of `RunSpec` to set otherwise.

        Returns:
            The spec, with the first seed.
        """
        fields = {"task": self.task, "backbone": self.backbone, "seed": self.seeds[0], "ood": self.ood, **self.settings}
        if method in self.learning_rates:
            fields["learning_rate"] = self.learning_rates[method]
        if self.name == "gpu":
            fields |= paper_settings(self.task, method)
        return RunSpec(method=method, **{**fields, **self.given.get(method, {}), **changes})


def _read() -> dict[str, Profile]:
    entries: Any = yaml.safe_load(Path(__file__).with_suffix(".yml").read_text(encoding="utf-8"))
    for about in entries.values():
        about |= {name: tuple(value) for name, value in about.items() if isinstance(value, list)}
    return {name: Profile(name, **about) for name, about in entries.items()}


PROFILES: dict[str, Profile] = _read()


def get_profile(
    name: str,
    *,
    task: str | None = None,
    backbone: str | None = None,
    seeds: Sequence[int] | int | None = None,
    ood: Sequence[str] | None = None,
    n_train: int | None = None,
    learning_rate: float | Mapping[str, float] | None = None,
    epochs: float | None = None,
) -> Profile:
    """A profile by name, with plain overrides: what a chapter's parameters cell holds.

    Args:
        name: "smoke", "laptop" or "gpu".
        task: Another task.
        backbone: Another backbone.
        seeds: Other seeds; one integer means a single seed.
        ood: Tasks to attach as out-of-distribution test sets.
        n_train: Training examples to draw with each seed, where there are more.
        learning_rate: Rate of every method that tunes, or rates by method.
        epochs: Passes over the training examples, of every method that tunes and in the sweep.

    Returns:
        The profile.

    Raises:
        ParameterError: If the name or a method is unknown, or there is no seed or one twice.
    """
    if name not in PROFILES:
        raise ParameterError(f"profile: expected one of {', '.join(PROFILES)}, got {name!r}.")
    profile = PROFILES[name]
    if task is not None:
        profile = replace(profile, task=task, ood=None)
    if backbone is not None:
        profile = replace(profile, backbone=backbone)
    if seeds is not None:
        chosen = (seeds,) if isinstance(seeds, int) else tuple(seeds)
        if not chosen or not all(isinstance(seed, int) for seed in chosen) or len(set(chosen)) < len(chosen):
            raise ParameterError(f"seeds: expected one or more different integers, such as [0, 1, 2], got {seeds!r}.")
        profile = replace(profile, seeds=chosen)
    if ood is not None:
        profile = replace(profile, ood=(ood,) if isinstance(ood, str) else tuple(ood))
    if n_train is not None:
        profile = replace(profile, settings={**profile.settings, "n_train": n_train})
    tuned = [method for method, record in METHODS.items() if record.learning_rate is not None]
    rates = learning_rate if isinstance(learning_rate, Mapping) else dict.fromkeys(tuned, learning_rate)
    for name in rates:
        if name not in tuned:
            raise ParameterError(f"learning_rate: there is no method {name!r} that tunes; {nearest(str(name), tuned)}.")
    given = {m: {"learning_rate": rates.get(m), "epochs": epochs} for m in tuned}
    given = {m: found for m in tuned if (found := {k: v for k, v in given[m].items() if v is not None})}
    sweep = {name: value for name, value in profile.sweep.items() if name != "epochs" or epochs is None}
    return replace(profile, sweep=sweep, given=given)
