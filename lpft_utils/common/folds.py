"""The folds of cross-validation."""

from __future__ import annotations

import numpy as np

from lpft_utils.common.errors import ParameterError
from lpft_utils.common.validation import Error, Labels


def fold_ids(labels: Labels, n_folds: int, *, error: Error = ParameterError) -> Labels:
    """The fold that holds each example out, as scikit-learn's `StratifiedKFold` without shuffling assigns them.

    Args:
        labels: Class indices, shape (N,).
        n_folds: Number of folds.
        error: What to raise.

    Returns:
        Indices 0 … n_folds − 1, shape (N,).

    Raises:
        LpftError: As `error`, if there are fewer than two folds, or more than the largest class has examples.

    Warns:
        UserWarning: scikit-learn's, if a class has fewer examples than there are folds: some held-out parts lack it.
    """
    from sklearn.model_selection import StratifiedKFold

    largest = int(np.bincount(labels).max())
    if not 2 <= n_folds <= largest:
        raise error(f"folds: expected between 2 and the size of the largest class ({largest}), got {n_folds}.")
    ids = np.empty_like(labels)
    for fold, (_, held_out) in enumerate(StratifiedKFold(n_folds).split(labels, labels)):
        ids[held_out] = fold
    return ids
