r"""Linear probing: L2-regularised multinomial logistic regression, its path over C and its choice by cross-validation.

The objective is scikit-learn's, with features unscaled and the intercept not penalised:

$$F_C(V, b) = C \sum_i \mathrm{CE}(V x_i + b, y_i) + \tfrac12 \lVert V \rVert_F^2 .$$

**Two classes.** scikit-learn fits one vector for two classes, $C \sum_i \log(1 + e^{-s_i (w^\top x_i + c)}) + \tfrac12
\lVert w \rVert^2$ with $s_i = \pm 1$, not two rows. A head with two rows gives the same probabilities if $v_1 - v_0 =
w$; among those heads the penalty picks the shortest, $V = [-w/2,\, w/2]$, with $\lVert V \rVert_F^2 = \tfrac12 \lVert
w \rVert^2$. In terms of this head scikit-learn's objective is $C \sum_i \mathrm{CE} + \lVert V \rVert_F^2$: twice the
penalty of the formula above, which moves the solution to that of $C/2$. It is the one used here for two classes, so
that probabilities and chosen C are scikit-learn's.

The published LP-FT code asked scikit-learn for the multinomial fit of two classes (since removed there), with the
penalty of the formula: the fit here at $2C$. Its optimum is $V = [-d,\, d]$ with $p_1 = \sigma(2 d^\top x + \dots)$,
of which scikit-learn kept `coef_` $= d$. The code then installed $[-d/2,\, d/2]$: half the fitted head. Heads returned
here give the fitted probabilities by softmax as they are. With three classes or more all of this agrees.

**Certificate.** All folds and all values of C are solved together (see `logistic_solver`), and every solution says how
good it is: `gap` bounds how far its objective is from the minimum, and by strong convexity $\tfrac12 \lVert V - V^*
\rVert_F^2 \le$ `gap`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from lpft_utils.common.errors import ParameterError, TaskWarning
from lpft_utils.common.folds import fold_ids
from lpft_utils.common.threads import one_thread_if_small
from lpft_utils.common.validation import check_integer, check_labels, check_real
from lpft_utils.training.logistic_solver import MAX_STEPS, Design, solve

FOLDS = 5
TOLERANCE = 1e-8  # certified relative suboptimality of every fit
DEFAULT_CS: tuple[float, ...] = tuple(np.logspace(-4, 4, 10).tolist())


class LogisticConvergenceWarning(UserWarning):
    """A logistic regression stopped before its certificate reached the tolerance."""


@dataclass(frozen=True)
class LogisticFit:
    """One fitted head.

    Attributes:
        V: Weights (C, H); rows sum to zero.
        b: Intercepts (C,); they sum to zero.
        objective: F_C at (V, b).
        gap: Certified bound on `objective` minus the minimum.
    """

    V: Tensor
    b: Tensor
    objective: float
    gap: float


@dataclass(frozen=True)
class LogisticPath:
    """The path over C: cross-validated accuracies, and the heads fitted on all data.

    Attributes:
        Cs: Values of C, ascending or as given (n_Cs,).
        fold_accuracy: Accuracy on the held-out part of each fold (n_folds, n_Cs).
        best_index: Index of the first C of the highest mean accuracy.
        V_path: Heads fitted on all data (n_Cs, C, H).
        b_path: Their intercepts (n_Cs, C).
        objective: F_C of each of them (n_Cs,).
        gap: Certified bound on how far each objective is from its minimum (n_Cs,).
        fold_objective: F_C of the fits on the training part of each fold (n_folds, n_Cs).
        fold_gap: Certified bounds of those (n_folds, n_Cs).
        converged: Whether every fit, on all data and on folds, reached the tolerance.
    """

    Cs: np.ndarray
    fold_accuracy: np.ndarray
    best_index: int
    V_path: Tensor
    b_path: Tensor
    objective: np.ndarray
    gap: np.ndarray
    fold_objective: np.ndarray
    fold_gap: np.ndarray
    converged: bool

    @property
    def mean_accuracy(self) -> np.ndarray:
        """Mean held-out accuracy of each C (n_Cs,)."""
        return self.fold_accuracy.mean(0)

    @property
    def best_C(self) -> float:
        """The chosen C: the first one of the highest mean held-out accuracy."""
        return float(self.Cs[self.best_index])

    @property
    def V(self) -> Tensor:
        """Weights at the chosen C, fitted on all data (C, H)."""
        return self.V_path[self.best_index]

    @property
    def b(self) -> Tensor:
        """Intercepts at the chosen C, fitted on all data (C,)."""
        return self.b_path[self.best_index]

    @property
    def norms(self) -> np.ndarray:
        """‖V‖_F of the head fitted on all data, for each C (n_Cs,)."""
        return torch.linalg.matrix_norm(self.V_path).cpu().numpy()


def logistic_path(
    X: Tensor | ArrayLike,
    y: Tensor | ArrayLike,
    n_classes: int,
    Cs: Sequence[float] | None = None,
    n_folds: int = FOLDS,
) -> LogisticPath:
    """Fit every C on every fold and on all data, and choose C as `LogisticRegressionCV` does.

    The folds are those of `StratifiedKFold(n_folds)` without shuffling, except that the only example of a class is in
    every training part, since a fit without a class has no optimum with C rows; the chosen C is the first one of the
    highest sum of fold accuracies; its head is the one fitted on all data.

    Args:
        X: Features (N, H), finite.
        y: Labels (N,), integers in 0 … n_classes − 1; every class at least once.
        n_classes: Number of classes C ≥ 2.
        Cs: Positive values of C; default 10 values from 1e-4 to 1e4, evenly spaced in log.
        n_folds: Number of folds, at least 2.

    Returns:
        The path; tensors are where X is, in float64.

    Raises:
        ParameterError: For bad shapes, non-finite features, labels out of range, an absent class, or bad `Cs` or
            `n_folds`.

    Warns:
        TaskWarning: If a class has fewer examples than there are folds (some held-out parts then lack it).
        LogisticConvergenceWarning: If a fit has not reached the tolerance, `TOLERANCE`.
    """
    X, y = check_data(X, y, n_classes)
    Cs_array = check_real(DEFAULT_CS if Cs is None else Cs, "Cs", ndim=1)
    folds = _folds(y, n_folds)  # (N,)
    trained_on = X.new_ones(len(X), n_folds + 1)  # column 0: all data
    trained_on[:, 1:] = (folds[:, None] != torch.arange(n_folds, device=X.device)).to(X)
    design, theta, objective, gap, converged = _fit(X, y, n_classes, Cs_array, trained_on)
    accuracy = _held_out_accuracy(design, theta[1:], folds)
    V_path, b_path = design.to_head(theta[0])
    return LogisticPath(
        Cs=Cs_array,
        fold_accuracy=accuracy,
        best_index=int(accuracy.sum(0).argmax()),
        V_path=V_path,
        b_path=b_path,
        objective=objective[0],
        gap=gap[0],
        fold_objective=objective[1:],
        fold_gap=gap[1:],
        converged=converged,
    )


def _folds(y: Tensor, n_folds: int) -> Tensor:
    """The fold that holds each example out, as `fold_ids`; −1 for the only example of a class, which none holds out."""
    counts = y.bincount()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # scikit-learn's, in favour of ours
        ids = torch.as_tensor(fold_ids(y.cpu().numpy(), n_folds), device=y.device)
    if (counts < n_folds).any():
        few = f"Examples of the rarest class: {int(counts.min())}, fewer than the {n_folds} folds of cross-validation"
        warnings.warn(f"{few}: some folds are judged without such a class.", TaskWarning, stacklevel=3)
    return torch.where(counts[y] > 1, ids, -1)


def fit_logistic(X: Tensor | ArrayLike, y: Tensor | ArrayLike, n_classes: int, C: float = 1.0) -> LogisticFit:
    """Fit one head at one C on all data.

    Args:
        X: Features (N, H), finite.
        y: Labels (N,), integers in 0 … n_classes − 1; every class at least once.
        n_classes: Number of classes C ≥ 2.
        C: Strength of the data term, positive.

    Returns:
        The fitted head.

    Raises:
        ParameterError: For bad shapes, non-finite features, labels out of range, an absent class, or a bad `C`.

    Warns:
        LogisticConvergenceWarning: If the fit has not reached the tolerance, `TOLERANCE`.
    """
    X, y = check_data(X, y, n_classes)
    design, theta, objective, gap, _ = _fit(X, y, n_classes, check_real([C], "C", ndim=1), X.new_ones(len(X), 1))
    V, b = design.to_head(theta[0])
    return LogisticFit(V[0], b[0], objective.item(), gap.item())


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


def _fit(
    X: Tensor, y: Tensor, n_classes: int, Cs: np.ndarray, trained_on: Tensor
) -> tuple[Design, Tensor, np.ndarray, np.ndarray, bool]:
    """Fit every C on every set of examples.

    Args:
        X: Features (N, H), checked.
        y: Labels (N,), checked.
        n_classes: Number of classes C.
        Cs: Values of C (n_Cs,).
        trained_on: The sets: columns of 0 and 1 (N, n_sets).

    Returns:
        The design; θ (n_sets, n_Cs, K, r + 1); objectives and gaps (n_sets, n_Cs); and whether all converged.

    Raises:
        ParameterError: If a C is not positive.
    """
    if (Cs <= 0).any():
        raise ParameterError(f"C must be a positive number, and Cs a list of them; got {Cs.tolist()}")
    n_sets, n_Cs = trained_on.shape[1], len(Cs)
    scale = 2.0 if n_classes == 2 else 1.0  # of ½‖V‖²
    C_each = torch.as_tensor(Cs, device=X.device).repeat(n_sets)  # set-major (P,)
    set_each = torch.arange(n_sets, device=X.device).repeat_interleave(n_Cs)
    with one_thread_if_small(X):
        design = Design(X, y, n_classes, trained_on)
        theta, f, gap = solve(design, scale / C_each, set_each, TOLERANCE)
    objective, gap = ((C_each * v).view(n_sets, n_Cs).cpu().numpy() for v in (f, gap))
    failed = ~(gap <= TOLERANCE * objective)
    if failed.any():
        worst = float(np.max(gap[failed] / objective[failed]))
        warnings.warn(
            f"{int(failed.sum())} of {failed.size} logistic regressions stopped within {MAX_STEPS} Newton steps before "
            f"their relative gap reached {TOLERANCE:g} (worst {worst:.2g}); drop the largest C",
            LogisticConvergenceWarning,
            stacklevel=3,
        )
    return design, theta.unflatten(0, (n_sets, n_Cs)), objective, gap, not failed.any()


def _held_out_accuracy(design: Design, theta: Tensor, folds: Tensor) -> np.ndarray:
    """Accuracy of each fold's heads θ (n_folds, n_Cs, K, r + 1) on the examples the fold left out: (n_folds, n_Cs)."""
    rows = []
    for fold in range(len(theta)):
        held_out = folds == fold
        logits = design.T @ theta[fold] @ design.Z[held_out].T  # relative to the last class (n_Cs, K, n)
        logits = torch.cat([logits, torch.zeros_like(logits[:, :1])], 1)
        correct = (logits.argmax(1) == design.y[held_out]).sum(1)
        rows.append(correct.cpu().numpy() / int(held_out.sum()))
    return np.stack(rows)
