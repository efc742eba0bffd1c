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

from lpft_utils.calibration import softmax
from lpft_utils.calibration_checks import Labels, check_labels, check_scores
from lpft_utils.errors import ParameterError
from lpft_utils.linear_theory import Array

BOUNDS = (1e-3, 1e3)  # of T: beyond them nothing that a table shows would change
Limit = Literal["", "separable", "uninformative", "flat", "bound"]
_NOTES: dict[Limit, str] = {
    "": "optimum inside the bounds",
    "separable": "every example was classified right: the likelihood has no optimum and sharpening ends at the bound",
    "uninformative": "the logits point away from the labels: the likelihood has no optimum and flattening ends at the "
    "bound",
    "bound": "the optimum lies beyond the bound",
    "flat": "all classes have equal logits: the scale has no effect and was left at 1",
}


@dataclass(frozen=True)
class Temperature:
    """Softmax of logits / T.

    Attributes:
        T: Temperature. Above 1: the model was over-confident.
        nll_before: NLL at T = 1 on the data that T was fitted on.
        nll: NLL at T on the same data, never larger.
        limit: "" for an optimum inside the bounds, else why T is at a bound (`note` says it in words): "separable" (T
            at the lower bound), "uninformative" (T at the upper bound), "bound" (the optimum lies beyond it), "flat"
            (T = 1).
    """

    T: float
    nll_before: float
    nll: float
    limit: Limit = ""

    @property
    def note(self) -> str:
        """What `limit` means, as a sentence."""
        return _NOTES[self.limit]

    def apply(self, logits: Any) -> Array:
        """Probabilities softmax(f / T), shape (N, C), for logits f of shape (N, C)."""
        return softmax(check_scores(logits) / self.T)


@dataclass(frozen=True, eq=False)
class HeadScale:
    """Softmax of s V φ + b: the norm of the head is changed, its direction and the bias stay.

    With b = 0, or when b is scaled too, this is temperature scaling with T = 1 / s. With a bias it is not, and where b
    decides between classes, predictions may change.

    Attributes:
        s: Factor on V, so that the head's norm becomes s ‖V‖.
        bias: b, shape (C,).
        nll_before: NLL at s = 1 on the data that s was fitted on.
        nll: NLL at s on the same data, never larger.
        limit: As for `Temperature`.
    """

    s: float
    bias: Array
    nll_before: float
    nll: float
    limit: Limit = ""

    @property
    def note(self) -> str:
        """What `limit` means, as a sentence."""
        return _NOTES[self.limit]

    def apply(self, logits: Any) -> Array:
        """Probabilities softmax(s (f − b) + b), shape (N, C), for logits f = V φ + b of shape (N, C)."""
        f = check_scores(logits)
        return softmax(self.s * (f - _check_bias(self.bias, f)) + self.bias)


@dataclass(frozen=True, eq=False)
class VectorScaling:
    """Softmax of w ∘ f + a: one scale and one shift a class (Guo et al., 2017).

    Attributes:
        w: Scales, shape (C,).
        a: Shifts with mean 0, shape (C,).
        nll_before: NLL of the logits as they were on the data that w and a were fitted on.
        nll: NLL after, on the same data, never larger than that of temperature scaling.
        converged: Whether the largest entry of the gradient (in units of the logits' spread) fell below 1e-6.
    """

    w: Array
    a: Array
    nll_before: float
    nll: float
    converged: bool

    def apply(self, logits: Any) -> Array:
        """Probabilities softmax(w ∘ f + a), shape (N, C), for logits f of shape (N, C)."""
        return softmax(_check_classes(check_scores(logits), len(self.w)) * self.w + self.a)


@dataclass(frozen=True, eq=False)
class Isotonic:
    """A monotone function of each class's probability, one against the rest, then rows divided by their sum.

    Attributes:
        maps: scikit-learn's fitted regressions, one a class.
    """

    maps: tuple[IsotonicRegression, ...]

    def apply(self, logits: Any) -> Array:
        """Probabilities, shape (N, C), for logits of shape (N, C); a row that maps to zeros becomes uniform."""
        p = _check_classes(softmax(logits), len(self.maps))
        q = np.column_stack([fitted.predict(p[:, c]) for c, fitted in enumerate(self.maps)])
        total = q.sum(axis=1, keepdims=True)
        return np.divide(q, total, out=np.full_like(q, 1 / len(self.maps)), where=total > 0)


def fit_temperature(logits: Any, labels: Any, *, bounds: tuple[float, float] = BOUNDS) -> Temperature:
    """The T of least NLL.

    In β = 1 / T the NLL is convex: its derivative is the mean of E_p[f] − f_y, its second derivative the mean of
    Var_p[f] ≥ 0. So the derivative has one root, and Brent's bracketing method finds log β to 1e-12. Where there is no
    root the answer is a bound, and `limit` says which case it was.

    Args:
        logits: Validation logits, shape (N, C).
        labels: Validation labels, shape (N,).
        bounds: Smallest and largest T, around 1.

    Returns:
        The fitted temperature.

    Raises:
        ParameterError: For bad logits or labels, or bounds that do not enclose 1.
    """
    low, high = _check_bounds(bounds)
    f = check_scores(logits)
    scale, before, after, limit = _best_scale(f, np.zeros(f.shape[1]), check_labels(labels, f), (1 / high, 1 / low))
    return Temperature(1 / scale, before, after, limit)


