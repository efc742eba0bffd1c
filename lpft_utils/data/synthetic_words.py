"""Words and phrasings of the task `synthetic` (`synthetic_words.json`): one training domain and two shifted ones.

No noun, judging adjective or template of a shifted domain occurs in the training domain (a test compares them), and
the two shifted domains do not share theirs either. Function words and the grammar of English are shared, as they
must be. In the templates, {n} is a noun, {a} an adjective of the clause's sentiment, {o} one of the opposite
sentiment, {p} and {q} a positive and a negative one, {m} a middling one, {r} something to compare with, {w} a person.
"""

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Aspect:
    """Things that can be judged, and the adjectives that fit them."""

    nouns: tuple[str, ...]
    positive: tuple[str, ...]
    negative: tuple[str, ...]


@dataclass(frozen=True)
class Domain:
    """Lexicon and templates of one domain.

    Attributes:
        name: Name of the domain.
        aspects: Groups of nouns with the adjectives that fit them.
        middling: Adjectives that are neither positive nor negative.
        references: Things to compare with.
        people: People whose opinion does not count.
        plain: Clauses whose sentiment is that of {a}.
        negated: Clauses whose sentiment is the opposite of {o}.
        better: Comparisons in favour of {n}.
        worse: Comparisons against {n}.
        same: Comparisons that find no difference (neutral).
        relief: Expectations of something bad that did not come true (positive).
        letdown: Expectations of something good that did not come true (negative).
        neutral: Other neutral clauses; several quote judging words without a judgement.
        contrast: Joins "{x}" (which loses) and "{y}" (which decides).
        aside: Joins an irrelevant clause "{i}" and the deciding clause "{y}".
        irrelevant: Irrelevant clauses, some with somebody's opinion about something else.
    """

    name: str
    aspects: tuple[Aspect, ...]
    middling: tuple[str, ...]
    references: tuple[str, ...]
    people: tuple[str, ...]
    plain: tuple[str, ...]
    negated: tuple[str, ...]
    better: tuple[str, ...]
    worse: tuple[str, ...]
    same: tuple[str, ...]
    relief: tuple[str, ...]
    letdown: tuple[str, ...]
    neutral: tuple[str, ...]
    contrast: tuple[str, ...]
    aside: tuple[str, ...]
    irrelevant: tuple[str, ...]


def _read(name: str) -> Domain:
    known = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))[name]
    aspects = tuple(Aspect(**{kind: tuple(words) for kind, words in aspect.items()}) for aspect in known.pop("aspects"))
    return Domain(name, aspects, **{kind: tuple(words) for kind, words in known.items()})


RESTAURANTS, ELECTRONICS, HOTELS = map(_read, ("restaurants", "electronics", "hotels"))
