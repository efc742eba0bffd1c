"""Checks of what the logistic regressions are given: a clear error before anything is computed."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from lpft_utils.common.errors import ParameterError, TaskWarning
from lpft_utils.common.folds import fold_ids
from lpft_utils.common.validation import check_integer, check_labels, check_real


def check_Cs(Cs: Sequence[float]) -> np.ndarray:
    """Cs as a float64 array, or ParameterError."""
    array = check_real(Cs, "Cs", ndim=1)
    if (array <= 0).any():
        raise ParameterError(f"C must be a positive number, and Cs a list of them; got {Cs!r}")
    return array


def check_data(
    X: Tensor | ArrayLike, y: Tensor | ArrayLike, n_classes: int, device: torch.device | str | None
) -> tuple[Tensor, Tensor]:
    """Features (N, H) in float64 and labels (N,) in int64, both on the device.

    Args:
        X: Features.
        y: Labels.
        n_classes: Number of classes C.
        device: Where to put both; default where X is.

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
    device = device or (X.device if isinstance(X, Tensor) else "cpu")
    return torch.tensor(features, device=device), torch.tensor(labels, device=device)


def check_folds(y: Tensor, n_folds: int) -> Tensor:
    """The fold that holds each example out, as `common.folds.fold_ids`; −1 for the only example of a class.

    That one is in every training part: a fold that held it out would train without the class, and be judged on it.

    Args:
        y: Labels (N,).
        n_folds: Number of folds.

    Returns:
        Index of the fold of each example (N,), or −1.

    Warns:
        TaskWarning: If a class has fewer examples than there are folds.
    """
    counts = y.bincount()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # scikit-learn's, in favour of ours
        ids = torch.as_tensor(fold_ids(y.cpu().numpy(), n_folds), device=y.device)
    if (counts < n_folds).any():
        few = f"Examples of the rarest class: {int(counts.min())}, fewer than the {n_folds} folds of cross-validation"
        warnings.warn(f"{few}: some folds are judged without such a class.", TaskWarning, stacklevel=3)
    return torch.where(counts[y] > 1, ids, -1)
