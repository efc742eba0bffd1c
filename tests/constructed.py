"""Runs made up by hand, with the parts of a stored run that claims and figures read."""

from types import SimpleNamespace
from typing import Any

import pandas as pd


class MadeUpRun:
    """Looks like `store.Run` to its readers."""

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
