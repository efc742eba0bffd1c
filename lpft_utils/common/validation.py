"""Checks that every room shares."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpft_utils.common.errors import ParameterError


def check_integer(name: str, value: Any, low: int = 1, high: int | None = None) -> None:
    """Raise ParameterError unless `value` is an integer (no bool) from `low` to `high`."""
    fits = isinstance(value, int | np.integer) and not isinstance(value, bool) and value >= low
    if not fits or (high is not None and value > high):
        expected = "a positive integer" if low == 1 else f"an integer of at least {low}"
        if high is not None:
            expected = f"an integer in {low} … {high}"
        raise ParameterError(f"{name} must be {expected}, got {value!r}")


def is_number(value: Any) -> bool:
    """Whether `value` is a finite real number; a bool is none."""
    return isinstance(value, Real) and not isinstance(value, bool | np.bool_) and bool(np.isfinite(float(value)))


Array = NDArray[np.float64]
