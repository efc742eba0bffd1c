"""The checks that every room shares: what passes, what does not, and with which error."""

import numpy as np
import pytest
import torch

from lpft_utils.common.errors import KernelError, ParameterError
from lpft_utils.common.validation import check_integer, check_labels, check_real, is_integer, is_number


def test_numbers_and_integers_are_told_from_what_only_looks_like_one():
    assert all(map(is_number, (0, -2.5, np.float32(1), np.int64(3))))
    assert not any(map(is_number, (True, np.True_, np.nan, np.inf, "1", None, 1j, [1])))
    assert is_integer(3) and is_integer(np.int64(3))
    assert not any(map(is_integer, (True, np.True_, 3.0, "3", None)))


@pytest.mark.parametrize(
    ("value", "bounds", "message"),
    [
        (0, {}, "k must be a positive integer, got 0"),
        (True, {}, "k must be a positive integer, got True"),
        (1, {"low": 2}, "k must be an integer of at least 2, got 1"),
    ],
)
def test_integers_outside_their_bounds_are_refused(value, bounds, message):
    with pytest.raises(ParameterError, match=message):
        check_integer("k", value, **bounds)
    check_integer("k", np.int64(8), **bounds)


@pytest.mark.parametrize("make", [np.array, torch.tensor, list])
def test_arrays_lists_and_tensors_give_the_same_numpy_arrays(make):
    labels = check_labels(make([0, 2, 1]), 3, 3)
    values = check_real(make([0.5, 1.5]), "x", ndim=1)
    assert labels.dtype == np.int64 and labels.tolist() == [0, 2, 1]
    assert values.dtype == np.float64 and values.tolist() == [0.5, 1.5]


def test_tensors_with_gradient_and_in_bfloat16_are_read():
    x = torch.tensor([[0.5, 0.25]], dtype=torch.bfloat16, requires_grad=True)
    assert check_real(x, "x", ndim=2).tolist() == [[0.5, 0.25]]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1], r"expected y of shape \(3,\), one for each example, got shape \(2,\)"),
        ([0, 1, 3], r"y must lie in 0 … 2, got 0 … 3"),
        ([0, 1, -1], "got -1 … 1"),
        ([0.0, 1.0, 2.0], "y must be integers, got float64"),
        (torch.tensor([True, False, True]), "y must be integers, got bool"),
        ([0, 1, [2]], "lists of equal lengths"),
    ],
)
def test_bad_labels_are_refused_with_the_error_of_the_room(labels, message):
    with pytest.raises(KernelError, match=message):
        check_labels(labels, 3, 3, "y", error=KernelError)
