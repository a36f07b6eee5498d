"""Sentences of the synthetic language: seeded random streams, small clauses and running text.

The labelled tasks are in ``tasks``; the words are in ``words``.
"""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass

from sparsetune.data.synthetic.words import (
    COLOURS,
    HE,
    JOBS,
    NOUNS,
    OPINION_VERBS,
    OPINIONS,
    PARTS,
    SHE,
    SPOTS,
    TOPICS,
    TOWNS,
    VENUE_FACTS,
    VENUES,
    VERBS,
    article,
    inflected,
)

KINDS: tuple[str, ...] = tuple(NOUNS)
POLARITIES: tuple[str, ...] = tuple(OPINIONS)
REGION_OF: dict[str, str] = {town: region for region, towns in TOWNS.items() for town in towns}
KIND_OF: dict[str, str] = {noun: kind for kind, nouns in NOUNS.items() for noun in nouns}
# A labelled train split sees every n-th word of a class only; running text sees them all. What
# is known about the other words can therefore come from pre-training alone.
LABELLED_EVERY = 2


@dataclass(frozen=True)
class Vocabulary:
    """The words a split may use.

    Attributes:
        nouns: kind -> singular nouns.
        opinions: polarity -> adjectives.
        towns: region -> towns.
    """

    nouns: dict[str, tuple[str, ...]]
    opinions: dict[str, tuple[str, ...]]
    towns: dict[str, tuple[str, ...]]

    def noun(self, stream: random.Random) -> str:
        """A noun of any kind, drawn from ``stream``."""
        return stream.choice(self.nouns[stream.choice(KINDS)])

    def town(self, stream: random.Random) -> str:
        """A town of any region, drawn from ``stream``."""
        return stream.choice(self.towns[stream.choice(tuple(self.towns))])

    def opinion(self, stream: random.Random, polarity: str) -> str:
        """An adjective of one polarity, drawn from ``stream``."""
        return stream.choice(self.opinions[polarity])


def vocabulary(*, labelled_only: bool) -> Vocabulary:
    """Take all words, or one in ``LABELLED_EVERY`` of each open class, as labelled splits do."""
    step = LABELLED_EVERY if labelled_only else 1
    return Vocabulary(
        nouns={kind: words[::step] for kind, words in NOUNS.items()},
        opinions={polarity: words[::step] for polarity, words in OPINIONS.items()},
        towns={region: words[::step] for region, words in TOWNS.items()},
    )


def stream(seed: int, *names: str) -> random.Random:
    """Make a random stream that depends on the seed and the names alone, the same everywhere."""
    digest = hashlib.sha256("/".join((str(seed), *names)).encode()).digest()
    return random.Random(int.from_bytes(digest[:8], "big"))


def other(stream: random.Random, choices: Sequence[str], not_this: str) -> str:
    """Draw one of the choices that is not the given one."""
    return stream.choice([choice for choice in choices if choice != not_this])


def opinion_clause(stream: random.Random, words: Vocabulary, topic: str, polarity: str) -> str:
    """Praise or blame a topic in a clause; with "not" an adjective of the other side is used."""
    first, second = (words.opinion(stream, polarity) for _ in range(2))
    against = words.opinion(stream, other(stream, POLARITIES, polarity))
    part = stream.choice(PARTS)
    return stream.choice(
        (
            f"the {topic} was {first}",
            f"the {topic} was {first} and {second}",
            f"{article(first)} {first} {topic} with {article(second)} {second} {part}",
            f"the {part} of this {topic} is {first}",
            f"everyone found the {topic} {first}",
            f"the {topic} was not {against} but {first}",
            f"the {topic} was never {against}",
        )
    )


def _review(stream: random.Random, words: Vocabulary) -> str:
    """Opinions of one polarity about one topic, and what people did about it."""
    topic, polarity = stream.choice(TOPICS), stream.choice(POLARITIES)
    first, second, third, fourth, fifth, sixth = (words.opinion(stream, polarity) for _ in "123456")
    verb = stream.choice(OPINION_VERBS[polarity])
    clauses = [
        f"the {topic} was {first} and {second}",
        f"{stream.choice(SHE + HE)} {verb} the {third} {topic}",
        f"the {stream.choice(PARTS)} of this {topic} is {fourth}",
        f"everyone found it {fifth}",
        f"it was {article(sixth)} {sixth} {topic}",
    ]
    if stream.random() < 0.4:
        against = words.opinion(stream, other(stream, POLARITIES, polarity))
        clauses[stream.randrange(len(clauses))] = stream.choice(
            (f"the {topic} was never {against}", f"the {topic} was not {against} but {first}")
        )
    return _told(stream, clauses)


