"""Runs made up by hand, with the parts of a stored run that claims and figures read."""

from typing import Any

import pandas as pd


class MadeUpRun:
    """Looks like `store.Run` to its readers."""

    def __init__(
        self, *, history: pd.DataFrame | None = None, predictions: dict[str, Any] | None = None, **metrics: Any
    ) -> None:
        self.metrics, self.history, self.predictions = metrics, history, predictions or {}

    def accuracy(self, split: str = "test") -> float:
        return self.metrics["accuracy"][split]
