"""Reference results: numbers of larger runs that are committed with the book, and where they are from."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from lpft_utils.common.errors import ParameterError, RunError
from lpft_utils.common.names import split_label
from lpft_utils.common.table import Table
from lpft_utils.metrics.intervals import format_interval
from lpft_utils.results.claims import (
    Verdict,
    claim_2,
    claim_3,
    claim_4,
    claim_5,
    claim_6,
    claim_8,
    lp_raises_norm,
    tuning_keeps_norm,
)
from lpft_utils.results.tables import change
from lpft_utils.runs.store import Run
from lpft_utils.studies.calibration import temperature_scaled
from lpft_utils.training.methods import METHODS

if TYPE_CHECKING:
    from lpft_utils.studies.initialisation import Initialisation

# What `methods_table` can show beside the accuracy, with the decimals of each.
DIGITS = {"Diff": 2, "CS": 3, "confidence": 3, "ECE": 3, "ECE, TS": 3, "MCE": 3, "MCE, TS": 3}
# What tells claim 5 with a head that has seen no more labels than P apart.
OWN_HEAD = ", head fitted on the same texts"


def summarise(runs: Mapping[str, Sequence[Run]]) -> dict[str, Any]:
    """What is kept of the runs of LP, FT and LP-FT, and of LoRA and LP-LoRA where they are there, on one task.

    Args:
        runs: Runs by method ("lp", "ft", "lp_ft", and "lora", "lp_lora" or neither), one a seed.

    Returns:
        Task, settings and environment; one value a seed of accuracy (by method and split), and on the test set of
        feature change, norm and calibration before and after temperature scaling (TS); and the outcomes of claims 1, 2
        and 8, with LoRA also of claim 6.
    """
    first = runs["ft"][0]
    measured = {method: [temperature_scaled(run).metrics for run in group] for method, group in runs.items()}
    splits = [name for name in first.metrics["accuracy"] if name == "test" or name.startswith("ood_")]
    groups = runs.items()
    verdicts = [
        lp_raises_norm(runs["lp"]),
        tuning_keeps_norm(runs["lp"], runs["ft"], "FT"),
        *claim_2(runs["ft"], runs["lp_ft"], ("FT", "LP-FT"), split="test"),
        *claim_8(runs["lp"], runs["ft"], runs["lp_ft"]),
    ]
    if "lora" in runs:
        pairs = (("ft", "lp_ft"), ("lora", "lp_lora"))
        named = [(runs[a], runs[b], (METHODS[a].label, METHODS[b].label)) for a, b in pairs]
        verdicts += [tuning_keeps_norm(runs["lp"], runs["lora"], METHODS["lora"].label)]
        verdicts += claim_2(*named[1], split="test")
        verdicts += [v for plain, probed, names in named for v in claim_6(plain, probed, names)]
        verdicts.sort(key=lambda v: v.claim)
    return {
        "task": first.metrics["task"],
        "name": first.spec.task,
        "spec": {method: group[0].spec.to_dict() for method, group in groups},
        "seeds": [run.spec.seed for run in runs["ft"]],
        "environment": first.metrics["environment"],
        "seconds": sum(run.metrics["seconds"] for group in runs.values() for run in group),
        "accuracy": {m: {s: [run.accuracy(s) for run in group] for s in splits} for m, group in groups},
        "Diff": {m: change(group, "Diff", "test") for m, group in groups},
        "CS": {m: change(group, "CS", "test") for m, group in groups},
        "head_norm": {m: [run.metrics["head_norm"] for run in group] for m, group in groups},
        "confidence": {m: [before["confidence"] for before, _ in pairs] for m, pairs in measured.items()},
        **{
            f"{key}{suffix}": {m: [pair[i][key] for pair in pairs] for m, pairs in measured.items()}
            for key in ("ECE", "MCE")
            for i, suffix in enumerate(("", ", TS"))
        },
        "claims": [_verdict(v) for v in verdicts],
    }


def summarise_kernels(
    sweep: Mapping[float, Sequence[Run]],
    by_seed: Sequence[Mapping[str, Initialisation]],
    own: Sequence[Mapping[str, Initialisation]],
) -> dict[str, Any]:
    """What is kept of the kernel chapters on one task.

    Args:
        sweep: Runs by head norm, one a seed.
        by_seed: Results of `kernels.initialisations`, one a seed.
        own: The same with heads fitted on the kernels' own examples.

    Returns:
        Task, settings and environment, feature change and accuracy by norm, and the outcomes of claims 3, 4 and 5.
    """
    first = next(iter(sweep.values()))[0]
    verdicts = [*claim_3(sweep, split="test"), *claim_4(by_seed), *claim_5(by_seed), *claim_5(own, note=OWN_HEAD)]
    return {
        "task": first.metrics["task"],
        "name": first.spec.task,
        "spec": {first.spec.method: first.spec.to_dict()},
        "n_kernel": len(by_seed[0]["lp_ft"].labels),
        "seeds": [run.spec.seed for run in next(iter(sweep.values()))],
        "environment": first.metrics["environment"],
        "seconds": sum(run.metrics["seconds"] for group in sweep.values() for run in group),
        "Diff": {str(norm): change(group, "Diff", "test") for norm, group in sweep.items()},
        "accuracy": {str(norm): [run.accuracy("test") for run in group] for norm, group in sweep.items()},
        "claims": [_verdict(v) for v in verdicts],
    }


def load_reference(path: Path) -> list[dict[str, Any]]:
    """Read a committed file of reference results.

    Args:
        path: The file, made of `summarise` results.

    Returns:
        One entry a task.

    Raises:
        RunError: If there is no such file or it is damaged.
    """
    restore = "expected a committed file of reference results; `git checkout` brings it back."
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: {error}: {restore}") from error
    if not isinstance(results, list) or not all(isinstance(r, dict) and "claims" in r for r in results) or not results:
        raise RunError(f"{path}: found no results in it: {restore}")
    return results


def reference_table(results: Sequence[Mapping[str, Any]]) -> Table:
    """Reference results as a table: accuracy in percent by split, Diff and ‖V‖, "mean ± half width".

    Args:
        results: What `load_reference` returned.

    Returns:
        One row a task and split, one column a method for accuracy, and Diff and ‖V‖ of FT and LP-FT on the test rows.
    """
    rows = []
    for result in results:
        for split in result["accuracy"]["ft"]:
            row = {"task": result["name"], "set": split_label(split)}
            row |= {METHODS[m].label: format_interval(by[split], 1, 100) for m, by in result["accuracy"].items()}
            for method in ("ft", "lp_ft"):
                row[f"Diff, {METHODS[method].label}"] = (
                    format_interval(result["Diff"][method], 2) if split == "test" else ""
                )
            rows.append(row)
    return Table(pd.DataFrame(rows))


def methods_table(results: Sequence[Mapping[str, Any]], *columns: str) -> Table:
    """Methods side by side on the test sets: ‖V‖ of every seed, the rest "mean ± half width".

    Args:
        results: What `load_reference` returned.
        *columns: Keys of `DIGITS`, to be shown between the accuracy (in percent) and ‖V‖.

    Returns:
        One row a task and method.

    Raises:
        ParameterError: If a column is unknown.
    """
    if unknown := [name for name in columns if name not in DIGITS]:
        raise ParameterError(f"expected columns among {', '.join(DIGITS)}, got {unknown[0]!r}")
    rows = [
        {
            "task": result["name"],
            "method": METHODS[method].label,
            "accuracy": format_interval(by["test"], 1, 100),
            **{name: format_interval(result[name][method], DIGITS[name]) for name in columns},
            "‖V‖": ", ".join(f"{norm:.3g}" for norm in result["head_norm"][method]),
        }
        for result in results
        for method, by in result["accuracy"].items()
    ]
    return Table(pd.DataFrame(rows))


def norm_table(results: Sequence[Mapping[str, Any]]) -> Table:
    """Feature change and accuracy of LP-FT by head norm on the test sets, "mean ± half width".

    Args:
        results: What `load_reference` returned, of a file made of `summarise_kernels` results.

    Returns:
        One row a task and norm.
    """
    rows = [
        {
            "task": result["name"],
            "‖V0‖": norm,
            "Diff": format_interval(result["Diff"][norm], 2),
            "accuracy": format_interval(result["accuracy"][norm], 1, 100),
        }
        for result in results
        for norm in result["Diff"]
    ]
    return Table(pd.DataFrame(rows))


def claims_table(results: Sequence[Mapping[str, Any]], only: Collection[int] = ()) -> Table:
    """Outcomes of the claims by task.

    Args:
        results: What `load_reference` returned.
        only: Numbers of the claims to show; all if empty.

    Returns:
        One row a statement, one column a task; "" where a task lacks the split.
    """
    columns = {
        r["name"]: {(v["claim"], v["statement"]): v["outcome"] for v in r["claims"] if not only or v["claim"] in only}
        for r in results
    }
    statements = list(dict.fromkeys(key for column in columns.values() for key in column))
    rows = [
        {"claim": claim, "statement": statement, **{t: c.get((claim, statement), "") for t, c in columns.items()}}
        for claim, statement in statements
    ]
    return Table(pd.DataFrame(rows))


def provenance(results: Sequence[Mapping[str, Any]]) -> str:
    """Where the results come from, as one line of text.

    Args:
        results: What `load_reference` returned.

    Returns:
        Size of the kernels if there are any, backbone, training examples, seeds, device, software, date and time.
    """
    e, specs = results[0]["environment"], {m: spec for m, spec in results[0]["spec"].items() if m != "lp"}
    spec = next(iter(specs.values()))
    minutes = sum(r["seconds"] for r in results) / 60
    rates: dict[str, list[str]] = {}
    for method, settings in specs.items():
        rates.setdefault(f"{settings['learning_rate']:g}", []).append(METHODS[method].label)
    rate = " and ".join(f"{value} ({', '.join(methods)})" for value, methods in rates.items())
    kernels = f"kernels of {results[0]['n_kernel']} texts; " if "n_kernel" in results[0] else ""
    return (
        f"{kernels}backbone {spec['backbone']}, at most {spec['n_train']} training texts, {spec['epochs']:g} epochs, "
        f"learning rate {rate}, seeds {', '.join(map(str, results[0]['seeds']))}; {e['device']}, "
        f"torch {e['torch']}, transformers {e['transformers']}, {e['date']}, {minutes:.0f} minutes of training"
    )


def _verdict(v: Verdict) -> dict[str, Any]:
    return {
        "claim": v.claim,
        "statement": v.statement,
        "difference": v.difference.mean,
        "half_width": v.difference.half_width if v.difference.n > 1 else None,
        "outcome": v.outcome,
    }
