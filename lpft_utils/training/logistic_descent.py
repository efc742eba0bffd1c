r"""Linear probing without regularisation: gradient descent on the cross-entropy, monitored as it goes.

On data that a head separates, the mean cross-entropy has no minimum: it tends to 0 as $\lVert V \rVert \to \infty$.
Gradient descent then keeps $\lVert V_t \rVert$ growing, like $\log t$, long after the accuracy has stopped changing,
while $V_t / \lVert V_t \rVert$ turns towards the maximum-margin head (Soudry et al., "The implicit bias of gradient
descent on separable data", JMLR 19, 2018). On data that cannot be separated the norm converges instead, slowly if the
features are ill-conditioned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from lpft_utils.common.errors import ParameterError
from lpft_utils.common.threads import one_thread_if_small
from lpft_utils.common.validation import check_integer, check_labels, check_real
from lpft_utils.training.logistic import check_data


@dataclass(frozen=True)
class LogisticDescent:
    """What gradient descent went through.

    Attributes:
        history: One row for each recorded step: "step" (updates made), "head_norm" (‖V‖_F), "train_loss" (mean
            cross-entropy, in nats), "train_accuracy" and "<name>_accuracy" for every evaluation set.
        learning_rate: Step size 1/L.
        V: Weights after the last step (C, H).
        b: Intercepts after the last step (C,).
    """

    history: pd.DataFrame
    learning_rate: float
    V: Tensor
    b: Tensor


def logistic_gd(
    X: Tensor | ArrayLike,
    y: Tensor | ArrayLike,
    n_classes: int,
    steps: int = 10_000,
    *,
    record: Sequence[int] | None = None,
    eval_sets: Mapping[str, tuple[Tensor | ArrayLike, Tensor | ArrayLike]] | None = None,
    nesterov: bool = False,
) -> LogisticDescent:
    r"""Full-batch gradient descent on the unregularised mean cross-entropy.

    It starts at V = 0, b = 0. The step size is $1/L$ with $L = \tfrac12 \sigma_{\max}([X, 1])^2 / N$, Böhning's bound
    on the largest eigenvalue of the Hessian: with it plain descent never increases the loss. Nesterov's acceleration
    usually needs far fewer steps for the same loss, but may increase it on the way.

    Args:
        X: Features (N, H), finite.
        y: Labels (N,), integers in 0 … n_classes − 1; every class at least once.
        n_classes: Number of classes C ≥ 2.
        steps: Number of updates.
        record: The steps to record; 59 spread evenly over log(step) by default. Steps 0 and `steps` are always
            recorded.
        eval_sets: Features and labels by name; their accuracy is recorded too.
        nesterov: Use Nesterov's accelerated gradient instead of plain descent.

    Returns:
        The history and the last head.

    Raises:
        ParameterError: For bad data, `steps` or `record`.
    """
    X, y = check_data(X, y, n_classes)
    N, H = X.shape
    check_integer("steps", steps)
    due = set(np.geomspace(1, steps, 59).round().astype(int).tolist() if record is None else record) | {0, steps}
    if min(due) < 0 or max(due) > steps:
        raise ParameterError(f"steps to record must lie in 0 … {steps}, got {sorted(due)}")
    evals = {"train": (X, y)}
    for name, (features, labels) in (eval_sets or {}).items():
        Xe = check_real(features, f"features of {name!r}", ndim=2)
        ye = check_labels(labels, len(Xe), n_classes, f"labels of {name!r}")  # classes may be absent
        evals[name] = torch.tensor(Xe, device=X.device), torch.tensor(ye, device=X.device)
    theta = X.new_zeros(n_classes, H + 1)

    X1 = torch.cat([X, X.new_ones(N, 1)], 1)  # (N, H + 1)
    # classes first, both copies contiguous: with so few classes the products are several times faster than X1 @ theta.T
    X1_t, X1_over_N = X1.T.contiguous(), X1 / N
    Y_t = torch.nn.functional.one_hot(y, n_classes).to(X1).T.contiguous()  # (C, N)
    learning_rate = 2 * N / float(torch.linalg.matrix_norm(X1, 2)) ** 2

    rows = []
    previous, t_now = theta, 1.0
    with one_thread_if_small(X):
        for step in range(steps + 1):
            if step in due:
                row = {"step": step, "head_norm": float(torch.linalg.matrix_norm(theta[:, :-1]))}
                row["train_loss"] = float(torch.nn.functional.cross_entropy((theta @ X1_t).T, y))
                for name, (Xe, ye) in evals.items():
                    predicted = (Xe @ theta[:, :-1].T + theta[:, -1]).argmax(1)
                    row[f"{name}_accuracy"] = float((predicted == ye).double().mean())
                rows.append(row)
                if step == steps:
                    break
            point = theta
            if nesterov:
                t_next = (1 + (1 + 4 * t_now**2) ** 0.5) / 2
                point = theta + (t_now - 1) / t_next * (theta - previous)
                previous, t_now = theta, t_next
            residual = torch.softmax(point @ X1_t, 0) - Y_t  # (C, N)
            theta = torch.addmm(point, residual, X1_over_N, alpha=-learning_rate)
    return LogisticDescent(pd.DataFrame(rows), learning_rate, V=theta[:, :-1].clone(), b=theta[:, -1].clone())
