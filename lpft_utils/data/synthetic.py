"""The task `synthetic`: a seeded generator of short reviews with three sentiments. The texts are synthetic.

What is hard is composition, not vocabulary: a clause may be negated ("the soup was not bland"), compare ("the steak
was worse than what I make at home"), report a fear or hope that did not come true, or quote a judgement without making
one; and a text may join two opposed clauses ("X, but Y": Y decides) or add an irrelevant one. Counting positive and
negative words is therefore not enough, which is what frozen sentence features mostly offer.

Training, validation and test are about restaurants. `ood_electronics` and `ood_hotels` are about other things, with
other nouns, other judging words and other phrasings: the meaning is the same, the words are new. No noun, judging
adjective or template of a shifted domain occurs in the training domain (a test compares them), and the two shifted
domains do not share theirs either. Function words and the grammar of English are shared, as they must be.

The words of each domain are in `synthetic_words.json`: "aspects", groups of nouns with the positive and negative
adjectives that fit them; "middling" adjectives; "references", things to compare with; "people" whose opinion does not
count; and templates for clauses that are "plain", "negated", comparisons in favour ("better"), against ("worse") or
neither ("same"), bad and good expectations that did not come true ("relief", "letdown"), "neutral" (several quote
judging words without a judgement); that join {x}, which loses, and {y}, which decides ("contrast"), or an
"irrelevant" clause {i} and the deciding one ("aside"). In a template {n} is a noun, {a} an adjective of the clause's
sentiment, {o} one of the opposite sentiment, {p} and {q} a positive and a negative one, {m} a middling one, {r}
something to compare with, {w} a person.
"""

import json
import random
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np

from lpft_utils.common.errors import TaskError
from lpft_utils.common.validation import check_integer
from lpft_utils.data.examples import Split, Task

T = TypeVar("T")
LABEL_NAMES = ("negative", "positive", "neutral")  # the order of the BOSS suite
NEGATIVE, POSITIVE, NEUTRAL = range(3)
WORDS: Any = json.loads(
    Path(__file__).with_name("synthetic_words.json").read_text(encoding="utf-8"),
    object_hook=lambda entries: SimpleNamespace(**entries),
)

# How often each construction occurs, within a text of one or two clauses and within a clause.
FORMS = {"single": 0.35, "contrast": 0.3, "aside": 0.35}
CLAUSES = {"plain": 0.68, "negated": 0.17, "compared": 0.09, "expected": 0.06}
# The templates of a clause, by its sentiment, where their name is another.
TEMPLATES = {
    NEGATIVE: {"compared": "worse", "expected": "letdown"},
    POSITIVE: {"compared": "better", "expected": "relief"},
    NEUTRAL: {"compared": "same", "plain": "neutral", "negated": "neutral", "expected": "neutral"},
}


@lru_cache(maxsize=4)  # a chapter asks for the same texts once for every run that it reads
def generate(
    seed: int = 0,
    label_noise: float = 0.0,
    n_train: int = 4000,
    n_validation: int = 600,
    n_test: int = 1000,
    n_ood: int = 1000,
) -> Task:
    """Generate the task `synthetic`.

    No text occurs twice, within a split or across splits. Classes are balanced to within one example. Test sets do not
    depend on `n_train`, and no text depends on `label_noise`. The result depends on the arguments alone, on every
    platform: only `random.Random.random()` is used, whose sequence Python guarantees.

    Args:
        seed: Seed of all draws.
        label_noise: Share of *training* labels, from 0 to 1, replaced by one of the two others.
        n_train: Training examples.
        n_validation: Validation examples.
        n_test: Test examples.
        n_ood: Examples of each out-of-distribution test set.

    Returns:
        Task `synthetic` with the splits train, validation, test, ood_electronics and ood_hotels.

    Raises:
        TaskError: If an argument is out of range, or more distinct texts are asked for than the grammar offers.
    """
    sizes = {"n_train": n_train, "n_validation": n_validation, "n_test": n_test, "n_ood": n_ood}
    for name, size in sizes.items():
        check_integer(name, size, low=len(LABEL_NAMES), error=TaskError)  # one per class
    if not 0 <= label_noise <= 1:
        raise TaskError(f"label_noise is a share of the training labels, from 0 to 1, got {label_noise}.")
    seen: set[str] = set()
    # Test sets first and train last: a later split gives way to an earlier one, so test sets never change with n_train.
    plan = (
        ("test", WORDS.restaurants, n_test),
        ("ood_electronics", WORDS.electronics, n_ood),
        ("ood_hotels", WORDS.hotels, n_ood),
        ("validation", WORDS.restaurants, n_validation),
        ("train", WORDS.restaurants, n_train),
    )
    drawn = {name: _draw_split(domain, size, random.Random(f"{seed}/{name}"), seen) for name, domain, size in plan}
    if label_noise:
        texts, labels = drawn["train"].texts, drawn["train"].labels
        drawn["train"] = Split(texts, _flip(labels, label_noise, random.Random(f"{seed}/noise")))
    order = ("train", "validation", "test", "ood_electronics", "ood_hotels")
    noise = f", {label_noise:.0%} of the training labels replaced" if label_noise else ""
    source = f"built-in generator (synthetic reviews, seed {seed}{noise})"
    return Task("synthetic", LABEL_NAMES, {name: drawn[name] for name in order}, source, synthetic=True)


