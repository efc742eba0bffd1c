"""Checks of what the metrics of calibration are given."""

from __future__ import annotations

from typing import Any

import numpy as np

from lpft_utils.common import validation
from lpft_utils.common.errors import ParameterError
from lpft_utils.common.validation import Array, Labels, check_real


def check_scores(logits: Any) -> Array:
    """Logits (N, C) as float64, or ParameterError for a bad shape, no examples, or values that are not finite."""
    return check_real(logits, "logits", ndim=2)


def check_classes(logits: Any, C: int) -> Array:
    """Logits (N, C) as float64, or ParameterError as from `check_scores` and for another number of classes."""
    f = check_scores(logits)
    if f.shape[1] != C:
        raise ParameterError(f"expected logits of {C} classes, got {f.shape[1]}")
    return f


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
    p = check_real(probabilities, "probabilities", ndim=2)
    error = np.abs(p.sum(axis=1) - 1)
    bad = (p.min(axis=1) < 0) | (p.max(axis=1) > 1 + 1e-4) | (error > 1e-4)
    if bad.any():
        row = int(bad.argmax())
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
    """Labels (N,) in int64 that fit the scores (N, C), or ParameterError."""
    return validation.check_labels(labels, *scores.shape)
