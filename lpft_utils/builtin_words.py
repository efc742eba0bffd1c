"""Words and phrasings of the built-in task: one training domain and two shifted ones.

No noun, judging adjective or template of a shifted domain occurs in the training domain (a test compares them), and
the two shifted domains do not share theirs either. Function words and the grammar of English are shared, as they
must be. In the templates, {n} is a noun, {a} an adjective of the clause's sentiment, {o} one of the opposite
sentiment, {p} and {q} a positive and a negative one, {m} a middling one, {r} something to compare with, {w} a person.
"""

from dataclasses import dataclass


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
            ("soup", "steak", "pasta", "salad", "dessert", "curry", "bread", "risotto", "burger", "grilled fish"),
            ("delicious", "tasty", "fresh", "tender", "flavourful", "great"),
            ("bland", "stale", "greasy", "soggy", "burnt", "awful"),
        ),
        Aspect(
            ("waiter", "waitress", "bartender", "chef", "head cook", "kitchen team"),
            ("friendly", "polite", "attentive", "welcoming", "cheerful", "good"),
            ("rude", "careless", "impatient", "grumpy", "unfriendly", "bad"),
        ),
        Aspect(
            ("dining room", "terrace", "music", "atmosphere", "corner table", "lighting"),
            ("lovely", "cosy", "pleasant", "delightful", "charming", "wonderful"),
            ("dirty", "noisy", "gloomy", "cramped", "unpleasant", "terrible"),
        ),
    ),
    middling=("average", "ordinary", "acceptable", "standard", "okay", "unremarkable"),
    references=("the one across the street", "what we had last year", "what I make at home", "the one downtown"),
    people=("my sister", "my uncle", "our neighbour", "my boss", "a colleague"),
    plain=(
        "the {n} was {a}",
        "the {n} was really {a}",
        "I found the {n} {a}",
        "we thought the {n} was very {a}",
        "the {n} was as {a} as always",
    ),
    negated=(
        "the {n} was not {o}",
        "the {n} was not at all {o}",
        "I did not find the {n} {o}",
        "nobody could call the {n} {o}",
        "the {n} was never {o}",
    ),
    better=("the {n} was better than {r}", "I liked the {n} more than {r}", "{r} was worse than the {n}"),
    worse=("the {n} was worse than {r}", "I liked the {n} less than {r}", "{r} was better than the {n}"),
    same=("the {n} was much the same as {r}", "the {n} was no better and no worse than {r}"),
    relief=(
        "I feared the {n} would be {o}, which was wrong",
        "we were told the {n} would be {o}, and it was the opposite",
    ),
    letdown=(
        "I hoped the {n} would be {o}, which was wrong",
        "we were told the {n} would be {o}, and it was the opposite",
    ),
    neutral=(
        "the {n} was {m}",
        "the {n} was just {m}",
        "the {n} was neither {p} nor {q}",
        "{w} says the {n} is {p}, I have not tried it",
        "{w} says the {n} is {q}, I have not tried it",
        "some call the {n} {p} and others call it {q}",
    ),
    contrast=("{x}, but {y}", "{x}, but in the end {y}", "although {x}, {y}", "{y}, although {x}"),
    aside=("{i}. {y}", "{y}. {i}", "{i}, and {y}"),
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
    ),
)

