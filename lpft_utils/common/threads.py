"""How many threads a computation deserves."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

SMALL = 2**20  # elements


@contextlib.contextmanager
def one_thread_if_small(X: Tensor) -> Iterator[None]:
    """Compute with one CPU thread while inside, if the data matrix is small.

    An iterative method on a small matrix makes thousands of short products. A second thread gains little on each, and
    where another process uses the cores, waiting for it at every product costs tens of times what it gains.

    Args:
        X: The data matrix.

    Yields:
        Nothing.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1 if X.device.type == "cpu" and X.numel() < SMALL else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
