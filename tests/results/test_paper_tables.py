"""The paper's tables on any runs, and what its own numbers establish."""

import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from conftest import ROOT

from lpft_utils.common.errors import ParameterError
from lpft_utils.results import claims
from lpft_utils.results import paper_tables as tables
from lpft_utils.results import published_claims as established
from lpft_utils.results.frame import COLUMNS, select
from lpft_utils.results.published import LABEL, load_published
from lpft_utils.results.reference import load_reference

FOLDER = ROOT / "book" / "reference"


@pytest.fixture(scope="module")
def numbers():
    return load_published(FOLDER / "published.csv")


def measured(*rows):
    """Rows of task, method, seed, split, metric, value."""
    found = [(task, "none", *rest) for task, *rest in rows]
    return pd.DataFrame(found, columns=COLUMNS)


def row(shown, dataset, method, **where):
    (found,) = select(shown, dataset=dataset, method=method, **where).to_dict("records")
    return found


@pytest.mark.parametrize("number", tables.TABLES)
def test_every_table_has_all_the_published_numbers_and_says_what_was_not_run(numbers, number):
    shown = tables.paper_table(number, numbers, {"this run": measured()})
    theirs, ours = ([name for name in shown if source in name] for source in (LABEL, "this run"))
    printed = select(numbers, table=number)
    improvements = len(printed) // 2 if number in (14, 15) else 0
    assert (shown[theirs] != "").to_numpy().sum() == len(printed) + improvements
    assert ((shown[theirs] != "").to_numpy() == (shown[ours] == tables.MISSING).to_numpy()).all()
    assert not (shown == "nan").to_numpy().any() and f"Table {number}:" in shown.attrs["note"]


def test_measured_values_stand_beside_the_published_ones_of_their_data_set(numbers):
    frame = measured(
        *(
            ("amazon", "ft", seed, split, "accuracy", x)
            for seed, x in ((0, 0.5), (1, 0.7))
            for split in ("test", "train")
        ),
        ("amazon", "ft", 0, "ood_dynasent", "accuracy", 0.25),
        ("cb", "ft", 0, "test", "accuracy", 0.9),  # belongs to another table
    )
    shown = tables.paper_table(10, numbers, {"this run": frame})
    assert row(shown, "amazon", "FT")["this run"] == f"60.00 ± {100 * np.std([0.5, 0.7], ddof=1):.2f}"
    assert row(shown, "amazon", "FT")[LABEL] == "88.66 ± 1.62"
    assert row(shown, "dynasent", "FT")["this run"] == "25.00"
    assert row(shown, "dynasent", "LP-FT")["this run"] == "missing"
    assert "cb" not in set(shown["dataset"])


def test_own_data_sets_come_last_with_every_method_of_the_table(numbers):
    frame = measured(("mine", "lp", 0, "test", "accuracy", 0.5), ("mine", "lp", 0, "ood_other", "accuracy", 0.25))
    shown = tables.paper_table(8, numbers, {"this run": frame})
    assert list(shown["dataset"].unique())[-1] == "mine"  # the paper's Table 8 has nothing out of distribution
    assert list(select(shown, dataset="mine")["this run"]) == ["50.00"] + 4 * ["missing"]
    assert set(select(shown, dataset="mine")[LABEL]) == {""}
    assert "mine, other (OOD)" in set(tables.paper_table(10, numbers, {"this run": frame})["dataset"])


def test_cola_shows_matthews_correlation_in_place_of_accuracy(numbers):
    rows = [
        (task, "ft", 0, "test", metric, x)
        for task in ("cola", "rte")
        for metric, x in (("accuracy", 0.8), ("MCC", 0.3))
    ]
    shown = tables.paper_table(8, numbers, {"this run": measured(*rows)})
    assert (row(shown, "cola", "FT")["this run"], row(shown, "rte", "FT")["this run"]) == ("30.00", "80.00")
    assert row(shown, "cola", "FT")[LABEL] == "58.75 ± 1.70"


