"""Checks of what the logistic regressions are given: a clear error before anything is computed."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from lpft_utils.common.errors import ParameterError
from lpft_utils.common.validation import check_labels


def check_binary(binary: str) -> None:
    """Raise ParameterError unless `binary` names one of the two penalties for two classes."""
    if binary not in ("sigmoid", "softmax"):
        raise ParameterError(f'binary must be "sigmoid" or "softmax", got {binary!r}')


def check_tol(tol: float) -> None:
    """Raise ParameterError unless rounding in float64 can reach the tolerance."""
    if not 1e-13 <= tol < 1:
        raise ParameterError(f"tol must lie in [1e-13, 1), got {tol!r}")


def check_Cs(Cs: Sequence[float]) -> np.ndarray:
    """Cs as a float64 array, or ParameterError."""
    array = np.asarray(Cs, dtype=np.float64)
    if array.ndim != 1 or array.size == 0 or not (np.isfinite(array).all() and (array > 0).all()):
        raise ParameterError(f"C must be a positive finite number, and Cs a non-empty list of them; got {Cs!r}")
    return array


def as_tensor(array: Tensor | ArrayLike) -> Tensor:
    """A tensor of the values, without gradient; read-only NumPy arrays are copied, since PyTorch has no such thing."""
    if isinstance(array, Tensor):
        return array.detach()
    values = np.asarray(array)
    return torch.as_tensor(values if values.flags.writeable else values.copy())


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
        Features and labels.

    Raises:
        ParameterError: For bad shapes or dtypes, non-finite features, labels out of range or an absent class.
    """
    features, labels = as_tensor(X), as_tensor(y)
    features = features.to(device=device or features.device, dtype=torch.float64)
    if features.ndim != 2 or labels.ndim != 1 or len(features) != len(labels) or features.numel() == 0:
        raise ParameterError(
            f"expected features (N, H) and labels (N,) with N, H ≥ 1, got {tuple(features.shape)} and "
            f"{tuple(labels.shape)}"
        )
    if not bool(torch.isfinite(features).all()):
        bad = (~torch.isfinite(features).all(1)).nonzero().flatten()
        raise ParameterError(
            f"features are not finite in {len(bad)} of {len(features)} examples (first: row {int(bad[0])})"
        )
    if n_classes < 2:
        raise ParameterError(f"n_classes must be at least 2, got {n_classes}")
    labels = torch.as_tensor(check_labels(labels, len(features), n_classes), device=features.device)
    absent = (torch.bincount(labels, minlength=n_classes) == 0).nonzero().flatten().tolist()
    if absent:
        raise ParameterError(
            f"no example of class {absent}: its intercept would run to −∞; use more data or fewer classes"
        )
    return features, labels


def fold_ids(y: Tensor, n_classes: int, n_folds: int) -> Tensor:
    """The fold that holds each example out, as `StratifiedKFold(n_folds)` without shuffling assigns them.

    Args:
        y: Labels (N,).
        n_classes: Number of classes C.
        n_folds: Number of folds.

    Returns:
        Index of the fold of each example (N,).

    Raises:
        ParameterError: If the folds cannot be stratified, or one would train without a class.

    Warns:
        UserWarning: If a class has fewer examples than there are folds.
    """
    from sklearn.model_selection import StratifiedKFold  # the very folds that scikit-learn's own search uses

    counts = torch.bincount(y, minlength=n_classes).tolist()
    if n_folds < 2 or n_folds > max(counts):
        raise ParameterError(
            f"n_folds must lie between 2 and the size of the largest class ({max(counts)}), got {n_folds}"
        )
    if min(counts) < 2:
        raise ParameterError(
            f"cross-validation needs every class at least twice, class counts are {counts}: the fold that holds the "
            "only example of a class out would train without that class; use more data, or fit_logistic at a given C"
        )
    if min(counts) < n_folds:
        warnings.warn(
            f"the smallest class has {min(counts)} examples, fewer than the {n_folds} folds: some held-out parts "
            "lack it",
            UserWarning,
            stacklevel=3,
        )
    labels, ids = y.cpu().numpy(), np.empty(len(y), dtype=np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for fold, (_, held_out) in enumerate(StratifiedKFold(n_folds).split(np.zeros(len(y)), labels)):
            ids[held_out] = fold
    return torch.as_tensor(ids, device=y.device)
