"""The built-in generator: sizes, balance, no leakage, determinism, noise, shifted vocabulary, and meaning."""

import os
import random
import re
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from lpft_utils.common.errors import TaskError
from lpft_utils.data import synthetic
from lpft_utils.data.synthetic import NEGATIVE, NEUTRAL, POSITIVE, WORDS, draw_text, generate
from lpft_utils.data.tasks import load_task

RESTAURANTS, ELECTRONICS, HOTELS = DOMAINS = (WORDS.restaurants, WORDS.electronics, WORDS.hotels)
TEMPLATES = (
    "plain", "negated", "better", "worse", "same", "relief", "letdown", "neutral", "contrast", "aside", "irrelevant",
)  # fmt: skip


@pytest.fixture(scope="module")
def task():
    return generate()


def words(text):
    return re.findall(r"[a-z]+(?:[-'][a-z]+)*", text.casefold())


def test_default_sizes_give_over_5000_distinct_texts(task):
    sizes = {name: len(split) for name, split in task.splits.items()}
    assert sizes == {"train": 4000, "validation": 600, "test": 1000, "ood_electronics": 1000, "ood_hotels": 1000}
    distinct = {text for split in task.splits.values() for text in split.texts}
    assert len(distinct) == sum(sizes.values()) >= 5000


def test_no_text_is_shared_between_splits_even_apart_from_capitals_and_spacing(task):
    owner = Counter()
    for split in task.splits.values():
        owner.update({" ".join(words(text[0])) for text in split.texts})
    assert max(owner.values()) == 1


def test_classes_are_balanced_in_every_split(task):
    for name, split in task.splits.items():
        counts = np.bincount(split.labels, minlength=3)
        assert counts.max() - counts.min() <= 1, name


def test_labels_are_in_random_order(task):
    labels = task.splits["train"].labels
    assert 0.25 < np.mean(labels[1:] == labels[:-1]) < 0.42  # 1/3 if independent; 0 if in turn, near 1 if sorted


def test_texts_are_short_single_segments(task):
    for split in task.splits.values():
        assert {len(text) for text in split.texts} == {1}
        lengths = [len(text[0].split()) for text in split.texts]
        assert 3 <= min(lengths) and max(lengths) <= 40 and 10 <= np.mean(lengths) <= 18


def test_texts_are_written_like_sentences(task):
    for split in task.splits.values():
        for (text,) in split.texts:
            assert text[0].isupper() and text.endswith(".") and "  " not in text and not set("{}") & set(text), text
            assert not re.search(r"\b[Aa] [aeio]", text), text  # an, not a
            assert not re.search(r"\b[Aa]n [^aeiou]", text), text


def test_is_the_same_in_another_process_and_hash_seed(task):
    code = "from lpft_utils.data.tasks import load_task; print(load_task('synthetic').fingerprint)"
    shown = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.strip() == task.fingerprint


def test_seed_changes_the_texts(task):
    assert generate(seed=1).fingerprint != task.fingerprint


def test_evaluation_splits_do_not_depend_on_the_number_of_training_examples(task):
    small = generate(n_train=30)
    for name in ("validation", "test", "ood_electronics", "ood_hotels"):
        assert small.splits[name].texts == task.splits[name].texts
        assert small.splits[name].labels.tolist() == task.splits[name].labels.tolist()


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_label_noise_replaces_exactly_that_share_of_training_labels_and_nothing_else(task, share):
    noisy = generate(label_noise=share)
    changed = noisy.splits["train"].labels != task.splits["train"].labels
    assert changed.sum() == round(share * 4000)
    assert set(noisy.splits["train"].labels) == {0, 1, 2}
    for name, split in task.splits.items():
        assert noisy.splits[name].texts == split.texts
        if name != "train":
            assert noisy.splits[name].labels.tolist() == split.labels.tolist()
    assert f"{share:.0%}" in noisy.source


def test_label_noise_uses_both_other_classes_about_equally(task):
    before, after = task.splits["train"].labels, generate(label_noise=0.5).splits["train"].labels
    shift = Counter(((after - before) % 3).tolist())
    assert 0.8 < shift[1] / shift[2] < 1.25


def test_says_that_it_is_synthetic(task):
    assert task.synthetic and "synthetic" in task.source


def lexicon(domain):
    """Judging and naming words of a domain, read off its tables."""
    found = set()
    for aspect in domain.aspects:
        for group in (aspect.nouns, aspect.positive, aspect.negative):
            found.update(word for phrase in group for word in words(phrase))
    found.update(word for phrase in domain.middling for word in words(phrase))
    return found


@pytest.mark.parametrize("domain", [ELECTRONICS, HOTELS], ids=lambda d: d.name)
def test_shifted_nouns_and_adjectives_never_occur_in_training_texts(task, domain):
    seen = {word for text in task.splits["train"].texts for word in words(text[0])}
    # "line" of "support line" and the like would be listed here if a training text used them
    assert not lexicon(domain) & seen


