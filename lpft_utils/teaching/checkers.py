r"""Checkers of the book's exercises: they try an answer on several cases and say what differs, not how to do it.

An exercise is a generator of cases: what the case is, the arguments of the answer, and the right result, found in
another way than a student would (autograd, a loop, a library). `_checker` turns it into the function that a student
calls. Its docstring says what the student's function takes and returns.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from scipy.special import expit, logit
from scipy.stats import linregress
from torch import Tensor
from torch.nn.functional import cross_entropy

from lpft_utils.metrics.intervals import holm
from lpft_utils.studies.two_layer import one_direction_limit

Cases = Iterator[tuple[str, tuple[Any, ...], Any]]
TOLERANCE = 1e-8  # relative to the largest value of the right result; everything is in double precision


class Verdict(str):
    """What a checker says; a notebook shows it as it is, without quotation marks."""

    def __repr__(self) -> str:
        return str(self)


def _kind(value: object) -> str:
    """Type and shape of a result, in words."""
    if isinstance(value, Tensor | np.ndarray):
        return f"{'a tensor' if isinstance(value, Tensor) else 'an array'} of shape {tuple(value.shape)}"
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    return "nothing (is a `return` missing?)" if value is None else f"an object of type {type(value).__name__}"


def _parts(case: str, expected: Any, got: Any) -> Iterator[tuple[str, Any, Any]]:
    """A result as it is, or its parts one by one where a tuple is expected and there is one of that length."""
    if isinstance(expected, tuple) and isinstance(got, tuple) and len(got) == len(expected):
        for number, pair in enumerate(zip(expected, got, strict=True), start=1):
            yield f"{case}, part {number} of the tuple", *pair
    else:
        yield case, expected, got


def _close(got: Tensor, expected: Tensor) -> bool:
    return bool((got - expected).abs().max() <= TOLERANCE * expected.abs().max())


def _mistake(expected: Tensor, got: Tensor) -> str:
    """What explains all of the difference: exchanged axes, the other sign, a factor, or several of them."""
    for axes in itertools.permutations(range(expected.ndim)):
        right = expected.permute(axes)
        if right.shape == got.shape and right.any():
            factor = ((got * right).sum() / right.square().sum()).item()
            if _close(got, factor * right):
                exchanged = ["has its axes exchanged (transposed)"] if axes != tuple(range(expected.ndim)) else []
                sign = ["has the other sign"] if factor < 0 else []
                size = [f"is {abs(factor):.3g} times as large as it should be"] if abs(abs(factor) - 1) > 1e-6 else []
                return f" It {' and '.join([*exchanged, *sign, *size])}." if exchanged or sign or size else ""
    return ""


def _problem(expected: Any, got: Any) -> str | None:
    """What is wrong with one part of a result, or None."""
    if got is ...:
        return "the function still returns `...`. Your turn."
    if _kind(got) != _kind(expected):
        turned = isinstance(got, type(expected)) and not isinstance(got, tuple) and got.shape == expected.shape[::-1]
        return f"expected {_kind(expected)}, got {_kind(got)}.{' Is it transposed?' if turned else ''}"
    right, found = (torch.as_tensor(value).detach().double() for value in (expected, got))
    if not found.isfinite().all():
        return "the result is not finite. Does something overflow, or is 0 divided by 0?"
    if _close(found, right):
        return None
    largest, reach = (found - right).abs().max(), right.abs().max()
    return f"the largest difference is {largest:.2g} where values reach {reach:.2g}." + _mistake(right, found)


def _checker(cases: Callable[[], Cases]) -> Callable[[Callable[..., Any]], Verdict]:
    """The function that a student calls with an answer."""

    def check(answer: Callable[..., Any]) -> Verdict:
        for case, arguments, expected in cases():
            for where, right, found in _parts(case, expected, answer(*arguments)):
                if problem := _problem(right, found):
                    return Verdict(f"Not yet. {where}: {problem}")
        return Verdict("Correct on every case.")

    check.__name__, check.__doc__ = cases.__name__, cases.__doc__
    return check


def _normal(seed: int) -> Callable[..., Tensor]:
    """Draws of normal numbers by shape."""
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(shape, dtype=torch.float64, generator=generator)


@_checker
def check_penalised_gradient() -> Cases:
    """Features (N, H), head (C, H), bias (C,), labels (N,) and the constant → gradients of Ω for head and bias."""
    for case, scale, C in (("ordinary logits", 1.0, 0.7), ("extreme logits", 300.0, 2.0)):
        normal = _normal(7)
        phi, V, b, y = normal(30, 5), scale * normal(4, 5), normal(4), torch.arange(30) % 4
        leaves = V.clone().requires_grad_(), b.clone().requires_grad_()
        loss = C * cross_entropy(phi @ leaves[0].T + leaves[1], y, reduction="sum") + leaves[0].square().sum() / 2
        yield case, (phi, V, b, y, C), torch.autograd.grad(loss, leaves)


@_checker
def check_backbone_gradient() -> Cases:
    """Backbone (H, D), head (C, H), inputs (N, D) and labels (N,) → gradient of the mean loss for the backbone."""
    for case, (N, C, H, D) in (("more inputs than features", (20, 3, 6, 8)), ("square backbone", (12, 4, 5, 5))):
        normal = _normal(N)
        B, V, X, y = normal(H, D).requires_grad_(), normal(C, H), normal(N, D), torch.arange(N) % C
        (expected,) = torch.autograd.grad(cross_entropy(X @ B.T @ V.T, y), B)
        yield case, (B.detach(), V, X, y), expected


@_checker
def check_from_zero() -> Cases:
    """Features w_0 (k,) of the training direction and its target → the limits of v and w from v_0 = 0."""
    rng = np.random.default_rng(3)
    for y in (1.5, -0.5):
        w_0 = rng.normal(size=3)
        yield f"target {y}", (w_0, y), one_direction_limit(np.zeros(3), w_0, y)


def _kernels(seed: int, N: int, C: int) -> tuple[Tensor, Tensor]:
    """P and F of random features, Jacobians and head, (N, C, N, C) each."""
    normal = _normal(seed)
    phi, VJ = normal(N, 4), normal(N, C, 9)
    P = torch.einsum("nm,cd->ncmd", phi @ phi.T + 1, torch.eye(C, dtype=torch.float64))
    return P, torch.einsum("nci,mdi->ncmd", VJ, VJ)


@_checker
def check_residual() -> Cases:
    """P and F (N, C, N, C), a factor s on the head, residuals r_0 (N, C) and a time → the residuals then (N, C)."""
    for case, (N, C), s in (("a short head", (4, 3), 0.3), ("a long head", (3, 3), 2.0)):
        P, F = _kernels(N, N, C)
        r_0, t = _normal(5)(N, C), 0.01
        K = (P + s**2 * F).reshape(N * C, N * C)
        yield case, (P, F, s, r_0, t), (torch.matrix_exp(-t * K) @ r_0.flatten()).view(N, C)


@_checker
def check_logit_change() -> Cases:
    """A kernel (N, C, N, C), logits (N, C), labels (N,) and a learning rate → the change of the logits (N, C)."""
    for case, N, C in (("two classes", 6, 2), ("as many classes as texts", 4, 4)):
        normal = _normal(C)
        J, theta, y = normal(N, C, 9), normal(9).requires_grad_(), torch.arange(N) % C
        f = J @ theta
        (gradient,) = torch.autograd.grad(cross_entropy(f, y), theta)
        yield case, (torch.einsum("ncp,mdp->ncmd", J, J), f.detach(), y, 0.3), -0.3 * J @ gradient


@_checker
def check_holm() -> Cases:
    """p-values (n,) → those adjusted by Holm's method (n,)."""
    for case, p in (("four tests", [0.01, 0.04, 0.03, 0.005]), ("a large one", [0.6, 0.001, 0.5])):
        yield case, (np.array(p),), np.array(holm(p))


