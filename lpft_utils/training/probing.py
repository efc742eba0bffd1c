"""Heads: the random one that FT starts from, and that of linear probing (LP), trained alone on fixed features.

LP has three ways, because the book compares them: `cv` is the published one (L2-regularised, C chosen by 5-fold
cross-validation), a number is that C, and `gd` is accelerated gradient descent on the unregularised cross-entropy
(Nesterov's, to get far in few steps).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from lpft_utils.training.logistic import fit_logistic, logistic_path
from lpft_utils.training.logistic_descent import logistic_gd


@dataclass(frozen=True)
class Head:
    """A fitted head.

    Attributes:
        V: Weights, shape (C, H), float32.
        b: Bias, shape (C,), float32.
        about: How it was fitted: "kind", and "C" or "steps"; for `cv` also the path ("Cs", "cv_accuracy", "norms").
        history: For `gd`, rows of "step", "head_norm", "train_loss", "train_accuracy" and "<split>_accuracy" for every
            split monitored; otherwise empty.
    """

    V: Tensor
    b: Tensor
    about: dict[str, Any]
    history: pd.DataFrame


def fit_head(
    phi: Tensor,
    labels: Tensor,
    n_classes: int,
    lp: str | float = "cv",
    *,
    steps: int = 10_000,
    monitor: Mapping[str, tuple[Tensor, Tensor]] | None = None,
) -> Head:
    """Fit V and b to fixed features.

    Args:
        phi: Features, shape (N, H).
        labels: Class indices, shape (N,).
        n_classes: C.
        lp: "cv", "gd", or a value of C.
        steps: Gradient steps of "gd".
        monitor: Features and labels by split name, whose accuracy "gd" records as it goes.

    Returns:
        The head.

    Raises:
        ParameterError: If the features or labels cannot be fitted, or `lp` is none of the three.
    """
    phi = phi.to("cuda" if torch.cuda.is_available() else "cpu")
    history = pd.DataFrame()
    if lp == "cv":
        path = logistic_path(phi, labels, n_classes)
        V, b = path.V, path.b
        about = {
            "kind": "cv",
            "C": path.best_C,
            "Cs": path.Cs.tolist(),
            "cv_accuracy": path.mean_accuracy.tolist(),
            "norms": path.norms.tolist(),
        }
    elif lp == "gd":
        descent = logistic_gd(phi, labels, n_classes, steps=steps, eval_sets=monitor, nesterov=True)
        V, b, history = descent.V, descent.b, descent.history
        about = {"kind": "gd", "steps": steps}
    else:
        fit = fit_logistic(phi, labels, n_classes, C=float(lp))
        V, b = fit.V, fit.b
        about = {"kind": "C", "C": float(lp)}
    return Head(V.float().cpu(), b.float().cpu(), about, history)
