"""Linearised training beside real training, from the same initialisation, on the same examples."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from lpft_utils.common.tensors import write_tensors
from lpft_utils.kernel_methods.function_space import gradient_descent, logits
from lpft_utils.kernel_methods.weight_space import predict_features, train
from lpft_utils.models.classifier import Classifier
from lpft_utils.ntk import kernel
from lpft_utils.runs.cache import cache_path, lock
from lpft_utils.runs.profiles import Profile
from lpft_utils.studies.initialisation import Examples, cache_key, examples, initial_model


@dataclass(frozen=True)
class Comparison:
    """Gradient descent on the model and on its linearisation. S recorded steps, N training and M test examples.

    Attributes:
        method: The method, which decides the initialisation.
        learning_rate: η.
        times: η · step, shape (S,).
        loss: Mean cross-entropy of the training examples: "real" and "linear", each of shape (S,).
        f: Logits of the test examples: "real" and "linear", each of shape (S, M, C).
        change: φ_t − φ_0 of the test examples: "real" and "linear", each of shape (S, M, H).
    """

    method: str
    learning_rate: float
    times: Tensor
    loss: dict[str, Tensor]
    f: dict[str, Tensor]
    change: dict[str, Tensor]

    def moved(self, which: str) -> Tensor:
        """Mean ‖φ_t − φ_0‖ over the test examples, "real" or "linear", shape (S,)."""
        return self.change[which].norm(dim=2).mean(1)

    def error(self) -> Tensor:
        """‖f_t − f_t^lin‖ / ‖f_t − f_0‖ on the test examples, shape (S − 1,): from the first recorded step on."""
        real, linear = (self.f[k][1:].flatten(1) for k in ("real", "linear"))
        return (real - linear).norm(dim=1) / (real - self.f["real"][0].flatten()).norm(dim=1)


def largest_stable_rate(K: Tensor) -> float:
    """4 N / λ_max(K): above it gradient descent on the linearised cross-entropy can diverge.

    The Hessian of the mean cross-entropy with respect to the logits is at most I / 2N.

    Args:
        K: Kernel of the training examples, shape (N, C, N, C).

    Returns:
        The learning rate.
    """
    N, C = K.shape[:2]
    return 4 * N / torch.linalg.eigvalsh(K.double().reshape(N * C, N * C))[-1].item()


def compare(
    setting: Profile,
    method: str,
    seed: int,
    *,
    rate: float,
    steps: int,
    every: int = 1,
    n: int = 16,
    store: Path | None = None,
) -> Comparison:
    """Train by plain gradient descent and predict it by the kernel at initialisation.

    Args:
        setting: The profile.
        method: "ft", "lp_ft", "lora" or "lp_lora": the initialisation, and what is trained.
        seed: The run's seed.
        rate: Learning rate as a share of `largest_stable_rate`.
        steps: Steps.
        every: Record every so many steps.
        n: Training examples, and as many test examples.
        store: The run store, in which the result is kept; default: `paths.run_store()`.

    Returns:
        The comparison.
    """
    name = f"{setting.task}-{method}-s{seed}-{cache_key(setting, method, seed, 'descent', rate, steps, every, n)}"
    path = cache_path(f"{name}.safetensors", store)
    with lock(path):
        if not path.exists():
            model = initial_model(setting, method, seed, store=store)
            write_tensors(path, _compute(model, *examples(setting, seed, n), rate, steps, every), {})
    t = load_file(path)
    loss, f, change = ({k: t[f"{what}/{k}"] for k in ("real", "linear")} for what in ("loss", "f", "change"))
    return Comparison(method, float(t["rate"]), t["times"], loss, f, change)


def _compute(
    model: Classifier, few: Examples, other: Examples, rate: float, steps: int, every: int
) -> dict[str, Tensor]:
    """What `compare` stores, by what and by whether it is real or linear."""
    square, block = kernel(model, few.inputs), kernel(model, other.inputs, few.inputs)
    with torch.no_grad():
        f_0, f_other = (model(**e.inputs).logits.double() for e in (few, other))
    eta = rate * largest_stable_rate(square.K)
    linear = gradient_descent(square.K.double(), f_0, few.labels, eta, steps, every)
    real = train(model, few.inputs, few.labels, eta, steps, every, other.inputs)
    assert linear.Q is not None and real.f_other is not None and real.phi_change is not None
    change = predict_features(model, few.inputs, linear.Q[1:], other.inputs)
    return {
        "rate": torch.tensor(eta),
        "times": real.times,
        "loss/real": real.loss,
        "loss/linear": linear.loss,
        "f/real": real.f_other,
        "f/linear": logits(block.K, f_other, linear.Q),
        "change/real": real.phi_change,
        "change/linear": torch.cat([change.new_zeros(1, *change.shape[1:]), change]),  # at time 0 nothing has moved
    }
