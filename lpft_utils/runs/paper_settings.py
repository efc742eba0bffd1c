"""The published hyperparameters."""

from __future__ import annotations

from typing import Any

_METHODS = ("ft", "lp_ft", "lora", "lp_lora")
# Batch size and learning rate of the published experiments with RoBERTa-base, by task and method.
_TABLE: dict[str, tuple[tuple[int, float], ...]] = {
    "amazon": ((16, 1e-5), (8, 1e-6), (16, 1e-3), (8, 5e-4)),
    "boolq": ((32, 1e-5), (8, 1e-5), (32, 5e-4), (8, 5e-4)),
    "cb": ((16, 5e-5), (8, 5e-6), (16, 1e-3), (8, 1e-4)),
    "cola": ((32, 5e-5), (8, 1e-5), (16, 1e-3), (8, 1e-3)),
    "mrpc": ((16, 1e-5), (8, 1e-5), (32, 1e-5), (8, 1e-3)),
    "pubmed": ((8, 5e-6), (8, 5e-6), (8, 5e-4), (8, 1e-3)),
    "rte": ((16, 1e-5), (8, 1e-5), (16, 1e-3), (8, 5e-4)),
    "sst2": ((32, 1e-5), (8, 1e-5), (32, 5e-4), (8, 1e-3)),
    "wic": ((32, 1e-5), (8, 1e-5), (16, 1e-3), (8, 1e-3)),
    "wsc": ((16, 1e-3), (8, 1e-3), (16, 1e-4), (8, 1e-4)),
}


def paper_settings(task: str, method: str) -> dict[str, Any]:
    """The published hyperparameters (Tomihari & Sato 2024, RoBERTa-base), as fields of `RunSpec`.

    Args:
        task: A training task of the paper.
        method: "ft", "lp_ft", "lora" or "lp_lora".

    Returns:
        "batch_size", "learning_rate", "epochs", "max_length", "lp" and "weight_decay"; nothing where the paper gives no
        settings for this pair.
    """
    if task not in _TABLE or method not in _METHODS:
        return {}
    batch_size, learning_rate = _TABLE[task][_METHODS.index(method)]
    common = {"epochs": 10, "max_length": 128, "lp": "cv", "weight_decay": 0.0}
    return {**common, "batch_size": batch_size, "learning_rate": learning_rate}
