"""What the published code computes, restated plainly from its description, to be compared with what the formulas say.

Nothing here is used for results. Each function is one departure of the code that came with the paper from the paper's
own formulas, or the published way to get the same number. The tables below them show the size of each effect on tiny
models, for the appendix of the book.
"""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from transformers import GPT2Config

from lpft_utils.common.table import Table
from lpft_utils.kernel_methods.contrasts import one_hot
from lpft_utils.kernel_methods.regression import ridge
from lpft_utils.kernel_methods.statistics import ft_ratio
from lpft_utils.kernel_methods.validation import check_labels, check_other_kernel, check_train_kernel
from lpft_utils.metrics.calibration import brier, softmax
from lpft_utils.metrics.intervals import format_interval
from lpft_utils.metrics.validation import check_probabilities
from lpft_utils.models.classifier import Classifier, ClassifierConfig, load_classifier
from lpft_utils.ntk import jacobian, kernel
from lpft_utils.ntk.factors import Inputs, model_features
from lpft_utils.ntk.problem import count, take
from lpft_utils.training.logistic import fit_logistic

SHARE = 0.1  # of parameters and of features that the published code keeps of the word embeddings
STRIDE = 8  # of the rows that it writes, for a loader that yields one example at a time
MAX_ITER = 10_000  # steps at most in each of the 51 fits of "kernel regression"