def test_diverged_runs_are_counted_once_and_kept_out(numbers):
    marks = [("cb", "ft", 0, split, "diverged", 1.0) for split in ("", "train", "validation", "test")]
    value = ("cb", "ft", 1, "test", "Diff", 2.0)
    cells = [
        row(tables.paper_table(12, numbers, {"this run": measured(*rows)}), "cb", "FT")
        for rows in (marks, [*marks, value])
    ]
    assert [cell["this run"] for cell in cells] == ["(1 diverged)", "2 (1 diverged)"]


def test_features_of_the_pretrained_model_and_the_definitions_of_the_paper(numbers):
    rows = [("rte", "ft", 0, split, metric, x) for split, metric, x in (
        ("test", "CS", 0.1), ("test", "CS among texts", 0.2), ("test", "CS among texts_0", 0.3), ("test", "FDR", 0.4),
        ("test", "FDR, pinv", 0.5), ("test", "FDR, pinv_0", 0.6), ("", "head_norm", 7.0), ("", "head_norm_init", 8.0),
    )]  # fmt: skip
    shown = tables.paper_table(1, numbers, {"this run": measured(*rows)})
    for method, values in (("FT", ["0.2", "0.5", "7"]), ("pre-trained", ["0.3", "0.6", "8"])):
        found = [row(shown, "rte", method, metric=title)["this run"] for title in ("CS(F)", "FDR(F)", "‖V‖")]
        assert found == values


def test_kernels_have_a_row_for_each_part(numbers):
    rows = [("wic", method, 0, split, metric, x) for method, split, metric, x in (
        ("ft", "", "rank of P", 3), ("lp_ft", "", "rank of P", 4), ("lp_ft", "", "rank of F", 5),
        ("lp_ft", "train", "ridge, F", 0.5), ("lp_ft", "test", "ridge, P+F", 0.25), ("lp_ft", "", "FT ratio", 1.5),
    )]  # fmt: skip
    shown = tables.paper_table(9, numbers, {"this run": measured(*rows)})

    def cell(part, metric, method="LP-FT", source="this run"):
        return row(shown, "wic", method, kernel=part, metric=metric)[source]

    assert cell("P", "rank", "every method") == "3"
    accuracies = cell("F", "accuracy, train (%)"), cell("F", "accuracy, test (%)"), cell("P+F", "accuracy, test (%)")
    assert (cell("F", "rank"), *accuracies) == ("5", "50.00", "missing", "25.00")
    assert (cell("P+F", "FT ratio"), cell("P+F", "FT ratio", source=LABEL)) == ("1.5", "1")  # 0.9996
    assert not len(select(shown, dataset="wic", kernel="F", metric="FT ratio"))


def test_improvement_is_taken_within_a_seed(numbers):
    rows = [
        ("cb", "ft", seed, "test", m, x)
        for seed, m, x in ((0, "ECE", 0.3), (0, "ECE, TS", 0.1), (1, "ECE", 0.5), (1, "ECE, TS", 0.1))
    ]
    frame = tables.paper_frame(14, numbers, {"this run": measured(*rows)})
    found = row(frame, "cb", "ft", metric="ECE, improvement", source="this run")
    assert (found["mean"], found["sd"], found["n_seeds"]) == pytest.approx((0.3, np.std([0.2, 0.4], ddof=1), 2))


@pytest.mark.parametrize("number", [0, 3, 7, 17])
def test_a_table_without_results_is_refused(numbers, number):
    with pytest.raises(
        ParameterError, match=rf"expected one of 1, 2, 8, .* 16, got {number}\. \(Table 3 is part of 14"
    ):
        tables.paper_table(number, numbers, {})


@pytest.fixture(scope="module")
def tested(numbers):
    """The paper's data sets with a statement's outcome, by the claim's id and pair."""
    found = established.established(numbers)
    by_place = {(c.id, c.pair): select(found, comparison=c).set_index("dataset") for c in established.COMPARISONS}
    return lambda *place: by_place[place]


