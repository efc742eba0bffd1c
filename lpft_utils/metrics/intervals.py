"""Means with intervals over seeds, or seeds and texts; the effect that they could have shown; several tests at once."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

LEVEL = 0.95  # of every interval
POWER = 0.8  # at which an effect counts as detectable
SMALLEST = 1e-6  # what a value of zero counts as on a logarithmic scale


@dataclass(frozen=True)
class Interval:
    """A mean over seeds with its two-sided 95 % Student interval, of n − 1 degrees of freedom.

    Attributes:
        mean: Mean.
        half_width: Half the width of the interval; NaN for fewer than two values.
        n: Number of values.
    """

    mean: float
    half_width: float
    n: int

    @property
    def low(self) -> float:
        """Lower end."""
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        """Upper end."""
        return self.mean + self.half_width

    @property
    def standard_error(self) -> float:
        """Of the mean; NaN for fewer than two values."""
        return self.half_width / _quantile(self.n) if self.n > 1 else math.nan

    @property
    def detectable(self) -> float:
        """The smallest true mean that a two-sided t test at 5 % would tell from 0 with power 0.8, at this spread and n.

        From the non-central t distribution; NaN for fewer than two values. It is about the study, not its result: an
        undecided test says little about effects below it.
        """
        return self.standard_error * _noncentrality(self.n) if self.n > 1 else math.nan

    def p_value(self, distance: float) -> float:
        """Two-sided p-value of Student's test that the mean lies on its threshold.

        Args:
            distance: Of the mean from the threshold, of either sign.

        Returns:
            In [0, 1]; NaN for fewer than two values.
        """
        if not self.standard_error:  # every value is the same
            return float(distance == 0)
        return float(2 * stats.t.sf(abs(distance) / self.standard_error, self.n - 1)) if self.n > 1 else math.nan

    def format(self, digits: int = 2, scale: float = 1.0) -> str:
        """As text: "mean ± half width", or the mean alone when there is one value.

        Args:
            digits: Decimals.
            scale: Factor, for example 100 for percentages.

        Returns:
            For example "86.2 ± 1.3".
        """
        mean = f"{scale * self.mean:.{digits}f}"
        return mean if self.n < 2 else f"{mean} ± {scale * self.half_width:.{digits}f}"

    def __str__(self) -> str:
        return self.format()


def interval(values: Sequence[float]) -> Interval:
    """Mean and 95 % Student interval: mean ± t · s / √n with n − 1 degrees of freedom.

    With three seeds t is 4.3, so the interval is wide: it says what three runs can say.

    Args:
        values: One value per seed.

    Returns:
        The interval.

    Raises:
        ValueError: If there are no values.
    """
    x = np.asarray(values, dtype=float)
    if x.size == 0:
        raise ValueError("Expected at least one value, got none.")
    if x.size == 1:
        return Interval(float(x[0]), float("nan"), 1)
    return Interval(float(x.mean()), float(_quantile(x.size) * x.std(ddof=1) / np.sqrt(x.size)), int(x.size))


def two_way_interval(
    value: Callable[[int, Sequence[np.ndarray]], float], n_seeds: int, n_texts: Sequence[int], n_draws: int = 200,
    seed: int = 0,
) -> Interval:  # fmt: skip
    """Mean over seeds with an interval for other seeds *and* other texts: every seed is evaluated on the same texts.

    Seeds and texts are drawn with replacement, each on its own (Owen 2007, Annals of Applied Statistics 1(2)), one
    fewer than there are, which makes the variance of the draws unbiased (Rao & Wu 1988). It counts chance in a single
    pair of seed and text more than once, so the interval is a little wide. Its quantile is Student's for the seeds.

    Args:
        value: From a seed's place and the indices of texts in each set to the seed's value on these texts.
        n_seeds: Seeds, ≥ 2.
        n_texts: Texts of each set, ≥ 2.
        n_draws: Draws.
        seed: Seed of the draws.

    Returns:
        The interval; `n` is the number of seeds.
    """
    rng = np.random.default_rng(seed)
    measured = [value(s, [np.arange(n) for n in n_texts]) for s in range(n_seeds)]
    draws = []
    for _ in range(n_draws):
        texts = [rng.integers(n, size=n - 1) for n in n_texts]
        seeds, counts = np.unique(rng.integers(n_seeds, size=n_seeds - 1), return_counts=True)
        draws.append(np.average([value(int(s), texts) for s in seeds], weights=counts))
    return Interval(float(np.mean(measured)), float(_quantile(n_seeds) * np.std(draws, ddof=1)), n_seeds)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for several tests (Holm 1979): below 5 %, with a 5 % risk of any false one among all.

    Args:
        p_values: One per test.

    Returns:
        The adjusted values, in the same order.
    """
    p = np.asarray(p_values, dtype=float)
    order = p.argsort()
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    return adjusted.tolist()


def _quantile(n: int) -> float:
    return float(stats.t.ppf(0.5 + LEVEL / 2, n - 1))


@functools.cache
def _noncentrality(n: int) -> float:
    """The mean in standard errors at which the two-sided t test of n values has the power `POWER`."""
    t = _quantile(n)
    # The other side of the test adds less than 10⁻⁴ to the power here.
    return float(optimize.brentq(lambda d: stats.nct.sf(t, n - 1, d) - POWER, 0, 2 * t))  # pyright: ignore


def format_interval(values: Sequence[float], digits: int = 2, scale: float = 1.0) -> str:
    """`interval(values)` as text.

    Args:
        values: One value per seed.
        digits: Decimals.
        scale: Factor, for example 100 for percentages.

    Returns:
        For example "86.2 ± 1.3".
    """
    return interval(values).format(digits, scale)


def format_geometric(values: Sequence[float]) -> str:
    """Geometric mean to three digits as text, with the interval that belongs to it: 10 to the interval of log10.

    For what spans orders of magnitude and is positive. Zero, such as ‖V‖ under a strong penalty, counts as `SMALLEST`.

    Args:
        values: One value per seed.

    Returns:
        For example "43.9 (21.2 … 90.8)", or the mean alone when there is one value.

    Raises:
        ValueError: If there are no values, or one is negative or not a number.
    """
    if not all(value >= 0 for value in values):
        raise ValueError(f"Expected values of at least 0 for a geometric mean, got {list(values)}.")
    found = interval([math.log10(max(value, SMALLEST)) for value in values])
    mean, low, high = (f"{10**x:#.3g}".rstrip(".") for x in (found.mean, found.low, found.high))
    return mean if found.n < 2 else f"{mean} ({low} … {high})"
