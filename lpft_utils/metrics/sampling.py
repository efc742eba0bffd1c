"""What chance does to the ECE: bootstrap intervals, and the ECE of a perfectly calibrated model.

The ECE is a sum of absolute values, so noise never cancels: a perfectly calibrated model has ECE > 0 on every finite
sample, about √(bins / N) times a constant. On a test set of 56 examples that is most of what a table shows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats

from lpft_utils.common.validation import Array, check_integer
from lpft_utils.metrics.calibration import binned_error, check_probabilities, top_label


def ece_interval(probabilities: Any, labels: Any, n_draws: int = 1000, seed: int = 0) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the ECE: examples are drawn with replacement, N at a time.

    It says how much the ECE depends on which examples were drawn, not on the training seed. Resampling adds noise to a
    sample that has some already, so that the interval lies a little high; with few examples it may even lie above the
    estimate.

    Args:
        probabilities: Shape (N, C), N ≥ 2.
        labels: Shape (N,).
        n_draws: Resamples.
        seed: Seed.

    Returns:
        Lower and upper end.
    """
    check_integer("n_draws", n_draws)
    drawn = stats.bootstrap(
        top_label(probabilities, labels),
        binned_error,
        paired=True,
        vectorized=False,
        n_resamples=n_draws,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return float(drawn.confidence_interval.low), float(drawn.confidence_interval.high)


def ece_under_calibration(probabilities: Any, n_draws: int = 1000, seed: int = 0) -> Array:
    """The ECE that a perfectly calibrated model with these confidences would score at this N (Bröcker & Smith, 2007).

    Perfectly calibrated means that labels are drawn from the predicted probabilities themselves; of such a label the
    ECE sees only whether it is the predicted class, which has the probability max_c p_c.

    A model whose ECE is below the 95th percentile of the draws cannot be told from a calibrated one. The ECE minus
    their mean is 0 on average for a calibrated model, and then below 0 about half of the time. Where the model is not
    calibrated the noise is partly hidden below the true gaps, and this takes off too much: it is a cautious value, not
    an unbiased one.

    Args:
        probabilities: Shape (N, C).
        n_draws: How often all N labels are drawn.
        seed: Seed.

    Returns:
        One ECE per draw, shape (n_draws,).
    """
    check_integer("n_draws", n_draws)
    confidence = check_probabilities(probabilities).max(axis=1)
    rng = np.random.default_rng(seed)
    return np.array([binned_error(confidence, rng.random(len(confidence)) < confidence) for _ in range(n_draws)])
