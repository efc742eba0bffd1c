"""What a piece of advice rests on: rows of the ledger, the paper's tables or figures, or theory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import pandas as pd

from lpft_utils.common.table import Table
from lpft_utils.results.ledger import BOUNDED, DECIDED, Row
from lpft_utils.results.plan import TUNED
from lpft_utils.results.published import LABEL
from lpft_utils.results.published_claims import FIGURES

Lines = Mapping[str, tuple[Sequence[str], str]]


def support_table(rows: Sequence[Row], published: pd.DataFrame, lines: Lines) -> Table:
    """The present outcomes of the primary endpoints behind pieces of advice, and the paper's numbers beside them.

    Args:
        rows: Rows of the ledger.
        published: Result of `published_claims.established`.
        lines: By advice the ids of statistics, such as "2.Diff", and the rate: "tuned", or "same" for LP-FT at FT's
            rate, of which the paper has no numbers.

    Returns:
        Indexed by advice, one row per statistic: "rows" of the ledger, their outcomes "today", the published count, and
        what the advice "rests on": runs if any row is decided or bounded, otherwise what is left.
    """
    found = [
        {"advice": advice, **_support(rows, published, statistic, rate)}
        for advice, (statistics, rate) in lines.items()
        for statistic in statistics
    ]
    return Table(pd.DataFrame(found).set_index("advice"))


def _support(rows: Sequence[Row], published: pd.DataFrame, statistic: str, rate: str) -> dict[str, str]:
    ours = [row for row in rows if (row.verdict.record.id, row.verdict.role) == (statistic, "primary")]
    ours = [row for row in ours if row.verdict.rate == rate]
    words = dict.fromkeys(row.word for row in ours)
    today = [f"{word} on {', '.join(row.task for row in ours if row.word == word)}" for word in words]
    theirs, rests = "", "theory alone"
    name = statistic.replace("8.shift", "8.each")  # the mean over the sets is not in the tables
    first = [(c.id, c.pair) == (name, ours[0].verdict.where[:2]) for c in published["comparison"]] if ours else []
    if rate == TUNED and any(first):
        found, rests = published[first], "the paper’s tables alone"
        holds, fails = ((found["outcome"] == word).sum() for word in ("holds", "fails"))
        theirs = f"means agree on {found['agrees'].sum()} of {len(found)}; tested, {holds} hold and {fails} fail"
    elif rate == TUNED and (figures := FIGURES.get(int(statistic.split(".")[0]))):
        theirs, rests = figures, "the paper’s figures alone"
    if decided := Counter(row.word for row in ours if row.state in (DECIDED, BOUNDED)):
        rests = f"runs: {', '.join(f'{n} {word}' for word, n in decided.items())} of {len(ours)}"
    return {"rows": f"{statistic}/…/{rate}", "today": "; ".join(today), LABEL: theirs, "rests on": rests}