@_checker
def check_turned() -> Cases:
    """P and F (N, C, N, C) of a head V and a matrix M (C, C) → the two parts of the kernel of the head M V."""
    for case, N, C in (("three texts, two classes", 3, 2), ("two texts, three classes", 2, 3)):
        (P, F), M = _kernels(N, N, C), _normal(C)(C, C)
        blocks = [torch.stack([M @ F[n, :, m] @ M.T for m in range(N)], dim=1) for n in range(N)]
        yield case, (P.clone(), F, M), (P, torch.stack(blocks))


@_checker
def check_smallest_change() -> Cases:
    """G (M, D) of full rank M < D, a factor s and a change of the logits (M,) → the smallest Δθ (D,)."""
    for s in (3.0, 0.5):
        normal = _normal(5)
        G, change = normal(4, 9), normal(4)
        yield f"s = {s}", (G, s, change), torch.linalg.lstsq(s * G, change[:, None], driver="gelsd").solution[:, 0]


@_checker
def check_equal_count_gaps() -> Cases:
    """Confidences (N,), 1.0 or 0.0 for right or wrong (N,) and a number of bins that divides N → gaps (bins,)."""
    for case, N, bins in (("many texts in a bin", 200, 5), ("as many bins as texts in each", 16, 4)):
        rng = np.random.default_rng(N)
        confidence = rng.uniform(0.34, 1.0, N)
        correct = (rng.random(N) < confidence**2).astype(float)
        groups = np.array_split(sorted(zip(confidence, correct, strict=True)), bins)
        yield case, (confidence, correct, bins), np.array([np.mean(group[:, 1] - group[:, 0]) for group in groups])


