"""Checks of what the logistic regressions are given: a clear error before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from lpft_utils.common.errors import ParameterError
from lpft_utils.common.folds import fold_ids
from lpft_utils.common.validation import check_integer, check_labels, check_real


def check_Cs(Cs: Sequence[float]) -> np.ndarray:
    """Cs as a float64 array, or ParameterError."""
    array = check_real(Cs, "Cs", ndim=1)
    if (array <= 0).any():
        raise ParameterError(f"C must be a positive number, and Cs a list of them; got {Cs!r}")
    return array


def check_data(X: Tensor | ArrayLike, y: Tensor | ArrayLike, n_classes: int) -> tuple[Tensor, Tensor]:
    """Features (N, H) in float64 and labels (N,) in int64, both where X is.

    Args:
        X: Features.
        y: Labels.
        n_classes: Number of classes C.

    Returns:
        Features and labels, without gradient.

    Raises:
        ParameterError: For bad shapes or dtypes, non-finite features, labels out of range or an absent class.
    """
    features = check_real(X, "features", ndim=2)
    check_integer("n_classes", n_classes, low=2)
    labels = check_labels(y, len(features), n_classes)
    absent = np.flatnonzero(np.bincount(labels, minlength=n_classes) == 0).tolist()
    if absent:
        raise ParameterError(
            f"no example of class {absent}: its intercept would run to −∞; use more data or fewer classes"
        )
    device = X.device if isinstance(X, Tensor) else "cpu"
    return torch.tensor(features, device=device), torch.tensor(labels, device=device)


def check_folds(y: Tensor, n_folds: int) -> Tensor:
    """The fold that holds each example out, as `common.folds.fold_ids`, if no fold trains without a class.

    Args:
        y: Labels (N,).
        n_folds: Number of folds.

    Returns:
        Index of the fold of each example (N,).

    Raises:
        ParameterError: If the folds cannot be stratified, or one would train without a class.
    """
    counts = torch.bincount(y).tolist()
    if min(counts) < 2:
        raise ParameterError(
            f"cross-validation needs every class at least twice, class counts are {counts}: the fold that holds the "
            "only example of a class out would train without that class; use more data, or fit_logistic at a given C"
        )
    return torch.as_tensor(fold_ids(y.cpu().numpy(), n_folds), device=y.device)
