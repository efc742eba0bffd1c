"""Words and phrasings of the built-in task: one training domain and two shifted ones.

No noun, judging adjective or template of a shifted domain occurs in the training domain (a test compares them), and
the two shifted domains do not share theirs either. Function words and the grammar of English are shared, as they
must be. In the templates, {n} is a noun, {a} an adjective of the clause's sentiment, {o} one of the opposite
sentiment, {p} and {q} a positive and a negative one, {m} a middling one, {r} something to compare with, {w} a person.
"""

from dataclasses import dataclass


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


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


RESTAURANTS = Domain(
    name="restaurants",
    aspects=(
        Aspect(
            _words("soup steak pasta salad dessert curry bread risotto burger fish omelette"),
            _words(
                "delicious tasty fresh tender flavourful great juicy superb "
                "satisfying appetising delectable scrumptious exquisite divine yummy hearty aromatic"
            ),
            _words(
                "bland stale greasy soggy burnt awful tasteless dry "
                "inedible rancid overcooked watery mushy rubbery revolting rotten sickening"
            ),
        ),
        Aspect(
            ("waiter", "waitress", "bartender", "chef", "head cook", "kitchen team", "owner", "barista"),
            _words(
                "friendly polite attentive welcoming cheerful good professional kind "
                "sweet gentle sincere skilled thoughtful patient efficient respectful"
            ),
            _words(
                "rude careless impatient grumpy unfriendly bad lazy chaotic "
                "clumsy sloppy aggressive sulky dishonest inattentive moody insulting"
            ),
        ),
        Aspect(
            ("dining room", "terrace", "music", "atmosphere", "corner table", "lighting", "decor", "menu"),
            _words(
                "lovely cosy pleasant delightful charming wonderful nice beautiful "
                "elegant inviting relaxing tasteful adorable enchanting attractive romantic"
            ),
            _words(
                "dirty noisy gloomy cramped unpleasant terrible ugly boring "
                "dull tacky stuffy smelly grim dreary neglected tired"
            ),
        ),
        Aspect(
            _words("meal evening visit place lunch dinner"),
            _words(
                "amazing fantastic perfect enjoyable fabulous memorable "
                "awesome incredible sensational phenomenal magical worthwhile flawless"
            ),
            _words(
                "horrid poor shocking unbearable miserable mediocre "
                "dreadful atrocious abysmal lousy disastrous ghastly forgettable"
            ),
        ),
    ),
    middling=_words("average ordinary acceptable standard okay unremarkable adequate"),
    references=("the one across the street", "the one we had last year", "the one in our street", "the one downtown"),
    people=("my sister", "my uncle", "our neighbour", "my boss", "a colleague", "my aunt", "the critic"),
    plain=(
        "the {n} was {a}",
        "the {n} was really {a}",
        "I found the {n} {a}",
        "we thought the {n} was very {a}",
        "the {n} was as {a} as always",
        "we had a {a} {n}",
        "I would call the {n} {a}",
        "the {n} here is {a}",
        "a {a} {n} it was",
    ),
    negated=(
        "the {n} was not {o}",
        "the {n} was not at all {o}",
        "I did not find the {n} {o}",
        "nobody could call the {n} {o}",
        "the {n} was never {o}",
        "we did not have a {o} {n}",
        "I would not call the {n} {o}",
        "it was not true that the {n} was {o}",
    ),
    better=(
        "the {n} was better than {r}",
        "I liked the {n} more than {r}",
        "I would rather have the {n} than {r}",
        "{r} was worse than the {n}",
        "{r} was not as good as the {n}",
    ),
    worse=(
        "the {n} was worse than {r}",
        "I liked the {n} less than {r}",
        "I would rather have {r} than the {n}",
        "{r} was better than the {n}",
        "the {n} was not as good as {r}",
    ),
    same=(
        "the {n} was much the same as {r}",
        "the {n} was no better and no worse than {r}",
        "I liked the {n} as much as {r}",
    ),
    relief=(
        "I feared the {n} would be {o}, which was wrong",
        "we were told the {n} would be {o}, and it was the opposite",
        "I expected a {o} {n} and did not get one",
        "{w} had said the {n} was {o}, which was not true",
    ),
    letdown=(
        "I hoped the {n} would be {o}, which was wrong",
        "we were told the {n} would be {o}, and it was the opposite",
        "I expected a {o} {n} and did not get one",
        "{w} had said the {n} was {o}, which was not true",
    ),
    neutral=(
        "the {n} was {m}",
        "the {n} was just {m}",
        "we had a {m} {n}",
        "the {n} was neither {p} nor {q}",
        "{w} says the {n} is {p}, I have not tried it",
        "{w} says the {n} is {q}, I have not tried it",
        "some call the {n} {p} and others call it {q}",
        "I cannot say whether the {n} was {p} or {q}",
    ),
    contrast=(
        "{x}, but {y}",
        "{x}, but in the end {y}",
        "although {x}, {y}",
        "{y}, although {x}",
        "{x}. On the whole, {y}",
        "{y}. It does not matter that {x}",
    ),
    aside=("{i}. {y}", "{y}. {i}", "{i}, and {y}", "{y}, and {i}"),
    irrelevant=(
        "we came on a Tuesday evening",
        "{w} booked for six people",
        "we walked there from the station",
        "{w} loves the bakery next door",
        "{w} hates the bar next door",
        "it rained all day",
        "I paid with a card",
        "{w} enjoyed the film we saw before",
        "{w} complained about the bus ride",
        "the last {n} I had elsewhere was {p}",
        "the last {n} I had elsewhere was {q}",
    ),
)

