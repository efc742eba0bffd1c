"""What chance does to a measure of calibration: bootstrap intervals, and the ECE of a perfectly calibrated model.

The ECE is a sum of absolute values, so noise never cancels: a perfectly calibrated model has ECE > 0 on every finite
sample, about √(bins / N) times a constant. On a test set of 56 examples that is most of what a table shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpft_utils.common.errors import ParameterError
from lpft_utils.common.validation import Array, check_integer, is_number
from lpft_utils.metrics.calibration import BINS, ece, equal_mass, equal_width, per_example, top_label
from lpft_utils.metrics.validation import check_bins, check_labels, check_probabilities

MEASURES = ("accuracy", "confidence", "Brier", "NLL", "entropy", "ECE", "MCE", "ECE_mass", "ECE_class")
_CELLS = 4_000_000  # numbers held at once while drawing


@dataclass(frozen=True)
class Bootstrap:
    """A measure with its percentile bootstrap interval over test examples.

    It says how much the measure depends on which examples were drawn, not on the training seed.

    Attributes:
        estimate: The measure on the sample itself.
        low: Lower end.
        high: Upper end.
        level: Coverage that is aimed at.
        n_draws: Resamples.
    """

    estimate: float
    low: float
    high: float
    level: float
    n_draws: int

    def format(self, digits: int = 3, scale: float = 1.0) -> str:
        """As text.

        Args:
            digits: Decimals.
            scale: Factor, for example 100 for percentages.

        Returns:
            For example "0.081 [0.066, 0.101]".
        """
        a, b, c = (f"{scale * value:.{digits}f}" for value in (self.estimate, self.low, self.high))
        return f"{a} [{b}, {c}]"

    def __str__(self) -> str:
        return self.format()


@dataclass(frozen=True)
class DebiasedECE:
    """An ECE beside what chance alone gives.

    Attributes:
        ece: The ECE as measured.
        chance: Mean ECE of a perfectly calibrated model with the same confidences at the same N.
        chance_high: The 95th percentile of that ECE: below it, the model cannot be told from a calibrated one.
        p_value: Share of perfectly calibrated draws with an ECE at least as large, (1 + k) / (1 + draws).
    """

    ece: float
    chance: float
    chance_high: float
    p_value: float

    @property
    def corrected(self) -> float:
        """`ece` − `chance`: 0 on average for a calibrated model, and then below 0 about half of the time.

        Where the model is not calibrated the noise is partly hidden below the true gaps, and this takes off too much:
        it is a cautious value, not an unbiased one.
        """
        return self.ece - self.chance


def bootstrap(
    probabilities: Any,
    labels: Any,
    measure: str = "ECE",
    *,
    n_draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    bins: int = BINS,
) -> Bootstrap:
    """Percentile bootstrap interval: examples are drawn with replacement, N at a time.

    Resampling adds noise to a sample that has some already, so that for the biased ECE and MCE the whole interval lies
    a little high; with few examples it may even lie above the estimate. Equal-mass bins are those of the sample. Where
    the NLL of an example is infinite, so is that of every resample with it, and an end of the interval may be too.

    Args:
        probabilities: Shape (N, C).
        labels: Shape (N,).
        measure: One of `MEASURES`.
        n_draws: Resamples.
        level: Coverage.
        seed: Seed.
        bins: Number of bins.

    Returns:
        Estimate and interval.

    Raises:
        ParameterError: For an unknown measure, a number of draws or a seed that is none, or a level outside (0, 1).
    """
    if measure not in MEASURES:
        raise ParameterError(f"measure must be one of {', '.join(MEASURES)}, got {measure!r}")
    check_bins(bins)
    _check_draws(n_draws, seed)
    if not is_number(level) or not 0 < level < 1:
        raise ParameterError(f"level must be a number between 0 and 1, got {level!r}")
    columns, of_means = _as_means(probabilities, labels, measure, bins)
    N = len(columns)
    infinite = np.isinf(columns)  # kept apart: 0 · ∞ of an example that was not drawn is NaN
    finite = np.where(infinite, 0, columns)
    rng = np.random.default_rng(seed)
    draws = []
    for rows in _blocks(n_draws, N):
        chosen = rng.integers(N, size=(rows, N)) + N * np.arange(rows)[:, None]
        weights = np.bincount(chosen.ravel(), minlength=rows * N).reshape(rows, N)  # how often each was drawn
        means = weights @ finite / N
        if infinite.any():
            means[weights @ infinite > 0] = np.inf
        draws.append(of_means(means))
    found = np.concatenate(draws)
    method = "linear" if np.isfinite(found).all() else "inverted_cdf"  # between a number and ∞ there is nothing
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2], method=method)
    estimate = of_means(columns.mean(axis=0, keepdims=True))[0]
    return Bootstrap(float(estimate), float(low), float(high), level, n_draws)


def ece_under_calibration(probabilities: Any, n_draws: int = 1000, seed: int = 0, bins: int = BINS) -> Array:
    """The ECE that a perfectly calibrated model with these confidences would score at this N (Bröcker & Smith, 2007).

    Perfectly calibrated means that labels are drawn from the predicted probabilities themselves; of such a label the
    ECE sees only whether it is the predicted class, which has the probability max_c p_c.

    Args:
        probabilities: Shape (N, C).
        n_draws: How often all N labels are drawn.
        seed: Seed.
        bins: Number of bins.

    Returns:
        One ECE a draw, shape (n_draws,).
    """
    return np.abs(_perfect_gaps(probabilities, n_draws, seed, bins)[0]).sum(axis=1)


def mce_under_calibration(probabilities: Any, n_draws: int = 1000, seed: int = 0, bins: int = BINS) -> Array:
    """The MCE that a perfectly calibrated model with these confidences would score at this N.

    Args:
        probabilities: Shape (N, C).
        n_draws: How often all N labels are drawn.
        seed: Seed.
        bins: Number of bins.

    Returns:
        One MCE a draw, shape (n_draws,).
    """
    sums, share = _perfect_gaps(probabilities, n_draws, seed, bins)
    return np.abs(sums[:, share > 0] / share[share > 0]).max(axis=1)


def debiased_ece(probabilities: Any, labels: Any, n_draws: int = 1000, seed: int = 0, bins: int = BINS) -> DebiasedECE:
    """The ECE, the part of it that chance explains, and a test of "this model is calibrated".

    Args:
        probabilities: Shape (N, C).
        labels: Shape (N,).
        n_draws: Draws of `ece_under_calibration`.
        seed: Seed.
        bins: Number of bins.

    Returns:
        The measured ECE beside its distribution under perfect calibration.
    """
    measured = ece(probabilities, labels, bins)
    draws = ece_under_calibration(probabilities, n_draws, seed, bins)
    reached = int(np.sum(draws >= measured - 1e-12))
    return DebiasedECE(measured, float(draws.mean()), float(np.quantile(draws, 0.95)), (1 + reached) / (1 + len(draws)))


def _check_draws(n_draws: int, seed: int) -> None:
    check_integer("n_draws", n_draws)
    check_integer("seed", seed, low=0)


def _blocks(n_draws: int, N: int) -> Iterator[int]:
    """Draws to make at once, so that memory stays bounded whatever N is."""
    size = max(1, _CELLS // N)
    for start in range(0, n_draws, size):
        yield min(size, n_draws - start)


def _perfect_gaps(probabilities: Any, n_draws: int, seed: int, bins: int) -> tuple[Array, Array]:
    """Σ_{i in b} (correct_i − confidence_i) / N for each draw, shape (n_draws, B), and n_b / N, shape (B,)."""
    _check_draws(n_draws, seed)
    check_bins(bins)
    confidence = check_probabilities(probabilities).max(axis=1)
    N = len(confidence)
    member = np.eye(bins)[equal_width(confidence, bins)]  # (N, B)
    rng = np.random.default_rng(seed)
    sums = [((rng.random((rows, N)) < confidence) - confidence) @ member for rows in _blocks(n_draws, N)]
    return np.concatenate(sums) / N, member.mean(axis=0)


def _as_means(
    probabilities: Any, labels: Any, measure: str, bins: int
) -> tuple[Array, Callable[[Array], NDArray[np.float64]]]:
    """A measure as a function of column means, which is what makes resampling one matrix product.

    Returns:
        Columns, shape (N, K), and a function from their means under D resamples, shape (D, K), to the measure, (D,).
    """
    if measure in (simple := per_example(probabilities, labels)):
        return simple[measure][:, None], lambda means: means[:, 0]
    if measure == "ECE_class":
        p = check_probabilities(probabilities)
        outcome = np.eye(p.shape[1])[check_labels(labels, p)]
        member = np.eye(bins)[equal_width(p, bins)]  # (N, C, B)
        columns = (member * (outcome - p)[:, :, None]).reshape(len(p), -1)
        return columns, lambda means: np.abs(means).sum(axis=1) / p.shape[1]
    confidence, correct = top_label(probabilities, labels)
    index = equal_mass(confidence, bins) if measure == "ECE_mass" else equal_width(confidence, bins)
    member = np.eye(bins)[index]  # (N, B)
    gaps = member * (correct - confidence)[:, None]
    if measure != "MCE":
        return gaps, lambda means: np.abs(means).sum(axis=1)

    def largest(means: Array) -> Array:
        gap, share = means[:, :bins], means[:, bins:]
        return np.abs(np.divide(gap, share, out=np.zeros_like(gap), where=share > 0)).max(axis=1)

    return np.hstack([gaps, member]), largest