ELECTRONICS = Domain(
    name="electronics",
    aspects=(
        Aspect(
            ("screen", "keyboard", "battery", "loudspeaker", "camera", "charger", "hinge", "touchpad"),
            ("crisp", "sturdy", "responsive", "durable", "excellent", "brilliant"),
            ("flimsy", "faulty", "defective", "fragile", "useless", "laggy"),
        ),
        Aspect(
            ("app", "firmware", "setup", "interface", "software update"),
            ("intuitive", "seamless", "reliable", "effortless", "clever"),
            ("buggy", "confusing", "clunky", "unstable", "frustrating"),
        ),
        Aspect(
            ("support line", "warranty", "manual", "repair service"),
            ("helpful", "impressive", "outstanding", "thorough"),
            ("hopeless", "disappointing", "misleading", "pathetic"),
        ),
    ),
    middling=("so-so", "middling", "run-of-the-mill", "unexceptional"),
    references=("its predecessor", "my old device", "the rival model", "the cheaper version"),
    people=("my flatmate", "the shop assistant", "a forum member", "my nephew"),
    plain=(
        "its {n} is downright {a}",
        "this {n} turns out {a}",
        "for the price, its {n} feels {a}",
        "what a {a} {n}",
    ),
    negated=(
        "its {n} is hardly {o}",
        "this {n} isn't {o} in the least",
        "its {n} is by no means {o}",
        "you won't get a {o} {n} here",
    ),
    better=("its {n} outperforms {r}", "{r} can't keep up with this {n}", "its {n} is superior to {r}"),
    worse=("its {n} lags behind {r}", "this {n} can't keep up with {r}", "its {n} is inferior to {r}"),
    same=("its {n} is on par with {r}", "this {n} matches {r} exactly"),
    relief=("reviewers warned of a {o} {n}; they were mistaken", "expecting a {o} {n}, I got quite the reverse"),
    letdown=("reviewers promised a {o} {n}; they were mistaken", "expecting a {o} {n}, I got quite the reverse"),
    neutral=(
        "its {n} is {m}",
        "this {n} feels {m}, nothing else",
        "{w} calls this {n} {p}; mine is still boxed",
        "{w} calls this {n} {q}; mine is still boxed",
        "half the ratings say {p} {n}, half say {q}",
    ),
    contrast=("{x}; still, {y}", "{x}, yet {y}", "even though {x}, {y}", "{y}, even if {x}"),
    aside=("{i}; {y}", "{y}; {i}", "{i} – {y}"),
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
            ("mattress", "shower", "balcony", "bathroom", "suite", "carpet", "pillow"),
            ("comfortable", "spotless", "luxurious", "immaculate", "spacious"),
            ("filthy", "shabby", "mouldy", "dingy", "lumpy"),
        ),
        Aspect(
            ("receptionist", "porter", "concierge", "housekeeper", "night manager"),
            ("courteous", "gracious", "hospitable", "considerate", "warm-hearted"),
            ("arrogant", "hostile", "dismissive", "surly", "incompetent"),
        ),
        Aspect(
            ("pool", "lobby", "sea view", "garden", "spa", "beach"),
            ("stunning", "gorgeous", "magnificent", "peaceful", "idyllic"),
            ("depressing", "horrible", "disgusting", "dismal", "hideous"),
        ),
    ),
    middling=("mid-range", "passable", "unspectacular", "tolerable"),
    references=("last summer's resort", "the photos online", "any hostel nearby", "the other wing's"),
    people=("my husband", "a fellow guest", "the couple upstairs", "our tour guide"),
    plain=(
        "we had a {a} {n}",
        "such a {a} {n}",
        "everyone agreed on how {a} the {n} looked",
        "{a}, that sums up the {n}",
    ),
    negated=(
        "we had anything but a {o} {n}",
        "the {n} is far from {o}",
        "there's nothing {o} about the {n}",
        "never once did the {n} strike us as {o}",
    ),
    better=("the {n} puts {r} to shame", "compared with {r}, the {n} wins easily", "the {n} surpasses {r}"),
    worse=("the {n} falls short of {r}", "compared with {r}, the {n} loses badly", "{r} surpasses the {n}"),
    same=("the {n} resembles {r}", "compared with {r}, the {n} is neither a gain nor a loss"),
    relief=("our worry about a {o} {n} proved unfounded", "so much for the rumour of a {o} {n}, pure invention"),
    letdown=("our dream of a {o} {n} was shattered", "so much for the brochure's {o} {n}, pure invention"),
    neutral=(
        "you get a {m} {n}",
        "call the {n} {m} and leave it there",
        "{w} mentioned a {p} {n}, ours was being rebuilt",
        "{w} mentioned a {q} {n}, ours was being rebuilt",
        "opinions on the {n} range from {p} to {q}",
    ),
    contrast=("{x}. Nevertheless, {y}", "{x}; however, {y}", "while {x}, {y}", "{y}, notwithstanding that {x}"),
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