ELECTRONICS = Domain(
    name="electronics",
    aspects=(
        Aspect(
            _words("screen keyboard battery loudspeaker camera charger hinge touchpad"),
            _words("excellent impressive reliable brilliant sturdy remarkable"),
            _words("useless faulty defective worthless flimsy disappointing"),
        ),
        Aspect(
            ("app", "firmware", "setup", "interface", "software update"),
            _words("intuitive exceptional dependable clever outstanding"),
            _words("buggy frustrating horrendous annoying broken"),
        ),
        Aspect(
            ("support line", "warranty", "manual", "repair service"),
            _words("helpful terrific first-rate valuable"),
            _words("hopeless unhelpful pathetic ridiculous"),
        ),
    ),
    middling=_words("so-so middling run-of-the-mill unexceptional"),
    references=("its predecessor", "my old device", "the rival model", "the cheaper version"),
    people=("my flatmate", "the shop assistant", "a forum member", "my nephew"),
    plain=(
        "its {n} was {a}",
        "its {n} felt {a}",
        "for the price, its {n} was {a}",
        "it came with a {a} {n}",
    ),
    negated=(
        "its {n} was hardly {o}",
        "its {n} wasn't {o}",
        "its {n} didn't feel {o}",
        "it came without a {o} {n}",
    ),
    better=("its {n} outperformed {r}", "its {n} improved on {r}", "its {n} was superior to {r}"),
    worse=("its {n} lagged behind {r}", "its {n} couldn't keep up with {r}", "its {n} was inferior to {r}"),
    same=("its {n} was on par with {r}", "its {n} equalled {r}, no more, no less"),
    relief=("the ratings warned of a {o} {n}; they were mistaken", "my suspicion of a {o} {n} turned out false"),
    letdown=("the ratings promised a {o} {n}; they were mistaken", "my hunch of a {o} {n} turned out false"),
    neutral=(
        "its {n} was {m}",
        "its {n} felt {m}",
        "{w} thinks its {n} {p}; mine is still boxed",
        "{w} thinks its {n} {q}; mine is still boxed",
        "half the ratings say {p} {n}, half say {q}",
    ),
    contrast=("{x}; still, {y}", "{x}, yet {y}", "even though {x}, {y}", "{y}, even if {x}"),
    aside=("{i}; {y}", "{y}; {i}", "{i} - {y}"),
    irrelevant=(
        "mine arrived in a brown box",
        "{w} ordered the blue edition",
        "I use it mostly at work",
        "{w} adores a different brand",
        "{w} despises a different brand",
        "delivery took three days",
        "the cable is one metre long",
    ),
)

HOTELS = Domain(
    name="hotels",
    aspects=(
        Aspect(
            _words("mattress shower balcony bathroom suite carpet pillow"),
            _words("comfortable spotless luxurious splendid marvellous"),
            _words("filthy shabby disgusting appalling nasty"),
        ),
        Aspect(
            ("receptionist", "porter", "concierge", "housekeeper", "night manager"),
            _words("courteous lovable hospitable considerate caring"),
            _words("arrogant hostile disrespectful surly incompetent"),
        ),
        Aspect(
            ("pool", "lobby", "sea view", "garden", "spa", "beach"),
            _words("stunning gorgeous magnificent heavenly idyllic"),
            _words("depressing horrible dismal hideous vile"),
        ),
    ),
    middling=_words("mid-range passable unspectacular tolerable"),
    references=("the neighbouring resort's", "the airport hotel's", "the other wing's", "any hostel's"),
    people=("my husband", "a fellow guest", "the couple upstairs", "our tour guide"),
    plain=(
        "the hotel had a {a} {n}",
        "the {n} looked {a}",
        "guests got a {a} {n}",
        "everyone found the {n} {a}",
    ),
    negated=(
        "the hotel had no {o} {n}",
        "the {n} was far from {o}",
        "there was nothing {o} about the {n}",
        "guests didn't get a {o} {n}",
    ),
    better=("the {n} exceeded {r}", "compared with {r}, the {n} won easily", "the {n} surpassed {r}"),
    worse=("the {n} fell short of {r}", "compared with {r}, the {n} lost badly", "the {n} trailed {r}"),
    same=("the {n} resembled {r}", "compared with {r}, the {n} made no difference"),
    relief=("our worry about a {o} {n} proved unfounded", "the gossip about a {o} {n} is pure invention"),
    letdown=("our dream of a {o} {n} was shattered", "the brochure's {o} {n} is pure invention"),
    neutral=(
        "guests got a {m} {n}",
        "the {n} looked {m}",
        "{w} mentioned a {p} {n}, unseen by me",
        "{w} mentioned a {q} {n}, unseen by me",
        "opinions on the {n} range from {p} to {q}",
    ),
    contrast=("{x}. Nevertheless, {y}", "{x}; however, {y}", "while {x}, {y}", "despite the fact that {x}, {y}"),
    aside=("{i}: {y}", "{y} ({i})", "{i}; anyway, {y}"),
    irrelevant=(
        "checked in at noon with two suitcases",
        "{w} stayed four nights",
        "the airport shuttle runs hourly",
        "{w} raved about the museum",
        "{w} moaned about the flight",
        "our floor was the third",
        "breakfast starts at seven",
    ),
)
