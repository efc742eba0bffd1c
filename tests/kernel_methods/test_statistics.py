"""Kernel statistics against numpy on the flattened matrix, closed forms, and invariances."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lpft_utils.common.errors import KernelError, LpftError
from lpft_utils.kernel_methods.statistics import (
    alignment,
    block_trace_norms,
    class_contrast,
    effective_rank,
    frobenius,
    ft_ratio,
    numerical_rank,
    residual_ft_ratio,
    spectrum,
)

HEALTHY = torch.eye(6, dtype=torch.float64).reshape(2, 3, 2, 3)


def psd(rng: np.random.Generator, N: int, C: int, rank: int) -> torch.Tensor:
    J = torch.tensor(rng.normal(size=(N, C, rank)))
    return torch.einsum("ncp,mdp->ncmd", J, J)


shapes = st.tuples(st.integers(1, 6), st.integers(1, 4), st.integers(1, 6), st.integers(0, 10_000))


@settings(max_examples=40, deadline=None)
@given(shapes)
def test_measures_equal_numpy_on_the_matrix(shape):
    N, C, M, seed = shape
    rng = np.random.default_rng(seed)
    K1, K2 = rng.normal(size=(N, C, M, C)), rng.normal(size=(N, C, M, C))
    A, B = K1.reshape(N * C, M * C), K2.reshape(N * C, M * C)
    t1, t2 = torch.tensor(K1), torch.tensor(K2)
    assert frobenius(t1) == pytest.approx(np.linalg.norm(A), rel=1e-12)
    assert ft_ratio(t1, t2) == pytest.approx(np.linalg.norm(B) / np.linalg.norm(A + B), rel=1e-10)
    values = np.linalg.svd(A, compute_uv=False)
    np.testing.assert_allclose(spectrum(t1), values / values[0], atol=1e-12)
    p = values / values.sum()
    assert effective_rank(t1) == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-8)
    cosine = np.trace(A.T @ B) / np.linalg.norm(A) / np.linalg.norm(B)
    assert alignment(t1, t2) == pytest.approx(cosine, abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 7), st.integers(1, 4), st.integers(1, 9), st.integers(0, 10_000))
def test_symmetric_kernels_take_the_same_values_by_eigenvalues(N, C, rank, seed):
    K = psd(np.random.default_rng(seed), N, C, rank)
    values = torch.linalg.svdvals(K.reshape(N * C, N * C))
    torch.testing.assert_close(spectrum(K), values / values[0], atol=1e-12, rtol=0)
    assert effective_rank(K) <= min(rank, N * C) + 1e-6
    assert 0 <= ft_ratio(psd(np.random.default_rng(seed + 1), N, C, 3), K) <= 1


def test_negative_eigenvalues_count_by_their_size():
    torch.testing.assert_close(
        spectrum(torch.diag(torch.tensor([1.0, -4.0])).reshape(2, 1, 2, 1)), torch.tensor([1, 0.25]).double()
    )


def test_effective_rank_counts_equal_values():
    assert effective_rank(HEALTHY) == pytest.approx(6)
    K = torch.diag(torch.tensor([3.0, 3.0, 3.0, 0.0])).reshape(2, 2, 2, 2)
    assert effective_rank(K) == pytest.approx(3)
    unequal = torch.diag(torch.tensor([3.0, 1.0])).reshape(2, 1, 2, 1)
    assert effective_rank(unequal) == pytest.approx(np.exp(-0.75 * np.log(0.75) - 0.25 * np.log(0.25)))


def test_ft_ratio_of_equal_and_absent_parts():
    assert ft_ratio(HEALTHY, HEALTHY) == pytest.approx(0.5)
    assert ft_ratio(HEALTHY, 0 * HEALTHY) == 0
    assert ft_ratio(0 * HEALTHY, HEALTHY) == 1


@pytest.mark.parametrize("centered", [False, True])
def test_alignment_ignores_scale_and_only_scale(centered):
    rng = np.random.default_rng(0)
    K1, K2 = psd(rng, 8, 3, 5), psd(rng, 8, 3, 5)
    assert alignment(K1, 7 * K1, centered=centered) == pytest.approx(1, abs=1e-12)
    assert alignment(3 * K1, K2, centered=centered) == pytest.approx(alignment(K1, K2, centered=centered), abs=1e-12)
    assert alignment(K1, K2, centered=centered) < 0.9


def test_centring_is_that_of_the_jacobians():
    """The centred kernel is the plain kernel of Jacobians minus their mean, also between two sets of examples."""
    rng = np.random.default_rng(1)
    J, J2, L, L2 = (torch.tensor(rng.normal(size=s) + 2) for s in ((5, 2, 6), (4, 2, 6), (5, 2, 7), (4, 2, 7)))

    def kernel(a, b):
        return torch.einsum("ncp,mdp->ncmd", a, b)

    centred = alignment(kernel(J - J.mean(0), J2 - J2.mean(0)), kernel(L - L.mean(0), L2 - L2.mean(0)))
    assert alignment(kernel(J, J2), kernel(L, L2), centered=True) == pytest.approx(centred, abs=1e-12)
    assert alignment(kernel(J, J2), kernel(L, L2)) > 0.8 > abs(centred)


def test_centring_takes_the_bias_away():
    rng = np.random.default_rng(2)
    K1, K2 = psd(rng, 6, 2, 4), psd(rng, 6, 2, 4)
    bias = 50 * torch.eye(2, dtype=torch.float64)[None, :, None, :].expand(6, 2, 6, 2)
    expected = alignment(K1, K2, centered=True)
    assert alignment(K1 + bias, K2 + bias, centered=True) == pytest.approx(expected, abs=1e-9)
    assert alignment(K1 + bias, K2 + bias) > 0.98


def test_arguments_stay_as_they_are():
    K = psd(np.random.default_rng(3), 3, 2, 2)
    before = K.clone()
    alignment(K, K, centered=True)
    assert torch.equal(K, before)


# ---- what is refused ----

ALL = [frobenius, spectrum, effective_rank, lambda K: ft_ratio(K, K), lambda K: alignment(K, K)]


@pytest.mark.parametrize("measure", ALL)
@pytest.mark.parametrize("shape", [(3, 3), (2, 3, 2), (2, 3, 2, 4), (0, 3, 0, 3)])
def test_wrong_shapes_are_refused(measure, shape):
    with pytest.raises(KernelError, match=r"expected a kernel of shape \(N, C, M, C\)"):
        measure(torch.ones(shape))


@pytest.mark.parametrize("measure", ALL)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_located(measure, value):
    K = HEALTHY.clone()
    K[1, 0, 1, 2] = value
    with pytest.raises(KernelError, match=r"1 of 36 .* \(first at \(1, 0, 1, 2\)\)"):
        measure(K)


@pytest.mark.parametrize("measure", ALL[1:])
def test_zero_kernels_are_refused(measure):
    with pytest.raises(LpftError, match="zero"):
        measure(0 * HEALTHY)


def test_the_norm_of_zero_is_zero():
    assert frobenius(0 * HEALTHY) == 0


def test_kernels_of_different_examples_are_not_compared():
    other = torch.eye(9).reshape(3, 3, 3, 3)
    for measure in (ft_ratio, alignment):
        with pytest.raises(KernelError, match=r"\(2, 3, 2, 3\) and \(3, 3, 3, 3\)"):
            measure(HEALTHY, other)


def test_a_kernel_that_is_the_same_for_all_examples_has_no_centred_direction():
    with pytest.raises(KernelError, match="K2 is zero after centring"):
        alignment(psd(np.random.default_rng(4), 3, 2, 4), torch.ones(3, 2, 3, 2) / 3, centered=True)


@settings(max_examples=40, deadline=None)
@given(shapes)
def test_block_norms_and_the_ratio_with_residuals_equal_numpy_block_by_block(shape):
    N, C, M, seed = shape
    rng = np.random.default_rng(seed)
    P, F, delta = rng.normal(size=(N, C, M, C)), rng.normal(size=(N, C, M, C)), rng.normal(size=(M, C))
    norms = [[np.linalg.norm(F[n, :, m], "nuc") for m in range(M)] for n in range(N)]
    np.testing.assert_allclose(block_trace_norms(torch.tensor(F)), norms, rtol=1e-10)
    shares = []
    for n in range(N):
        by_F, by_P = (sum(K[n, :, m] @ delta[m] for m in range(M)) for K in (F, P))
        shares.append(np.linalg.norm(by_F) / np.linalg.norm(by_F + by_P))
    got = residual_ft_ratio(torch.tensor(P), torch.tensor(F), torch.tensor(delta))
    assert got == pytest.approx(np.mean(shares), rel=1e-8)


def test_the_ratio_with_residuals_may_exceed_one_where_that_of_norms_cannot():
    eye = torch.eye(2, dtype=torch.float64).reshape(1, 2, 1, 2)
    P = torch.tensor([[0.3, -0.3], [-0.3, 0.3]]).double().reshape(1, 2, 1, 2)
    F = torch.tensor([[0.04, -0.2], [-0.2, 1.0]]).double().reshape(1, 2, 1, 2)  # pulls the other way than P
    delta = torch.tensor([[1.0, 0.5]])
    assert residual_ft_ratio(P, F, delta) > 1 > ft_ratio(P, F)
    assert residual_ft_ratio(eye, 3 * eye, delta) == pytest.approx(0.75)
    with pytest.raises(KernelError, match=r"residuals: expected shape \(1, 2\), got \(2, 2\)"):
        residual_ft_ratio(P, F, torch.ones(2, 2))
    with pytest.raises(KernelError, match="Are all residuals zero"):
        residual_ft_ratio(P, F, torch.zeros(1, 2))


@pytest.mark.parametrize("rank", [1, 4, 12])
def test_numerical_rank_is_numpys_default_in_float32(rank):
    K = psd(np.random.default_rng(rank), 6, 2, rank).float()
    assert numerical_rank(K) == np.linalg.matrix_rank(K.reshape(12, 12).numpy()) == rank
    fading = torch.diag(torch.logspace(0, -11, 12, dtype=torch.float64)).reshape(6, 2, 6, 2)
    assert numerical_rank(fading) == np.linalg.matrix_rank(fading.reshape(12, 12).float().numpy()) == 6
    assert np.linalg.matrix_rank(fading.reshape(12, 12).numpy()) == 12, "in float64 hardly a value is too small"


def test_classes_stand_out_by_the_ratio_of_mean_block_norms_without_an_example_itself():
    labels = torch.tensor([0, 0, 1, 1])
    gram = torch.tensor([[9.0, 4, 1, 1], [4, 9, 1, 1], [1, 1, 9, 4], [1, 1, 4, 9]])
    K = torch.einsum("nm,cd->ncmd", gram, torch.eye(2))
    assert class_contrast(K, labels) == pytest.approx(np.log10(4))
    assert class_contrast(torch.ones(4, 2, 4, 2), labels) == 0
    for useless in ([0, 0, 0, 0], [0, 1]):
        with pytest.raises(KernelError, match="expected two classes, one of them twice"):
            n = len(useless)
            class_contrast(torch.ones(n, 2, n, 2), torch.tensor(useless))
