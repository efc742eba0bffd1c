"""Advice says what it rests on: decided rows, the paper's tables or figures, or theory alone."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
from conftest import ROOT

from lpft_utils.results.advice import support_table
from lpft_utils.results.ledger import DECIDED, MISSING
from lpft_utils.results.published import LABEL, load_published
from lpft_utils.results.published_claims import established


@dataclass
class Row:
    statistic: str
    task: str
    word: str
    state: str
    rate: str = "tuned"
    role: str = "primary"
    verdict: object = field(init=False)

    def __post_init__(self):
        record = SimpleNamespace(id=self.statistic)
        where = ("lp_ft", "lp_ft", "test") if self.statistic == "3.trend" else ("ft", "lp_ft", "test")
        self.verdict = SimpleNamespace(record=record, rate=self.rate, role=self.role, where=where)


@pytest.fixture(scope="module")
def theirs():
    return established(load_published(ROOT / "book" / "reference" / "published.csv"))


def test_rows_stand_by_outcome_with_the_published_count_beside_them(theirs):
    rows = [
        Row("2.Diff", "cb", "holds", DECIDED),
        Row("2.Diff", "snippets", "fails", DECIDED),
        Row("2.Diff", "cola", "no runs yet", MISSING),
        Row("2.Diff", "rte", "fails", DECIDED, role="secondary"),
        Row("2.Diff", "cb", "fails", DECIDED, rate="same"),
    ]
    row = support_table(rows, theirs, {"line": (["2.Diff"], "tuned")}).loc["line"]
    assert row["rows"] == "2.Diff/…/tuned"
    assert row["today"] == "holds on cb; fails on snippets; no runs yet on cola"
    assert row[LABEL] == "means agree on 12 of 12; tested, 0 hold and 0 fail"
    assert row["rests on"] == "runs: 1 holds, 1 fails of 3"


@pytest.mark.parametrize(
    ("statistic", "rate", "left"),
    [("2.Diff", "tuned", "the paper’s tables alone"), ("3.trend", "tuned", "the paper’s figures alone"),
     ("2.Diff", "same", "theory alone")],
)  # fmt: skip
def test_without_a_decided_row_the_line_says_what_is_left(theirs, statistic, rate, left):
    rows = [Row(statistic, "cb", "undecided", "undecided", rate=rate)]
    (row,) = support_table(rows, theirs, {"line": ([statistic], rate)}).to_dict("records")
    assert row["rests on"] == left and row["today"] == "undecided on cb"
