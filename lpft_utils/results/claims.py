"""The paper's claims tested on results: from a frame or runs to verdicts.

A statement *holds* if a two-sided test at 5 %, paired by seed, puts its quantity on the claimed side of the threshold,
*fails* if on the other side, and is *undecided* otherwise. Statements of one claim that are tested together share that
5 % by Holm's method: a claim's primary endpoints on all tasks at hand, and apart from them the others. It is *not
testable here* where the results cannot speak to it, and the verdict says why. With three seeds an interval is wide:
"undecided" says little about effects smaller than what these runs could have detected. A seed of which a run diverged
is left out, and counted.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from lpft_utils.common.errors import ParameterError
from lpft_utils.common.names import split_label
from lpft_utils.common.table import Table
from lpft_utils.metrics.intervals import LEVEL, POWER, Interval, holm, interval, two_way_interval
from lpft_utils.results.frame import check_measured, evaluated_splits, results, select, validation_note
from lpft_utils.results.plan import TUNED, Plan, load_plan
from lpft_utils.results.statements import CLAIMS, PAIRS, SHIFT, Claim, success, sweep
from lpft_utils.runs.store import Run, converged
from lpft_utils.training.methods import METHODS

SEEDS, OWN_TEXTS, TEXTS = "seeds", "seeds, each with its own texts", "seeds × texts"  # what an interval is over


@dataclass(frozen=True)
class Verdict:
    """What results say about one statement of a claim.

    Attributes:
        record: The statement's claim.
        where: The methods a and b, and the split.
        statement: The statement, as a sentence.
        difference: Interval of the quantity that the statement is about.
        side: Distance of its mean from the threshold, positive on the claimed side.
        p: Two-sided p-value of this statement alone.
        detectable: The smallest distance from the threshold that would have been decided with power 0.8.
        p_holm: The same, adjusted for what is tested together.
        role: "primary", "replication" or "secondary", by the plan.
        rate: "tuned", each method's own, or "same", where b was trained at a's.
        reason: Why the statement is not testable here; "" if it is.
        over: What the interval is over: "seeds × texts", "seeds, each with its own texts" (generated ones), or "seeds"
            (other texts may give other values).
        smallest: The plan's smallest effect of interest, for its endpoints.
        diverged: Seeds left out because a run diverged.
        note: What the split is, where its name does not say it.
    """

    record: Claim
    where: tuple[str, str, str]
    statement: str
    difference: Interval
    side: float
    p: float
    detectable: float
    p_holm: float = math.nan
    role: str = "secondary"
    rate: str = TUNED
    reason: str = ""
    over: str = SEEDS
    smallest: float | None = None
    diverged: int = 0
    note: str = ""

    @property
    def claim(self) -> int:
        """Number of the claim in the ledger."""
        return self.record.number

    @property
    def outcome(self) -> str:
        """One of "holds", "fails", "undecided", "not testable", or why there is no interval, such as "one seed"."""
        if self.reason:
            return "not testable"
        if self.difference.n < 2:
            return "one seed" if self.difference.n else "diverged" if self.diverged else "no runs yet"
        if not self.p_holm < 1 - LEVEL:
            return "undecided"
        return "holds" if self.side > 0 else "fails"

    @property
    def bounded(self) -> bool:
        """Whether the whole interval is nearer to the threshold than the plan's smallest effect of interest."""
        return self.smallest is not None and abs(self.side) + self.difference.half_width < self.smallest

    @property
    def shown(self) -> str:
        """The outcome with what has to be said beside it."""
        why = self.reason or ("below the smallest effect of interest" if self.bounded else "")
        return f"{self.outcome}: {why}" if why and self.outcome in ("not testable", "undecided") else self.outcome


