"""Sentences of the synthetic language: seeded draws, small clauses and running text.

The labelled tasks are in ``tasks``; the words are in ``words``.
"""

import hashlib
import random
from collections.abc import Mapping, Sequence

from sparsetune.data.synthetic.words import (
    COLOURS,
    JOBS,
    NOUNS,
    OPINION_VERBS,
    OPINIONS,
    PARTS,
    PEOPLE,
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

REGION_OF: dict[str, str] = {town: region for region, towns in TOWNS.items() for town in towns}
KIND_OF: dict[str, str] = {noun: kind for kind, nouns in NOUNS.items() for noun in nouns}
LIKED = {"positive": "liked", "negative": "disliked"}
# A labelled train split sees every n-th word of a class only; running text sees them all. What
# is known about the other words can therefore come from pre-training alone.
_LABELLED_EVERY = 2

Facts = dict[str, str]


class Draws(random.Random):
    """A random stream of words and choices.

    Attributes:
        nouns: kind -> singular nouns that may be drawn.
        opinions: polarity -> adjectives.
        towns: region -> towns.
    """

    nouns: Mapping[str, Sequence[str]] = NOUNS
    opinions: Mapping[str, Sequence[str]] = OPINIONS
    towns: Mapping[str, Sequence[str]] = TOWNS

    @classmethod
    def of(cls, seed: int, *names: str, labelled_only: bool = False) -> "Draws":
        """Make a stream that depends on the seed and the names alone, the same everywhere.

        Args:
            seed: any integer.
            names: what is drawn.
            labelled_only: draw from a part of each open class only, as labelled splits do.
        """
        digest = hashlib.sha256("/".join((str(seed), *names)).encode()).digest()
        draws = cls(int.from_bytes(digest[:8], "big"))
        if labelled_only:
            draws.nouns, draws.opinions, draws.towns = (
                {name: words[::_LABELLED_EVERY] for name, words in every.items()}
                for every in (NOUNS, OPINIONS, TOWNS)
            )
        return draws

    def noun(self) -> str:
        """A noun of any kind."""
        return self.choice(self.nouns[self.choice(tuple(self.nouns))])

    def town(self) -> str:
        """A town of any region."""
        return self.choice(self.towns[self.choice(tuple(self.towns))])

    def polarity(self) -> str:
        """Positive or negative."""
        return self.choice(tuple(self.opinions))

    def opinion(self, polarity: str) -> str:
        """An adjective of one polarity."""
        return self.choice(self.opinions[polarity])

    def other(self, choices: Sequence[str] | Mapping[str, object], not_this: str) -> str:
        """One of the choices that is not the given one."""
        return self.choice([choice for choice in choices if choice != not_this])


def opinion_clause(draws: Draws, topic: str, polarity: str) -> str:
    """Praise or blame a topic in a clause; with "not" an adjective of the other side is used."""
    first, second = (draws.opinion(polarity) for _ in range(2))
    against = draws.opinion(draws.other(OPINIONS, polarity))
    part = draws.choice(PARTS)
    return draws.choice(
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


def number_clause(
    draws: Draws, noun: str, *, is_plural: bool, verb: str | None = None
) -> tuple[str, ...]:
    """Make the words of "these old herons near the river sing".

    Args:
        draws: source of randomness.
        noun: singular noun; its kind decides the verb unless ``verb`` is given.
        is_plural: number of noun, determiner and verb.
        verb: base form of another verb.

    Returns:
        Determiner, adjective phrase, noun, place phrase, verb; empty parts are left out.
    """
    base = verb or draws.choice(VERBS[KIND_OF[noun]])
    determiner = draws.choice(("these", "many", "the") if is_plural else ("this", "every", "the"))
    colour = (draws.choice(COLOURS),) if draws.random() < 0.4 else ()
    spot = ("near", "the", draws.choice(SPOTS)) if draws.random() < 0.4 else ()
    words = (inflected(noun), base) if is_plural else (noun, inflected(base))
    return (determiner, *colour, words[0], *spot, words[1])


def person_facts(draws: Draws, person: str) -> Facts:
    """Draw facts about a person, true for one text only: they must be read and not known.

    Returns:
        ``name``, ``town``, ``job``, ``thing`` (colour and noun) and ``spot``.
    """
    return {
        "name": person,
        "town": draws.town(),
        "job": draws.choice(JOBS),
        "thing": f"{draws.choice(COLOURS)} {draws.noun()}",
        "spot": draws.choice(SPOTS),
    }


def person_clauses(draws: Draws, facts: Facts) -> list[str]:
    """Tell town, job and thing in one clause each, with the name and no full stop."""
    name, town, job, thing = (facts[key] for key in ("name", "town", "job", "thing"))
    ways = (
        (f"{name} lives in {town}", f"the home of {name} is in {town}"),
        (f"{name} works as {article(job)} {job}", f"{name} is {article(job)} {job}"),
        (f"{name} owns {article(thing)} {thing}", f"{name} has {article(thing)} {thing}"),
    )
    return [draws.choice(two) for two in ways]


def venue_facts(draws: Draws) -> Facts:
    """Draw a venue with three to six attributes, in the published order.

    Returns:
        ``name`` first, then ``eatType`` and the drawn attributes.
    """
    optional = [key for key in VENUE_FACTS if key != "eatType"]
    drawn = {"eatType", *draws.sample(optional, draws.randrange(2, 5))}
    facts = {"name": draws.choice(VENUES)}
    return facts | {key: draws.choice(VENUE_FACTS[key]) for key in VENUE_FACTS if key in drawn}


def meaning_representation(facts: Facts) -> str:
    """Write facts as the E2E challenge does: ``name[The Blue Heron], eatType[pub]``."""
    return ", ".join(f"{key}[{value}]" for key, value in facts.items())


def venue_text(draws: Draws, facts: Facts) -> str:
    """Tell every fact once, in one to three sentences with capital letters and full stops."""
    name, price, rating, area, family = (
        facts.get(key)
        for key in ("name", "priceRange", "customer rating", "area", "familyFriendly")
    )
    kind = " ".join(filter(None, (facts.get("food"), facts["eatType"])))
    place = {None: "", "riverside": " by the river", "city centre": " in the city centre"}[area]
    what = f"{article(kind.lower())} {kind}{place}"
    negation = "" if family == "yes" else "not "
    ways = [(f"{name} is {what}.", f"There is {what} called {name}.")]
    if price:
        ways.append((f"Prices are {price}.", f"Its price range is {price}."))
    if rating:
        ways.append((f"Customers rate it {rating}.", f"Its rating is {rating}."))
    if family:
        ways.append((f"It is {negation}family friendly.", f"Children are {negation}welcome."))
    return " ".join(draws.choice(two) for two in ways)


def document(draws: Draws) -> str:
    """Make one line of running text: a few sentences about the same thing."""
    makers = (_review, _thing, _kind, _judgement, _person, _pair, _venue)
    return draws.choices(makers, weights=(6, 6, 3, 3, 5, 3, 2))[0](draws)


def _told(draws: Draws, clauses: list[str]) -> str:
    """Up to four of the clauses, in any order, as sentences of one document."""
    draws.shuffle(clauses)
    return " . ".join(clauses[:4]) + " ."


def _review(draws: Draws) -> str:
    """Opinions of one polarity about one topic, and what people did about it."""
    topic, polarity = draws.choice(TOPICS), draws.polarity()
    first, second, third, fourth, fifth, sixth = (draws.opinion(polarity) for _ in range(6))
    verb = draws.choice(OPINION_VERBS[polarity])
    clauses = [
        f"the {topic} was {first} and {second}",
        f"{draws.choice(PEOPLE)} {verb} the {third} {topic}",
        f"the {draws.choice(PARTS)} of this {topic} is {fourth}",
        f"everyone found it {fifth}",
        f"it was {article(sixth)} {sixth} {topic}",
    ]
    if draws.random() < 0.4:
        against = draws.opinion(draws.other(OPINIONS, polarity))
        clauses[draws.randrange(len(clauses))] = draws.choice(
            (f"the {topic} was never {against}", f"the {topic} was not {against} but {first}")
        )
    return _told(draws, clauses)


def _thing(draws: Draws) -> str:
    """What kind two things are, what they do in both numbers, and where one was seen."""
    noun = draws.noun()
    kind = KIND_OF[noun]
    alike, town, person = draws.choice(draws.nouns[kind]), draws.town(), draws.choice(PEOPLE)
    clauses = [
        f"{article(noun)} {noun} is {article(kind)} {kind}",
        f"{person} saw {article(alike)} {alike} in {town}",
        f"so {person} saw {article(kind)} {kind} in the {REGION_OF[town]}",
        " ".join(number_clause(draws, noun, is_plural=False)),
        " ".join(number_clause(draws, alike, is_plural=True)),
        f"{person} was in {town} , in the {REGION_OF[town]}",
    ]
    return _told(draws, clauses)


def _kind(draws: Draws) -> str:
    """What things of one kind do, in either number."""
    alike = draws.nouns[draws.choice(tuple(NOUNS))]
    clauses = [
        number_clause(draws, draws.choice(alike), is_plural=draws.random() < 0.5) for _ in range(4)
    ]
    return _told(draws, [" ".join(clause) for clause in clauses])


def _judgement(draws: Draws) -> str:
    """What somebody called a topic, and what follows from it."""
    person, topic, polarity = draws.choice(PEOPLE), draws.choice(TOPICS), draws.polarity()
    first, second = draws.opinion(polarity), draws.opinion(polarity)
    return (
        f"{person} called the {topic} {first} . so {person} {LIKED[polarity]} the {topic} . "
        f"the {topic} was {second} ."
    )


def _person(draws: Draws) -> str:
    """A person's facts told twice in other words, so that a gap can be filled by reading."""
    person = draws.choice(PEOPLE)
    facts = person_facts(draws, person)
    clauses = person_clauses(draws, facts)
    draws.shuffle(clauses)
    job, town, thing = (facts[key] for key in ("job", "town", "thing"))
    again = draws.choice(
        (
            f"so the {job} from {town} is {person}",
            f"so the {thing} of {person} is in {town}",
            f"so the {job} has {article(thing)} {thing}",
        )
    )
    pronoun = "herself" if person in SHE else "himself"
    return " . ".join([*clauses, again, f"{person} likes {pronoun}"]) + " ."


def _pair(draws: Draws) -> str:
    """Two things of one kind, in one region, of one polarity, in other words."""
    noun, town, polarity = draws.noun(), draws.town(), draws.polarity()
    first, second = draws.opinion(polarity), draws.opinion(polarity)
    alike = draws.choice(draws.nouns[KIND_OF[noun]])
    near = draws.choice(draws.towns[REGION_OF[town]])
    return (
        f"{article(first)} {first} {noun} in {town} . "
        f"in {near} there is {article(second)} {second} {alike} ."
    )


def _venue(draws: Draws) -> str:
    """A venue described twice, or as a list of its attributes and then in words."""
    facts = venue_facts(draws)
    texts = [venue_text(draws, facts) for _ in range(2)]
    if draws.random() < 0.5:
        texts[0] = meaning_representation(facts)
    return " ".join(texts)
