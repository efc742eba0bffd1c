"""Checks that every room shares: each says what was expected and what came, before anything is computed.

Arrays may be NumPy arrays, (nested) lists or torch tensors with or without gradient, on any device; what comes back is
NumPy on the CPU. `error` is the class to raise, for rooms that have their own.
"""

from __future__ import annotations

from numbers import Real
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from lpft_utils.common.errors import LpftError, ParameterError

Array = NDArray[np.float64]
Labels = NDArray[np.int64]
Error = type[LpftError]


def is_number(value: Any) -> TypeGuard[float]:
    """Whether `value` is a finite real number; a bool is not one."""
    return isinstance(value, Real) and not isinstance(value, bool | np.bool_) and bool(np.isfinite(float(value)))


def is_integer(value: Any) -> TypeGuard[int]:
    """Whether `value` is an integer; a bool is not one."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def check_integer(name: str, value: Any, low: int = 1, *, error: Error = ParameterError) -> None:
    """Raise `error` unless `value` is an integer (no bool) of at least `low`."""
    if not is_integer(value) or value < low:
        expected = "a positive integer" if low == 1 else f"an integer of at least {low}"
        raise error(f"{name} must be {expected}, got {value!r}")


def check_real(values: Any, name: str, ndim: int) -> Array:
    """Real, finite numbers in float64.

    Args:
        values: An array that is not empty.
        name: What the error calls it.
        ndim: Number of its dimensions.

    Returns:
        The array.

    Raises:
        ParameterError: For anything but real numbers, another number of dimensions, none at all, or a value that
            is not finite.
    """
    array = _as_numpy(values, name, ParameterError)
    if array.dtype.kind not in "biuf":  # NumPy would read digits in strings, and drop imaginary parts
        raise ParameterError(f"expected {name} as real numbers, got {array.dtype}; convert them first")
    if array.ndim != ndim or array.size == 0:
        raise ParameterError(
            f"expected {name} of {ndim} dimension{'s' * (ndim > 1)}, not empty, got shape {array.shape}"
        )
    array = array.astype(np.float64, copy=False)
    bad = ~np.isfinite(array).reshape(len(array), -1).all(axis=1)
    if bad.any():
        raise ParameterError(
            f"{name} are NaN or infinite in {bad.sum()} of {len(array)} examples (first: row {bad.argmax()}); look for "
            "a diverged training or overflow in half precision"
        )
    return array


def check_labels(labels: Any, n: int, n_classes: int, name: str = "labels", *, error: Error = ParameterError) -> Labels:
    """Class indices in int64.

    Args:
        labels: Class indices, shape (n,).
        n: How many are expected, at least 1.
        n_classes: C.
        name: What the error calls them.
        error: What to raise.

    Returns:
        The labels, shape (n,).

    Raises:
        LpftError: As `error`, unless they are n integers in 0 … C − 1.
    """
    y = _as_numpy(labels, name, error)
    if y.shape != (n,):
        raise error(f"expected {name} of shape ({n},), one for each example, got shape {y.shape}")
    if y.dtype.kind not in "iu":  # np.integer would let time differences pass
        raise error(f"{name} must be integers, got {y.dtype}")
    if y.min() < 0 or y.max() >= n_classes:
        raise error(f"{name} must lie in 0 … {n_classes - 1}, got {y.min()} … {y.max()}")
    return y.astype(np.int64)


def _as_numpy(values: Any, name: str, error: Error) -> NDArray[Any]:
    if hasattr(values, "detach"):  # a torch tensor: perhaps with gradient, on a device, in a dtype NumPy does not know
        values = values.detach().cpu()
        values = values.double() if values.is_floating_point() else values
    try:
        return np.asarray(values)
    except (TypeError, ValueError) as reason:  # rows of different lengths
        raise error(f"expected {name} as an array or as lists of equal lengths: {reason}") from reason