def published_groups(names: Sequence[str]) -> list[list[str]]:
    """Groups of parameters, two per layer (attention, the rest) and one for everything else, as published.

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


def published_kernel(model: nn.Module, inputs: Inputs, exclude: Callable[[str], bool] = lambda name: False) -> Tensor:
    """F by the published algorithm: the Jacobian of all H features, group by group, one example at a time, then V.

    H backward passes for every example and group. With the rows of V as cotangents C are enough for all groups together
    and for a whole batch of examples at once.

    Args:
        model: The classifier.
        inputs: Padded inputs, first dimension N.
        exclude: Parameters to leave out, by name.

    Returns:
        F, shape (N, C, N, C); the same as that of `kernel`.
    """
    head = model.head
    assert isinstance(head, nn.Linear)
    V = head.weight.detach()
    wanted = {k: p for k, p in model.named_parameters() if not k.startswith("head.") and not exclude(k)}
    N, (C, H) = count(inputs), V.shape
    F = V.new_zeros(N, C, N, C)
    for group in published_groups(list(wanted)):
        parameters = [wanted[name] for name in group]
        rows = []
        for n in range(N):
            phi = model_features(model, take(inputs, torch.tensor([n])))[0]
            J = V.new_zeros(H, sum(p.numel() for p in parameters))
            for h in range(H):
                found = torch.autograd.grad(phi[h], parameters, retain_graph=h + 1 < H, materialize_grads=True)
                J[h] = torch.cat([g.flatten() for g in found])
            rows.append(V @ J)
        J_f = torch.stack(rows)  # (N, C, parameters of the group)
        F += torch.einsum("ncp,mdp->ncmd", J_f, J_f)
    return F


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
        both_sides: Whether both factors share one draw, as published; otherwise each has its own.

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


def rows_at_stride(K: Tensor) -> Tensor:
    """What is left of a kernel if example n is written to row n · `STRIDE` and rows past the end are lost.

    Args:
        K: Kernel, shape (N, C, M, C).

    Returns:
        The same shape; rows that are never written stay zero.
    """
    out = torch.zeros_like(K)
    written = out[::STRIDE]
    written.copy_(K[: len(written)])
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


def published(K_train: Tensor, labels: Tensor, K_test: Tensor, test_labels: Tensor) -> PublishedFit:
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
    model = LogisticRegressionCV(Cs=np.logspace(-4, 4, 10), cv=5, scoring="accuracy", max_iter=MAX_ITER)  # pyright: ignore
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


# ---- sizes of the effects, on tiny models ----


def tiny_inputs(n: int) -> dict[str, Tensor]:
    """Random token ids, shape (n, 8), without padding."""
    ids = torch.randint(3, 60, (n, 8), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def cost_table(n: int = 2) -> Table:
    """Departure 1: the same kernel with H backward passes for each example and group, and with C.

    Args:
        n: Examples.

    Returns:
        One row per algorithm: backward passes, how many examples share one, seconds, and the relative difference of the
        kernels.
    """
    model, inputs = load_classifier("tiny", 3).double(), tiny_inputs(n)

    def words(name: str) -> bool:
        return "word_embeddings" in name

    began = time.perf_counter()
    theirs = published_kernel(model, inputs, exclude=words)
    middle = time.perf_counter()
    ours = kernel(model, inputs, parameters=lambda name: not words(name)).F
    end = time.perf_counter()
    C, H = model.head.weight.shape
    names = [k for k, _ in model.named_parameters() if not k.startswith("head.") and not words(k)]
    columns = {
        "backward passes": [f"{H * len(published_groups(names)) * n}", f"{C}"],
        "examples in each": ["1", f"{n}"],
        "seconds": [f"{middle - began:.2f}", f"{end - middle:.2f}"],
        "relative difference": ["", f"{((theirs - ours).norm() / ours.norm()).item():.0e}"],
    }
    return Table(columns, index=pd.Index(["published", "rows of V as cotangents"], name="algorithm"))


def embedding_table(n: int = 16, draws: int = 1000) -> Table:
    """Departure 2: the word-embedding part from one shared draw, from separate draws, and its missing rows.

    Args:
        n: Examples.
        draws: Random draws over which means are taken.

    Returns:
        One row per variant: mean trace of the C × C blocks of an example with itself and with another one, in units of
        the former's true value, with the 95 % interval of the draws; the error of one draw relative to the exact part
        (Frobenius norm, mean over draws); and the share of rows that are zero.
    """
    inputs, model = tiny_inputs(n), _tiny_gpt2(bias=True, width=60)
    H = model.config.hidden_size
    V = model.head.weight.detach()
    J = jacobian(model, inputs, V=torch.eye(H, dtype=V.dtype), parameters=["backbone.wte.weight"])
    exact = torch.einsum("ncd,mkd->ncmk", V @ J, V @ J)
    shared = [subsampled(J, V, s) for s in range(draws)]
    variants = {
        "one draw for both factors, as published": shared,
        "a draw for each factor": [subsampled(J, V, s, both_sides=False) for s in range(draws)],
        "one draw, rows at stride 8": [rows_at_stride(K) for K in shared],
        "exact": [exact],
    }
    itself = torch.eye(n, dtype=torch.bool)
    unit = torch.einsum("ncmc->nm", exact)[itself].mean()
    rows = {}
    for title, found in variants.items():
        trace = torch.stack([torch.einsum("ncmc->nm", K) for K in found]) / unit  # (draws, n, n)
        means = {"with itself": trace[:, itself].mean(1), "with another": trace[:, ~itself].mean(1)}
        error = np.mean([((K - exact).norm() / exact.norm()).item() for K in found])
        empty = (found[0].flatten(1).abs().sum(1) == 0).double().mean().item()
        rows[title] = {key: format_interval(value.tolist(), 2) for key, value in means.items()}
        rows[title] |= {"error": f"{error:.2f}", "zero rows": f"{100 * empty:.0f} %"}
    return _rows("word-embedding part", rows)


def binary_head_table() -> Table:
    """Departure 3: the two-class head that fits and the one that is installed; 200 examples to fit, 200 to test.

    Returns:
        One row per head: ‖V‖, mean |f_1 − f_0|, and on the test half accuracy, cross-entropy and mean confidence.
    """
    generator = torch.Generator().manual_seed(0)
    phi = torch.randn(400, 6, dtype=torch.float64, generator=generator)
    noise = torch.randn(400, dtype=torch.float64, generator=generator)
    y = (phi @ torch.tensor([1.0, -1, 1, -1, 1, -1], dtype=torch.float64) + noise > 0).long()
    fit_on, test = slice(0, 200), slice(200, 400)
    fit = fit_logistic(phi[fit_on], y[fit_on], 2, 1.0, binary="softmax")
    rows = {}
    heads = {"fitted": (fit.V, fit.b), "installed": installed_binary_head(phi[fit_on], y[fit_on], 1.0)}
    for title, (V, b) in heads.items():
        f = phi[test] @ V.T + b
        p = f.softmax(1)
        rows[title] = {
            "‖V‖": f"{V.norm().item():.2f}",
            "logit difference": f"{(f[:, 1] - f[:, 0]).abs().mean().item():.2f}",
            "accuracy": f"{100 * (p.argmax(1) == y[test]).double().mean().item():.1f} %",
            "cross-entropy": f"{torch.nn.functional.cross_entropy(f, y[test]).item():.3f}",
            "mean confidence": f"{100 * p.amax(1).mean().item():.1f} %",
        }
    return _rows("head", rows)


def regression_accuracies() -> Table:
    """Departure 4: "kernel regression accuracy" of kernels that know nothing, a little, and more of the labels.

    Returns:
        One row per kernel: test accuracy of ridge regression and of the published measure, and their chance levels.
    """
    n, generator = 60, torch.Generator().manual_seed(0)  # training examples, and as many test examples
    labels = torch.arange(2 * n) % 3
    identity = torch.eye(3, dtype=torch.float64)
    rows = {}
    for title, strength in (("without signal", 0.0), ("weak signal", 0.8), ("strong signal", 2.0)):
        signal = strength * torch.nn.functional.one_hot(labels, 3).double()
        phi = signal + torch.randn(2 * n, 3, dtype=torch.float64, generator=generator)
        K = torch.einsum("nm,cd->ncmd", phi @ phi.T, identity)
        train, test = K[:n][:, :, :n], K[n:][:, :, :n]
        ours = ridge(train, labels[:n], test).accuracy(labels[n:], "test")
        theirs = published(train, labels[:n], test, labels[n:])
        rows[title] = {
            "argmax over classes": f"{100 * ours:.0f} %",
            "its chance": "33 %",
            "as published": f"{100 * theirs.test_accuracy:.0f} %",
            "chance there": f"{100 * theirs.chance:.0f} %",
        }
    return _rows("kernel", rows)


def gpt2_table(n: int = 8) -> Table:
    """Departure 5: GPT-2's final layer norm left out, and +1 added to P of a head without a bias.

    Args:
        n: Examples.

    Returns:
        One row per variant: FT ratio, the share of F that is missing, and the relative change of P.
    """
    model, inputs = _tiny_gpt2(bias=False), tiny_inputs(n)
    right = kernel(model, inputs)
    left_out = kernel(model, inputs, parameters=lambda name: ".ln_f." not in name)
    rows = {}
    for title, F, plus in (
        ("by the formula", right.F, 0.0),
        ("without the final layer norm", left_out.F, 0.0),
        ("with +1 on P", right.F, 1.0),
        ("both, as published", left_out.F, 1.0),
    ):
        P = right.P + plus * torch.einsum("nm,cd->ncmd", torch.ones(n, n), torch.eye(right.n_classes)).to(right.P)
        rows[title] = {
            "‖F‖/‖P+F‖": f"{ft_ratio(P, F):.4f}",
            "missing from F": f"{100 * ((right.F - F).norm() / right.F.norm()).item():.1f} %",
            "change of P": f"{100 * ((P - right.P).norm() / right.P.norm()).item():.1f} %",
        }
    return _rows("kernel", rows)


def brier_table() -> Table:
    """Departure 6: the Brier score averaged over examples, and over examples and classes.

    Returns:
        One row per number of classes.
    """
    rng = np.random.default_rng(0)
    rows = {}
    for C in (2, 3, 5):
        p, y = softmax(rng.normal(size=(200, C))), rng.integers(C, size=200)
        rows[C] = {"over examples": f"{brier(p, y):.3f}", "over examples × classes": f"{brier_over_classes(p, y):.3f}"}
    return _rows("C", rows)


def _rows(name: str, rows: dict[Any, dict[str, str]]) -> Table:
    """Rows by their titles, and what these are."""
    return Table(pd.DataFrame.from_dict(rows, orient="index").rename_axis(name))


def _tiny_gpt2(bias: bool, width: int = 20) -> Classifier:
    """A random GPT-2 of two layers in float64, with weights large enough that every gradient matters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = GPT2Config(
            vocab_size=60, n_embd=width, n_layer=2, n_head=2, n_positions=32, bos_token_id=0, eos_token_id=0
        )
        model = Classifier(ClassifierConfig(config, pooling="last", head_bias=bias, num_labels=3)).double().eval()
        with torch.no_grad():
            for module in model.modules():
                if not isinstance(module, nn.LayerNorm):
                    for parameter in module.parameters(recurse=False):
                        parameter.add_(0.1 * torch.randn_like(parameter))
    return model
