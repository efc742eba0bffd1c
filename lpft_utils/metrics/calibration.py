"""Is a probability of 0.9 right nine times in ten? Metrics of calibration.

The paper's are the top-label ECE and MCE over 15 equal-width bins with edges (lo, hi] (Guo et al., ICML 2017). On small
test sets most bins are nearly empty: `Reliability.counts` says so, and `sampling` has the ECE that chance alone gives.
Brier score and NLL need no bins. `recalibration` makes a model calibrated.

Probabilities are (N, C) with rows that sum to 1, labels are (N,) integers in 0 … C − 1; NumPy arrays, lists or torch
tensors. All sums are in float64. The predicted class is the first one with the largest probability.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from lpft_utils.common import validation
from lpft_utils.common.errors import ParameterError
from lpft_utils.common.validation import Array, Labels, check_real

BINS = 15
EDGES = np.arange(BINS + 1) / BINS


def check_scores(logits: Any) -> Array:
    """Logits (N, C) as float64, or ParameterError for a bad shape, no examples, or values that are not finite."""
    return check_real(logits, "logits", ndim=2)


def check_classes(logits: Any, C: int) -> Array:
    """Logits (N, C) as float64, or ParameterError as from `check_scores` and for another number of classes."""
    f = check_scores(logits)
    if f.shape[1] != C:
        raise ParameterError(f"expected logits of {C} classes, got {f.shape[1]}")
    return f


def check_probabilities(probabilities: Any) -> Array:
    """Probabilities (N, C) as float64.

    Args:
        probabilities: NumPy array, nested list or torch tensor.

    Returns:
        The array, shape (N, C).

    Raises:
        ParameterError: For a bad shape, values that are not finite or outside [0, 1], or rows that do not sum to 1
            within 1e-4.
    """
    p = check_real(probabilities, "probabilities", ndim=2)
    bad = (p.min(axis=1) < 0) | (p.max(axis=1) > 1 + 1e-4) | (np.abs(p.sum(axis=1) - 1) > 1e-4)
    if bad.any():
        row = int(bad.argmax())
        raise ParameterError(
            f"expected probabilities in [0, 1] with rows that sum to 1 within 1e-4, but row {row} is {p[row]} with sum "
            f"{p[row].sum():.6g}; for logits, call calibration.softmax first; rounded in half precision? Compute the "
            "softmax in float32"
        )
    return p


def check_labels(labels: Any, scores: Array) -> Labels:
    """Labels (N,) in int64 that fit the scores (N, C), or ParameterError."""
    return validation.check_labels(labels, *scores.shape)


def softmax(logits: Any) -> Array:
    """Probabilities of logits, in float64.

    Args:
        logits: f(x), shape (N, C).

    Returns:
        Probabilities, shape (N, C).
    """
    return special.softmax(check_scores(logits), axis=1)


def cross_entropy(logits: Any, labels: Any) -> float:
    """The NLL of softmax(f), from the logits: finite also where the probability of a label underflows.

    Args:
        logits: f(x), shape (N, C).
        labels: Shape (N,).

    Returns:
        Mean of −log p_y, in nats, ≥ 0.
    """
    f = check_scores(logits)
    y = check_labels(labels, f)
    return float(np.mean(np.asarray(special.logsumexp(f, axis=1)) - f[np.arange(len(y)), y]))


def top_label(probabilities: Any, labels: Any) -> tuple[Array, Array]:
    """The confidence max_c p_c, and whether the predicted class is right.

    Args:
        probabilities: Shape (N, C).
        labels: Shape (N,).

    Returns:
        Confidences, shape (N,), and 1.0 where right, otherwise 0.0, shape (N,).
    """
    p = check_probabilities(probabilities)
    y = check_labels(labels, p)
    return p.max(axis=1), (p.argmax(axis=1) == y).astype(np.float64)


def equal_width(values: Array) -> NDArray[np.intp]:
    """The bin of each value among `BINS` equal-width bins (lo, hi] of [0, 1]; 0 itself falls into the first.

    Edges are k / BINS rounded once, so that a value typed as 0.2 lies on the edge 3/15, not a hair beside it.

    Args:
        values: Numbers in [0, 1], any shape.

    Returns:
        Indices 0 … BINS − 1, of the same shape.
    """
    return np.clip(np.searchsorted(EDGES, values, side="left") - 1, 0, BINS - 1)


def binned_error(confidence: Array, target: Array) -> float:
    """Σ_b (n_b / N) |mean target − mean confidence| over the bins b of the confidence.

    Args:
        confidence: Shape (N,).
        target: What it should be on average, such as whether a prediction is right, shape (N,).

    Returns:
        The error, in [0, 1]: the ECE where the target is whether the prediction is right.
    """
    # (n_b / N) |mean target − mean confidence| = |Σ_{i in b} (target − confidence)| / N: empty bins need no care
    return float(np.abs(np.bincount(equal_width(confidence), target - confidence)).sum() / len(confidence))


@dataclass(frozen=True, eq=False)
class Reliability:
    """A reliability diagram as numbers: the bins (lo, hi] lie between `EDGES`.

    Attributes:
        counts: Examples in each bin, shape (B,). Look here first: a bin of two examples says nothing.
        confidence: Mean confidence in each bin, NaN where it is empty, shape (B,).
        accuracy: Share of right predictions in each bin, NaN where it is empty, shape (B,).
    """

    counts: NDArray[np.int64]
    confidence: Array
    accuracy: Array

    @property
    def gap(self) -> Array:
        """Accuracy − confidence, shape (B,): negative where the model is over-confident, NaN where a bin is empty."""
        return self.accuracy - self.confidence

    @property
    def ece(self) -> float:
        """Expected calibration error Σ_b (n_b / N) |accuracy_b − confidence_b|; biased upwards when N is small."""
        return float(np.nansum(self.counts * np.abs(self.gap)) / self.counts.sum())

    @property
    def mce(self) -> float:
        """Maximum calibration error: the largest |accuracy_b − confidence_b| of the bins that are not empty.

        One example can decide it: read it beside `counts`.
        """
        return float(np.nanmax(np.abs(self.gap)))


def reliability(probabilities: Any, labels: Any) -> Reliability:
    """Counts, mean confidence and accuracy in equal-width bins of the top label's confidence.

    Args:
        probabilities: Shape (N, C).
        labels: Shape (N,).

    Returns:
        The diagram, with the ECE and the MCE.
    """
    confidence, correct = top_label(probabilities, labels)
    index = equal_width(confidence)
    counts = np.bincount(index, minlength=BINS)
    with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN of an empty bin
        mean_confidence = np.bincount(index, confidence, BINS) / counts
        accuracy = np.bincount(index, correct, BINS) / counts
    return Reliability(counts, mean_confidence, accuracy)


def ece(probabilities: Any, labels: Any) -> float:
    """The paper's ECE: Σ_b (n_b / N) |accuracy_b − confidence_b| over 15 equal-width bins (lo, hi] of the confidence.

    It is biased upwards when N is small: see `sampling.ece_under_calibration`.

    Args:
        probabilities: Shape (N, C).
        labels: Shape (N,).

    Returns:
        The error, in [0, 1].
    """
    return reliability(probabilities, labels).ece


def brier(probabilities: Any, labels: Any) -> float:
    """Brier score as Brier (1950) has it: mean over examples of Σ_c (p_c − 1[y = c])².

    Args:
        probabilities: Shape (N, C).
        labels: Shape (N,).

    Returns:
        The score, in [0, 2].
    """
    p = check_probabilities(probabilities)
    one_hot = np.eye(p.shape[1])[check_labels(labels, p)]
    return float(((p - one_hot) ** 2).sum(axis=1).mean())


def calibration_metrics(probabilities: Any, labels: Any) -> dict[str, float]:
    """What the tables of calibration show.

    Args:
        probabilities: Shape (N, C).
        labels: Shape (N,).

    Returns:
        "accuracy", "confidence" (its mean; above the accuracy: over-confident), "Brier", "NLL" (in nats; infinite when
        a label has probability 0), "ECE" and "MCE".
    """
    p = check_probabilities(probabilities)
    y = check_labels(labels, p)
    diagram = reliability(p, y)
    with np.errstate(divide="ignore"):  # −log 0 = ∞ is the truth about a label that was ruled out
        log_p = np.log(p[np.arange(len(p)), y])
    return {
        "accuracy": float((p.argmax(axis=1) == y).mean()),
        "confidence": float(p.max(axis=1).mean()),
        "Brier": brier(p, y),
        "NLL": float(np.maximum(-log_p, 0.0).mean()),
        "ECE": diagram.ece,
        "MCE": diagram.mce,
    }
