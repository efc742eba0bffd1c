"""What is recorded while a model is trained, linearised or real."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lpft_utils.common.errors import KernelError


@dataclass(frozen=True)
class Trajectory:
    """A training run, linearised or real, at S times. Tensors are float64 (features: the model's type), on the CPU.

    Attributes:
        times: t = η · step, shape (S,).
        loss: Mean cross-entropy on the training examples, in nats, shape (S,).
        f: Logits of the training examples, shape (S, N, C).
        f_other: Logits of the other examples, shape (S, M, C); only of `train`.
        Q: Time-integrated residuals, shape (S, N, C); None for real training.
        phi_change: φ_t − φ_0 of the other examples, shape (S, M, H); only of `train`.
    """

    times: Tensor
    loss: Tensor
    f: Tensor
    f_other: Tensor | None = None
    Q: Tensor | None = None
    phi_change: Tensor | None = None


def recorded_steps(learning_rate: float, steps: int, every: int) -> list[int]:
    """Which steps of a descent are recorded: 0, every so many, and the last one.

    Args:
        learning_rate: η.
        steps: Number of steps.
        every: Distance between records.

    Returns:
        The steps, ascending.

    Raises:
        KernelError: If a number is out of range.
    """
    if not 0 < learning_rate < float("inf") or steps < 0 or every < 1:
        raise KernelError(
            f"Expected learning_rate > 0, steps ≥ 0 and every ≥ 1, got {learning_rate!r}, {steps!r} and {every!r}."
        )
    return sorted({*range(0, steps + 1, every), steps})


def measure(times: Tensor, f: Tensor, labels: Tensor, **more: Tensor | None) -> Trajectory:
    """A trajectory with the loss of its logits.

    Args:
        times: Shape (S,).
        f: Logits of the training examples, shape (S, N, C).
        labels: Their class indices, shape (N,).
        **more: Further fields.

    Returns:
        The trajectory.
    """
    own = labels[None, :, None].expand(len(f), -1, 1)
    loss = -f.log_softmax(2).gather(2, own).mean((1, 2))
    return Trajectory(times, loss, f, **more)
