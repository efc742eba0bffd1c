"""Splits and tasks in memory, and seeded subsets of them."""

import math
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpft_utils.common.errors import TaskError
from lpft_utils.data.tasks import Split, Task, subsample


def make_task(n=100, shares=(0.6, 0.3, 0.1)):
    labels = np.repeat(np.arange(len(shares)), [round(n * s) for s in shares])
    order = np.random.default_rng(0).permutation(len(labels))
    split = Split(tuple((f"t{i}",) for i in range(len(labels))), labels[order])
    return Task("t", ("a", "b", "c"), {"train": split, "validation": split, "test": split}, "made")


def test_split_refuses_labels_of_another_length_and_is_read_only():
    with pytest.raises(TaskError, match="one label for each of 2 texts"):
        Split((("a",), ("b",)), np.array([0]))
    split = Split((("a",),), np.array([0]))
    with pytest.raises(ValueError, match="read-only"):
        split.labels[0] = 1


def test_fingerprint_sees_every_text_and_label_and_nothing_else():
    task = make_task()
    assert len(task.fingerprint) == 16 and task.fingerprint == make_task().fingerprint
    train = task.splits["train"]
    one_label = Split(train.texts, np.where(np.arange(100) == 7, (train.labels + 1) % 3, train.labels))
    one_text = Split((("T0",), *train.texts[1:]), train.labels)
    others = [Task("t", task.label_names, {**task.splits, "train": s}, "made") for s in (one_label, one_text)]
    assert len({task.fingerprint, *(t.fingerprint for t in others)}) == 3
    assert Task("renamed", task.label_names, dict(reversed(task.splits.items())), "x").fingerprint == task.fingerprint


@pytest.mark.parametrize("n", [3, 10, 17, 50, 99])
def test_subsample_keeps_class_shares_order_and_rare_classes(n):
    small = subsample(make_task(), n, 20, seed=1)
    train = small.splits["train"]
    assert len(train) == n and len(small.splits["test"]) == 20
    positions = [int(t[0][1:]) for t in train.texts]
    assert positions == sorted(positions) and len(set(positions)) == n
    full = make_task().splits["train"]
    assert train.labels.tolist() == full.labels[positions].tolist()
    counts = Counter(train.labels.tolist())
    assert all(counts[c] >= 1 and abs(counts[c] - n * share) <= 1.0 for c, share in enumerate((0.6, 0.3, 0.1)))


def test_subsample_is_seeded_and_none_or_too_many_keep_all():
    task = make_task()
    assert subsample(task, 20, 20, 0).fingerprint == subsample(task, 20, 20, 0).fingerprint
    assert subsample(task, 20, 20, 0).fingerprint != subsample(task, 20, 20, 1).fingerprint
    assert subsample(task) is task and subsample(task, 1000, 1000, 3) is task
    assert "subset with seed 0" in subsample(task, 20, None, 0).source
    assert subsample(task, 1, None, 0).splits["train"].labels.shape == (1,)
    with pytest.raises(TaskError, match="n_eval must be a positive integer"):
        subsample(task, None, 0)


def draw_by_largest_remainders(labels, size, seed, name):
    """Positions of a stratified draw with at least one example of every class, by a plain loop."""
    rng = random.Random(f"subsample/{seed}/{name}")
    keys = [rng.random() for _ in labels]
    classes = sorted(set(labels))
    members = {c: sorted((i for i, y in enumerate(labels) if y == c), key=keys.__getitem__) for c in classes}
    exact = {c: size * len(members[c]) / len(labels) for c in classes}
    least = int(size >= len(classes))
    take = {c: max(least, math.floor(exact[c])) for c in classes}
    while sum(take.values()) < size:
        take[max((c for c in classes if take[c] < len(members[c])), key=lambda c: exact[c] - take[c])] += 1
    while sum(take.values()) > size:
        take[max((c for c in classes if take[c] > least), key=lambda c: take[c] - exact[c])] -= 1
    return {c: sorted(members[c][: take[c]]) for c in classes}


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=2, max_size=7), st.integers(1, 120), st.integers(0, 5))
def test_a_rare_class_gets_a_second_training_example_and_no_other_draw_changes(counts, size, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    split = Split(tuple((str(i),) for i in range(len(labels))), labels)
    task = Task("t", tuple(map(str, counts)), {"train": split, "test": split}, "made")
    drawn = subsample(task, size, size, seed)
    size = min(size, len(labels))
    found = {n: [int(t[0]) for t in s.texts] for n, s in drawn.splits.items()}
    plain = {n: draw_by_largest_remainders(labels.tolist(), size, seed, n) for n in found}
    assert found["test"] == sorted(sum(plain["test"].values(), []))
    least = [min(2, n) for n in counts]
    poor = [c for c, kept in plain["train"].items() if len(kept) < least[c]]
    if not poor or sum(least) > size:
        assert found["train"] == sorted(sum(plain["train"].values(), []))
    else:
        got = Counter(labels[found["train"]].tolist())
        assert len(found["train"]) == size and all(got[c] == least[c] for c in poor)
        assert all(least[c] <= got[c] <= len(kept) for c, kept in plain["train"].items() if c not in poor)
