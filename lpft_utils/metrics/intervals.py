"""Means with intervals over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.95  # of every interval
SMALLEST = 1e-6  # what a value of zero counts as on a logarithmic scale


@dataclass(frozen=True)
class Interval:
    """A mean over seeds with its two-sided 95 % Student interval.

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
    t = stats.t.ppf(0.5 + LEVEL / 2, x.size - 1)
    return Interval(float(x.mean()), float(t * x.std(ddof=1) / np.sqrt(x.size)), int(x.size))


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
