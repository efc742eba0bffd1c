"""Checks of what the measures of calibration are given: a clear error before anything is computed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpft_utils.common.errors import ParameterError
from lpft_utils.common.validation import Array, check_integer

Labels = NDArray[np.int64]


def check_scores(scores: Any, what: str = "logits") -> Array:
    """Scores (N, C) as float64.

    Args:
        scores: NumPy array, nested list or torch tensor.
        what: Their name in an error.

    Returns:
        The array, shape (N, C) with N, C ≥ 1.

    Raises:
        ParameterError: For anything but real numbers, another shape, no examples, or a value that is not finite.
    """
    if hasattr(scores, "detach"):  # a torch tensor: perhaps with gradient, on a device, in a dtype NumPy does not know
        scores = scores.detach().cpu()
        scores = scores if scores.is_complex() else scores.double()
    array = _array(scores, what)
    if array.dtype.kind not in "biuf":  # NumPy would read digits in strings, and drop imaginary parts
        raise ParameterError(f"expected {what} as real numbers, got {array.dtype}; convert them first")
    array = array.astype(np.float64, copy=False)
    if array.ndim != 2 or array.size == 0:
        raise ParameterError(f"expected {what} of shape (N, C) with N, C ≥ 1, got {array.shape}")
    bad = ~np.isfinite(array).all(axis=1)
    if bad.any():
        raise ParameterError(
            f"{what} are NaN or infinite in {bad.sum()} of {len(array)} examples (first: row {bad.argmax()}); look for "
            "a diverged training or overflow in half precision"
        )
    return array


def check_probabilities(probabilities: Any) -> Array:
    """Probabilities (N, C) as float64.

    Args:
        probabilities: NumPy array, nested list or torch tensor.

    Returns:
        The array, shape (N, C).

    Raises:
        ParameterError: For a bad shape, values that are not finite or outside [0, 1], or rows that do not sum to 1
            within 1e-4.
    """
    p = check_scores(probabilities, "probabilities")
    error = np.abs(p.sum(axis=1) - 1)
    if p.min() < 0 or p.max() > 1 + 1e-4 or error.max() > 1e-4:
        row = int(np.argmax((p.min(axis=1) < 0) | (p.max(axis=1) > 1 + 1e-4) | (error > 1e-4)))
        rounded = p[row].min() >= 0 and error[row] < 0.01
        advice = (
            "rounded in half precision? Compute the softmax in float32, or call calibration.softmax on the logits"
            if rounded
            else "for logits, call calibration.softmax first"
        )
        raise ParameterError(
            f"expected probabilities in [0, 1] with rows that sum to 1 within 1e-4, but row {row} is {p[row]} with sum "
            f"{p[row].sum():.6g}; {advice}"
        )
    return p


def check_labels(labels: Any, scores: Array) -> Labels:
    """Labels (N,) that fit the scores.

    Args:
        labels: NumPy array, list or torch tensor of integers.
        scores: What they belong to, shape (N, C).

    Returns:
        The labels, shape (N,), int64.

    Raises:
        ParameterError: For another shape, labels that are not integers, or labels outside 0 … C − 1.
    """
    y = _array(labels.detach().cpu() if hasattr(labels, "detach") else labels, "labels")
    if y.shape != scores.shape[:1]:
        raise ParameterError(f"expected one label for each of {len(scores)} examples, shape (N,), got shape {y.shape}")
    if y.dtype.kind not in "iu":  # np.integer would let time differences pass
        raise ParameterError(f"labels must be integers, got {y.dtype}")
    if y.min() < 0 or y.max() >= scores.shape[1]:
        raise ParameterError(f"labels must lie in 0 … {scores.shape[1] - 1}, got {y.min()} … {y.max()}")
    return y.astype(np.int64)


def check_bounds(bounds: tuple[float, float]) -> tuple[float, float]:
    """Bounds of a scale, or ParameterError unless they are positive and enclose 1."""
    low, high = bounds
    if not 0 < low <= 1 <= high < np.inf:
        raise ParameterError(f"bounds must be positive and enclose 1, got {bounds!r}")
    return low, high


def check_bias(bias: Any, logits: Array) -> Array:
    """A bias (C,) for logits (N, C), or ParameterError."""
    b = check_scores(bias[None] if hasattr(bias, "detach") else _array(bias, "the bias")[None], "the bias")[0]
    if len(b) != logits.shape[1]:
        raise ParameterError(f"expected a bias for each of {logits.shape[1]} classes, got {len(b)}")
    return b


def check_classes(scores: Array, C: int) -> Array:
    """The scores (N, C), or ParameterError for another number of classes."""
    if scores.shape[1] != C:
        raise ParameterError(f"fitted on {C} classes, got logits of {scores.shape[1]}")
    return scores


def check_bins(bins: int) -> None:
    """Raise ParameterError unless `bins` is a positive integer."""
    check_integer("bins", bins)


def _array(values: Any, what: str) -> NDArray[Any]:
    try:
        return np.asarray(values)
    except (TypeError, ValueError) as error:  # rows of different lengths
        raise ParameterError(f"expected {what} as an array or as lists of equal lengths: {error}") from error
