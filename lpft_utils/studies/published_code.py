"""What the published code computes, restated plainly from its description, to be compared with what the formulas say.

Nothing here is used for results. Each function is one departure of the code that came with the paper from the paper's
own formulas, or the published way to get the same number; the appendix of the book shows the size of each effect. Two
more live where their right versions do: `regression.published` and `calibration.brier_over_classes`.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lpft_utils.kernel_methods.contrasts import one_hot
from lpft_utils.kernel_methods.validation import check_labels, check_other_kernel, check_train_kernel
from lpft_utils.metrics.calibration import brier
from lpft_utils.metrics.validation import check_probabilities
from lpft_utils.ntk.factors import Inputs, model_features
from lpft_utils.ntk.problem import count, take
from lpft_utils.training.logistic import fit_logistic

SHARE = 0.1  # of parameters and of features that the published code keeps of the word embeddings
STRIDE = 8  # of the rows that it writes, for a loader that yields one example at a time


def published_groups(names: Sequence[str]) -> list[list[str]]:
    """Groups of parameters, two a layer (attention, the rest) and one for everything else, as published.

    Args:
        names: Parameter names.

    Returns:
        The groups; 25 for the 12 layers of RoBERTa-base.
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        layer = re.search(r"\.(?:layers?|h)\.(\d+)\.", name)
        part = "" if layer is None else layer.group(0) + ("attention" if "att" in name[layer.end() :] else "rest")
        groups.setdefault(part, []).append(name)
    return list(groups.values())


def published_kernel(
    model: nn.Module,
    inputs: Inputs,
    exclude: Callable[[str], bool] = lambda name: False,
    groups: Callable[[Sequence[str]], list[list[str]]] = published_groups,
) -> Tensor:
    """F by the published algorithm: the Jacobian of all H features, group by group, one example at a time, then V.

    H reverse passes for every example and group, `reverse_passes` in all, where the rows of V as cotangents need C for
    all groups together, and for a whole batch of examples at once.

    Args:
        model: The classifier.
        inputs: Padded inputs, first dimension N.
        exclude: Parameters to leave out, by name.
        groups: Divides the names of the parameters into groups; it changes the cost, not the result.

    Returns:
        F, shape (N, C, N, C); the same as that of `kernel`.
    """
    head = model.head
    assert isinstance(head, nn.Linear)
    V = head.weight.detach()
    wanted = {k: p for k, p in model.named_parameters() if not k.startswith("head.") and not exclude(k)}
    N, (C, H) = count(inputs), V.shape
    F = V.new_zeros(N, C, N, C)
    for group in groups(list(wanted)):
        parameters = [wanted[name] for name in group]
        rows = []
        for n in range(N):
            phi = model_features(model, take(inputs, torch.tensor([n])))[0]
            J = V.new_zeros(H, sum(p.numel() for p in parameters))
            for h in range(H):
                found = torch.autograd.grad(phi[h], parameters, retain_graph=h + 1 < H, allow_unused=True)
                J[h] = torch.cat(
                    [
                        (torch.zeros_like(p) if g is None else g).flatten()
                        for g, p in zip(found, parameters, strict=True)
                    ]
                )
            rows.append(V @ J)
        J_f = torch.stack(rows)  # (N, C, parameters of the group)
        F += torch.einsum("ncp,mdp->ncmd", J_f, J_f)
    return F


def reverse_passes(H: int, n_groups: int, N: int) -> int:
    """Reverse passes of the published algorithm.

    Args:
        H: Number of features.
        n_groups: Number of groups of parameters.
        N: Number of examples.

    Returns:
        H · n_groups · N; the rows of V as cotangents need C · N at most, and C for each batch.
    """
    return H * n_groups * N


def subsampled(J: Tensor, V: Tensor, seed: int, share: float = SHARE, both_sides: bool = True) -> Tensor:
    """The word-embedding part from a random share of parameters and features, each draw scaled by what it leaves out.

    The description says what is kept, not whether it is scaled afterwards. With scaling, the kinder reading, what
    remains is the effect of the draw itself: for a draw of k of H features that both factors share, the mean is
    a V Θ Vᵀ + (H/k − a) V diag(Θ) Vᵀ with a = H (k − 1) / (k (H − 1)) → 1, so every block has about 1/share − 1 times
    its V diag(Θ) Vᵀ too much, most where an example meets itself.

    Args:
        J: Jacobian of φ by the word embeddings, shape (N, H, D).
        V: Head, shape (C, H).
        seed: Seed of the draw.
        share: Share that is kept.
        both_sides: Whether both factors share one draw, as published; else each has its own.

    Returns:
        Estimate of V J Jᵀ Vᵀ, shape (N, C, N, C), each draw scaled by 1 / share for the parameters it keeps and 1 /
        share for the features of each factor.
    """
    generator = torch.Generator().manual_seed(seed)
    H, D = J.shape[1:]
    columns = torch.randperm(D, generator=generator)[: max(1, round(share * D))]
    left = torch.randperm(H, generator=generator)[: max(1, round(share * H))]

    def factor(rows: Tensor) -> Tensor:
        return torch.einsum("ch,nhd->ncd", V[:, rows], J[:, rows][:, :, columns]) * (H / len(rows))

    x = factor(left)
    y = x if both_sides else factor(torch.randperm(H, generator=generator)[: max(1, round(share * H))])
    return torch.einsum("ncd,mkd->ncmk", x, y) * (D / len(columns))


