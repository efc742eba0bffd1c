"""Checkers accept right answers, and name what is wrong with wrong ones."""

import numpy as np
import torch

from lpft_utils.studies.two_layer import one_direction_limit
from lpft_utils.teaching import checkers as exercises


def head_gradient(phi, V, y):
    return (torch.softmax(phi @ V.T, 1) - torch.nn.functional.one_hot(y, len(V))).T @ phi / len(y)


def feature_gradient(phi, V, y):
    return (torch.softmax(phi @ V.T, 1) - torch.nn.functional.one_hot(y, len(V))) @ V


def test_right_answers_are_accepted():
    assert exercises.check_head_gradient(head_gradient).startswith("Correct")
    assert exercises.check_feature_gradient(feature_gradient).startswith("Correct")
    assert exercises.check_one_direction(one_direction_limit).startswith("Correct")


def test_a_verdict_is_shown_once_and_without_quotation_marks(capsys):
    verdict = exercises.check_head_gradient(head_gradient)
    assert repr(verdict) == "Correct on every case."  # what a notebook shows of a cell's last value
    assert capsys.readouterr().out == ""


def test_a_forgotten_factor_is_named():
    verdict = exercises.check_head_gradient(lambda phi, V, y: 30 * head_gradient(phi, V, y))
    assert verdict.startswith("Not yet") and "30 times" in verdict


def test_wrong_type_shape_and_overflow_are_named():
    assert "expected a tensor" in exercises.check_head_gradient(lambda phi, V, y: 0.0)
    assert "expected shape" in exercises.check_head_gradient(lambda phi, V, y: head_gradient(phi, V, y).T)

    def naive(phi, V, y):
        weights = torch.exp(phi @ V.T)
        return (weights / weights.sum(1, keepdim=True) - torch.nn.functional.one_hot(y, len(V))).T @ phi / len(y)

    assert "extreme logits" in exercises.check_head_gradient(naive)


def test_a_wrong_limit_is_named():
    assert "is off by" in exercises.check_one_direction(lambda v_0, w_0, y: (v_0, w_0))
    assert "not finite" in exercises.check_feature_gradient(lambda phi, V, y: np.nan * feature_gradient(phi, V, y))


def test_the_checker_of_the_kernel_step_knows_right_from_wrong():
    def right(K, f, labels, eta):
        residual = torch.softmax(f, 1) - torch.nn.functional.one_hot(labels, f.shape[1])
        return f - eta / len(f) * torch.einsum("ncmd,md->nc", K, residual)

    assert exercises.check_kernel_step(right) == "Correct on every case."
    verdict = exercises.check_kernel_step(lambda K, f, labels, eta: right(K, f, labels, len(f) * eta))
    assert verdict.startswith("Not yet. two classes")


def test_the_checker_of_the_scaled_kernel_knows_right_from_wrong():
    assert exercises.check_scaled_kernel(lambda P, F, s: (P, s**2 * F)) == "Correct on every case."
    assert "F at s = 3.0" in exercises.check_scaled_kernel(lambda P, F, s: (P, s * F))
    assert "P at s = 3.0" in exercises.check_scaled_kernel(lambda P, F, s: (s * P, s**2 * F))


def test_the_checker_of_the_calibration_error_knows_right_from_wrong():
    def right(confidence, correct, bins):
        edges = np.arange(bins + 1) / bins
        pairs = zip(edges[:-1], edges[1:], strict=True)
        members = [(confidence > a) & (confidence <= b) for a, b in pairs]
        return sum(abs((correct - confidence)[m].sum()) for m in members) / len(confidence)

    assert exercises.check_ece(right) == "Correct on every case."

    def left_closed(confidence, correct, bins):
        index = np.minimum((confidence * bins).astype(int), bins - 1)
        return np.abs(np.bincount(index, correct - confidence)).sum() / len(confidence)

    def unweighted(confidence, correct, bins):
        index = np.ceil(confidence * bins).astype(int)
        return np.mean([abs((correct - confidence)[index == b].mean()) for b in np.unique(index)])

    def with_empty_bins(confidence, correct, bins):
        index = np.ceil(confidence * bins).astype(int)
        with np.errstate(invalid="ignore"):
            n = np.bincount(index, minlength=bins + 1)
            gap = np.bincount(index, correct - confidence, bins + 1) / n
        return (n * np.abs(gap)).sum() / len(confidence)

    assert "on the edges" in exercises.check_ece(left_closed)
    assert "well inside" in exercises.check_ece(unweighted)
    assert "got nan" in exercises.check_ece(with_empty_bins)


def test_the_checker_of_the_lora_kernel_knows_right_from_wrong():
    def right(g, a, A, s):
        G = torch.einsum("ntp,ntq->npq", g, a) @ A.T
        return s**2 * torch.einsum("npr,mpr->nm", G, G)

    assert exercises.check_lora_gram(right) == "Correct on every case."
    assert "several tokens" in exercises.check_lora_gram(lambda g, a, A, s: right(g, a, A, s) / s)

    def without_sums_over_pairs(g, a, A, s):
        z = a @ A.T
        return s**2 * torch.einsum("ntp,mtp,ntr,mtr->nm", g, g, z, z)

    assert "several tokens" in exercises.check_lora_gram(without_sums_over_pairs)
