"""What a piece of advice rests on: rows of the ledger and the paper's tables, in one sentence."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from lpft_utils.results.ledger import BOUNDED, DECIDED, Row
from lpft_utils.results.plan import TUNED
from lpft_utils.results.published import LABEL
from lpft_utils.results.published_claims import FIGURES


def basis(rows: Sequence[Row], published: pd.DataFrame, statistics: Sequence[str], rate: str = TUNED) -> str:
    """The present outcomes of primary endpoints, and what the paper's numbers say of the same statements.

    Args:
        rows: Rows of the ledger.
        published: Result of `published_claims.established`.
        statistics: Ids of statistics, such as "2.Diff".
        rate: "tuned", or "same" for LP-FT at FT's rate, of which the paper has no numbers.

    Returns:
        For each statistic its rows by outcome and the published count; last, if no row is decided or bounded, that the
        advice has no evidence of its own.
    """
    said, own, theirs = [], False, ""
    for statistic in statistics:
        ours = [row for row in rows if row.verdict.record.id == statistic]
        ours = [row for row in ours if row.verdict.role == "primary" and row.verdict.rate == rate]
        own = own or any(row.state in (DECIDED, BOUNDED) for row in ours)
        words = dict.fromkeys(row.word for row in ours)
        outcomes = [f"{word} on {', '.join(row.task for row in ours if row.word == word)}" for word in words]
        text = f"{statistic}/…/{rate}: {'; '.join(outcomes) or 'no endpoint'}"
        name = statistic.replace("8.shift", "8.each")  # the mean over the sets is not in the tables
        first = [(c.id, c.pair) == (name, ours[0].verdict.where[:2]) for c in published["comparison"]] if ours else []
        if rate == TUNED and any(first):
            found, theirs = published[first], "tables"
            outcomes = [f"{(found['outcome'] == word).sum()} {word}" for word in ("holds", "fails", "not testable")]
            text += f" ({LABEL}: means agree on {found['agrees'].sum()} of {len(found)}; tested: {', '.join(outcomes)})"
        elif rate == TUNED and (figures := FIGURES.get(int(statistic.split(".")[0]))):
            text, theirs = f"{text} ({LABEL}: {figures} alone)", theirs or "figures"
        said.append(text)
    alone = f"the paper’s {theirs}" if theirs else "theory"
    return ". ".join(said) + ("" if own else f". No row is decided: this rests on {alone} alone")
