"""Labelled texts in memory: `Split`, `Task` and seeded subsets of them."""

import hashlib
import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from lpft_utils.common.errors import TaskError
from lpft_utils.common.validation import check_integer


@dataclass(frozen=True, eq=False)
class Split:
    """Labelled examples of one split.

    Attributes:
        texts: N examples, each a tuple of 1 or 2 non-empty segments (the input template is already applied).
        labels: Class indices, shape (N,), int64, read-only.
        ids: N names by which more is known of the texts, such as their ratings; None where there are none.
    """

    texts: tuple[tuple[str, ...], ...]
    labels: np.ndarray
    ids: tuple[str, ...] | None = None

    def __post_init__(self):
        labels = np.asarray(self.labels, dtype=np.int64).copy()
        if labels.shape != (len(self.texts),):
            raise TaskError(f"Expected one label for each of {len(self.texts)} texts, got labels of {labels.shape}.")
        if self.ids is not None and len(self.ids) != len(self.texts):
            raise TaskError(f"Expected one id for each of {len(self.texts)} texts, got {len(self.ids)}.")
        labels.flags.writeable = False
        object.__setattr__(self, "labels", labels)

    def __len__(self) -> int:
        """Number of examples N."""
        return len(self.texts)

    def take(self, indices: Sequence[int] | np.ndarray) -> "Split":
        """Return the examples at `indices`, in that order."""
        ids = None if self.ids is None else tuple(self.ids[int(i)] for i in indices)
        return Split(tuple(self.texts[int(i)] for i in indices), self.labels[np.asarray(indices, dtype=np.int64)], ids)


@dataclass(frozen=True, eq=False)
class Task:
    """A text classification task: named splits and label names.

    Attributes:
        name: Short name, such as `"rte"` or `"snippets"`.
        label_names: Class names; their order is the label integer.
        splits: `"train"`, `"validation"`, `"test"` and any number of out-of-distribution test sets `"ood_<name>"`.
            Tasks that were published as test sets (DynaSent, SemEval, SST-5 of BOSS) may hold `"test"` alone.
        source: Where the data came from and how they were split, as text for the reader.
        synthetic: Whether the texts were generated rather than written by people.
        test_is_validation: Whether `"test"` is the published validation set, because there is no labelled test set. To
            be said wherever "test" is printed.
    """

    name: str
    label_names: tuple[str, ...]
    splits: dict[str, Split] = field(repr=False)
    source: str
    synthetic: bool = False
    test_is_validation: bool = False

    @property
    def n_classes(self) -> int:
        """Number of classes C."""
        return len(self.label_names)

    @property
    def ood_splits(self) -> list[str]:
        """Names of the out-of-distribution test sets, in their order."""
        return [name for name in self.splits if name.startswith("ood_")]

    @property
    def fingerprint(self) -> str:
        """First 16 hex digits of the SHA-256 over label names and every split's texts and labels."""
        digest = hashlib.sha256(json.dumps(self.label_names).encode())
        for name in sorted(self.splits):
            split = self.splits[name]
            digest.update(json.dumps([name, split.texts, split.labels.tolist()], ensure_ascii=True).encode())
        return digest.hexdigest()[:16]

    def split(self, name: str) -> Split:
        """Return one split.

        Args:
            name: Split name.

        Returns:
            The split.

        Raises:
            TaskError: If the task has no such split.
        """
        if name not in self.splits:
            hint = "" if "train" in self.splits else " It is a test set only; attach it to another task with ood=[...]."
            raise TaskError(f"Task {self.name!r} has the splits {list(self.splits)}, not {name!r}.{hint}")
        return self.splits[name]


def subsample(task: Task, n_train: int | None = None, n_eval: int | None = None, seed: int = 0) -> Task:
    """Draw a seeded subset of every split that keeps the class shares and the order.

    Of a rare class as many as two examples are drawn from `"train"`, and one from every other split, so that it can be
    learned and seen.

    Args:
        task: The full task.
        n_train: Examples to keep of `"train"`; None keeps all. A split with fewer examples is kept whole.
        n_eval: Examples to keep of every other split; None keeps all.
        seed: Seed of the draw; each split has its own stream, so the sizes do not influence each other.

    Returns:
        A task with smaller splits, whose `source` says so.

    Raises:
        TaskError: If a size is below 1.
    """
    for argument, size in (("n_train", n_train), ("n_eval", n_eval)):
        if size is not None:
            check_integer(argument, size, error=TaskError)
    splits = {}
    for name, split in task.splits.items():
        size = n_train if name == "train" else n_eval
        splits[name] = split if size is None or size >= len(split) else split.take(_stratified(split, size, seed, name))
    if all(len(splits[name]) == len(task.splits[name]) for name in splits):
        return task
    kept = ", ".join(f"{name} {len(split)}" for name, split in splits.items())
    return replace(task, splits=splits, source=f"{task.source}; subset with seed {seed}: {kept}")


def _stratified(split: Split, size: int, seed: int, name: str) -> list[int]:
    """Return `size` sorted indices whose class shares follow the split's (largest remainders).

    No class is lost, and in train none that has two examples is left with one, where there is room for that.
    """
    # random.Random, not NumPy: its random() is the same on every platform and in every version.
    rng = random.Random(f"subsample/{seed}/{name}")
    keys = [rng.random() for _ in range(len(split))]
    classes = np.unique(split.labels)
    members = {c: sorted(np.flatnonzero(split.labels == c), key=lambda i: keys[i]) for c in classes}
    exact = {c: size * len(members[c]) / len(split) for c in classes}
    for each in (2, 1, 0) if name == "train" else (1, 0):
        least = {c: min(each, len(members[c])) for c in classes}
        if sum(least.values()) <= size:
            break
    take = {c: max(least[c], math.floor(exact[c])) for c in classes}
    while sum(take.values()) != size:
        if sum(take.values()) < size:
            c = max((c for c in classes if take[c] < len(members[c])), key=lambda c: exact[c] - take[c])
            take[c] += 1
        else:
            c = max((c for c in classes if take[c] > least[c]), key=lambda c: take[c] - exact[c])
            take[c] -= 1
    return sorted(int(i) for c in classes for i in members[c][: take[c]])
