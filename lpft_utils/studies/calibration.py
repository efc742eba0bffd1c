"""The calibration chapter: runs before and after temperature scaling, and what can be done while training.

Every recalibration is fitted on a run's own validation split and judged on another one. `results.calibration_tables`
has the tables, `figures.calibration` the figures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lpft_utils.common.errors import ParameterError
from lpft_utils.common.names import split_label
from lpft_utils.common.validation import Array, Labels
from lpft_utils.data.snippets import soft_labels
from lpft_utils.metrics import calibration, recalibration
from lpft_utils.metrics.calibration import Reliability, calibration_metrics, cross_entropy
from lpft_utils.metrics.recalibration import Temperature
from lpft_utils.metrics.sampling import ece_under_calibration
from lpft_utils.runs.run import load_data, run
from lpft_utils.runs.store import Run, converged
from lpft_utils.training.spec import RunSpec

SMOOTHING = 0.1  # of labels, while training


@dataclass(frozen=True, eq=False)
class Scaled:
    """Predictions on one split, before and after temperature scaling.

    Attributes:
        logits: f(x), shape (N, C).
        labels: Shape (N,).
        fit: The temperature, fitted on validation.
    """

    logits: Array
    labels: Labels
    fit: Temperature

    @cached_property
    def before(self) -> Array:
        """Probabilities at T = 1, shape (N, C)."""
        return calibration.softmax(self.logits)

    @cached_property
    def after(self) -> Array:
        """Probabilities at the fitted T, shape (N, C)."""
        return self.fit.apply(self.logits)

    @cached_property
    def metrics(self) -> tuple[dict[str, float], dict[str, float]]:
        """`calibration_metrics` before and after."""
        return calibration_metrics(self.before, self.labels), calibration_metrics(self.after, self.labels)


def temperature_scaled(stored: Run, split: str = "test") -> Scaled:
    """A run's predictions on a split, and the temperature fitted on its validation split.

    Args:
        stored: A run.
        split: Name of the split.

    Returns:
        The predictions before and after.

    Raises:
        ParameterError: If the run diverged, or has no such split or no validation split.
    """
    return Scaled(*_predicted(stored, split), recalibration.fit_temperature(*_predicted(stored, "validation")))


def evaluation_splits(stored: Run) -> list[str]:
    """The test set and the out-of-distribution sets of a run, in the order in which they are stored."""
    return [name for name in stored.predictions if name == "test" or name.startswith("ood_")]


def diagrams(runs: Mapping[str, Sequence[Run]], split: str = "test") -> dict[str, tuple[Reliability, Reliability]]:
    """Reliability before and after temperature scaling, the examples of all seeds pooled.

    Every seed has its own model and its own T. The same N texts come once per seed, so the counts add up to N × seeds.

    Args:
        runs: Runs by method, one per seed; those that diverged are left out.
        split: Name of the split.

    Returns:
        The diagrams before and after, by method; methods of which every run diverged are left out.
    """
    pooled = {}
    for method, group in _converged(runs).items():
        found = [temperature_scaled(stored, split) for stored in group]
        labels = np.concatenate([s.labels for s in found])
        before, after = (np.concatenate([getattr(s, when) for s in found]) for when in ("before", "after"))
        pooled[method] = calibration.reliability(before, labels), calibration.reliability(after, labels)
    return pooled


def errors_by_split(
    runs: Mapping[str, Sequence[Run]], n_draws: int = 200
) -> dict[str, dict[str, tuple[list[float], list[float], float]]]:
    """ECE before and after temperature scaling, beside the ECE of chance, on every test set.

    Args:
        runs: Runs by method, one per seed; those that diverged are left out.
        n_draws: Draws of the calibrated model.

    Returns:
        By split label and method: one value per seed before, one after, and the mean over seeds of what a calibrated
        model with the confidences after scaling would score; methods of which every run diverged are left out.
    """
    errors: dict[str, dict[str, tuple[list[float], list[float], float]]] = {}
    for method, group in _converged(runs).items():
        for split in evaluation_splits(group[0]):
            found = [temperature_scaled(stored, split) for stored in group]
            before, after = ([s.metrics[i]["ECE"] for s in found] for i in (0, 1))
            chance = float(np.mean([ece_under_calibration(s.after, n_draws) for s in found]))
            errors.setdefault(split_label(split), {})[method] = (before, after, chance)
    return errors


# From logits and labels of the validation split, and b, to a function from logits (N, C) to probabilities (N, C).
CALIBRATORS: dict[str, Callable[[Array, Labels, Any], Callable[[Any], Array]]] = {
    "none": lambda f, y, b: calibration.softmax,
    "temperature": lambda f, y, b: recalibration.fit_temperature(f, y).apply,
    "scale of V alone": lambda f, y, b: recalibration.fit_head_scale(f, y, b).apply,
    "vector scaling": lambda f, y, b: recalibration.fit_vector_scaling(f, y).apply,
    "isotonic": lambda f, y, b: recalibration.fit_isotonic(f, y).apply,
}


def against_people(stored: Run, split: str = "test") -> dict[str, float]:
    """How sure a model is against how far people agree with it, beside against the one label made of their ratings.

    A person agrees with a prediction by rating the text on its side; a rating of 0 is half an agreement. Both standard
    errors are those of a mean over the split's texts.

    Args:
        stored: A run on the task `snippets` that did not diverge.
        split: Name of the split.

    Returns:
        "confidence", "accuracy", "agreement" (expected, of one person), "ECE" and "ECE, people" (of confidence against
        accuracy and against agreement, in the same bins), "SE" (of accuracy) and "SE, people" (of agreement).

    Raises:
        TaskError: If the ratings of the run's texts are not known.
        ParameterError: If the run diverged, or has no such split.
    """
    logits, labels = _predicted(stored, split)
    shares = soft_labels(load_data(stored.spec).split(split))
    confidence, correct = calibration.top_label(p := calibration.softmax(logits), labels)
    agreement = shares[np.arange(len(p)), p.argmax(axis=1)]
    found = {"confidence": float(confidence.mean())}
    for target, mean, suffix in ((correct, "accuracy", ""), (agreement, "agreement", ", people")):
        found[mean] = float(target.mean())
        found[f"ECE{suffix}"] = calibration.binned_error(confidence, target)
        found[f"SE{suffix}"] = float(target.std(ddof=1) / math.sqrt(len(p)))
    return found


def fit_calibrators(stored: Run) -> dict[str, Callable[[Any], Array]]:
    """Recalibrations fitted on a run's validation split.

    Args:
        stored: A run.

    Returns:
        By name, a function from logits (N, C) to probabilities (N, C).
    """
    f, y = _predicted(stored, "validation")
    b = stored.weights.get("head.bias", np.zeros(f.shape[1]))
    return {name: fit(f, y, b) for name, fit in CALIBRATORS.items()}


def scaling_curves(
    stored: Run, scales: Sequence[float], splits: Sequence[str] = ("train", "test")
) -> dict[str, dict[str, list[float]]]:
    """Metrics of the logits s f, which are those of the head s V, s b.

    Args:
        stored: A run.
        scales: Values of s > 0.
        splits: Names of splits.

    Returns:
        By split and metric, one value per scale.
    """
    curves: dict[str, dict[str, list[float]]] = {}
    for split in splits:
        f, y = _predicted(stored, split)
        found = [calibration_metrics(calibration.softmax(s * f), y) for s in scales]
        curves[split] = {key: [m[key] for m in found] for key in found[0]}
        curves[split]["NLL"] = [cross_entropy(s * f.astype(np.float64), y) for s in scales]
    return curves


def norms_and_temperatures(runs: Sequence[Run]) -> tuple[list[float], list[float]]:
    """‖V‖ and the fitted T of every run that has both: not where it diverged, V = 0, or no T is best.

    Args:
        runs: Runs.

    Returns:
        The norms and the temperatures.
    """
    pairs = [(run.metrics["head_norm"], temperature_scaled(run, "validation").fit) for run in converged(runs)]
    kept = [(norm, fit.T) for norm, fit in pairs if norm > 1e-6 and not fit.limit]
    return [norm for norm, _ in kept], [T for _, T in kept]


def decay_for(spec: RunSpec, n_train: int, factor: float = 0.1) -> float:
    """The weight decay λ that shrinks V to about `factor` of its length over a whole fine-tuning, gradients aside.

    AdamW multiplies V by 1 − η_t λ in step t, and η_t falls linearly from η to 0 in T steps, so that
    log factor ≈ −λ Σ η_t = −λ η (T + 1) / 2.

    Args:
        spec: The run.
        n_train: Training examples.
        factor: In (0, 1).

    Returns:
        λ, to two significant digits.
    """
    assert spec.learning_rate is not None  # of a method that tunes
    steps = math.ceil(math.ceil(n_train / spec.batch_size) * spec.epochs)
    return float(f"{-math.log(factor) / (spec.learning_rate * (steps + 1) / 2):.2g}")


def alternatives(sweep: Mapping[float, Sequence[Run]], *, store: Path | None = None) -> dict[str, list[Run]]:
    """What can be done while training: LP-FT from the longest head of the sweep, changed in one way each.

    One seed, since each way is a training of its own. The sweep itself is a third way: a shorter initial head.

    Args:
        sweep: Runs by head norm, one per seed (`run.head_norm_sweep`).
        store: The run store; default: `paths.run_store()`.

    Returns:
        The run as it is, with label smoothing, and with a weight decay that would take V to a tenth of its length, by
        name; each a list of one.
    """
    longest = sweep[max(sweep)][0]
    decay = decay_for(longest.spec, longest.metrics["task"]["sizes"]["train"])
    changes = {
        f"label smoothing {SMOOTHING:g}": {"label_smoothing": SMOOTHING},
        f"weight decay {decay:g} on V": {"head_weight_decay": decay},
    }
    changed = {name: [run(longest.spec.replace(**change), store=store)] for name, change in changes.items()}
    return {"as it is": [longest]} | changed


def _predicted(stored: Run, split: str) -> tuple[Array, Labels]:
    """Logits and labels of a split of a run that did not diverge."""
    if stored.diverged:
        raise ParameterError(f"expected a run that did not diverge, got {stored!r}; leave it out (`store.converged`)")
    if split not in stored.predictions:
        raise ParameterError(f"expected predictions on {split!r}, the run has {', '.join(stored.predictions)}")
    return stored.predictions[split]


def _converged(runs: Mapping[str, Sequence[Run]]) -> dict[str, list[Run]]:
    return {method: kept for method, group in runs.items() if (kept := converged(group))}
