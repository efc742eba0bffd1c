"""Recalibration: a map fitted on validation logits and applied to test logits.

Temperature scaling divides the logits by T (Guo et al., 2017). It is the reference because one number cannot over-fit
and no prediction changes. The scale of the head alone, f = s V φ + b, is the same idea at the place where linear
probing made the model over-confident. Vector scaling and isotonic regression have more freedom, and may change
predictions.

Every `fit_…` takes logits (N, C) and labels (N,) of the validation split and gives an object whose `apply` turns
logits into probabilities.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import optimize, special
from sklearn.isotonic import IsotonicRegression

from lpft_utils.common.validation import Array, Labels, check_real
from lpft_utils.metrics.calibration import check_classes, check_labels, check_scores, cross_entropy, softmax

BOUNDS = (1e-3, 1e3)  # of T: beyond them nothing that a table shows would change
Limit = Literal["", "separable", "flat", "bound"]


@dataclass(frozen=True)
class Temperature:
    """Softmax of logits / T.

    Attributes:
        T: Temperature. Above 1: the model was over-confident.
        limit: "" for an optimum inside `BOUNDS`, otherwise why there is none: "separable" (every example is classified
            right, so T is the lower bound), "bound" (the optimum lies beyond the bound that T is), "flat" (all classes
            have equal logits, so the scale has no effect and T = 1).
    """

    T: float
    limit: Limit = ""

    def apply(self, logits: Any) -> Array:
        """Probabilities softmax(f / T), shape (N, C), for logits f of shape (N, C)."""
        return softmax(check_scores(logits) / self.T)


@dataclass(frozen=True, eq=False)
class VectorScaling:
    """Softmax of w ∘ f + a: one scale and one shift per class (Guo et al., 2017).

    Attributes:
        w: Scales, shape (C,).
        a: Shifts, shape (C,).
    """

    w: Array
    a: Array

    def apply(self, logits: Any) -> Array:
        """Probabilities softmax(w ∘ f + a), shape (N, C), for logits f of shape (N, C)."""
        return softmax(check_classes(logits, len(self.w)) * self.w + self.a)


@dataclass(frozen=True, eq=False)
class Isotonic:
    """A monotone function of each class's probability, one against the rest, then rows divided by their sum.

    Attributes:
        maps: scikit-learn's fitted regressions, one per class.
    """

    maps: tuple[IsotonicRegression, ...]

    def apply(self, logits: Any) -> Array:
        """Probabilities, shape (N, C), for logits of shape (N, C); a row that maps to zeros becomes uniform."""
        p = softmax(check_classes(logits, len(self.maps)))
        q = np.column_stack([fitted.predict(p[:, c]) for c, fitted in enumerate(self.maps)])
        total = q.sum(axis=1, keepdims=True)
        return np.divide(q, total, out=np.full_like(q, 1 / len(self.maps)), where=total > 0)


def fit_temperature(logits: Any, labels: Any) -> Temperature:
    """The T of least NLL.

    In β = 1 / T the NLL is convex: its derivative is the mean of E_p[f] − f_y, its second derivative the mean of
    Var_p[f] ≥ 0. So the derivative has one root, and Brent's bracketing method finds log β to 1e-12. Where there is no
    root inside `BOUNDS`, the answer is a bound, and `limit` says which case it was.

    Args:
        logits: Validation logits, shape (N, C).
        labels: Validation labels, shape (N,).

    Returns:
        The fitted temperature.

    Raises:
        ParameterError: For bad logits or labels.
    """
    f = check_scores(logits)
    scale, limit = _best_scale(f, np.zeros(f.shape[1]), check_labels(labels, f))
    return Temperature(1 / scale, limit)


def fit_head_scale(logits: Any, labels: Any, bias: Any) -> VectorScaling:
    """The s of least NLL in f = s V φ + b: temperature scaling of the head's norm alone.

    The logits are linear in s, so the NLL is convex in s and is minimised as in `fit_temperature`. With b = 0 this is
    temperature scaling with T = 1 / s. With a bias it is not, and where b decides between classes, predictions may
    change.

    Args:
        logits: Validation logits V φ + b, shape (N, C).
        labels: Validation labels, shape (N,).
        bias: b, shape (C,).

    Returns:
        Every scale w = s, which makes the head's norm s ‖V‖, and the shifts a = (1 − s) b, which keep b.

    Raises:
        ParameterError: For bad logits, labels or bias.
    """
    b = check_real(bias, "the bias", ndim=1)
    f = check_classes(logits, len(b))
    scale, _ = _best_scale(f - b, b, check_labels(labels, f))
    return VectorScaling(np.full(len(b), scale), (1 - scale) * b)


def fit_vector_scaling(logits: Any, labels: Any) -> VectorScaling:
    """The w and a of least NLL in softmax(w ∘ f + a), from SciPy's L-BFGS started at the best temperature.

    The problem is convex. On separable data and where a class is absent it has no optimum: w and a are then where the
    search ended, with an NLL no larger than that of temperature scaling.

    Args:
        logits: Validation logits, shape (N, C).
        labels: Validation labels, shape (N,).

    Returns:
        The fitted scaling.

    Raises:
        ParameterError: For bad logits or labels.
    """
    f = check_scores(logits)
    y = check_labels(labels, f)
    C = f.shape[1]
    one_hot = np.eye(C)[y]
    # Columns of mean 0 and deviation 1, which L-BFGS likes: f = u · spread + centre. One that is constant but for
    # rounding has nothing to scale.
    centre = f.mean(axis=0)
    constant = np.ptp(f, axis=0) <= 1e-14 * np.abs(f).max(axis=0)
    spread = np.where(constant, 1, f.std(axis=0))
    u = np.where(constant, 0, (f - centre) / spread)

    def loss(x: Array) -> tuple[float, Array]:
        z = u * x[:C] + x[C:]
        r = (special.softmax(z, axis=1) - one_hot) / len(y)  # (N, C)
        return cross_entropy(z, y), np.concatenate([(r * u).sum(axis=0), r.sum(axis=0)])

    scale = 1 / fit_temperature(f, y).T
    options = {"maxiter": 1000, "ftol": 1e-15, "gtol": 1e-8}
    x_0 = np.concatenate([scale * spread, scale * centre])
    found = optimize.minimize(loss, x_0, jac=True, method="L-BFGS-B", options=options)
    w = found.x[:C] / spread
    a = found.x[C:] - w * centre
    return VectorScaling(w, a - a.mean())


def fit_isotonic(logits: Any, labels: Any) -> Isotonic:
    """Isotonic regression of each class on its probability, one against the rest (Zadrozny & Elkan, 2002).

    Args:
        logits: Validation logits, shape (N, C).
        labels: Validation labels, shape (N,).

    Returns:
        The fitted maps.
    """
    p = softmax(logits)
    y = check_labels(labels, p)
    make = lambda: IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")  # noqa: E731
    return Isotonic(tuple(make().fit(p[:, c], y == c) for c in range(p.shape[1])))


def _best_scale(u: Array, offset: Array, y: Labels) -> tuple[float, Limit]:
    """The s of least NLL of softmax(s u + offset), and why s is at a bound."""
    u = u - u.max(axis=1, keepdims=True)  # which no softmax sees; differences keep their digits
    right = u[np.arange(len(u)), y]

    def slope(log_s: float) -> float:
        p = special.softmax(np.exp(log_s) * u + offset, axis=1)
        return float(np.mean((p * u).sum(axis=1) - right))

    low, high = -np.log(BOUNDS[1]), -np.log(BOUNDS[0])
    limit: Limit = "bound"
    if np.ptp(u, axis=1).max() == 0:
        log_s, limit = 0.0, "flat"
    elif (right >= 0).all():  # told from the margins: the slope rounds to 0 long before
        log_s, limit = high, "separable"
    elif slope(low) >= 0:
        log_s = low
    elif slope(high) <= 0:
        log_s = high
    else:
        log_s, limit = optimize.root_scalar(slope, bracket=(low, high), xtol=1e-12).root, ""
    return float(np.exp(log_s)), limit
