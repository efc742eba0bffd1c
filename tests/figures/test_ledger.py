"""The figure of the ledger says every outcome in words, and puts marks where the numbers are."""

import pytest

from lpft_utils.figures.ledger import ledger


def row(name, word, distance=None, half=None, **more):
    low, high = (None, None) if half is None else (distance - half, distance + half)
    task = name.split("/")[1]
    claim = int(name.split(".")[0])
    return {
        "id": name, "claim": claim, "statement": f"statement {claim}", "task": task, "rate": name.split("/")[2],
        "word": word, "distance": distance, "low": low, "high": high, "smallest": 0.5, **more,
    }  # fmt: skip


def test_every_endpoint_is_a_line_with_its_outcome_in_words():
    rows = [
        row("1.lp/cb/tuned", "holds", 1.0, 0.25),
        row("2.Diff/cb/tuned", "no runs yet"),
        row("2.Diff/cb/same", "one seed", -0.5),
    ]
    figure = ledger(rows)
    (axes,) = figure.axes
    said = [text.get_text() for text in axes.texts]
    assert said == ["1: statement 1", "holds", "2: statement 2", "no runs yet", "one seed"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cb", "cb", "cb, same rate"]
    marks = [container[0].get_xdata()[0] for container in axes.containers]
    assert marks == pytest.approx([2.0, -1.0])  # in smallest effects of interest
    (bars,) = axes.containers[0][2]
    ((start, _), (end, _)) = bars.get_segments()[0]
    assert (start, end) == pytest.approx((1.5, 2.5))
    left, right = axes.get_xlim()
    assert left < -1 < 2.5 < right


def test_without_runs_there_is_still_a_figure(tmp_path):
    figure = ledger([row("1.lp/cb/tuned", "no runs yet")])
    figure.savefig(tmp_path / "ledger.svg")
    assert not figure.axes[0].containers and (tmp_path / "ledger.svg").stat().st_size > 1000
