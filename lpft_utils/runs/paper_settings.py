"""The published hyperparameters."""

from __future__ import annotations

from typing import Any

_METHODS = ("ft", "lp_ft", "lora", "lp_lora")
FACTORS = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 50.0, 100.0)  # on the head, in the sweep over head norms
# What the paper's tables and figures are about; the tables of accuracy are about every task that it trains on.
DESCENT_TASKS, KERNEL_TASKS = ("rte", "cb"), ("cb", "rte", "boolq", "wic")
SWEEP_METHODS = {"amazon": ("ft", "lp_ft"), "cb": ("lora", "lp_lora"), "rte": ("lora", "lp_lora")}
SWEEP_SEEDS = {"amazon": 3}
# Batch size and learning rate of the published experiments with RoBERTa-base, by task and method.
TABLE: dict[str, tuple[tuple[int, float], ...]] = {
    "amazon": ((16, 1e-5), (8, 1e-6), (16, 1e-3), (8, 5e-4)),
    "boolq": ((32, 1e-5), (8, 1e-5), (32, 5e-4), (8, 5e-4)),
    "cb": ((16, 5e-5), (8, 5e-6), (16, 1e-3), (8, 1e-4)),
    "cola": ((32, 5e-5), (8, 1e-5), (16, 1e-3), (8, 1e-3)),
    # LoRA on MRPC: 1e-5 is that of the published script, Table 6 has 5e-4. The accuracy printed in Table 8,
    # 68.38 ± 0.00, is the share of the larger class (279 of 408), as of an adapter that has hardly been trained.
    "mrpc": ((16, 1e-5), (8, 1e-5), (32, 1e-5), (8, 1e-3)),
    "pubmed": ((8, 5e-6), (8, 5e-6), (8, 5e-4), (8, 1e-3)),
    "rte": ((16, 1e-5), (8, 1e-5), (16, 1e-3), (8, 5e-4)),
    "sst2": ((32, 1e-5), (8, 1e-5), (32, 5e-4), (8, 1e-3)),
    "wic": ((32, 1e-5), (8, 1e-5), (16, 1e-3), (8, 1e-3)),
    "wsc": ((16, 1e-3), (8, 1e-3), (16, 1e-4), (8, 1e-4)),
}


def paper_settings(task: str, method: str) -> dict[str, Any]:
    """The published hyperparameters (Tomihari & Sato 2024, Table 6, RoBERTa-base), as fields of `RunSpec`.

    The learning rates of LP-FT and LP-LoRA are their own, tuned on validation texts, at batch size 8. LoRA on MRPC has
    the rate of the published script, 1e-5, where Table 6 has 5e-4.

    Args:
        task: A training task of the paper.
        method: "ft", "lp_ft", "lora" or "lp_lora".

    Returns:
        "batch_size", "learning_rate", "epochs", "max_length", "lp" and "weight_decay"; nothing where the paper gives no
        settings for this pair.
    """
    if task not in TABLE or method not in _METHODS:
        return {}
    batch_size, learning_rate = TABLE[task][_METHODS.index(method)]
    common = {"epochs": 10, "max_length": 128, "lp": "cv", "weight_decay": 0.0}
    return {**common, "batch_size": batch_size, "learning_rate": learning_rate}