def fit_head_scale(logits: Any, labels: Any, bias: Any, *, bounds: tuple[float, float] = BOUNDS) -> HeadScale:
    """The s of least NLL in f = s V φ + b: temperature scaling of the head's norm alone.

    The logits are linear in s, so the NLL is convex in s and is minimised as in `fit_temperature`.

    Args:
        logits: Validation logits V φ + b, shape (N, C).
        labels: Validation labels, shape (N,).
        bias: b, shape (C,).
        bounds: Smallest and largest 1 / s, around 1.

    Returns:
        The fitted scale.

    Raises:
        ParameterError: For bad logits, labels or bias, or bounds that do not enclose 1.
    """
    low, high = _check_bounds(bounds)
    f = check_scores(logits)
    b = _check_bias(bias, f)
    scale, before, after, limit = _best_scale(f - b, b, check_labels(labels, f), (1 / high, 1 / low))
    return HeadScale(scale, b, before, after, limit)


def fit_vector_scaling(logits: Any, labels: Any, *, max_iter: int = 1000) -> VectorScaling:
    """The w and a of least NLL in softmax(w ∘ f + a), from SciPy's L-BFGS started at the best temperature.

    The problem is convex. On separable data it has no optimum: the start is then at `fit_temperature`'s bound already.

    Args:
        logits: Validation logits, shape (N, C).
        labels: Validation labels, shape (N,).
        max_iter: Most iterations.

    Returns:
        The fitted scaling.
    """
    f = check_scores(logits)
    y = check_labels(labels, f)
    N, C = f.shape
    start = fit_temperature(f, y)
    spread = np.maximum(f.std(axis=0), 1e-12)  # L-BFGS likes variables of one size
    u, Y = f / spread, np.eye(C)[y]

    def loss(x: Array) -> tuple[float, Array]:
        z = u * x[:C] + x[C:]
        r = (special.softmax(z, axis=1) - Y) / N  # (N, C)
        return _nll(z, y), np.concatenate([(r * u).sum(axis=0), r.sum(axis=0)])

    x_0 = np.concatenate([spread / start.T, np.zeros(C)])
    options = {"maxiter": max_iter, "ftol": 1e-15, "gtol": 1e-8}
    x = np.asarray(optimize.minimize(loss, x_0, jac=True, method="L-BFGS-B", options=options).x)
    if loss(x)[0] > loss(x_0)[0]:  # rounding at an optimum that the start already was
        x = x_0
    value, gradient = loss(x)
    return VectorScaling(
        x[:C] / spread, x[C:] - x[C:].mean(), start.nll_before, value, bool(np.abs(gradient).max() < 1e-6)
    )


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


def _nll(z: Array, y: Labels) -> float:
    return float(np.mean(np.asarray(special.logsumexp(z, axis=1)) - z[np.arange(len(z)), y]))


def _best_scale(u: Array, offset: Array, y: Labels, bounds: tuple[float, float]) -> tuple[float, float, float, Limit]:
    """Least NLL of softmax(s u + offset) over s in bounds: s, the NLL at 1 and at s, and why s is at a bound."""
    right = u[np.arange(len(u)), y]

    def slope(s: float) -> float:
        p = special.softmax(s * u + offset, axis=1)
        return float(np.mean((p * u).sum(axis=1) - right))

    low, high = bounds
    limit: Limit = ""
    if np.ptp(u, axis=1).max() == 0:
        s, limit = 1.0, "flat"
    elif (right >= u.max(axis=1)).all():  # told from the margins: the slope rounds to 0 long before
        s, limit = high, "separable"
    elif slope(low) >= 0:
        s, limit = low, "uninformative" if slope(0.0) >= 0 else "bound"
    elif slope(high) <= 0:
        s, limit = high, "bound"
    else:
        root = optimize.brentq(lambda log_s: slope(np.exp(log_s)), np.log(low), np.log(high), xtol=1e-12)
        s = float(np.exp(np.float64(root)))  # pyright: ignore[reportArgumentType]
    before, after = _nll(u + offset, y), _nll(s * u + offset, y)
    return (s, before, after, limit) if after <= before else (1.0, before, before, limit)  # rounding, when 1 is best


def _check_bounds(bounds: tuple[float, float]) -> tuple[float, float]:
    low, high = bounds
    if not 0 < low <= 1 <= high < np.inf:
        raise ParameterError(f"bounds must be positive and enclose 1, got {bounds!r}")
    return low, high


def _check_bias(bias: Any, logits: Array) -> Array:
    b = check_scores(bias[None] if hasattr(bias, "detach") else np.asarray(bias)[None], "the bias")[0]
    if len(b) != logits.shape[1]:
        raise ParameterError(f"expected a bias for each of {logits.shape[1]} classes, got {len(b)}")
    return b


def _check_classes(scores: Array, C: int) -> Array:
    if scores.shape[1] != C:
        raise ParameterError(f"fitted on {C} classes, got logits of {scores.shape[1]}")
    return scores
