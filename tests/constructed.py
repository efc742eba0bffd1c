"""Runs and predictions made up by hand: runs have the parts that claims and figures read."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd


class MadeUpRun:
    """Looks like `store.Run` to its readers."""

    kept = "all"

    def __init__(
        self,
        method: str = "ft",
        seed: int = 0,
        *,
        lp: str = "cv",
        history: pd.DataFrame | None = None,
        predictions: dict[str, Any] | None = None,
        diverged: bool = False,
        **metrics: Any,
    ) -> None:
        self.spec = SimpleNamespace(task="made up", backbone="none", method=method, seed=seed, lp=lp)
        self.metrics, self.history, self.predictions, self.diverged = metrics, history, predictions or {}, diverged
        if predictions:
            metrics.setdefault("accuracy", {k: float((f.argmax(1) == y).mean()) for k, (f, y) in predictions.items()})

    def accuracy(self, split: str = "test") -> float:
        return self.metrics["accuracy"][split]


def drawn(seed: int, N: int, C: int, scale: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels that follow softmax(logits): calibrated at T = 1."""
    rng = np.random.default_rng(seed)
    f = scale * rng.normal(size=(N, C))
    return f, (f + rng.gumbel(size=(N, C))).argmax(1)