@_checker
def check_temperature_slope() -> Cases:
    """Logits (N, C), labels (N,) and temperatures (K,) → slopes in T of the mean loss of f / T (K,)."""
    for case, N in (("twelve texts", 12), ("as many texts as classes", 3)):
        f, y = 3 * _normal(2)(N, 3), torch.arange(N) % 3
        T = torch.tensor([0.5, 1.0, 4.0], dtype=torch.float64, requires_grad=True)
        (expected,) = torch.autograd.grad(torch.stack([cross_entropy(f / each, y) for each in T]).sum(), T)
        yield case, (f, y, T.detach()), expected


@_checker
def check_lora_gram() -> Cases:
    """Output gradients g (N, T, p), inputs a (N, T, q), A (r, q) and s → LoRA's kernel (N, N) at B = 0."""
    for case, T, s in (("one token", 1, 1.0), ("several tokens", 4, 2.5)):
        normal = _normal(T)
        g, a, A = normal(5, T, 3), normal(5, T, 6), normal(2, 6)
        B = torch.zeros(3, 2, dtype=torch.float64, requires_grad=True)
        outputs = (g * (s * a @ A.T @ B.T)).sum((1, 2))  # its derivative by B is that of f
        rows = torch.stack([torch.autograd.grad(f, B, retain_graph=True)[0].flatten() for f in outputs])
        yield case, (g, a, A, s), rows @ rows.T


@_checker
def check_effective_robustness() -> Cases:
    """Accuracies of n models inside and outside (n,), of m others likewise (m,) → how far these are above the line."""
    for case, n, m in (("a line of twelve models", 12, 3), ("two models on the line", 2, 4)):
        rng = np.random.default_rng(n)
        x = rng.normal(1.0, 0.7, n + m)
        inside, outside = expit(x), expit(0.6 * x - 0.4 + 0.3 * rng.normal(size=n + m))
        line: Any = linregress(logit(inside[:n]), logit(outside[:n]))
        expected = outside[n:] - expit(line.slope * logit(inside[n:]) + line.intercept)
        yield case, (inside[:n], outside[:n], inside[n:], outside[n:]), expected


@_checker
def check_softmax_head() -> Cases:
    """Weights w (H,) and b, with p(class 1) = σ(⟨w, φ⟩ + b) → head (2, H) and bias (2,) whose softmax agrees."""
    for H in (4, 2):
        w, b = _normal(H)(H), -0.7
        yield f"{H} features", (w, b), (torch.stack([-w, w]) / 2, torch.tensor([-b, b], dtype=torch.float64) / 2)