def _told(stream: random.Random, clauses: list[str]) -> str:
    """Up to four of the clauses, in any order, as sentences of one document."""
    stream.shuffle(clauses)
    return " . ".join(clauses[:4]) + " ."


def number_clause(
    stream: random.Random, noun: str, *, is_plural: bool, verb: str | None = None
) -> tuple[str, ...]:
    """Make the words of "these old herons near the river sing".

    Args:
        stream: source of randomness.
        noun: singular noun; its kind decides the verb unless ``verb`` is given.
        is_plural: number of noun, determiner and verb.
        verb: base form of another verb.

    Returns:
        Determiner, adjective phrase, noun, place phrase, verb; empty parts are left out.
    """
    base = verb or stream.choice(VERBS[KIND_OF[noun]])
    determiner = stream.choice(("these", "many", "the") if is_plural else ("this", "every", "the"))
    colour = (stream.choice(COLOURS),) if stream.random() < 0.4 else ()
    spot = ("near", "the", stream.choice(SPOTS)) if stream.random() < 0.4 else ()
    return (
        determiner,
        *colour,
        inflected(noun) if is_plural else noun,
        *spot,
        base if is_plural else inflected(base),
    )


def _thing(stream: random.Random, words: Vocabulary) -> str:
    """What kind two things are, what they do in both numbers, and where one was seen."""
    noun = words.noun(stream)
    kind = KIND_OF[noun]
    alike, town = stream.choice(words.nouns[kind]), words.town(stream)
    person = stream.choice(SHE + HE)
    return _told(
        stream,
        [
            f"{article(noun)} {noun} is {article(kind)} {kind}",
            f"{person} saw {article(alike)} {alike} in {town}",
            f"so {person} saw {article(kind)} {kind} in the {REGION_OF[town]}",
            " ".join(number_clause(stream, noun, is_plural=False)),
            " ".join(number_clause(stream, alike, is_plural=True)),
            f"{person} was in {town} , in the {REGION_OF[town]}",
        ],
    )


def _kind(stream: random.Random, words: Vocabulary) -> str:
    """What things of one kind do, in either number."""
    alike = words.nouns[stream.choice(KINDS)]
    clauses = [
        number_clause(stream, stream.choice(alike), is_plural=stream.random() < 0.5)
        for _ in range(4)
    ]
    return _told(stream, [" ".join(clause) for clause in clauses])


def _pair(stream: random.Random, words: Vocabulary) -> str:
    """Two things of one kind, in one region, of one polarity, in other words."""
    noun, town, polarity = words.noun(stream), words.town(stream), stream.choice(POLARITIES)
    first, second = words.opinion(stream, polarity), words.opinion(stream, polarity)
    alike = stream.choice(words.nouns[KIND_OF[noun]])
    near = stream.choice(words.towns[REGION_OF[town]])
    return (
        f"{article(first)} {first} {noun} in {town} . "
        f"in {near} there is {article(second)} {second} {alike} ."
    )


def person_facts(stream: random.Random, words: Vocabulary, person: str) -> dict[str, str]:
    """Draw facts about a person, true for one text only: they must be read and not known.

    Returns:
        ``name``, ``town``, ``job``, ``thing`` (colour and noun) and ``spot``.
    """
    return {
        "name": person,
        "town": words.town(stream),
        "job": stream.choice(JOBS),
        "thing": f"{stream.choice(COLOURS)} {words.noun(stream)}",
        "spot": stream.choice(SPOTS),
    }


def person_clauses(stream: random.Random, facts: dict[str, str]) -> list[str]:
    """Tell town, job and thing in one clause each, with the name and no full stop."""
    name, town, job, thing = (facts[key] for key in ("name", "town", "job", "thing"))
    return [
        stream.choice((f"{name} lives in {town}", f"the home of {name} is in {town}")),
        stream.choice((f"{name} works as {article(job)} {job}", f"{name} is {article(job)} {job}")),
        stream.choice(
            (f"{name} owns {article(thing)} {thing}", f"{name} has {article(thing)} {thing}")
        ),
    ]


