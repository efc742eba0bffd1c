"""Sizes of the effects in the appendix "What the published code computes", on tiny models."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from transformers import GPT2Config

from lpft_utils.common.table import Table
from lpft_utils.kernel_methods.regression import ridge
from lpft_utils.kernel_methods.statistics import ft_ratio
from lpft_utils.metrics.calibration import brier, softmax
from lpft_utils.metrics.intervals import format_interval
from lpft_utils.models.classifier import Classifier, ClassifierConfig, load_classifier
from lpft_utils.ntk import jacobian, kernel
from lpft_utils.studies.published_code import (
    brier_over_classes,
    installed_binary_head,
    published,
    published_groups,
    published_kernel,
    reverse_passes,
    rows_at_stride,
    subsampled,
)
from lpft_utils.training.logistic import fit_logistic


def tiny_inputs(n: int, T: int = 8, vocabulary: int = 60, seed: int = 0) -> dict[str, Tensor]:
    """Random token ids, shape (n, T), without padding."""
    ids = torch.randint(3, vocabulary, (n, T), generator=torch.Generator().manual_seed(seed))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def cost_table(n: int = 2) -> Table:
    """Departure 1: the same kernel with H reverse passes for each example and group, and with C.

    Args:
        n: Examples.

    Returns:
        One row an algorithm: reverse passes, how many examples share one, seconds, and the relative difference of the
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
    passes = reverse_passes(H, len(published_groups(names)), n)
    rows = {
        "published": {"reverse passes": f"{passes}", "examples in each": "1", "seconds": f"{middle - began:.2f}"},
        "rows of V as cotangents": {
            "reverse passes": f"{C}",
            "examples in each": f"{n}",
            "seconds": f"{end - middle:.2f}",
        },
    }
    table = pd.DataFrame(rows).T
    table["relative difference"] = ["", f"{((theirs - ours).norm() / ours.norm()).item():.0e}"]
    return Table(table.rename_axis("algorithm"))


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
        rows[title] = {
            **{
                key: format_interval(value.tolist(), 2) if len(value) > 1 else f"{value.item():.2f}"
                for key, value in means.items()
            },
            "error": f"{error:.2f}",
            "zero rows": f"{100 * empty:.0f} %",
        }
    return Table(pd.DataFrame(rows).T.rename_axis("word-embedding part"))


def binary_head_table(n: int = 400, seed: int = 0) -> Table:
    """Departure 3: the two-class head that fits, and the one that is installed.

    Args:
        n: Examples, half of them to fit and half to test.
        seed: Seed of the data.

    Returns:
        One row per head: ‖V‖, mean |f_1 − f_0|, and on the test half accuracy, cross-entropy and mean confidence.
    """
    generator = torch.Generator().manual_seed(seed)
    phi = torch.randn(n, 6, dtype=torch.float64, generator=generator)
    noise = torch.randn(n, dtype=torch.float64, generator=generator)
    y = (phi @ torch.tensor([1.0, -1, 1, -1, 1, -1], dtype=torch.float64) + noise > 0).long()
    fit_on, test = slice(0, n // 2), slice(n // 2, n)
    fit = fit_logistic(phi[fit_on], y[fit_on], 2, 1.0, binary="softmax")
    rows = {}
    for title, (V, b) in {
        "fitted": (fit.V, fit.b),
        "installed": installed_binary_head(phi[fit_on], y[fit_on], 1.0),
    }.items():
        f = phi[test] @ V.T + b
        p = f.softmax(1)
        rows[title] = {
            "‖V‖": f"{V.norm().item():.2f}",
            "logit difference": f"{(f[:, 1] - f[:, 0]).abs().mean().item():.2f}",
            "accuracy": f"{100 * (p.argmax(1) == y[test]).double().mean().item():.1f} %",
            "cross-entropy": f"{torch.nn.functional.cross_entropy(f, y[test]).item():.3f}",
            "mean confidence": f"{100 * p.amax(1).mean().item():.1f} %",
        }
    return Table(pd.DataFrame(rows).T.rename_axis("head"))


def regression_accuracies(n: int = 60, seed: int = 0) -> Table:
    """Departure 4: "kernel regression accuracy" of kernels that know nothing, a little, and more of the labels.

    Args:
        n: Training examples, and as many test examples.
        seed: Seed of the kernels.

    Returns:
        One row per kernel: test accuracy of ridge regression and of the published measure, and their chance levels.
    """
    generator = torch.Generator().manual_seed(seed)
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
    return Table(pd.DataFrame(rows).T.rename_axis("kernel"))


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
    return Table(pd.DataFrame(rows).T.rename_axis("kernel"))


def brier_table(n: int = 200, seed: int = 0) -> Table:
    """Departure 6: the Brier score averaged over examples, and over examples and classes.

    Args:
        n: Examples.
        seed: Seed of the predictions.

    Returns:
        One row per number of classes.
    """
    rng = np.random.default_rng(seed)
    rows = {}
    for C in (2, 3, 5):
        p, y = softmax(rng.normal(size=(n, C))), rng.integers(C, size=n)
        rows[C] = {"over examples": f"{brier(p, y):.3f}", "over examples × classes": f"{brier_over_classes(p, y):.3f}"}
    return Table(pd.DataFrame(rows).T.rename_axis("C"))


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
