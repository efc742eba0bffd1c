"""What the published code computes, restated plainly (commit 8fc67c6), to be compared with what the formulas say.

Nothing here is used for results. Each function is one departure of the code that came with the paper from the paper's
own formulas, or the published way to get the same number; the appendix of the book shows the size of each effect.
"""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from transformers import GPT2Config, RobertaConfig, RobertaModel

from lpft_utils.common.table import Table
from lpft_utils.kernel_methods.contrasts import one_hot
from lpft_utils.kernel_methods.regression import ridge
from lpft_utils.kernel_methods.statistics import ft_ratio
from lpft_utils.metrics.calibration import brier, softmax
from lpft_utils.metrics.intervals import format_interval
from lpft_utils.models.classifier import Classifier, ClassifierConfig, load_classifier
from lpft_utils.ntk import jacobian, kernel
from lpft_utils.ntk.factors import Inputs, model_features
from lpft_utils.ntk.inputs import count, take
from lpft_utils.training.logistic import fit_logistic

SHARE = 0.1  # of the word embeddings' parameters, and of the features, that the published code draws
# Evaluation batch, by which it spaces examples although it takes one at a time; a default that no script sets.
BATCH = 8
MAX_ITER = 10_000  # steps at most in each of the 51 fits of "kernel regression"


def published_groups(names: Sequence[str], *, test: bool = False) -> list[list[str]]:
    """Groups of parameters as published: one before the layers, then two per layer (attention, the rest).

    Word embeddings are treated on their own (`word_kernel`), and GPT-2's final layer norm is in no group.

    Args:
        names: Parameter names.
        test: The groups of test × train, where the rest of a layer is two: its first feed-forward matrix, and what
            remains.

    Returns:
        The groups; 25 for the 12 layers of RoBERTa-base, and 37 with `test`.
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        layer = re.search(r"\.(?:layers?|h)\.(\d+)\.", name)
        if is_word_embedding(name) or ".ln_f." in name:
            continue
        part = ""
        if layer is not None:
            inside = name[layer.end() :]
            first = test and inside.startswith(("intermediate.", "mlp.c_fc."))
            part = layer.group(0) + ("attention" if inside.startswith("att") else "first" if first else "rest")
        groups.setdefault(part, []).append(name)
    return list(groups.values())


def is_word_embedding(name: str) -> bool:
    """Whether a parameter is the matrix of word embeddings of RoBERTa, BERT or GPT-2."""
    return "word_embeddings" in name or ".wte." in name


def published_kernel(model: nn.Module, inputs: Inputs) -> Tensor:
    """F without word embeddings by the published algorithm: all H features, group by group, example by example, then V.

    H backward passes for every example and group. With the rows of V as cotangents C are enough for all groups together
    and for a whole batch of examples at once.

    Args:
        model: The classifier.
        inputs: Padded inputs, first dimension N.

    Returns:
        F, shape (N, C, N, C); the same as that of `kernel` for the parameters in `published_groups`.
    """
    head = model.head
    assert isinstance(head, nn.Linear)
    V = head.weight.detach()
    parameters = dict(model.named_parameters())
    N, (C, H) = count(inputs), V.shape
    F = V.new_zeros(N, C, N, C)
    for names in published_groups([name for name in parameters if not name.startswith("head.")]):
        group = [parameters[name] for name in names]
        rows = []
        for n in range(N):
            phi = model_features(model, take(inputs, torch.tensor([n])))[0]
            J = V.new_zeros(H, sum(p.numel() for p in group))
            for h in range(H):
                found = torch.autograd.grad(phi[h], group, retain_graph=h + 1 < H, materialize_grads=True)
                J[h] = torch.cat([g.flatten() for g in found])
            rows.append(V @ J)
        J_f = torch.stack(rows)  # (N, C, parameters of the group)
        F += torch.einsum("ncp,mdp->ncmd", J_f, J_f)
    return F


def word_factor(J: Tensor, V: Tensor, seed: int, *, share: float = SHARE, batch: int = BATCH) -> Tensor:
    """The published A of the word embeddings, whose products are their part of F.

    With S one draw of the parameters, and R_n a draw of the features for example n alone,

        A[batch · n] = V[:, R_n] J_n[R_n, S] / share,

    and examples whose slot lies past the end leave no trace. The seed is set at each call: training and test examples
    of the same number have the same R_n.

    Args:
        J: Jacobian of φ by the word embeddings, shape (N, H, D).
        V: Head, shape (C, H).
        seed: The run's seed.
        share: Share of the D parameters and of the H features that is drawn.
        batch: Evaluation batch; with 1 every example is in its own place.

    Returns:
        A, shape (N, C, ⌊share · D⌋); slots that are never written are zero.
    """
    generator = torch.Generator().manual_seed(seed)
    N, H, D = J.shape
    kept = torch.randperm(D, generator=generator)[: int(share * D)]
    A = J.new_zeros(N, len(V), len(kept))
    for n in range(N):
        drawn = torch.randperm(H, generator=generator)[: int(share * H)]
        if batch * n < N:
            A[batch * n] = V[:, drawn] @ J[n, drawn][:, kept] / share
    return A


def word_kernel(A: Tensor, A_other: Tensor, share: float = SHARE) -> Tensor:
    """The word embeddings' part of F as published, A Aᵀ / share.

    Args:
        A: `word_factor` of the examples of the rows, shape (M, C, kept).
        A_other: That of the columns, by the same seed, shape (N, C, kept).
        share: As there.

    Returns:
        Shape (M, C, N, C).
    """
    return torch.einsum("mck,ndk->mcnd", A, A_other) / share


@dataclass(frozen=True)
class WordWeights:
    """What a draw of ⌊share · H⌋ features makes of V Θ Vᵀ in expectation, once examples are in their places.

    Attributes:
        apart: Blocks of two draws have the expectation apart · V Θ Vᵀ.
        same: Blocks of one draw (n with n, test i with train i) have same · V Θ Vᵀ + diagonal · V diag(Θ) Vᵀ.
        diagonal: See there.
    """

    apart: float
    same: float
    diagonal: float


def word_weights(H: int, share: float = SHARE) -> WordWeights:
    """The expectation of `word_kernel`, from how often two features are drawn together.

    Args:
        H: Number of features.
        share: Share that is drawn.

    Returns:
        The three weights; the draw of parameters is taken to keep exactly its share.
    """
    k = int(share * H)
    same = k * (k - 1) / (H * (H - 1)) / share**2
    return WordWeights((k / H / share) ** 2, same, k / H / share**2 - same)


def slots(N: int) -> int:
    """How many of N examples have a slot in the word embeddings' part, one in every `BATCH`."""
    return len(range(0, N, BATCH))


