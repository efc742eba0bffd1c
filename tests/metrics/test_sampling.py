"""What chance does to the ECE, against closed forms."""

import numpy as np
import pytest
from constructed import drawn
from scipy import stats

from lpft_utils.common.errors import ParameterError
from lpft_utils.metrics import calibration as cal
from lpft_utils.metrics import sampling


def test_bootstrap_interval_is_that_of_the_binomial_distribution_where_there_is_one_bin():
    # confidence 0.8 everywhere, k of 400 right: ECE = |k / 400 − 0.8|, and k of a resample is Binomial(400, 0.6)
    p, y = np.tile([0.8, 0.2], (400, 1)), np.repeat([0, 1], [240, 160])
    ends = 0.8 - stats.binom.ppf([0.975, 0.025], 400, 0.6) / 400
    assert sampling.ece_interval(p, y, 4000) == pytest.approx(ends, abs=0.004)


def test_bootstrap_draws_confidences_and_labels_together():
    p, y = np.repeat([[0.9, 0.1], [0.6, 0.4]], 50, axis=0), np.repeat([0, 1], 50)  # gaps 0.1 and −0.6 always
    low, high = sampling.ece_interval(p, y, 2000)
    k = stats.binom.ppf([0.025, 0.975], 100, 0.5) / 100
    assert (low, high) == pytest.approx(0.1 + 0.5 * k, abs=0.011)
    assert sampling.ece_interval(p, y) == sampling.ece_interval(p, y) != sampling.ece_interval(p, y, seed=1)


def test_perfect_ece_has_the_closed_form_mean_in_one_bin():
    # one bin, confidence q: ECE = |k/N − q|, and E|k/N − 1/2| for N = 4 is 3/16
    draws = sampling.ece_under_calibration(np.full((4, 2), 0.5), 20_000)
    assert draws.mean() == pytest.approx(3 / 16, abs=0.004)
    large = sampling.ece_under_calibration(np.tile([0.9, 0.1], (2000, 1)), 4000)
    assert large.mean() == pytest.approx(np.sqrt(2 / np.pi * 0.09 / 2000), rel=0.05)


def test_perfect_ece_is_the_error_of_labels_drawn_from_the_probabilities():
    p = cal.softmax(drawn(1, 60, 4)[0])
    rng = np.random.default_rng(0)
    direct = [cal.ece(p, [rng.choice(4, p=row) for row in p]) for _ in range(400)]
    draws = sampling.ece_under_calibration(p, 4000)
    assert np.mean(direct) == pytest.approx(draws.mean(), abs=4 * np.std(direct) / 20)
    assert np.std(direct) == pytest.approx(draws.std(), rel=0.2)


def test_chance_explains_the_ece_of_a_calibrated_model_and_not_that_of_an_overconfident_one():
    def measured(f, y):
        p = cal.softmax(f)
        draws = sampling.ece_under_calibration(p, 300)
        return cal.ece(p, y), draws.mean(), np.quantile(draws, 0.95)

    ece, chance, high = np.array([measured(*drawn(s, 100, 3)) for s in range(60)]).T
    assert (ece > 0).all() and ece.mean() > 0.08
    assert abs((ece - chance).mean()) < 0.01 and (ece > high).mean() < 0.15
    f, y = drawn(0, 100, 3)
    ece, chance, high = measured(5 * f, y)
    assert ece - chance > 0.05 and ece > high


@pytest.mark.parametrize("n_draws", [0, 1.5, "3", None, True])
def test_bad_numbers_of_draws_are_refused(n_draws):
    with pytest.raises(ParameterError, match=f"n_draws must be a positive integer, got {n_draws!r}"):
        sampling.ece_interval([[0.5, 0.5]] * 2, [0, 1], n_draws)
    with pytest.raises(ParameterError, match=f"n_draws must be a positive integer, got {n_draws!r}"):
        sampling.ece_under_calibration([[0.5, 0.5]] * 2, n_draws)
