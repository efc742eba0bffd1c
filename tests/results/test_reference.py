"""The committed files of reference results."""

import json

import numpy as np
import pytest
import scipy.stats
from conftest import ROOT

from lpft_utils.common.errors import RunError
from lpft_utils.results import reference

FOLDER = ROOT / "book" / "reference"
FILES = sorted(FOLDER.glob("*.json"))


def test_there_are_reference_files():
    assert {file.name for file in FILES} >= {"real-tasks.json", "kernel-claims.json", "five-methods.json"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_committed_outcome_follows_from_its_interval(file):
    results = reference.load_reference(file)
    assert reference.provenance(results)
    for verdict in (v for result in results for v in result["claims"]):
        low = verdict["difference"] - verdict["half_width"]
        high = verdict["difference"] + verdict["half_width"]
        assert verdict["outcome"] == ("holds" if low > 0 else "fails" if high < 0 else "undecided"), verdict


@pytest.mark.parametrize(
    ("key", "larger", "smaller", "statement"),
    [
        ("ECE", "lp_lora", "lora", "ECE of LP-LoRA is larger than of LoRA, without temperature scaling"),
        ("ECE", "lp_ft", "ft", "ECE of LP-FT is larger than of FT, without temperature scaling"),
        ("CS", "lp_ft", "ft", "CS(F) of LP-FT is larger than of FT"),
        ("Diff", "lora", "lp_lora", "Diff(F) of LP-LoRA is smaller than of LoRA"),
    ],
)
def test_committed_intervals_follow_from_the_committed_values(key, larger, smaller, statement):
    for result in reference.load_reference(FOLDER / "five-methods.json"):
        (stored,) = (v for v in result["claims"] if v["statement"] == statement)
        d = np.subtract(result[key][larger], result[key][smaller])
        half_width = scipy.stats.t.ppf(0.975, len(d) - 1) * d.std(ddof=1) / len(d) ** 0.5
        assert (stored["difference"], stored["half_width"]) == pytest.approx((d.mean(), half_width))


@pytest.mark.parametrize("content", [None, "", "{", "[]", "{}", "[3]", json.dumps([{"name": "cb"}])])
def test_a_file_without_results_says_how_to_get_it_back(tmp_path, content):
    file = tmp_path / "results.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(RunError, match=r"results\.json.*git checkout"):
        reference.load_reference(file)
