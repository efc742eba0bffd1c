"""Checkers of the book's exercises: they try an answer on several cases and say what differs, not how to do it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from lpft_utils.common.validation import Array
from lpft_utils.studies.two_layer import gradient_flow


def _compare(case: str, expected: Tensor, got: object) -> str | None:
    """What is wrong with an answer, or None."""
    if not isinstance(got, Tensor):
        return f"{case}: expected a tensor, got {type(got).__name__}."
    if got.shape != expected.shape:
        return f"{case}: expected shape {tuple(expected.shape)}, got {tuple(got.shape)}."
    if not torch.isfinite(got).all():
        return f"{case}: the result is not finite. Does something overflow?"
    error = (got - expected).abs().max().item()
    scale = max(expected.abs().max().item(), 1e-12)
    if error > 1e-8 * scale:
        ratio = (got * expected).sum().item() / expected.square().sum().item()
        hint = f" It looks like {ratio:.3g} times the right answer." if abs(ratio - 1) > 1e-6 else ""
        return f"{case}: the largest difference is {error:.2g} where values reach {scale:.2g}.{hint}"
    return None


class Verdict(str):
    """What a checker says; a notebook shows it as it is, without quotation marks."""

    def __repr__(self) -> str:
        return str(self)


def _report(problems: list[str | None]) -> Verdict:
    found = [problem for problem in problems if problem]
    return Verdict("Not yet. " + found[0] if found else "Correct on every case.")


def _normal(seed: int) -> Callable[..., Tensor]:
    """Draws of normal numbers by shape."""
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(shape, dtype=torch.float64, generator=generator)


def check_head_gradient(head_gradient: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Verdict:
    """Check ∇_V of the mean cross-entropy against autograd.

    Args:
        head_gradient: Function of features (N, H), head (C, H) and labels (N,) that returns the gradient (C, H).

    Returns:
        The verdict.
    """
    problems = []
    for case, scale in (("ordinary logits", 1.0), ("extreme logits", 300.0)):
        normal = _normal(7)
        phi, V, y = normal(30, 5), (scale * normal(4, 5)).requires_grad_(), torch.arange(30) % 4
        (expected,) = torch.autograd.grad(torch.nn.functional.cross_entropy(phi @ V.T, y), V)
        problems.append(_compare(case, expected, head_gradient(phi, V.detach(), y)))
    return _report(problems)


def check_feature_gradient(feature_gradient: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Verdict:
    """Check the gradient of one example's cross-entropy with respect to its features against autograd.

    Args:
        feature_gradient: Function of features (N, H), head (C, H) and labels (N,) that returns, for every example, the
            gradient of its own cross-entropy with respect to its own features (N, H).

    Returns:
        The verdict.
    """
    normal = _normal(11)
    phi, V, y = normal(20, 6).requires_grad_(), normal(3, 6), torch.arange(20) % 3
    loss = torch.nn.functional.cross_entropy(phi @ V.T, y, reduction="sum")
    (expected,) = torch.autograd.grad(loss, phi)
    return _report([_compare("random features", expected, feature_gradient(phi.detach(), V, y))])


def check_one_direction(limit: Callable[[Array, Array, float], tuple[Array, Array]]) -> Verdict:
    """Check the end of the two-layer flow for one training direction against a numerical solution.

    Args:
        limit: Function of v_0 (k,), w_0 (k,) and y that returns v and w for t → ∞, each of shape (k,).

    Returns:
        The verdict.
    """
    problems: list[str | None] = []
    rng = np.random.default_rng(3)
    for y in (1.0, -0.5):
        v_0, w_0 = rng.normal(size=3), rng.normal(size=3)
        flow = gradient_flow(np.ones((1, 1)), np.array([y]), v_0, w_0[:, None], np.array([0.0, 400.0]))
        v, w = limit(v_0, w_0, y)
        for name, got, expected in (("v", v, flow.v[-1]), ("w", w, flow.B[-1][:, 0])):
            error = np.abs(np.asarray(got) - expected).max()
            problems.append(f"y = {y}: {name} is off by {error:.2g}." if error > 1e-6 else None)
    return _report(problems)


def check_kernel_step(dynamics_step: Callable[[Tensor, Tensor, Tensor, float], Tensor]) -> Verdict:
    """Check one step of linearised gradient descent against a linear model that takes the step in its parameters.

    Args:
        dynamics_step: Function of a kernel (N, C, N, C), logits (N, C), labels (N,) and a learning rate that returns
            the logits after one step, (N, C).

    Returns:
        The verdict.
    """
    problems = []
    for case, C in (("two classes", 2), ("four classes", 4)):
        normal = _normal(C)
        J, theta, y = normal(6, C, 9), normal(9).requires_grad_(), torch.arange(6) % C
        f = J @ theta
        (gradient,) = torch.autograd.grad(torch.nn.functional.cross_entropy(f, y), theta)
        expected = J @ (theta.detach() - 0.3 * gradient)
        K = torch.einsum("ncp,mdp->ncmd", J, J)
        problems.append(_compare(case, expected, dynamics_step(K, f.detach(), y, 0.3)))
    return _report(problems)


def check_scaled_kernel(scaled: Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]) -> Verdict:
    """Check how the two parts of the kernel change when the head is multiplied by a number.

    Args:
        scaled: Function of P and F (N, C, N, C) of a head V and a factor s that returns P and F of the head s V.

    Returns:
        The verdict.
    """
    normal = _normal(5)
    N, C, H, D = 3, 2, 4, 6
    phi, J, V = normal(N, H), normal(N, H, D), normal(C, H)

    def parts(V: Tensor) -> tuple[Tensor, Tensor]:
        VJ = torch.einsum("ch,nhd->ncd", V, J)
        P = torch.einsum("nm,cd->ncmd", phi @ phi.T + 1, torch.eye(C, dtype=torch.float64))
        return P, torch.einsum("nci,mdi->ncmd", VJ, VJ)

    problems = []
    for s in (3.0, 0.5):
        for name, expected, got in zip("PF", parts(s * V), scaled(*parts(V), s), strict=True):
            problems.append(_compare(f"{name} at s = {s}", expected, got))
    return _report(problems)


def check_ece(error: Callable[[Array, Array, int], float]) -> Verdict:
    """Check an expected calibration error, also where bins are empty and where confidences lie on an edge.

    Args:
        error: Function of confidences (N,), 1.0 or 0.0 for right or wrong (N,), and the number of bins, that returns
            the ECE over bins (lo, hi].

    Returns:
        The verdict.
    """
    rng = np.random.default_rng(13)
    spread = rng.uniform(0.34, 1.0, 200)
    cases = (
        ("well inside the bins", spread, (rng.random(200) < spread).astype(float), 15),
        ("empty bins", np.array([0.55, 0.95, 0.97]), np.array([1.0, 0.0, 1.0]), 15),
        ("on the edges", np.array([0.25, 0.5, 0.5, 0.75, 1.0, 1.0, 0.6]), np.array([1.0, 0, 1, 1, 1, 0, 1]), 4),
    )
    problems: list[str | None] = []
    for case, confidence, correct, bins in cases:
        index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
        expected = np.abs(np.bincount(index, correct - confidence)).sum() / len(index)
        got = float(error(confidence, correct, bins))
        wrong = not abs(got - expected) < 1e-8
        problems.append(f"{case}: expected {expected:.4f}, got {got:.4f}." if wrong else None)
    return _report(problems)


def check_lora_gram(lora_gram: Callable[[Tensor, Tensor, Tensor, float], Tensor]) -> Verdict:
    """Check the kernel of one fresh adapter, for one output, against autograd.

    Args:
        lora_gram: Function of output gradients g (N, T, p), inputs a (N, T, q), the drawn factor A (r, q) and s = α / r
            that returns the kernel (N, N) at B = 0.

    Returns:
        The verdict.
    """
    problems = []
    for case, T, s in (("one token", 1, 1.0), ("several tokens", 4, 2.5)):
        normal = _normal(T)
        g, a, A = normal(5, T, 3), normal(5, T, 6), normal(2, 6)
        B = torch.zeros(3, 2, dtype=torch.float64, requires_grad=True)
        outputs = (g * (s * a @ A.T @ B.T)).sum((1, 2))  # its derivative by B is that of f
        rows = [torch.autograd.grad(f, B, retain_graph=True)[0].flatten() for f in outputs]
        expected = torch.stack(rows) @ torch.stack(rows).T
        problems.append(_compare(case, expected, lora_gram(g, a, A, s)))
    return _report(problems)
