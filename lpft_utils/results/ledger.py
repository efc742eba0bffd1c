"""The ledger: every endpoint of the plan, and every other statement, as a row; and the tables that are made of rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from lpft_utils.common.errors import ParameterError
from lpft_utils.common.table import Table
from lpft_utils.results.claims import Verdict
from lpft_utils.results.plan import SAME

if TYPE_CHECKING:
    from lpft_utils.results.evidence import Place

DECIDED, BOUNDED, UNDECIDED, UNTESTABLE, MISSING = STATES = (
    "decided", "bounded by the smallest effect of interest", "undecided", "not testable", "no runs yet",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A row of the ledger.

    Attributes:
        id: The statistic, the task and the rate ("tuned" also where none plays a part), such as
            "2.Diff/snippets/tuned"; then methods, out-of-distribution set and backbone where they are not those of the
            plan's endpoint.
        task: Name of the task.
        backbone: Name of the backbone.
        verdict: What the runs say.
        places: The runs that the grid has for it.
        note: What has to be said of it.
    """

    id: str
    task: str
    backbone: str
    verdict: Verdict
    places: tuple[Place, ...]
    note: str = ""

    @property
    def state(self) -> str:
        """One of `STATES`."""
        v = self.verdict
        states = {"holds": DECIDED, "fails": DECIDED, "not testable": UNTESTABLE, "no runs yet": MISSING}
        return states.get(v.outcome, BOUNDED if v.bounded else UNDECIDED)

    def to_dict(self) -> dict[str, Any]:
        """As plain types for JSON; what is not a finite number is None."""
        v = self.verdict
        values = {
            "id": self.id, "claim": v.claim, "statement": v.statement, "task": self.task, "backbone": self.backbone,
            "primary": v.role == "primary", "role": v.role, "rate": v.rate, "effect": v.difference.mean,
            "low": v.difference.low, "high": v.difference.high, "distance": v.side, "smallest": v.smallest,
            "seeds": v.difference.n, "planned": len(self.seeds), "diverged": v.diverged, "detectable": v.detectable,
            "p": v.p, "p_holm": v.p_holm, "over": v.over, "outcome": v.shown, "word": self.word, "state": self.state,
            "note": self.note,
        }  # fmt: skip
        return {k: None if isinstance(x, float) and not math.isfinite(x) else x for k, x in values.items()}

    @property
    def word(self) -> str:
        """The outcome in short."""
        return "bounded" if self.state == BOUNDED else self.verdict.outcome

    def matches(self, claim: str | None, task: str | None) -> bool:
        """Whether it is of this claim (a number, or the id of a statistic) and task; None means any."""
        return claim in (None, str(self.verdict.claim), self.verdict.record.id) and task in (None, self.task)

    @property
    def seeds(self) -> set[int]:
        """Seeds that the grid has for it."""
        return {place.spec.seed for place in self.places}


def ledger_table(rows: Sequence[Row]) -> Table:
    """Rows as a table: what `lpft ledger` prints.

    Args:
        rows: Rows of the ledger.

    Returns:
        Indexed by id: "effect (95 % interval)", "seeds", "detectable", "outcome" and "statement", with the row's note.
    """
    lines = []
    for row in rows:
        v, form = row.verdict, f".{row.verdict.record.digits}f"
        low_high = f" [{v.difference.low:{form}}, {v.difference.high:{form}}]" if v.difference.n > 1 else ""
        line = {"effect (95 % interval)": f"{v.difference.mean:{form}}{low_high}" if v.difference.n else ""}
        line |= {"seeds": f"{v.difference.n} of {len(row.seeds)}", "detectable": f"{v.detectable:{form}}"}
        line |= {"outcome": v.shown, "statement": ". ".join(filter(None, (v.statement, row.note)))}
        lines.append({"row": row.id, **line})
    return Table(pd.DataFrame(lines).set_index("row").replace("nan", ""))


def outcome_table(rows: Sequence[Row]) -> Table:
    """Outcomes in short, statistics by tasks.

    Args:
        rows: Rows of the ledger, one per statistic, rate and task.

    Returns:
        One row per statistic and rate, one column per task; "" where the plan has no endpoint.
    """
    cells: dict[str, dict[str, str]] = {}
    for row in rows:
        name = row.id.split("/")[0] + (", same rate" if row.verdict.rate == SAME else "")
        cells.setdefault(name, {})[row.task] = row.word
    return Table(pd.DataFrame.from_dict(cells, orient="index").fillna("").rename_axis("statistic"))


def contrast_table(one: Iterable[tuple[str, Verdict]], other: Iterable[tuple[str, Verdict]], *titles: str) -> Table:
    """The same statements under two conditions.

    Args:
        one: Tasks and verdicts.
        other: Others; those without a counterpart are left out.
        *titles: Of the two conditions.

    Returns:
        Columns "task", "statement", the two titles with effect and outcome, and "changed": "yes" where a decision was
        reversed, won or lost.

    Raises:
        ParameterError: If `other` has two verdicts on one statement.
    """
    listed = list(other)
    theirs = {(task, v.record.id, v.where): v for task, v in listed}
    if len(theirs) < len(listed):
        raise ParameterError("expected one verdict per task and statement: choose a rate and a backbone.")
    rows = []
    for task, v in one:
        w = theirs.get((task, v.record.id, v.where))
        if w and v.difference.n and w.difference.n:
            shown = [f"{x.difference.format(x.record.digits)}, {x.outcome} ({x.difference.n} seeds)" for x in (v, w)]
            changed = v.outcome != w.outcome and bool({v.outcome, w.outcome} & {"holds", "fails"})
            rows.append([task, v.statement, *shown, "yes" if changed else ""])
    shown = Table(pd.DataFrame(rows, columns=["task", "statement", *titles, "changed"]))
    shown.attrs["note"] = "" if rows else "Nothing to compare yet: no statement has runs under both conditions."
    return shown