def rows_at_stride(K: Tensor, stride: int = STRIDE) -> Tensor:
    """What is left of a kernel if example n is written to row n · stride and rows past the end are lost.

    Args:
        K: Kernel, shape (N, C, M, C).
        stride: Distance between rows.

    Returns:
        The same shape; rows that are never written stay zero.
    """
    out = torch.zeros_like(K)
    written = range(0, len(K), stride)
    out[list(written)] = K[: len(written)]
    return out


def installed_binary_head(phi: Tensor, y: Tensor, C: float) -> tuple[Tensor, Tensor]:
    """The published two-class head: scikit-learn's multinomial fit w, c of class 1, installed as ∓w/2 and ∓c/2.

    The multinomial fit of two classes is the head with rows ∓w, with p = σ(2d) for d = wᵀφ + c. The half would be right
    for the binary fit, p = σ(d), of scikit-learn today; here it makes the head half as long as the one that was fitted.

    Args:
        phi: Features, shape (N, H).
        y: Classes 0 and 1, shape (N,).
        C: Inverse penalty, in the multinomial convention.

    Returns:
        V, shape (2, H), and b, shape (2,), as installed.
    """
    fit = fit_logistic(phi, y, 2, C, binary="softmax")
    w, c = fit.V[1], fit.b[1]
    return torch.stack([-w / 2, w / 2]), torch.stack([-c / 2, c / 2])


def brier_over_classes(probabilities: Any, labels: Any) -> float:
    """The paper's published code: mean over examples × classes of (p_c − 1[y = c])², which is `brier` / C.

    Args:
        probabilities: Shape (N, C).
        labels: Shape (N,).

    Returns:
        The score, in [0, 2 / C].
    """
    return brier(probabilities, labels) / check_probabilities(probabilities).shape[1]


@dataclass(frozen=True)
class PublishedFit:
    """The published code's "kernel regression".

    Attributes:
        train_accuracy: Accuracy of the binary problem on the training pairs.
        test_accuracy: The same on the test pairs.
        chance: Accuracy of always answering "no", 1 − 1/C.
        C: scikit-learn's C that cross-validation chose.
        converged: Whether scikit-learn's solver reached its tolerance in every fit.
    """

    train_accuracy: float
    test_accuracy: float
    chance: float
    C: float
    converged: bool


def published(
    K_train: Tensor, labels: Tensor, K_test: Tensor, test_labels: Tensor, max_iter: int = 10_000
) -> PublishedFit:
    """What the paper's code computes under the name of kernel regression.

    Each pair (example, class) is one case of a binary problem: is this class the example's label? Its features are its
    row of the kernel, NC numbers, to which `LogisticRegressionCV` (Cs = logspace(−4, 4, 10), 5 folds, intercept) is
    fitted. This differs from `logistic` in four ways. The penalty is ‖w‖² of weights on rows, not the norm of the
    kernel's Hilbert space, so it is a regression with the kernel K². The pairs of one example do not compete: none or
    several classes may be answered "yes". The folds cut through examples. And the accuracy is that of pairs: always
    answering "no" scores 1 − 1/C (0.67 for three classes), where 1/C is the chance level of choosing a class.

    Args:
        K_train: Kernel of the training examples, shape (N, C, N, C), symmetric.
        labels: Class indices, shape (N,).
        K_test: Kernel of test × training examples, shape (M, C, N, C).
        test_labels: Class indices, shape (M,).
        max_iter: Steps of scikit-learn's solver at most, in each of its 51 fits.

    Returns:
        Both accuracies, and the level of chance.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegressionCV

    K = check_train_kernel(K_train)
    labels = check_labels(labels, K.shape[0], K.shape[1])
    checked = check_other_kernel(K_test, K)
    N, C, M = K.shape[0], K.shape[1], checked.shape[0]
    test_labels = check_labels(test_labels, M, C, "test_labels")
    rows, test_rows = (k.reshape(-1, N * C).cpu().numpy() for k in (K, checked))
    answers, test_answers = (one_hot(y, C).flatten().int().cpu().numpy() for y in (labels, test_labels))
    # scoring was accuracy by default, which scikit-learn is about to change
    model = LogisticRegressionCV(Cs=np.logspace(-4, 4, 10), cv=5, scoring="accuracy", max_iter=max_iter)  # pyright: ignore
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(rows, answers)
    return PublishedFit(
        train_accuracy=float(np.mean(model.predict(rows) == answers)),
        test_accuracy=float(np.mean(model.predict(test_rows) == test_answers)),
        chance=1 - 1 / C,
        C=float(np.ravel(model.C_)[0]),
        converged=not any(issubclass(w.category, ConvergenceWarning) for w in caught),
    )
