"""Is a probability of 0.9 right nine times in ten? Measures of calibration.

The paper's measures are the top-label ECE and MCE over 15 equal-width bins with edges (lo, hi] (Guo et al., ICML 2017).
The others are there because a binned measure alone can mislead: its bins are nearly empty on small test sets
(`Reliability.counts`), it depends on the binning (`ece_equal_mass`) and looks at the top label only
(`ece_class_wise`), while Brier and NLL need no bins. `calibration_sampling` has intervals and the bias of the ECE,
`recalibration` makes a model calibrated.

Probabilities are (N, C) with rows that sum to 1, labels are (N,) integers in 0 … C − 1; NumPy arrays, lists or torch
tensors. All sums are in float64. The predicted class is the first one with the largest probability.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from lpft_utils.common.validation import Array
from lpft_utils.metrics.validation import check_bins, check_labels, check_probabilities, check_scores

BINS = 15


def softmax(logits: Any) -> Array:
    """Probabilities of logits, in float64.

    Args:
        logits: f(x), shape (N, C).

    Returns:
        Probabilities, shape (N, C).
    """
    return special.softmax(check_scores(logits), axis=1)


def top_label(probabilities: Any, labels: Any) -> tuple[Array, Array]:
    """The confidence max_c p_c, and whether the predicted class is right.

    Args:
        probabilities: Shape (N, C).
        labels: Shape (N,).

    Returns:
        Confidences, shape (N,), and 1.0 where right, else 0.0, shape (N,).
    """
    p = check_probabilities(probabilities)
    y = check_labels(labels, p)
    return p.max(axis=1), (p.argmax(axis=1) == y).astype(np.float64)


def equal_width(values: Array, bins: int = BINS) -> NDArray[np.intp]:
    """The bin of each value among `bins` equal-width bins (lo, hi] of [0, 1]; 0 itself falls into the first.

    Edges are k / bins rounded once, so that a value typed as 0.2 lies on the edge 3/15, not a hair beside it.

    Args:
        values: Numbers in [0, 1], any shape.
        bins: Number of bins.

    Returns:
        Indices 0 … bins − 1, of the same shape.
    """
    check_bins(bins)
    edges = np.arange(bins + 1) / bins
    return np.clip(np.searchsorted(edges, values, side="left") - 1, 0, bins - 1)


def equal_mass(values: Array, bins: int = BINS) -> NDArray[np.intp]:
    """The bin of each value among at most `bins` bins of equally many examples; equal values share a bin.

    Args:
        values: Shape (N,).
        bins: Number of bins; with fewer distinct values than bins, some are left out.

    Returns:
        Indices from 0, shape (N,).
    """
    check_bins(bins)
    last = [part[-1] for part in np.array_split(np.sort(values), bins) if len(part)]
    return np.searchsorted(np.unique(last), values, side="left")


@dataclass(frozen=True, eq=False)
class Reliability:
    """A reliability diagram as numbers.

    Attributes:
        edges: Edges of the bins (lo, hi], shape (B + 1,).
        counts: Examples in each bin, shape (B,). Look here first: a bin of two examples says nothing.
        confidence: Mean confidence in each bin, NaN where it is empty, shape (B,).
        accuracy: Share of right predictions in each bin, NaN where it is empty, shape (B,).
    """

    edges: Array
    counts: NDArray[np.int64]
    confidence: Array
    accuracy: Array

    @property
    def gap(self) -> Array:
        """Accuracy − confidence, shape (B,): negative where the model is over-confident, NaN where a bin is empty."""
        return self.accuracy - self.confidence

    @property
    def ece(self) -> float:
        """Expected calibration error Σ_b (n_b / N) |accuracy_b − confidence_b|."""
        return float(np.nansum(self.counts * np.abs(self.gap)) / self.counts.sum())

    @property
    def mce(self) -> float:
        """Maximum calibration error: the largest |accuracy_b − confidence_b| of the bins that are not empty."""
        return float(np.nanmax(np.abs(self.gap)))


def reliability(probabilities: Any, labels: Any, bins: int = BINS) -> Reliability:
    """Counts, mean confidence and accuracy in equal-width bins of the top label's confidence.

    Args:
        probabilities: Shape (N, C).
        labels: Shape (N,).
        bins: Number of bins.

    Returns:
        The diagram.
    """
    confidence, correct = top_label(probabilities, labels)
    index = equal_width(confidence, bins)
    counts = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN of an empty bin
        mean_confidence = np.bincount(index, confidence, bins) / counts
        accuracy = np.bincount(index, correct, bins) / counts
    return Reliability(np.arange(bins + 1) / bins, counts, mean_confidence, accuracy)


def ece(probabilities: Any, labels: Any, bins: int = BINS) -> float:
    """The paper's ECE: Σ_b (n_b / N) |accuracy_b − confidence_b| over equal-width bins (lo, hi] of the confidence.

    It is biased upwards when N is small: see `calibration_sampling.debiased_ece`.

    Args:
        probabilities: Shape (N, C).
        labels: Shape (N,).
        bins: Number of bins, 15 in the paper.

    Returns:
        The error, in [0, 1].
    """
    return reliability(probabilities, labels, bins).ece


def mce(probabilities: Any, labels: Any, bins: int = BINS) -> float:
    """The paper's MCE: the largest |accuracy_b − confidence_b| of all bins with at least one example.

    One example can decide it: read it beside `Reliability.counts`.

    Args:
        probabilities: Shape (N, C).
        labels: Shape (N,).
        bins: Number of bins, 15 in the paper.

    Returns:
        The error, in [0, 1].
    """
    return reliability(probabilities, labels, bins).mce


def _binned_error(score: Array, outcome: Array, index: NDArray[np.intp]) -> float:
    # (n_b / N) |mean outcome − mean score| = |Σ_{i in b} (outcome − score)| / N: empty bins need no care
    return float(np.abs(np.bincount(index, outcome - score)).sum() / len(score))


def ece_equal_mass(probabilities: Any, labels: Any, bins: int = BINS) -> float:
    """ECE over bins of equally many examples (Nixon et al., 2019), which no bin leaves nearly empty.

    Args:
        probabilities: Shape (N, C).
        labels: Shape (N,).
        bins: Number of bins; examples of equal confidence share one, so there may be fewer.

    Returns:
        The error, in [0, 1].
    """
    confidence, correct = top_label(probabilities, labels)
    return _binned_error(confidence, correct, equal_mass(confidence, bins))


def ece_class_wise(probabilities: Any, labels: Any, bins: int = BINS) -> float:
    """ECE of every class's probability, not of the top label's alone, averaged over classes (Kull et al., 2019).

    Args:
        probabilities: Shape (N, C).
        labels: Shape (N,).
        bins: Number of equal-width bins (lo, hi].

    Returns:
        The error, in [0, 1].
    """
    p = check_probabilities(probabilities)
    y = check_labels(labels, p)
    errors = [
        _binned_error(p[:, c], (y == c).astype(np.float64), equal_width(p[:, c], bins)) for c in range(p.shape[1])
    ]
    return float(np.mean(errors))


def brier(probabilities: Any, labels: Any) -> float:
    """Brier score as Brier (1950) has it: mean over examples of Σ_c (p_c − 1[y = c])².

    Args:
        probabilities: Shape (N, C).
        labels: Shape (N,).

    Returns:
        The score, in [0, 2].
    """
    return float(per_example(probabilities, labels)["Brier"].mean())


def nll(probabilities: Any, labels: Any) -> float:
    """Negative log-likelihood: mean of −log p_y, in nats.

    Args:
        probabilities: Shape (N, C).
        labels: Shape (N,).

    Returns:
        The loss, ≥ 0; infinite when a label has probability 0.
    """
    return float(per_example(probabilities, labels)["NLL"].mean())


def accuracy(probabilities: Any, labels: Any) -> float:
    """Share of right predictions.

    Args:
        probabilities: Shape (N, C).
        labels: Shape (N,).

    Returns:
        The share, in [0, 1].
    """
    return float(top_label(probabilities, labels)[1].mean())


def mean_confidence(probabilities: Any) -> float:
    """Mean over examples of max_c p_c. Above the accuracy: over-confident on average.

    Args:
        probabilities: Shape (N, C).

    Returns:
        The mean, in [1 / C, 1].
    """
    return float(check_probabilities(probabilities).max(axis=1).mean())


def entropy(probabilities: Any) -> float:
    """Mean over examples of −Σ_c p_c log p_c, in nats.

    Args:
        probabilities: Shape (N, C).

    Returns:
        The mean, in [0, log C].
    """
    return float(special.entr(check_probabilities(probabilities)).sum(axis=1).mean())


def per_example(probabilities: Any, labels: Any) -> dict[str, Array]:
    """What the unbinned measures are the means of.

    Args:
        probabilities: Shape (N, C).
        labels: Shape (N,).

    Returns:
        "accuracy", "confidence", "Brier", "NLL" and "entropy", each of shape (N,).
    """
    p = check_probabilities(probabilities)
    y = check_labels(labels, p)
    with np.errstate(divide="ignore"):  # −log 0 = ∞ is the truth about a label that was ruled out
        log_p = np.log(p[np.arange(len(p)), y])
    return {
        "accuracy": (p.argmax(axis=1) == y).astype(np.float64),
        "confidence": p.max(axis=1),
        "Brier": ((p - np.eye(p.shape[1])[y]) ** 2).sum(axis=1),
        "NLL": np.maximum(-log_p, 0.0),
        "entropy": special.entr(p).sum(axis=1),
    }


def measures(probabilities: Any, labels: Any, bins: int = BINS) -> dict[str, float]:
    """Every measure of this module, by the names that tables and `calibration_sampling.bootstrap` use.

    Args:
        probabilities: Shape (N, C).
        labels: Shape (N,).
        bins: Number of bins.

    Returns:
        "accuracy", "confidence", "Brier", "NLL", "entropy", "ECE", "MCE", "ECE_mass" and "ECE_class".
    """
    diagram = reliability(probabilities, labels, bins)
    return {
        **{name: float(values.mean()) for name, values in per_example(probabilities, labels).items()},
        "ECE": diagram.ece,
        "MCE": diagram.mce,
        "ECE_mass": ece_equal_mass(probabilities, labels, bins),
        "ECE_class": ece_class_wise(probabilities, labels, bins),
    }
