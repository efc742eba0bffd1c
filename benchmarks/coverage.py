"""How much of `transformers` the kernel covers: exact, a clear error, an unclear one, or wrong without a word.

    python benchmarks/coverage.py                      # the families and adapters that are named in the documentation
    python benchmarks/coverage.py --all                # every class of `AutoModel` as well (about half an hour)
    python benchmarks/coverage.py --only bert,mixtral

Each model is tiny, random and in float64. Its kernel (rows × columns of ragged lengths, blocks of 1, 3 and all; and the
symmetric one) is compared parameter by parameter with G = Σ ⟨∂f_nc/∂θ_p, ∂f_md/∂θ_p⟩ from plain autograd, one example
at a time, padded as it was given. The error of a parameter is ‖F_p − G_p‖ / max(‖G_p‖, tolerance · ‖G‖), so that a
parameter whose gradient is zero up to rounding (the bias of a key) is held against the whole. The tolerance is 1e-10;
1e-4 for models that compute in float32 inside whatever their type, which are also measured with those casts lifted.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from _tiny_models import (
    COLUMNS,
    EXCLUDED,
    KNOWN,
    ROWS,
    adapted_model,
    adapter_names,
    candidates,
    names,
    redrawn,
    tiny_config,
    tiny_model,
)
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lpft_utils.common.errors import KernelError
from lpft_utils.ntk import kernel

Inputs = dict[str, Tensor]
EXACT, FLOAT32 = 1e-10, 1e-4
LOW = (torch.float32, torch.bfloat16, torch.float16)
OUTCOMES = ("exact", "clear error", "unclear error", "wrong")


class WithHead(nn.Module):
    """A body and a linear head on its pooled output."""

    def __init__(self, body: nn.Module, width: int) -> None:
        super().__init__()
        self.body = body
        self.head = redrawn(nn.Linear(width, 3), 1).to(next(p.dtype for p in body.parameters()))


def features(model: nn.Module, batch: Inputs) -> Tensor:
    """φ: the mean over the tokens that the mask keeps, or over pixels or frames."""
    return pooled(model.body(**batch), batch).to(model.head.weight.dtype)


def pooled(output: Any, batch: Inputs) -> Tensor:
    """Mean of the last hidden state; without one, of every output that has the examples first, side by side."""
    B = len(next(iter(batch.values())))
    mask = None if "decoder_input_ids" in batch else batch.get("attention_mask")
    found = output if isinstance(output, dict) else dict(enumerate(output if isinstance(output, tuple) else (output,)))
    last = found.get("last_hidden_state")
    chosen = (
        [last]
        if last is not None
        else [
            t
            for k, t in found.items()
            if not str(k).startswith(("logits_", "loss", "hidden_states", "attentions", "past"))
        ]
    )
    parts = []
    for t in (part for given in chosen for part in (given if isinstance(given, (tuple, list)) else (given,))):
        if not isinstance(t, Tensor) or not t.is_floating_point() or t.ndim < 2 or len(t) != B:
            continue
        if t.ndim == 3 and mask is not None and t.shape[1] >= mask.shape[1]:  # a prompt's tokens come first
            keep = nn.functional.pad(mask, (t.shape[1] - mask.shape[1], 0), value=1).to(t.dtype)
            parts.append((t * keep[..., None]).sum(1) / keep.sum(1, keepdim=True))
        else:
            parts.append(t if t.ndim == 2 else t.mean(1) if t.ndim == 3 else t.flatten(2).mean(2))
    return torch.cat(parts, 1)


class Casts(TorchFunctionMode):
    """Notes where a float64 model computes in less; or lifts those casts, so that it does not."""

    def __init__(self, *, lift: bool = False) -> None:
        super().__init__()
        self.lift, self.found = lift, False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        double = any(isinstance(a, Tensor) and a.dtype == torch.float64 for a in args)
        if double and self.lift:
            if func in (Tensor.float, Tensor.half, Tensor.bfloat16):
                return args[0]
            args = tuple(torch.float64 if isinstance(a, torch.dtype) and a in LOW else a for a in args)
            kwargs = {k: torch.float64 if isinstance(v, torch.dtype) and v in LOW else v for k, v in kwargs.items()}
        out = func(*args, **kwargs)
        if double and isinstance(out, Tensor) and out.requires_grad and out.dtype in LOW:
            self.found = True
        return out


class NoInputs(Exception):
    """The model takes none of the inputs that are made."""


@dataclass
class Case:
    """A model with a head, and the inputs of the rows and of the columns."""

    model: nn.Module
    kind: str
    rows: Inputs
    columns: Inputs


def make(name: str) -> Case:
    """The case of a model type or adapter."""
    if " + " in name:
        body = adapted_model(name)
        return case_of(body, body.config)
    config = tiny_config(name)
    try:
        return case_of(tiny_model(name, config), config)
    except (NoInputs, RuntimeError) as error:
        first = error
    # Some multiply float32 tensors of their own by float64 ones; some give NaN in float64, or know only float32.
    for default, dtype in ((torch.float64, torch.float64), (torch.float32, torch.float32)):
        torch.set_default_dtype(default)
        try:
            return case_of(tiny_model(name, config, dtype), config)
        except (NoInputs, RuntimeError):
            continue
    raise first


def case_of(body: nn.Module, config: Any) -> Case:
    """The first inputs that the model takes."""
    failures = []
    for (kind, rows), (_, columns) in zip(
        candidates(body, config, ROWS), candidates(body, config, COLUMNS), strict=True
    ):
        try:
            phi = [pooled(body(**side), side) for side in (rows, columns)]
        except Exception as error:
            failures.append(f"{kind}: {type(error).__name__}: {str(error).splitlines()[:1]}"[:300])
            continue
        if not all(p.isfinite().all() and p.requires_grad for p in phi):
            failures.append(f"{kind}: φ is not finite, or depends on no parameter")
            continue
        return Case(WithHead(body, phi[0].shape[1]).eval(), kind, rows, columns)
    raise NoInputs("; ".join(failures) or "none are made for its forward")


def jacobians(model: nn.Module, inputs: Inputs, wanted: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    """∂f/∂θ_p by plain autograd, one example at a time, (N, C, size of p); of parameters that φ reaches."""
    found: dict[str, list[list[Tensor | None]]] = {name: [] for name in wanted}
    N = len(next(iter(inputs.values())))
    for n in range(N):
        f = (features(model, {k: t[n : n + 1] for k, t in inputs.items()}) @ model.head.weight.T)[0]
        grads = [torch.autograd.grad(f_c, list(wanted.values()), retain_graph=True, allow_unused=True) for f_c in f]
        for i, name in enumerate(wanted):
            found[name].append([g[i] for g in grads])
    return {
        name: torch.stack(
            [torch.stack([torch.zeros_like(wanted[name]) if g is None else g for g in one]) for one in rows]
        )
        .flatten(2)
        .double()
        for name, rows in found.items()
        if any(g is not None and g.any() for one in rows for g in one)
    }


def measure(case: Case, *, everything: bool = True) -> dict[str, Any]:
    """Outcome of one case as it is, and with its casts to float32 lifted."""
    casts = Casts()
    with casts:
        features(case.model, case.rows)
    body = {name: p for name, p in case.model.named_parameters() if p.requires_grad and not name.startswith("head.")}
    single = case.model.head.weight.dtype == torch.float32
    record: dict[str, Any] = {"inputs": case.kind, "tensors": len(body), "float32": single or casts.found}
    record |= compared(case, body, FLOAT32 if record["float32"] else EXACT)
    if casts.found and record["outcome"] == "exact":
        try:
            with Casts(lift=True):
                lifted = compared(case, body, EXACT)
            record |= {"error_lifted": lifted["error"]} | {
                k: lifted[k] for k in ("outcome", "message") if lifted["outcome"] == "wrong"
            }
        except Exception as error:
            record["error_lifted"] = f"{type(error).__name__}"
    if everything and record["unreached"]:
        try:
            kernel(case.model, case.rows, features=features, parameters=list(body))
            record["asked_for_all"] = "computed"
        except Exception as error:
            record["asked_for_all"] = f"{type(error).__name__}: {error}"[:200]
    return record


def compared(case: Case, body: dict[str, nn.Parameter], tolerance: float) -> dict[str, Any]:
    """The engine against the oracle."""
    J, J_other = (jacobians(case.model, side, body) for side in (case.rows, case.columns))
    wanted = [name for name in body if name in J or name in J_other]
    shape = {name: (3, body[name].numel()) for name in wanted}
    J, J_other = (
        {k: j.get(k, torch.zeros(len(next(iter(side.values()))), *shape[k], dtype=torch.float64)) for k in wanted}
        for j, side in ((J, case.rows), (J_other, case.columns))
    )
    out = {"parameters": sum(body[k].numel() for k in wanted), "unreached": len(body) - len(wanted)}
    out |= of_phi(case)
    errors: dict[str, float] = {}
    fallback: set[str] = set()
    for other, size in ((True, 1), (True, 3), (True, None), (False, 3)):
        truth = {k: torch.einsum("ncp,mdp->ncmd", J[k], J_other[k] if other else J[k]) for k in wanted}
        total = torch.stack(list(truth.values())).sum(0)
        try:
            found = kernel(
                case.model, case.rows, case.columns if other else None, features=features, parameters=wanted,
                groups=lambda name: name, block_size=size,
            )  # fmt: skip
        except KernelError as error:
            return {**out, "outcome": "clear error", "error": None, "message": str(error)[:400]}
        except Exception as error:
            message = f"{type(error).__name__}: {error}"[:400]
            return {**out, "outcome": "unclear error", "error": None, "message": message}
        fallback |= set(found.spec.get("autograd") or ())
        for k, G in (truth | {"F": total}).items():
            F = found.F if k == "F" else found.groups[k]
            error = ((F.double() - G).norm() / max(G.norm(), tolerance * total.norm())).item()
            errors[k] = max(errors.get(k, 0.0), error if error == error else float("inf"))
    worst = max(errors, key=errors.__getitem__)
    exact = errors[worst] <= tolerance
    bad = [k for k in errors if errors[k] > tolerance]
    message = "" if exact else f"{len(bad)} of {len(errors)}: {', '.join(bad[:4])}"
    out |= {"error": errors[worst], "fallback": sorted(fallback), "message": message}
    return {**out, "outcome": "exact" if exact else "wrong"}


def of_phi(case: Case) -> dict[str, Any]:
    """Whether φ depends on padding, or on the other examples of the batch."""
    N = len(next(iter(case.rows.values())))
    with torch.no_grad():
        together = features(case.model, case.rows)
        alone = torch.cat([features(case.model, {k: t[n : n + 1] for k, t in case.rows.items()}) for n in range(N)])
        out = {"mixes_examples": bool((together - alone).norm() > 1e-5 * alone.norm())}
        if "input_ids" in case.rows and "attention_mask" in case.rows:
            T = case.rows["input_ids"].shape[1]
            trimmed = []
            for n, length in enumerate(case.rows["attention_mask"].sum(1).tolist()):
                one = {k: t[n : n + 1] for k, t in case.rows.items()}
                tokens = {k for k, t in one.items() if t.ndim > 1 and t.shape[1] == T and not k.startswith("pixel")}
                trimmed.append({k: t[:, :length] if k in tokens else t for k, t in one.items()})
            try:
                short = torch.cat([features(case.model, one) for one in trimmed])
                out["padding_matters"] = bool((short - alone).norm() > 1e-5 * alone.norm())
            except Exception:  # texts of such a length are not taken
                out["padding_matters"] = True
    return out


def run_one(name: str) -> dict[str, Any]:
    """Record of one name; never raises."""
    begin = time.perf_counter()
    try:
        case = make(name)
    except Exception as error:
        return {"name": name, "outcome": "not built", "message": f"{type(error).__name__}: {error}"[:900]}
    record: dict[str, Any] = {"name": name, "class": type(case.model.body).__name__}
    try:
        record |= measure(case)
    except Exception as error:
        record |= {"outcome": "not measured", "message": f"{type(error).__name__}: {error}"[:400]}
    return {**record, "seconds": round(time.perf_counter() - begin, 1)}


def _child(name: str, pipe: Any) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    pipe.send(run_one(name))


def in_processes(todo: list[str], jobs: int, timeout: float, done: Callable[[dict[str, Any]], None]) -> None:
    """Each name in a process of its own, so that a crash or an endless loop is a result as well."""
    context = multiprocessing.get_context("fork")
    running: dict[str, tuple[Any, Any, float]] = {}
    waiting = list(todo)
    while waiting or running:
        while waiting and len(running) < jobs:
            name = waiting.pop(0)
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_child, args=(name, theirs), daemon=True)
            process.start()
            theirs.close()
            running[name] = (process, ours, time.perf_counter())
        for name, (process, pipe, begin) in list(running.items()):
            record = None
            late = time.perf_counter() - begin > timeout
            if pipe.poll(0.02):
                try:
                    record = pipe.recv()
                except EOFError:
                    process.join()
                    record = {"name": name, "outcome": "not built", "message": f"process ended with {process.exitcode}"}
            elif late:
                record = {"name": name, "outcome": "not built", "message": f"longer than {timeout:.0f} s"}
            if record is not None:
                process.kill()
                process.join()
                del running[name]
                done(record)


def document(records: list[dict[str, Any]], out: Path, option: str) -> None:
    """Write OUT.json and OUT.md."""
    order = {name: i for i, name in enumerate([*KNOWN, *adapter_names(), *names()])}
    records = sorted(records, key=lambda r: order.get(r["name"], len(order)))
    counts = Counter(r["outcome"] for r in records)
    measured = [r for r in records if r["outcome"] in OUTCOMES]
    totals = {"measured": len(measured), **{k: counts[k] for k in OUTCOMES}}
    kept = [{k: v for k, v in r.items() if k != "seconds"} for r in records]
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__}
    top = json.dumps({"versions": versions, "totals": totals, "excluded": EXCLUDED}, indent=1)
    rows = ",\n  ".join(json.dumps(r) for r in kept)  # one a line
    out.with_suffix(".json").write_text(f'{top[:-2]},\n "records": [\n  {rows}\n ]\n}}\n')
    lines = [
        "# What the kernel covers",
        "",
        f"Made by `python benchmarks/coverage.py {option}`, which says how: tiny random models in float64,",
        "ragged lengths,",
        "blocks of 1, 3 and all, every parameter compared with plain autograd, one example at a time. Largest relative",
        "error of a parameter: at most 1e-10, or 1e-4 where the model computes in float32 inside whatever its type",
        "(*float32*; in brackets the error with those casts lifted, again at most 1e-10).",
        "",
        "With `--all` every class of `AutoModel` is measured; without it the named families and peft's adapters.",
        "",
        ", ".join(f"{k} {v}" for k, v in versions.items()) + ".",
        "",
        "| result | models |",
        "|---|---|",
        *(f"| {k} | {v} |" for k, v in totals.items()),
        "",
        "| model | class | inputs | result | largest error | parameters | by autograd | note |",
        "|---|---|---|---|---|---|---|---|",
        *(_line(r) for r in measured),
        "",
        "## Not measured",
        "",
    ]
    reasons: dict[str, list[str]] = {}
    for name, reason in EXCLUDED.items():
        reasons.setdefault(reason, []).append(name)
    for r in records:
        if r["outcome"] not in OUTCOMES:
            reasons.setdefault(r["message"].splitlines()[0][:120], []).append(r["name"])
    lines += [f"- {reason}: {', '.join(found)}" for reason, found in reasons.items()]
    out.with_suffix(".md").write_text("\n".join(lines) + "\n")


def _line(r: dict[str, Any]) -> str:
    error = "" if r["error"] is None else f"{r['error']:.0e}"
    notes = []
    if r["float32"]:
        lifted = r.get("error_lifted")
        notes.append("float32" + (f" ({lifted:.0e})" if isinstance(lifted, float) else ""))
    notes += [
        what
        for key, what in (("padding_matters", "φ depends on padding"), ("mixes_examples", "φ mixes examples"))
        if r.get(key)
    ]
    if r["message"]:
        notes.append(r["message"].splitlines()[0][:100].replace("|", "/"))
    ends = (name.removesuffix(".weight").removesuffix(".bias").rsplit(".", 1)[-1] for name in r.get("fallback", ()))
    parts = sorted(set(ends))
    through = f"{len(r['fallback'])} of {r['tensors']}: {', '.join(parts[:4])}" if parts else ""
    cells = r["name"], r["class"], r["inputs"], r["outcome"], error, f"{r['parameters']:,}", through, "; ".join(notes)
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="names, separated by commas")
    parser.add_argument("--all", action="store_true", help="every class of AutoModel; then write the documentation")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--timeout", type=float, default=180.0, help="seconds for one model (default %(default)s)")
    parser.add_argument("--log", type=Path, help="results so far, one a line; what is there is not run again")
    parser.add_argument("--out", type=Path, help="write OUT.md and OUT.json; with --all by default docs/coverage")
    args = parser.parse_args()
    chosen = [*KNOWN, *adapter_names()]
    if args.only:
        chosen = args.only.split(",")
    elif args.all:
        chosen = [n for n in dict.fromkeys([*chosen, *names()]) if n not in EXCLUDED]
    records = []
    if args.log and args.log.exists():
        records = [r for r in map(json.loads, args.log.read_text().splitlines()) if r["name"] in chosen]

    def done(record: dict[str, Any]) -> None:
        records.append(record)
        if args.log:
            with args.log.open("a") as file:
                file.write(json.dumps(record) + "\n")
        error = "" if record.get("error") is None else f"{record['error']:.1e}"
        print(
            record["name"],
            record["outcome"],
            error,
            record.get("message", "")[:120].replace("\n", " "),
            sep=" | ",
            flush=True,
        )

    have = {r["name"] for r in records}
    in_processes([n for n in chosen if n not in have], args.jobs, args.timeout, done)
    counts = Counter(r["outcome"] for r in records)
    print(", ".join(f"{k} {v}" for k, v in counts.items()))
    if args.all or args.out:
        document(records, args.out or Path("docs/coverage"), "--all" if args.all else "--out docs/coverage")
    measured = sum(counts[k] for k in OUTCOMES)
    print(f"exact_share: {counts['exact'] / max(measured, 1):.3f}")


if __name__ == "__main__":
    main()
