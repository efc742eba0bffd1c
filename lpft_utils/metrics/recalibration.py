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

from lpft_utils.common.validation import Array, check_integer
from lpft_utils.metrics.calibration import softmax
from lpft_utils.metrics.validation import Labels, check_bias, check_bounds, check_classes, check_labels, check_scores

BOUNDS = (1e-3, 1e3)  # of T: beyond them nothing that a table shows would change
_HUGE = 1e300  # larger numbers are cut to it, so that sums of them stay finite
_STEEPEST = 1e4  # largest scale that a search starts at, in standard deviations: steeper, every gradient is 0
Limit = Literal["", "separable", "uninformative", "flat", "bound"]
VectorLimit = Literal["", "separable", "absent"]
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
        return special.softmax(_times(_below_largest(check_scores(logits)), 1 / self.T), axis=1)


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
        return special.softmax(_times(_below_largest(f - check_bias(self.bias, f)), self.s) + self.bias, axis=1)


@dataclass(frozen=True, eq=False)
class VectorScaling:
    """Softmax of w ∘ f + a: one scale and one shift a class (Guo et al., 2017).

    Attributes:
        w: Scales, shape (C,).
        a: Shifts with mean 0, shape (C,).
        nll_before: NLL of the logits as they were on the data that w and a were fitted on.
        nll: NLL after, on the same data, never larger than that of temperature scaling.
        converged: Whether `limit` is "" and the largest entry of the gradient (for logits of mean 0 and standard
            deviation 1 in each class) is below 1e-6.
        limit: "" or why no w and a are best, and those here are only where the search ended (`note` says it in words):
            "separable" (every example is classified right, as with one class alone), "absent" (a class has no example).
    """

    w: Array
    a: Array
    nll_before: float
    nll: float
    converged: bool
    limit: VectorLimit = ""

    @property
    def note(self) -> str:
        """What `limit` and `converged` mean, as a sentence."""
        if self.limit:
            why = "every example was classified right" if self.limit == "separable" else "a class has no example"
            return f"{why}: the likelihood has no optimum, and w and a are only where the search ended"
        return "optimum" if self.converged else "the search ended before the optimum: pass a larger max_iter"

    def apply(self, logits: Any) -> Array:
        """Probabilities softmax(w ∘ f + a), shape (N, C), for logits f of shape (N, C)."""
        return special.softmax(_times(check_classes(check_scores(logits), len(self.w)), self.w) + self.a, axis=1)


@dataclass(frozen=True, eq=False)
class Isotonic:
    """A monotone function of each class's probability, one against the rest, then rows divided by their sum.

    Attributes:
        maps: scikit-learn's fitted regressions, one a class.
    """

    maps: tuple[IsotonicRegression, ...]

    def apply(self, logits: Any) -> Array:
        """Probabilities, shape (N, C), for logits of shape (N, C); a row that maps to zeros becomes uniform."""
        p = check_classes(softmax(logits), len(self.maps))
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
    low, high = check_bounds(bounds)
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
    low, high = check_bounds(bounds)
    f = check_scores(logits)
    b = check_bias(bias, f)
    scale, before, after, limit = _best_scale(f - b, b, check_labels(labels, f), (1 / high, 1 / low))
    return HeadScale(scale, b, before, after, limit)