def _person(stream: random.Random, words: Vocabulary) -> str:
    """A person's facts told twice in other words, so that a gap can be filled by reading."""
    person = stream.choice(SHE + HE)
    facts = person_facts(stream, words, person)
    clauses = person_clauses(stream, facts)
    stream.shuffle(clauses)
    pronoun = "herself" if person in SHE else "himself"
    again = stream.choice(
        (
            f"so the {facts['job']} from {facts['town']} is {person}",
            f"so the {facts['thing']} of {person} is in {facts['town']}",
            f"so the {facts['job']} has {article(facts['thing'])} {facts['thing']}",
        )
    )
    return " . ".join([*clauses, again, f"{person} likes {pronoun}"]) + " ."


def _judgement(stream: random.Random, words: Vocabulary) -> str:
    """What somebody called a topic, and what follows from it."""
    person, topic, polarity = (
        stream.choice(SHE + HE),
        stream.choice(TOPICS),
        stream.choice(POLARITIES),
    )
    verb = {"positive": "liked", "negative": "disliked"}[polarity]
    first, second = words.opinion(stream, polarity), words.opinion(stream, polarity)
    return (
        f"{person} called the {topic} {first} . so {person} {verb} the {topic} . "
        f"the {topic} was {second} ."
    )


def venue_facts(stream: random.Random) -> dict[str, str]:
    """Draw a venue with three to six attributes, in the published order.

    Returns:
        ``name`` first, then ``eatType`` and the drawn attributes.
    """
    optional = [key for key in VENUE_FACTS if key != "eatType"]
    drawn = set(stream.sample(optional, stream.randrange(2, 5)))
    facts = {"name": stream.choice(VENUES)}
    for key, values in VENUE_FACTS.items():
        if key == "eatType" or key in drawn:
            facts[key] = stream.choice(values)
    return facts


def meaning_representation(facts: dict[str, str]) -> str:
    """Write facts as the E2E challenge does: ``name[The Blue Heron], eatType[pub]``."""
    return ", ".join(f"{key}[{value}]" for key, value in facts.items())


def venue_text(stream: random.Random, facts: dict[str, str]) -> str:
    """Tell every fact once, in one to three sentences with capital letters and full stops."""
    price, rating = facts.get("priceRange"), facts.get("customer rating")
    area, family = facts.get("area"), facts.get("familyFriendly")
    kind = " ".join(filter(None, (facts.get("food"), facts["eatType"])))
    place = {None: "", "riverside": " by the river", "city centre": " in the city centre"}[area]
    first = stream.choice(
        (
            f"{facts['name']} is {article(kind.lower())} {kind}{place}.",
            f"There is {article(kind.lower())} {kind}{place} called {facts['name']}.",
        )
    )
    rest = []
    if price:
        rest.append(stream.choice((f"Prices are {price}.", f"Its price range is {price}.")))
    if rating:
        rest.append(stream.choice((f"Customers rate it {rating}.", f"Its rating is {rating}.")))
    if family:
        yes = ("It is family friendly.", "Children are welcome.")
        no = ("It is not family friendly.", "Children are not welcome.")
        rest.append(stream.choice(yes if family == "yes" else no))
    return " ".join([first, *rest])


def _venue(stream: random.Random, words: Vocabulary) -> str:
    """A venue described twice, or as a list of its attributes and then in words."""
    del words  # venues have their own closed set of words
    facts = venue_facts(stream)
    texts = [venue_text(stream, facts) for _ in range(2)]
    if stream.random() < 0.5:
        texts[0] = meaning_representation(facts)
    return " ".join(texts)


def document(stream: random.Random) -> str:
    """Make one line of running text: a few sentences about the same thing."""
    makers = (_review, _thing, _kind, _judgement, _person, _pair, _venue)
    maker = stream.choices(makers, weights=(6, 6, 3, 3, 5, 3, 2))[0]
    return maker(stream, vocabulary(labelled_only=False))