def evaluate(
    source: pd.DataFrame | Iterable[Run] | Mapping[Any, Iterable[Run]], *wanted: str, split: str = "test",
    note: str = "", plan: Plan | None = None, rate: str = TUNED,
) -> list[Verdict]:  # fmt: skip
    """Test claims on results.

    Args:
        source: A frame of results of one task, or runs: of a sweep as groups by ‖V0‖ or factor. From runs on texts that
            were not generated, and from a frame with the columns "predicted" and "labels" of `collected`, differences
            of accuracy have intervals over seeds and texts.
        *wanted: Numbers or ids of claims, such as "2" or "2.Diff"; default: all that the results allow.
        split: Split of the claims that are about "test".
        note: Added to the statements; of a frame with groups, also the group that claims other than 3 are tested on.
        plan: What is primary; default: `plan.load_plan()`.
        rate: "same" where LP-FT was trained at FT's rate, and LP-LoRA at LoRA's: then these pairs alone are compared.

    Returns:
        The verdicts, by number, split and pair of methods, adjusted for one another (`adjusted`).

    Raises:
        ParameterError: If a wanted claim cannot be tested on these results, or a seed occurs twice.
    """
    swept: Any = {k: list(v) for k, v in source.items()} if isinstance(source, Mapping) else None
    runs = [] if isinstance(source, pd.DataFrame) else list(itertools.chain(*swept.values()) if swept else source)
    frame = source if isinstance(source, pd.DataFrame) else results(swept or runs)
    own = bool(runs) and all(run.metrics.get("task", {}).get("synthetic") for run in runs)
    check_measured(frame)
    plan, ood, found = plan or load_plan(), [s for s in evaluated_splits(frame) if s.startswith("ood_")], []
    splits = {"": [""], "test": [split], "each ood": ood, SHIFT: [SHIFT] if len(ood) > 1 else []}
    for claim in CLAIMS.values():
        if wanted and not any(_is(claim, name) for name in wanted):
            continue
        here = frame if claim.number == 3 or "group" not in frame else select(frame, group=note)
        pairs = claim.pairs if rate == TUNED else [pair for pair in claim.pairs if pair in PAIRS]
        for (s, on), (p, pair) in itertools.product(enumerate(splits[claim.on]), enumerate(pairs)):
            values = claim.statistic(here, *pair, on).dropna()
            if len(values) or _all_diverged(here, *pair):
                reason = claim.untestable(here, *pair, on) if len(values) else ""
                more: dict[str, Any] = {"reason": reason, "over": OWN_TEXTS if own else SEEDS}
                difference = interval(values.tolist()) if len(values) else Interval(math.nan, math.nan, 0)
                if not swept and not own and (over_texts := _texts(claim, here, runs, (*pair, on))):
                    difference, more["over"] = over_texts, TEXTS
                if claim.test == "trend" and len(values) > 1:
                    more |= _trend(sweep(here, pair[1], on))
                verdict = verdict_of(claim, difference, (*pair, on), here, plan, note, rate, **more)
                found.append(((claim.number, s, p), verdict))
    if missing := [name for name in wanted if not any(_is(verdict.record, name) for _, verdict in found)]:
        raise ParameterError(
            f"claim {missing[0]}: expected results with its metrics, of the same seeds for each of its methods, got "
            f"methods {', '.join(frame['method'].unique()) or 'none'}. Known claims: {', '.join(CLAIMS)}."
        )
    return adjusted([verdict for _, verdict in sorted(found, key=lambda item: item[0])])