def fit_vector_scaling(logits: Any, labels: Any, *, max_iter: int = 1000) -> VectorScaling:
    """The w and a of least NLL in softmax(w ∘ f + a), from SciPy's L-BFGS started at the best temperature.

    The problem is convex. On separable data and where a class is absent it has no optimum, and `limit` says so. Where
    the best temperature is better than what the search finds (it separates the data already, or the logits differ by
    hundreds of orders of magnitude), w = 1 / T and a = 0 are the answer.

    Args:
        logits: Validation logits, shape (N, C).
        labels: Validation labels, shape (N,).
        max_iter: Most iterations.

    Returns:
        The fitted scaling.

    Raises:
        ParameterError: For bad logits or labels, or a `max_iter` that is no positive integer.
    """
    check_integer("max_iter", max_iter)
    f = check_scores(logits)
    y = check_labels(labels, f)
    N, C = f.shape
    start = fit_temperature(f, y)
    u, centre, spread = _standardised(f)

    def loss(z: Array) -> tuple[float, Array]:
        r = (special.softmax(z, axis=1) - np.eye(C)[y]) / N  # (N, C)
        return _nll(z, y), np.concatenate([(r * u).sum(axis=0), r.sum(axis=0)])

    scale = np.minimum(_times(spread, 1 / start.T), _STEEPEST)
    x_0 = np.concatenate([scale, scale * centre])
    options = {"maxiter": max_iter, "ftol": 1e-15, "gtol": 1e-8}
    found = optimize.minimize(lambda x: loss(u * x[:C] + x[C:]), x_0, jac=True, method="L-BFGS-B", options=options)
    x = np.asarray(found.x)
    w, a = x[:C] / spread, x[C:] - x[:C] * centre
    z = _times(f, w) + a  # as `apply` has it, with its rounding
    if not _nll(z, y) <= start.nll:  # not ">": NaN, too, falls back
        w, a, z = np.full(C, 1 / start.T), np.zeros(C), _times(_below_largest(f), 1 / start.T)
    value, gradient = loss(z)
    limit = _no_optimum(z, y)
    converged = not limit and bool(np.abs(gradient).max() < 1e-6)
    return VectorScaling(w, a - a.mean(), start.nll_before, min(value, start.nll), converged, limit)


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


def _below_largest(f: Array) -> Array:
    """Logits less the largest of their row, which no softmax sees: so f / T cannot overflow to ∞ − ∞."""
    with np.errstate(over="ignore"):
        return np.maximum(f - f.max(axis=1, keepdims=True), -_HUGE)


def _times(f: Array, factor: Array | float) -> Array:
    """The product, finite however large."""
    with np.errstate(over="ignore"):
        return np.clip(f * factor, -_HUGE, _HUGE)


def _standardised(f: Array) -> tuple[Array, Array, Array]:
    """Columns of mean 0 and deviation 1 (0 where constant), which L-BFGS likes: u with f = (u + centre) · spread."""
    size = np.abs(f).max(axis=0)  # divided by first, as the square of 1e160 is no number
    size[size < 1 / _HUGE] = 1
    g = f / size
    centre = g.mean(axis=0)
    constant = np.ptp(g, axis=0) < 1e-14  # what is left is rounding
    spread = np.where(constant, 1, g.std(axis=0))
    return np.where(constant, 0, (g - centre) / spread), centre / spread, size * spread


def _no_optimum(z: Array, y: Labels) -> VectorLimit:
    """Why the NLL has no optimum in w and a, told from the scores z of the fit."""
    rows, C = np.arange(len(z)), z.shape[1]
    other = z.copy()
    other[rows, y] = -np.inf
    if C > 1 and (z[rows, y] > other.max(axis=1)).all():
        return "separable"  # twice w and a have a lower NLL, and so on
    return "absent" if np.bincount(y, minlength=C).min() == 0 else ""


def _best_scale(u: Array, offset: Array, y: Labels, bounds: tuple[float, float]) -> tuple[float, float, float, Limit]:
    """Least NLL of softmax(s u + offset) over s in bounds: s, the NLL at 1 and at s, and why s is at a bound."""
    u = _below_largest(u)
    right = u[np.arange(len(u)), y]

    def slope(s: float) -> float:
        p = special.softmax(_times(u, s) + offset, axis=1)
        return float(np.mean((p * u).sum(axis=1) - right))

    low, high = bounds
    limit: Limit = ""
    if np.ptp(u, axis=1).max() == 0:
        s, limit = 1.0, "flat"
    elif (right >= 0).all():  # told from the margins: the slope rounds to 0 long before
        s, limit = high, "separable"
    elif slope(low) >= 0:
        s, limit = low, "uninformative" if slope(0.0) >= 0 else "bound"
    elif slope(high) <= 0:
        s, limit = high, "bound"
    else:
        root = optimize.brentq(lambda log_s: slope(np.exp(log_s)), np.log(low), np.log(high), xtol=1e-12)
        s = float(np.exp(np.float64(root)))  # pyright: ignore[reportArgumentType]
    before, after = _nll(u + offset, y), _nll(_times(u, s) + offset, y)
    if after > before and not limit:  # rounding, when 1 is best
        s = 1.0
    return s, before, min(before, after), limit
