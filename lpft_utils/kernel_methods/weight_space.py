"""Training in weight space: the linearised model's features, and real gradient descent."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from lpft_utils.common.errors import KernelError
from lpft_utils.kernel_methods.trajectory import Trajectory, measure, recorded_steps
from lpft_utils.kernel_methods.validation import check_labels

Inputs = Mapping[str, Tensor]
BATCH = 32  # examples in a pass; bounds the memory


def predict_features(model: nn.Module, inputs: Inputs, Q: Tensor, other_inputs: Inputs) -> Tensor:
    """φ_t − φ_0 of the linearised model on other examples: J_φ(x) (θ_t − θ_0).

    θ are the parameters of φ that require gradients. θ_t − θ_0 = −Σ Q_t[n, c] ∂_θ f_c(x_n) is one backward pass over
    the training examples for each time, and its product with J_φ one forward-mode pass over the others. No Jacobian is
    formed. The model is left as it was.

    Args:
        model: The classifier at θ_0, bare or wrapped by peft.
        inputs: Arguments of `model.features` for the training examples, padded, first dimension N.
        Q: Time-integrated residuals, shape (S, N, C).
        other_inputs: The same for the other examples, first dimension M.

    Returns:
        Shape (S, M, H), in the model's type, on the CPU.

    Raises:
        KernelError: If Q does not fit, φ has no trainable parameter, or the attention has no forward-mode derivative.
    """
    copied = cast(Any, copy.deepcopy(model).eval())
    V: Tensor = copied.head.weight.detach()  # (C, H)
    N, M = _count(inputs), _count(other_inputs)
    if Q.ndim != 3 or Q.shape[1:] != (N, V.shape[0]):
        raise KernelError(f"Q: expected shape (S, {N}, {V.shape[0]}), got {tuple(Q.shape)}.")
    phi = _Features(copied)
    parameters = {name: p for name, p in phi.named_parameters() if p.requires_grad}
    change = torch.empty(len(Q), M, V.shape[1], dtype=V.dtype)
    with sdpa_kernel(SDPBackend.MATH), forward_ad.dual_level():
        for s, Q_s in enumerate(Q.to(V)):
            tangent = _parameter_change(phi, parameters, inputs, Q_s @ V)
            duals = {k: forward_ad.make_dual(parameters[k].detach(), v) for k, v in tangent.items()}
            for rows, batch in _batches(other_inputs, V.device):
                try:
                    moved = torch.func.functional_call(phi, duals, kwargs=batch)
                except NotImplementedError as error:
                    raise KernelError(
                        f"This model's attention has no forward-mode derivative ({error}). Load the backbone with "
                        'attn_implementation="eager" or "sdpa".'
                    ) from error
                change[s, rows] = cast(Tensor, forward_ad.unpack_dual(moved).tangent).cpu()
    return change


def train(
    model: nn.Module,
    inputs: Inputs,
    labels: Tensor,
    learning_rate: float,
    steps: int,
    every: int = 1,
    other_inputs: Inputs | None = None,
) -> Trajectory:
    """Real training to compare with: plain full-batch gradient descent, without dropout, on a copy of the model.

    Args:
        model: The classifier at θ_0; every parameter that requires gradients is trained. It is left as it was.
        inputs: Arguments of `model.features` for the training examples, padded, first dimension N.
        labels: Their class indices, shape (N,).
        learning_rate: η > 0.
        steps: Number of steps.
        every: Record step 0, every so many steps, and the last one.
        other_inputs: The same as `inputs` for other examples, first dimension M.

    Returns:
        The trajectory, with `times` = η · step, and with `f_other` and `phi_change` if other examples are given.
    """
    recorded = recorded_steps(learning_rate, steps, every)
    copied = cast(Any, copy.deepcopy(model).eval())
    device, N = copied.head.weight.device, _count(inputs)
    labels = check_labels(labels, N, copied.head.weight.shape[0]).to(device)
    optimizer = torch.optim.SGD([p for p in copied.parameters() if p.requires_grad], lr=learning_rate)
    logits, others, features = [], [], []
    with sdpa_kernel(SDPBackend.MATH):
        for step in range(steps + 1):
            optimizer.zero_grad()
            f = []
            for rows, batch in _batches(inputs, device):
                f.append(copied.head(copied.features(**batch)))
                (nn.functional.cross_entropy(f[-1], labels[rows], reduction="sum") / N).backward()
            if step in recorded:
                logits.append(torch.cat(f).detach().double().cpu())
                if other_inputs is not None:
                    with torch.no_grad():
                        phi = [copied.features(**batch) for _, batch in _batches(other_inputs, device)]
                        others.append(torch.cat([copied.head(x) for x in phi]).double().cpu())
                        features.append(torch.cat(phi).cpu())
            optimizer.step()
    phi_change = torch.stack(features) - features[0] if features else None
    times = learning_rate * torch.tensor(recorded, dtype=torch.float64)
    f_other = torch.stack(others) if others else None
    return measure(times, torch.stack(logits), labels.cpu(), f_other=f_other, phi_change=phi_change)


class _Features(nn.Module):
    """x ↦ φ(x) as a module's forward, which `functional_call` needs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, **inputs: Tensor) -> Tensor:
        return cast(Any, self.model).features(**inputs)


def _parameter_change(
    phi: _Features, parameters: Mapping[str, Tensor], inputs: Inputs, cotangents: Tensor
) -> dict[str, Tensor]:
    """−Σ_n cotangent_nᵀ ∂φ(x_n)/∂θ by name, for the parameters that φ depends on; cotangents (N, H)."""
    change: dict[str, Tensor] = {}
    for rows, batch in _batches(inputs, cotangents.device):
        with torch.enable_grad():
            features = phi(**batch)
            if not features.requires_grad:
                raise KernelError("No parameter of φ requires gradients, so its features do not change.")
            gradients = torch.autograd.grad(features, list(parameters.values()), cotangents[rows], allow_unused=True)
        for name, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:  # the head's parameters are not φ's
                change[name] = change[name].sub_(gradient) if name in change else -gradient
    return change


def _count(inputs: Inputs) -> int:
    return len(next(iter(inputs.values())))


def _batches(inputs: Inputs, device: torch.device) -> Iterator[tuple[slice, dict[str, Tensor]]]:
    for start in range(0, _count(inputs), BATCH):
        rows = slice(start, start + BATCH)
        yield rows, {k: v[rows].to(device) for k, v in inputs.items()}
