"""The random head that fine-tuning starts from; without transformers, which takes seconds to import."""

from __future__ import annotations

import torch
from torch import Tensor

HEAD_INIT_STD = 0.02  # the published initialisation of FT: V ~ N(0, 0.02²), b = 0


def initial_head(n_classes: int, hidden_size: int, seed: int | None = 0) -> Tensor:
    """The random head that FT starts from.

    Args:
        n_classes: C.
        hidden_size: H.
        seed: Seed of the draw, or None to use torch's global generator.

    Returns:
        V ~ N(0, 0.02²), shape (C, H), float32.
    """
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    return torch.empty(n_classes, hidden_size).normal_(0.0, HEAD_INIT_STD, generator=generator)