def _pick(rng: random.Random, items: Sequence[T]) -> T:
    # Not rng.choice: only random() is guaranteed to give the same sequence in every Python version.
    return items[int(rng.random() * len(items))]


def _weighted(rng: random.Random, weights: dict[str, float]) -> str:
    point = rng.random() * sum(weights.values())
    for name, weight in weights.items():
        point -= weight
        if point < 0:
            return name
    return max(weights, key=lambda name: weights[name])  # rounding at the upper end


def _draw_split(domain: Any, size: int, rng: random.Random, seen: set[str]) -> Split:
    """Draw `size` texts that are not in `seen` yet, with labels in turn, in random order."""
    examples = []
    for i in range(size):
        label = i % len(LABEL_NAMES)
        for _ in range(1000):
            text = draw_text(domain, label, rng)
            if text.casefold() not in seen:
                break
        else:
            raise TaskError(
                f"The grammar for {domain.name} gives no further distinct text after {i} of {size}: ask for fewer."
            )
        seen.add(text.casefold())
        examples.append((rng.random(), text, label))
    examples.sort()
    return Split(tuple((text,) for _, text, _ in examples), np.array([label for *_, label in examples]))


def draw_text(domain: Any, label: int, rng: random.Random) -> str:
    """Draw one review.

    Args:
        domain: Words and templates, one of `WORDS`.
        label: 0 negative, 1 positive, 2 neutral.
        rng: Source of randomness; advanced.

    Returns:
        A text of one or two clauses whose deciding clause has the sentiment `label`.
    """
    form = _weighted(rng, FORMS)
    deciding = _draw_clause(domain, label, rng, avoid="")
    if form == "contrast":
        others = (POSITIVE, NEGATIVE) if label == NEUTRAL else (POSITIVE + NEGATIVE - label,)
        loser = _draw_clause(domain, _pick(rng, others), rng, avoid=deciding)
        text = _pick(rng, domain.contrast).format(x=loser, y=deciding)
    elif form == "aside":
        irrelevant = _fill(rng, domain, _pick(rng, domain.aspects), _pick(rng, domain.irrelevant), deciding)
        text = _pick(rng, domain.aside).format(i=irrelevant, y=deciding)
    else:
        text = deciding
    return ". ".join(part[0].upper() + part[1:] for part in text.split(". ")) + "."


def _draw_clause(domain: Any, label: int, rng: random.Random, avoid: str) -> str:
    """Draw a clause of the given sentiment about a noun that does not occur in the clause `avoid`."""
    kind = _weighted(rng, CLAUSES)
    template = _pick(rng, getattr(domain, TEMPLATES[label].get(kind, kind)))
    return _fill(rng, domain, _pick(rng, domain.aspects), template, avoid, label)


def _fill(rng: random.Random, domain: Any, aspect: Any, template: str, avoid: str, label: int = NEUTRAL) -> str:
    """Fill a template with words of one aspect, about a noun that does not occur in `avoid`."""
    same, opposite = aspect.positive, aspect.negative  # a neutral clause uses {p} and {q} instead
    if label == NEGATIVE:
        same, opposite = opposite, same
    clause = template.format(
        n=_pick(rng, [noun for noun in aspect.nouns if noun not in avoid]),
        a=_pick(rng, same),
        o=_pick(rng, opposite),
        p=_pick(rng, aspect.positive),
        q=_pick(rng, aspect.negative),
        m=_pick(rng, domain.middling),
        r=_pick(rng, domain.references),
        w=_pick(rng, domain.people),
    )
    return _with_article(clause)


def _with_article(clause: str) -> str:
    """Write "an" before a vowel; the templates say "a" throughout."""
    words = clause.split(" ")
    for i, following in enumerate(words[1:]):
        if words[i] in ("a", "A") and following[:1] in "aeiou" and not following.startswith(("use", "uni")):
            words[i] += "n"
    return " ".join(words)


def _flip(labels: np.ndarray, share: float, rng: random.Random) -> np.ndarray:
    """Replace the labels of `round(share * N)` examples by another class, drawn evenly."""
    noisy = labels.copy()
    keys = [rng.random() for _ in labels]
    for i in sorted(range(len(labels)), key=keys.__getitem__)[: round(share * len(labels))]:
        noisy[i] = (labels[i] + 1 + int(rng.random() * (len(LABEL_NAMES) - 1))) % len(LABEL_NAMES)
    return noisy
