"""The published numbers: the committed file, its checks, and that they stay apart from measured ones."""

import pandas as pd
import pytest
from conftest import ROOT

from lpft_utils.common.errors import LpftError, RunError
from lpft_utils.data.catalog import PAPER_TASKS
from lpft_utils.results import published as pub
from lpft_utils.results.claims import evaluate
from lpft_utils.results.frame import COLUMNS, select
from lpft_utils.results.tables import column, table
from lpft_utils.training.methods import METHODS

FILE = ROOT / "book" / "reference" / "published.csv"


@pytest.fixture(scope="module")
def numbers():
    return pub.load_published(FILE)


@pytest.mark.parametrize(
    ("where", "mean", "sd"),  # read off the paper's PDF
    [
        ({"table": 8, "dataset": "sst2", "method": "lp_ft", "metric": "accuracy"}, 0.9452, 0.0026),
        ({"table": 8, "dataset": "cola", "method": "ft", "metric": "MCC"}, 0.5875, 0.0170),
        ({"table": 10, "task": "amazon", "split": "ood_semeval", "method": "lora"}, 0.5529, 0.0293),
        ({"table": 14, "dataset": "rte", "method": "lp_ft", "metric": "MCE, TS"}, 0.1394, 0.0180),
        ({"table": 2, "method": "lp_ft", "kernel": "F", "metric": "frobenius"}, 7250e3, None),
        ({"table": 9, "dataset": "wic", "method": "lp_lora", "metric": "ft_ratio"}, 0.7454, None),
        ({"table": 11, "dataset": "sst5", "method": "ft", "metric": "FDR"}, 22.6, None),
        ({"table": 13, "dataset": "wsc", "method": "lp", "metric": "head_norm"}, 2.26e-4, None),
    ],
)
def test_numbers_are_those_of_the_paper(numbers, where, mean, sd):
    (row,) = select(numbers, **where).to_dict("records")
    assert row["mean"] == pytest.approx(mean) and row["source"] == "published, RoBERTa-base"
    assert row["sd"] == pytest.approx(sd) if sd else pd.isna(row["sd"])


def test_kernel_accuracies_are_those_of_one_seed(numbers):
    cb = select(numbers, table=2, metric="accuracy", split="test")
    pairs = cb["mean"] * 56 * 3  # to the two decimals of a percentage
    assert len(cb) == 9 and (abs(pairs - pairs.round()) < 0.01).all() and set(cb["n_seeds"]) == {1}


@pytest.mark.parametrize(
    "use", [lambda f: table(f, "method", {"Diff": column("Diff")}), lambda f: evaluate(f, "2.Diff")]
)
def test_published_numbers_cannot_be_mixed_with_measured_ones(numbers, use):
    measured = pd.DataFrame(
        [("cb", "minilm", method, seed, "test", "Diff", 1.0 + seed) for method in ("ft", "lp_ft") for seed in (0, 1)],
        columns=COLUMNS,
    )
    use(measured)
    with pytest.raises(LpftError, match="published numbers .* beside"):
        use(pd.concat([measured, numbers]))


def test_the_file_has_known_names_and_each_number_once():
    read = pd.read_csv(FILE, keep_default_na=False, na_values={"std": [""]})
    assert list(read) == ["table", "dataset", "method", "kernel", "metric", "split", "value", "std"]
    for name, known in {
        "dataset": PAPER_TASKS,
        "method": ("", "pretrained", *METHODS),
        "kernel": ("", "P", "F", "P+F"),
        "metric": (*pub.PER_CENT, "CS", "Diff", "FDR", "head_norm", "rank", "frobenius", "ft_ratio", "classes", "size"),
        "split": ("", "train", "validation", "test"),
    }.items():
        assert set(read[name]) == set(known), name
    assert set(read["table"]) == {1, 2, *range(7, 17)}
    assert read["value"].between(0, 1e9).all() and read["std"].dropna().between(0, 1e9).all()
    assert not read.duplicated(list(read)[:6]).any()


def test_a_missing_or_damaged_file_is_refused(tmp_path):
    (tmp_path / "p.csv").write_text('table,dataset\n"1')
    for name in ("none.csv", "p.csv"):
        with pytest.raises(RunError, match="git checkout"):
            pub.load_published(tmp_path / name)