def test_welch_and_holm_by_their_formulas(numbers, tested):
    found = tested("8.more", ("ft", "lp_ft"))
    assert len(found) == 10
    ft, lp_ft = (select(numbers, table=8, dataset="sst2", method=m).iloc[0] for m in ("ft", "lp_ft"))
    u, w = ft["sd"] ** 2 / 5, lp_ft["sd"] ** 2 / 5
    t = (lp_ft["mean"] - ft["mean"]) / math.sqrt(u + w)
    p = 2 * scipy.stats.t.sf(t, (u + w) ** 2 / (u**2 / 4 + w**2 / 4))
    assert (found.loc["sst2", "t"], found.loc["sst2", "p"]) == pytest.approx((t, p)) and t == pytest.approx(
        11.4, abs=0.05
    )
    assert found.loc["sst2", "p_holm"] == pytest.approx(10 * p)  # the smallest of ten
    assert (found.loc["wsc", "p"], found.loc["wsc", "outcome"]) == (1.0, "undecided")  # 63.46 ± 0.00 twice
    margin = tested("8.test", ("ft", "lp_ft"))
    assert margin["difference"].sub(found["difference"]).to_numpy() == pytest.approx(0.01)


def test_accuracy_is_decided_on_one_of_thirteen(tested):
    found = pd.concat([tested(id, ("ft", "lp_ft")) for id in ("8.more", "8.each")])
    assert len(found) == 13 and list(found.index[found["outcome"] == "holds"]) == ["sst2"]
    assert "fails" not in set(found["outcome"])


@pytest.mark.parametrize(
    ("id", "pair", "exceptions"),  # as a reader of the tables finds them
    [
        ("1.lp", ("ft", "lp"), {"wsc"}),
        ("2.Diff", ("ft", "lp_ft"), set()),
        ("2.Diff", ("lora", "lp_lora"), {"mrpc"}),
        ("2.FDR, ood", ("ft", "lp_ft"), {"semeval", "sst5"}),
        ("4.F", ("lp_ft", "lp_ft"), set()),
        ("7.ECE", ("ft", "lp_ft"), {"cb", "cola"}),
        ("7.MCE", ("ft", "lp_ft"), {"wic"}),
        ("7.ECE", ("lp_lora", "lp_ft"), {"cb", "wsc", "sst2", "cola"}),
        ("7.MCE", ("lp_lora", "lp_ft"), {"cb", "wsc", "sst2"}),
        ("8.more", ("ft", "lp_ft"), {"cola", "mrpc", "pubmed"}),
        ("8.each", ("ft", "lp_ft"), {"semeval"}),
    ],
)
def test_exceptions_are_those_of_the_tables(tested, id, pair, exceptions):
    found = tested(id, pair)
    assert len(found) and set(found.index[~found["agrees"]]) == exceptions


def test_without_standard_deviations_nothing_is_tested(numbers, tested):
    shown = established.established_table(numbers)
    diff = shown[shown["statement"] == "Diff(F) of LP-FT is smaller than of FT"].iloc[0]
    assert (diff["means agree"], diff["decided"], diff["exceptions"]) == ("12 of 12", "no SD printed", "")
    assert set(tested("2.Diff", ("ft", "lp_ft"))["outcome"]) == {"not testable"}


def test_published_reference_and_this_run_stand_in_one_row():
    rows = [
        ("cb", m, seed, "test", "Diff", x + seed / 100) for m, x in (("ft", 2.0), ("lp_ft", 1.0)) for seed in range(3)
    ]
    verdicts = claims.evaluate(measured(*rows), "2.Diff")
    reference = load_reference(FOLDER / "five-methods.json")
    (shown,) = established.beside(verdicts, reference, FOLDER / "published.csv").to_dict("records")
    kept = {t: v.outcome for t in ("cb", "rte") for v in reference.by_task()[t] if v.statement == verdicts[0].statement}
    assert shown[LABEL] == "12 of 12 (no SD printed)"
    assert shown["reference runs"] == "; ".join(f"{task}: {outcome}" for task, outcome in kept.items())
    assert shown["this run"] == "1.00 ± 0.00, holds"