def test_shifted_domains_share_no_lexicon_and_no_template():
    for i, one in enumerate(DOMAINS):
        for other in DOMAINS[i + 1 :]:
            assert not lexicon(one) & lexicon(other)
            mine, theirs = ({t for kind in TEMPLATES for t in getattr(d, kind)} for d in (one, other))
            assert not mine & theirs - {"{y}; {i}", "{i}; {y}"}
            assert not set(one.references) & set(other.references)
            assert not set(one.people) & set(other.people)


def test_bigrams_around_the_slots_differ_between_training_and_shifted_phrasing():
    def frames(domain):
        kinds = ("plain", "negated", "better", "worse", "relief", "letdown", "neutral")
        return {re.sub(r"\{\w\}", "_", t) for kind in kinds for t in getattr(domain, kind)}

    assert not frames(RESTAURANTS) & (frames(ELECTRONICS) | frames(HOTELS))


def test_every_field_of_a_domain_is_filled():
    for domain in DOMAINS:
        for name in ("aspects", "middling", "references", "people", *TEMPLATES):
            assert getattr(domain, name), (domain.name, name)


def draw_only(domain, label, clause, form, rng):
    """A text of one form whose clauses are all of one kind."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic, "CLAUSES", {clause: 1.0})
        patch.setattr(synthetic, "FORMS", {form: 1.0})
        return draw_text(domain, label, rng)


def polarity(text, domain):
    """Sentiments of the judging adjectives in a text, in order: the bag-of-words reader's view."""
    positive = {word for aspect in domain.aspects for word in aspect.positive}
    negative = {word for aspect in domain.aspects for word in aspect.negative}
    return [POSITIVE if w in positive else NEGATIVE for w in words(text) if w in positive | negative]


@pytest.mark.parametrize("domain", DOMAINS, ids=lambda d: d.name)
@pytest.mark.parametrize("label", [NEGATIVE, POSITIVE])
def test_constructions_mean_what_their_label_says(domain, label):
    rng = random.Random(0)
    for _ in range(100):
        assert polarity(draw_only(domain, label, "plain", "single", rng), domain) == [label]
        assert polarity(draw_only(domain, label, "negated", "single", rng), domain) == [1 - label]
        assert polarity(draw_only(domain, label, "expected", "single", rng), domain) == [1 - label]
        both = polarity(draw_only(domain, label, "plain", "contrast", rng), domain)
        assert sorted(both) == [NEGATIVE, POSITIVE]


def test_in_training_contrasts_the_deciding_clause_can_come_first_or_last():
    rng = random.Random(0)
    texts = [draw_only(RESTAURANTS, POSITIVE, "plain", "contrast", rng) for _ in range(200)]
    orders = {tuple(polarity(text, RESTAURANTS)) for text in texts}
    assert orders == {(NEGATIVE, POSITIVE), (POSITIVE, NEGATIVE)}


def test_neutral_texts_quote_judging_words_too():
    rng = random.Random(0)
    quoted = [bool(polarity(draw_text(RESTAURANTS, NEUTRAL, rng), RESTAURANTS)) for _ in range(300)]
    assert 0.4 < np.mean(quoted) < 0.95


def test_counting_judging_words_is_far_from_enough(task):
    """The reader who nets positive and negative words must stay well below what composition allows (100 %)."""
    split = task.splits["test"]
    guesses = []
    for (text,) in split.texts:
        signs = [1 if p == POSITIVE else -1 for p in polarity(text, RESTAURANTS)]
        guesses.append(POSITIVE if sum(signs) > 0 else NEGATIVE if sum(signs) < 0 else NEUTRAL)
    assert 0.3 < np.mean(np.array(guesses) == split.labels) < 0.6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_train": 2}, "n_train must be an integer of at least 3"),
        ({"n_test": 10.5}, "n_test must be an integer"),
        ({"label_noise": 1.5}, "from 0 to 1, got 1.5"),
        ({"label_noise": -0.1}, "from 0 to 1, got -0.1"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(TaskError, match=message):
        generate(**arguments)


def test_asking_for_more_texts_than_the_grammar_has_is_an_error_not_a_hang(monkeypatch):
    monkeypatch.setattr(synthetic, "draw_text", lambda *_: "The soup was good.")
    with pytest.raises(TaskError, match="no further distinct text after 1 of 3"):
        generate(n_train=3, n_validation=3, n_test=3, n_ood=3)


def test_load_task_passes_options_to_the_generator():
    task = load_task("synthetic", n_train=30, n_validation=9, n_test=9, n_ood=9, seed=5)
    assert len(task.splits["train"]) == 30 and "seed 5" in task.source
