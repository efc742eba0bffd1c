"""Accuracy on the line: how accuracy out of distribution follows accuracy in distribution (Miller et al. 2021)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, logit
from scipy.stats import linregress


def fitted_line(inside: ArrayLike, outside: ArrayLike) -> tuple[float, float]:
    """Least squares for logit(accuracy out of distribution) as a linear function of logit(accuracy in distribution).

    Args:
        inside: Accuracies in distribution, shares strictly between 0 and 1, shape (n,).
        outside: Accuracies of the same models out of distribution, likewise.

    Returns:
        Slope and intercept; NaN where `inside` does not have two different values.

    Raises:
        ValueError: If an accuracy is not strictly between 0 and 1: its logit is not finite.
    """
    x, y = _logits(inside), _logits(outside)
    if len(np.unique(x)) < 2:
        return math.nan, math.nan
    found: Any = linregress(x, y)
    return float(found.slope), float(found.intercept)


def effective_robustness(line: tuple[float, float], inside: ArrayLike, outside: ArrayLike) -> np.ndarray:
    """How far accuracies out of distribution are above what the line predicts from those in distribution.

    Taori et al. (2020).

    Args:
        line: Result of `fitted_line` on other models.
        inside: Accuracies in distribution, shares strictly between 0 and 1, shape (n,).
        outside: Accuracies of the same models out of distribution, shape (n,).

    Returns:
        Differences of accuracies as shares, shape (n,).
    """
    slope, intercept = line
    return np.asarray(outside) - expit(slope * _logits(inside) + intercept)


def _logits(accuracies: ArrayLike) -> np.ndarray:
    p = np.asarray(accuracies, dtype=float)
    if not ((p > 0) & (p < 1)).all():
        raise ValueError(f"expected accuracies strictly between 0 and 1, got {p.tolist()}: leave these models out.")
    return logit(p)
