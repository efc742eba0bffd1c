"""The line of accuracies, and the distance from it, against a solution by hand."""

import numpy as np
import pytest
from scipy.special import expit

from lpft_utils.metrics.shift import effective_robustness, fitted_line


def test_models_on_a_line_give_it_back_and_only_another_one_is_off_it():
    x = np.array([-0.5, 0.2, 1.0, 2.5])
    line = fitted_line(expit(x), expit(0.7 * x - 0.3))
    assert line == pytest.approx((0.7, -0.3))
    above = effective_robustness(line, expit(np.array([0.0, 3.0])), expit(np.array([-0.3, 1.8])) + [0.0, 0.05])
    assert above == pytest.approx([0.0, 0.05])


def test_the_line_is_the_one_of_least_squares():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, 20))
    slope, intercept = fitted_line(expit(x), expit(y))
    normal = np.array([[x @ x, x.sum()], [x.sum(), 20]])
    assert np.array([slope, intercept]) == pytest.approx(np.linalg.solve(normal, [x @ y, y.sum()]))


def test_equal_accuracies_in_distribution_have_no_line():
    line = fitted_line([0.7, 0.7], [0.5, 0.6])
    assert np.isnan(line).all() and np.isnan(effective_robustness(line, [0.7], [0.6])).all()


@pytest.mark.parametrize("accuracy", [0.0, 1.0, 83.0])
def test_what_has_no_finite_logit_is_refused(accuracy):
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        fitted_line([0.5, accuracy], [0.5, 0.6])