@dataclass(frozen=True)
class PublishedFit:
    """The published code's "kernel regression".

    Attributes:
        train_accuracy: Accuracy of the binary problem on the training pairs.
        test_accuracy: The same on the test pairs.
        converged: Whether scikit-learn's solver reached its tolerance in every fit.
    """

    train_accuracy: float
    test_accuracy: float
    converged: bool


def published(K_train: Tensor, labels: Tensor, K_test: Tensor, test_labels: Tensor) -> PublishedFit:
    """What the paper's code computes under the name of kernel regression.

    Each pair (example, class) is one case of a binary problem: is this class the example's label? Its features are its
    row of the kernel, NC numbers, to which `LogisticRegressionCV` (Cs = logspace(−4, 4, 10), 5 folds, intercept) is
    fitted. This differs from `logistic` in four ways. The penalty is ‖w‖² of weights on rows, not the norm of the
    kernel's Hilbert space, so it is a regression with the kernel K². The pairs of one example do not compete: none or
    several classes may be answered "yes". The folds cut through examples. And the accuracy is that of pairs: always
    answering "no" scores 1 − 1/C (0.67 for three classes), where 1/C is the chance level of choosing a class. (What
    the published code calls "eval" is the validation split.)

    Args:
        K_train: Kernel of the training examples, shape (N, C, N, C), symmetric.
        labels: Class indices, shape (N,).
        K_test: Kernel of test × training examples, shape (M, C, N, C).
        test_labels: Class indices, shape (M,).

    Returns:
        Both accuracies.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegressionCV

    N, C = K_train.shape[:2]
    rows, test_rows = (k.reshape(-1, N * C).cpu().numpy() for k in (K_train, K_test))
    answers, test_answers = (one_hot(y, C).flatten().int().cpu().numpy() for y in (labels, test_labels))
    # scoring was accuracy by default, which scikit-learn is about to change
    model = LogisticRegressionCV(Cs=np.logspace(-4, 4, 10), cv=5, scoring="accuracy", max_iter=MAX_ITER)  # pyright: ignore
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(rows, answers)
    return PublishedFit(
        train_accuracy=float(np.mean(model.predict(rows) == answers)),
        test_accuracy=float(np.mean(model.predict(test_rows) == test_answers)),
        converged=not any(issubclass(w.category, ConvergenceWarning) for w in caught),
    )


# ---- sizes of the effects, on tiny models ----


def tiny_inputs(n: int, seed: int = 0) -> dict[str, Tensor]:
    """Random token ids, shape (n, 8), without padding."""
    ids = torch.randint(3, 60, (n, 8), generator=torch.Generator().manual_seed(seed))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def published_counts() -> dict[str, int]:
    """What the published algorithm does for one example of RoBERTa-base.

    Returns:
        "train", "test" and "lora": groups of parameters; "words": features that are drawn; "passes": backward passes of
        train × train.
    """
    with torch.device("meta"):
        names = [f"backbone.{name}" for name, _ in RobertaModel(RobertaConfig()).named_parameters()]
    train, H = published_groups(names), RobertaConfig().hidden_size
    words = int(SHARE * H)
    return {
        "train": len(train),
        "test": len(published_groups(names, test=True)),
        "lora": sum("attention" in group[0] for group in train),
        "words": words,
        "passes": H * len(train) + words,
    }


def cost_table(n: int = 2) -> Table:
    """Departure 1: the same kernel with H backward passes for each example and group, and with C.

    Args:
        n: Examples.

    Returns:
        One row per algorithm: backward passes, how many examples share one, seconds, and the relative difference of the
        kernels.
    """
    model, inputs = load_classifier("tiny", 3).double(), tiny_inputs(n)
    began = time.perf_counter()
    theirs = published_kernel(model, inputs)
    middle = time.perf_counter()
    ours = kernel(model, inputs, parameters=lambda name: not is_word_embedding(name)).F
    end = time.perf_counter()
    C, H = model.head.weight.shape
    groups = published_groups([k for k, _ in model.named_parameters() if not k.startswith("head.")])
    columns = {
        "backward passes": [f"{H * len(groups) * n}", f"{C}"],
        "examples in each": ["1", f"{n}"],
        "seconds": [f"{middle - began:.2f}", f"{end - middle:.2f}"],
        "relative difference": ["", f"{((theirs - ours).norm() / ours.norm()).item():.0e}"],
    }
    return Table(columns, index=pd.Index(["published", "rows of V as cotangents"], name="algorithm"))


def embedding_table(n: int = 16, draws: int = 500) -> Table:
    """Departure 2: the word embeddings' part as published, with a batch of 1, and what the latter is on average.

    Args:
        n: Training examples, and as many test examples.
        draws: Seeds over which means are taken.

    Returns:
        One row per variant: mean trace of the C × C blocks n with n, n with another, and test i with train i, of those
        that are written at all, in units of the true value of the first, with the 95 % interval of the draws; the error
        of one draw of train × train relative to the exact part (Frobenius norm, mean over draws); and the share of
        blocks that are written.
    """
    model = _tiny_gpt2(bias=True, width=60)
    V, H = model.head.weight.detach(), model.config.hidden_size
    identity, wte = torch.eye(H, dtype=V.dtype), ["backbone.wte.weight"]
    J, J_test = (jacobian(model, tiny_inputs(n, seed), V=identity, parameters=wte) for seed in (0, 1))
    weights, itself = word_weights(H), torch.eye(n, dtype=torch.bool)

    def exact(J_rows: Tensor) -> tuple[Tensor, Tensor]:
        """V Θ Vᵀ, and its expectation in blocks of one draw on the diagonal and of two off it."""
        full = torch.einsum("mcd,nkd->mcnk", V @ J_rows, V @ J)
        diagonal = torch.einsum("ch,mhd,nhd,kh->mcnk", V, J_rows, J, V)
        same = weights.same * full + weights.diagonal * diagonal
        return full, torch.where(itself[:, None, :, None], same, weights.apart * full)

    square, block = exact(J), exact(J_test)
    found: dict[str, list[tuple[Tensor, Tensor]]] = {
        "exact": [(square[0], block[0])],
        "expected with a batch of 1": [(square[1], block[1])],
    }
    for title, batch in (("drawn, with a batch of 1", 1), (f"as published, with a batch of {BATCH}", BATCH)):
        factors = [[word_factor(x, V, seed, batch=batch) for x in (J, J_test)] for seed in range(draws)]
        found[title] = [(word_kernel(A, A), word_kernel(A_test, A)) for A, A_test in factors]
    unit = torch.einsum("ncmc->nm", square[0])[itself].mean()
    rows = {}
    for title, kernels in found.items():
        trace, crossed = (
            torch.stack([torch.einsum("ncmc->nm", K) for K in side]) / unit for side in zip(*kernels, strict=True)
        )
        filled = kernels[0][0].flatten(1).abs().sum(1) > 0
        there = filled[:, None] & filled
        means = {
            "n with n": trace[:, there & itself].mean(1),
            "n with another": trace[:, there & ~itself].mean(1),
            "test i with train i": crossed[:, there & itself].mean(1),
        }
        error = np.mean([((K - square[0]).norm() / square[0].norm()).item() for K, _ in kernels])
        rows[title] = {key: format_interval(value.tolist()) for key, value in means.items()}
        rows[title] |= {"error": f"{error:.2f}", "blocks written": f"{100 * there.double().mean().item():.1f} %"}
    return _rows("word embeddings' part", rows)


def binary_head_table() -> Table:
    """Departure 3: the two-class head that fits and the one that is installed; 200 examples to fit, 200 to test.

    scikit-learn's multinomial fit of two classes is a head with rows ∓w, so p = σ(2d) for d = wᵀφ + c. The published
    code installs ∓w/2 and ∓c/2. That would be right for the binary fit, p = σ(d), of scikit-learn today; here it makes
    the head half as long as the one that was fitted.

    Returns:
        One row per head: ‖V‖, mean |f_1 − f_0|, and on the test half accuracy, cross-entropy and mean confidence.
    """
    generator = torch.Generator().manual_seed(0)
    phi = torch.randn(400, 6, dtype=torch.float64, generator=generator)
    noise = torch.randn(400, dtype=torch.float64, generator=generator)
    y = (phi @ torch.tensor([1.0, -1, 1, -1, 1, -1], dtype=torch.float64) + noise > 0).long()
    fit_on, test = slice(0, 200), slice(200, 400)
    fit = fit_logistic(phi[fit_on], y[fit_on], 2, 2.0)  # the multinomial fit at C = 1
    rows = {}
    for title, scale in (("fitted", 1.0), ("installed", 0.5)):
        V = scale * fit.V
        f = phi[test] @ V.T + scale * fit.b
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
            "chance there": "67 %",
        }
    return _rows("kernel", rows)


def gpt2_table(n: int = 8) -> Table:
    """Departure 5: GPT-2's final layer norm left out, +1 added to P of a head without a bias, and another attention.

    Args:
        n: Examples.

    Returns:
        One row per variant: FT ratio, and the relative changes of F and of P.
    """
    inputs = tiny_inputs(n)
    right, divided = (kernel(_tiny_gpt2(bias=False, divided=divided), inputs) for divided in (False, True))
    left_out = kernel(_tiny_gpt2(bias=False), inputs, parameters=lambda name: ".ln_f." not in name)
    both = kernel(_tiny_gpt2(bias=False, divided=True), inputs, parameters=lambda name: ".ln_f." not in name)
    ones = torch.einsum("nm,cd->ncmd", torch.ones(n, n), torch.eye(right.n_classes)).to(right.P)
    rows = {}
    for title, F, P in (
        ("by the formula", right.F, right.P),
        ("without the final layer norm", left_out.F, right.P),
        ("with +1 on P", right.F, right.P + ones),
        ("attention divided by the layer's number", divided.F, divided.P),
        ("all three, as published", both.F, both.P + ones),
    ):
        rows[title] = {
            "‖F‖/‖P+F‖": f"{ft_ratio(P, F):.4f}",
            "change of F": f"{100 * ((right.F - F).norm() / right.F.norm()).item():.1f} %",
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
        rows[C] = {"over examples": f"{brier(p, y):.3f}", "over examples × classes": f"{brier(p, y) / C:.3f}"}
    return _rows("C", rows)


def _rows(name: str, rows: dict[Any, dict[str, str]]) -> Table:
    """Rows by their titles, and what these are."""
    return Table(pd.DataFrame.from_dict(rows, orient="index").rename_axis(name))


def _tiny_gpt2(bias: bool, width: int = 20, divided: bool = False) -> Classifier:
    """A random GPT-2 in float64 whose gradients all matter; `divided`: attention scores by the layer's number."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = GPT2Config(
            vocab_size=60,
            n_embd=width,
            n_layer=2,
            n_head=2,
            n_positions=32,
            bos_token_id=0,
            eos_token_id=0,
            scale_attn_by_inverse_layer_idx=divided,
        )
        model = Classifier(ClassifierConfig(config, pooling="last", head_bias=bias, num_labels=3)).double().eval()
        with torch.no_grad():
            for module in model.modules():
                if not isinstance(module, nn.LayerNorm):
                    for parameter in module.parameters(recurse=False):
                        parameter.add_(0.1 * torch.randn_like(parameter))
    return model
