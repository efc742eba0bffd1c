r"""Kernel regression with a kernel of vector-valued outputs, two ways. Both are computed in float64.

**Definition.** A kernel K with blocks K(x, x') ∈ R^{C×C} makes functions f(x) = Σ_n K(x, x_n) α_n with α_n ∈ R^C. As
matrices, with rows and columns in the order (example, class): f = K α and ‖f‖² = αᵀ K α in the kernel's Hilbert space.
With the neural tangent kernel these are the functions that the linearised model can reach from its initialisation, and
‖f‖ is the distance that its parameters go.

**Ridge** (`ridge`) minimises ½ ‖K α − y‖² + ½ λ αᵀ K α, so (K + λ I) α = y. The targets are y = vec(onehot − 1/C), not
onehot minus class means: 1/C is a constant, so that leaving an example out changes nobody else's target and the
leave-one-out formula below is exact; and it is the residual of the cross-entropy at equal probabilities, where
training starts. λ is chosen by the mean squared error on each example when the fit is done without it. An example has C
outputs, so a C × C block takes the place of the familiar scalar: with H = K + λ I,

    y_i − f^(−i)(x_i) = ((H⁻¹)_ii)⁻¹ (H⁻¹ y)_i .

(Proof: the fit without i is the fit with y_i replaced by f^(−i)(x_i), for which α_i = 0.) One eigendecomposition of K
serves every λ.

**Logistic** (`logistic`) minimises (1/N) Σ_n CE(f(x_n), y_n) + ½ λ αᵀ K α. At the optimum α = (Y − softmax(f)) / (Nλ).
λ is chosen by stratified cross-validation over examples, by the smallest mean held-out cross-entropy. For
K = (Φ Φᵀ) ⊗ I_C it is L2-regularised multinomial logistic regression on Φ with scikit-learn's C = 1/(Nλ).

Neither has an intercept beyond the kernel: P of a head with a bias has its "+1" inside.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lpft_utils.common.errors import KernelError
from lpft_utils.common.folds import fold_ids
from lpft_utils.kernel_methods.contrasts import one_hot
from lpft_utils.kernel_methods.newton import fit_penalties
from lpft_utils.kernel_methods.validation import check_kernel, check_labels, check_train_kernel

RIDGE_GRID = np.logspace(-6, 3, 19)  # times the mean of K's diagonal
LOGISTIC_GRID = np.logspace(-6, 1, 8)


@dataclass(frozen=True)
class KernelFit:
    """A kernel regression at the chosen penalty.

    Predictions are scores by class, and the class of the largest is the prediction: for `ridge` they estimate the
    one-hot label (so 1/C is the value of no information), for `logistic` they are logits.

    Attributes:
        alpha: Dual coefficients, shape (N, C).
        penalty: λ.
        penalties: The values of λ that were tried, shape (L,).
        errors: Held-out error of each, shape (L,): mean over examples of the squared error summed over classes
            (`ridge`, leave-one-out) or of the cross-entropy in nats (`logistic`, folds).
        train: Predictions for the training examples, shape (N, C).
        held_out: Predictions for each training example by the fit without it or its fold, shape (N, C). Being the ones
            by which λ was chosen, they flatter a little.
        test: Predictions for the test examples, shape (M, C), or None.
    """

    alpha: Tensor
    penalty: float
    penalties: Tensor
    errors: Tensor
    train: Tensor
    held_out: Tensor
    test: Tensor | None

    def accuracy(self, labels: Tensor, part: str = "test") -> float:
        """Share of examples whose largest score is that of their class.

        Args:
            labels: Class indices of the part's examples, shape (M,) or (N,).
            part: "test", "train" or "held_out".

        Returns:
            Accuracy, in [0, 1].

        Raises:
            KernelError: If there is no such part, or the labels do not fit it.
        """
        scores = {"train": self.train, "held_out": self.held_out, "test": self.test}.get(part)
        if scores is None:
            raise KernelError(f"part: expected train, held_out or test (pass K_test when fitting), got {part!r}.")
        labels = check_labels(labels, scores.shape[0], scores.shape[1])
        return (scores.argmax(1) == labels.to(scores.device)).double().mean().item()


def ridge(
    K_train: Tensor, labels: Tensor, K_test: Tensor | None = None, penalties: Sequence[float] | None = None
) -> KernelFit:
    """Kernel ridge regression of the labels, λ chosen by leave-one-example-out squared error in closed form.

    Args:
        K_train: Kernel of the training examples, shape (N, C, N, C), symmetric. Small negative eigenvalues (rounding)
            count as zero.
        labels: Class indices, shape (N,).
        K_test: Kernel of test × training examples, shape (M, C, N, C).
        penalties: Values of λ > 0; by default 19 from 10⁻⁶ to 10³ times the mean of K's diagonal.

    Returns:
        The fit at the λ of the smallest error. `train` and `test` estimate the one-hot label: K α + 1/C.
    """
    K, labels, K_test = _check(K_train, labels, K_test)
    N, C = K.shape[:2]
    lam = _check_penalties(penalties, RIDGE_GRID, K)
    Y = one_hot(labels, C) - 1 / C
    s, U = _eigenbasis(K)
    Uy, rows = U.T @ Y.flatten(), U.view(N, C, N * C)
    alphas, left_out = [], []
    for value in lam:
        inverse = 1 / (s + value)
        alphas.append((U @ (inverse * Uy)).view(N, C))
        block = (rows * inverse) @ rows.mT  # (H⁻¹)_ii, (N, C, C)
        left_out.append(torch.linalg.solve(block, alphas[-1]))  # y_i − f^(−i)(x_i), (N, C)
    errors = torch.stack([residual.square().sum(1).mean() for residual in left_out])
    best = int(errors.argmin())
    train = Y + 1 / C - lam[best] * alphas[best]  # K α = y − λ α
    test = None if K_test is None else _apply(K_test, alphas[best]) + 1 / C
    return KernelFit(alphas[best], float(lam[best]), lam, errors, train, Y + 1 / C - left_out[best], test)


def logistic(
    K_train: Tensor,
    labels: Tensor,
    K_test: Tensor | None = None,
    penalties: Sequence[float] | None = None,
    folds: int = 5,
) -> KernelFit:
    """Multinomial logistic regression with the kernel, λ chosen by stratified cross-validation over examples.

    Every fit is certified: by strong convexity its objective is within 10⁻¹² (relative) of the minimum.

    Args:
        K_train: Kernel of the training examples, shape (N, C, N, C), symmetric. Small negative eigenvalues (rounding)
            count as zero.
        labels: Class indices, shape (N,).
        K_test: Kernel of test × training examples, shape (M, C, N, C).
        penalties: Values of λ > 0; by default 8 from 10⁻⁶ to 10 times the mean of K's diagonal. One value alone is
            used as it is (the folds then only give its held-out error).
        folds: Number of folds, the same ones at every call: scikit-learn's `StratifiedKFold` without shuffling.

    Returns:
        The fit at the λ of the smallest held-out cross-entropy. `train` and `test` are logits K α.
    """
    K, labels, K_test = _check(K_train, labels, K_test)
    N, C = K.shape[:2]
    lam = _check_penalties(penalties, LOGISTIC_GRID, K)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class rarer than the folds: the penalty keeps the fit finite
        fold = torch.as_tensor(fold_ids(labels.cpu().numpy(), folds, error=KernelError), device=K.device)
    s, U = _eigenbasis(K)
    K = ((U * s) @ U.T).view(N, C, N, C)  # without the negative eigenvalues
    held_out = torch.zeros(len(lam), N, C, dtype=K.dtype, device=K.device)
    for k in range(folds):
        inside, outside = (fold != k).nonzero()[:, 0], (fold == k).nonzero()[:, 0]
        alphas = fit_penalties(K[inside][:, :, inside], labels[inside], lam)  # (L, n, C)
        held_out[:, outside] = torch.einsum("ncmd,lmd->lnc", K[outside][:, :, inside], alphas)
    own = labels[None, :, None].expand(len(lam), N, 1)
    errors = -held_out.log_softmax(2).gather(2, own).mean((1, 2))
    best = int(errors.argmin())
    alpha = fit_penalties(K, labels, lam[best : best + 1])[0]
    test = None if K_test is None else _apply(K_test, alpha)
    return KernelFit(alpha, float(lam[best]), lam, errors, _apply(K, alpha), held_out[best], test)


def _check(K_train: Tensor, labels: Tensor, K_test: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    K = check_train_kernel(K_train)
    labels = check_labels(labels, K.shape[0], K.shape[1]).to(K.device)
    if K_test is None:
        return K, labels, None
    K_test = check_kernel(K_test, "K_test").to(K.device)
    if K_test.shape[2:] != K.shape[2:]:
        N, C = K.shape[2:]
        raise KernelError(f"K_test: expected shape (M, {C}, {N}, {C}), test × train, got {tuple(K_test.shape)}.")
    return K, labels, K_test


def _check_penalties(penalties: Sequence[float] | None, grid: np.ndarray, K: Tensor) -> Tensor:
    if penalties is None:
        N, C = K.shape[:2]
        return torch.as_tensor(grid, device=K.device) * K.reshape(N * C, N * C).diagonal().mean()
    lam = torch.as_tensor(penalties, dtype=torch.float64, device=K.device)
    if lam.ndim != 1 or len(lam) == 0 or not bool((torch.isfinite(lam) & (lam > 0)).all()):
        raise KernelError(f"penalties: expected a list of positive numbers, got {penalties!r}.")
    return lam


def _eigenbasis(K: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (NC,), ascending, negative ones set to zero, and eigenvectors (NC, NC) of a symmetric kernel."""
    N, C = K.shape[:2]
    s, U = torch.linalg.eigh(K.reshape(N * C, N * C))
    if s[0] < -1e-3 * s[-1]:  # rounding of a float32 or TF32 kernel stays far below
        raise KernelError(
            f"K_train: expected a positive semi-definite kernel, but it has the eigenvalue {s[0]:.3g} beside the "
            f"largest, {s[-1]:.3g}. A sum of Gram matrices has none: is this a difference of kernels, or centred?"
        )
    return s.clamp(min=0), U


def _apply(K: Tensor, alpha: Tensor) -> Tensor:
    """K α, shape (M, C)."""
    return torch.einsum("mcnd,nd->mc", K, alpha)