def adjusted(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Verdicts with p-values adjusted by Holm's method within each claim, primary endpoints and the others apart.

    What has no interval yet counts as p = 1: a family has the size that was planned, also while runs are missing.

    Args:
        verdicts: Results of `evaluate`, on any tasks.

    Returns:
        The verdicts, in the same order.
    """
    found = list(verdicts)
    families: dict[Any, list[int]] = {}
    for i, v in enumerate(found):
        if not v.reason:
            families.setdefault((v.claim, v.role), []).append(i)
    for family in families.values():
        for i, p in zip(family, holm([found[i].p if found[i].difference.n > 1 else 1 for i in family]), strict=True):
            found[i] = replace(found[i], p_holm=p if found[i].difference.n > 1 else math.nan)
    return found


def ledger(verdicts: Sequence[Verdict]) -> Table:
    """Verdicts as a table for the page.

    Args:
        verdicts: Verdicts of any claims.

    Returns:
        Indexed by claim: columns "statement", "endpoint", "difference (95 % interval)", "over", "seeds", "detectable"
        (with power 0.8), "p (Holm)" and "outcome".
    """
    rows = [
        {
            "claim": v.claim,
            "statement": v.statement,
            "endpoint": v.role,
            "difference (95 % interval)": v.difference.format(v.record.digits),
            "over": v.over,
            "seeds": f"{v.difference.n} ({v.diverged} diverged)" if v.diverged else v.difference.n,
            "detectable": f"{v.detectable:.{v.record.digits}f}".replace("nan", "").replace("inf", "∞"),
            "p (Holm)": "" if math.isnan(v.p_holm) else f"{v.p_holm:.2g}",
            "outcome": v.shown,
        }
        for v in verdicts
    ]
    shown = Table(pd.DataFrame(rows).set_index("claim"))
    shown.attrs["note"] = " ".join({v.note: None for v in verdicts if v.note})
    return shown


def verdict_of(
    claim: Claim, difference: Interval, where: tuple[str, str, str], frame: pd.DataFrame, plan: Plan, note: str = "",
    rate: str = TUNED, **more: Any,
) -> Verdict:  # fmt: skip
    """A verdict from an interval.

    Args:
        claim: The statement's claim.
        difference: Interval of its quantity.
        where: The methods a and b, and the split.
        frame: The results, which say whose they are and which runs diverged.
        plan: What is primary, and which tasks get no verdict.
        note: Added to the statement.
        rate: "tuned", or "same" where b was trained at a's.
        **more: Further fields of the verdict.

    Returns:
        The verdict, not adjusted.
    """
    a, b, split = where
    names = {"a": METHODS[a].label, "b": METHODS[b].label, "split": split_label(split), "margin": claim.margin}
    side = claim.margin - abs(difference.mean) if claim.test == "within" else difference.mean + claim.margin
    lost = select(frame, metric="diverged", value=1.0)
    task = next(iter(frame["task"]), "") if "task" in frame else ""
    planned = (a, b) == claim.pairs[0] and split in ("", "test", SHIFT)
    fields = {
        "side": side,
        "p": difference.p_value(side),
        "detectable": difference.detectable,
        "role": plan.role(task, claim.id, rate) if planned else "secondary",
        "rate": rate,
        "smallest": plan.smallest(task, claim.id, rate) if planned else None,
        "diverged": lost.loc[lost["method"].isin((a, b)), "seed"].nunique(),
        "note": validation_note(frame) if split == "test" else "",
    } | more
    if plan.tasks.get(task, {}).get("role") == "shown":
        fields["reason"] = "shown without a verdict, by the plan"
    statement = claim.statement.format(score=success(frame), note=note, **names)
    if rate != TUNED:
        statement += f", at the rate of {names['a']}"
    return Verdict(claim, where, statement, difference, **fields)


def _is(claim: Claim, name: str) -> bool:
    return name in (claim.id, str(claim.number))


def _all_diverged(frame: pd.DataFrame, a: str, b: str) -> bool:
    """Whether both methods were run and one of them has nothing but diverged runs: a claim on them must not vanish."""
    kept = frame[frame["metric"] != "diverged"]
    runs, usable = (set(rows["method"]) & {a, b} for rows in (frame, kept))
    return runs == {a, b} and usable < runs


def _trend(by_norm: pd.DataFrame) -> dict[str, float]:
    """Page's test, two-sided, and a mean −ρ that it would detect: L, standardised, is ρ̄ √(n (k − 1))."""
    # The spread is that of no trend, so that what is detectable is a little less.
    diffs = by_norm.to_numpy()
    one_sided = [float(stats.page_trend_test(d).pvalue) for d in (diffs[:, ::-1], diffs)]
    n, k = diffs.shape
    detectable = (stats.norm.ppf(0.5 + LEVEL / 2) + stats.norm.ppf(POWER)) / math.sqrt(n * (k - 1))
    perfect = 2 * stats.page_trend_test(np.tile(np.arange(k), (n, 1))).pvalue < 1 - LEVEL
    return {"p": min(1.0, 2 * min(one_sided)), "detectable": min(1.0, float(detectable)) if perfect else math.inf}


def _texts(claim: Claim, frame: pd.DataFrame, runs: Sequence[Run], where: tuple[str, str, str]) -> Interval | None:
    """The interval over seeds and texts, where the claim has one and every seed was evaluated on the same texts."""
    if claim.score is None:
        return None
    a, b, split = where
    splits = [s for s in evaluated_splits(frame) if s.startswith("ood_")] if split == SHIFT else [split]
    said = _predicted(frame, runs, (a, b))
    in_both = set.intersection(*({seed for m, seed in said if m == method} for method in (a, b)))
    pairs = [(said[a, seed], said[b, seed]) for seed in sorted(in_both)]
    everyone = [by_split for pair in pairs for by_split in pair]
    if len(pairs) < 2 or not all(s in by_split for by_split in everyone for s in splits):
        return None
    labels = {s: everyone[0][s][1] for s in splits}
    if not all(np.array_equal(by_split[s][1], labels[s]) for by_split in everyone for s in splits):
        return None
    score, metric = claim.score, success(frame)
    scores = [[[score(p, y, metric) for p, y in (f[s], g[s])] for s in splits] for f, g in pairs]

    def value(seed: int, texts: Sequence[np.ndarray]) -> float:
        return float(np.mean([g(index) - f(index) for (f, g), index in zip(scores[seed], texts, strict=True)]))

    return two_way_interval(value, len(pairs), [len(labels[s]) for s in splits])


def _predicted(frame: pd.DataFrame, runs: Sequence[Run], methods: tuple[str, str]) -> dict[Any, dict[str, Any]]:
    """Predicted classes and labels by split, of each method and seed that converged: of runs, or in a frame."""
    found: dict[Any, dict[str, Any]] = {}
    for run in converged(run for run in runs if run.spec.method in methods):
        found[run.spec.method, run.spec.seed] = {s: (f.argmax(1), y) for s, (f, y) in run.predictions.items()}
    if not runs and "predicted" in frame:
        rows = select(frame, metric="accuracy").dropna(subset="predicted")
        for row in rows[rows["method"].isin(methods)].itertuples():
            found.setdefault((row.method, row.seed), {})[row.split] = (row.predicted, row.labels)
    return found
