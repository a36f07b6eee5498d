"""Tasks and running text of the synthetic language, by seed, in published layouts.

The loaders that read them read the real data sets too.
"""

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsetune.data.synthetic.grammar import (
    KIND_OF,
    LIKED,
    REGION_OF,
    Draws,
    Facts,
    document,
    meaning_representation,
    number_clause,
    opinion_clause,
    person_clauses,
    person_facts,
    venue_facts,
    venue_text,
)
from sparsetune.data.synthetic.words import (
    NOUNS,
    OPINIONS,
    PEOPLE,
    SHE,
    TOPICS,
    TOWNS,
    VERBS,
    article,
)
from sparsetune.errors import ConfigError, refusal

# Annotators disagree now and then; without this a good model would score 100 %.
LABEL_NOISE = 0.03
_DENIALS = ("saw", "never saw"), ("was", "was not"), *((v, f"never {v}") for v in LIKED.values())
# Most paragraphs are about one person, where the kind of question decides; in the others the
# names must be told apart as well.
_ONE_PERSON = 0.75
_QUESTIONS = {
    "town": "where does {} live ?",
    "job": "what job does {} have ?",
    "thing": "what does {} own ?",
    "spot": "which place does {} like ?",
}
_QUESTIONS_PER_PARAGRAPH = 2
# Split -> file, and references of one meaning representation: several where scores are computed.
_E2E = {
    "train": ("trainset.csv", 1),
    "dev": ("devset.csv", 4),
    "test": ("testset_w_refs.csv", 4),
}
_SPLITS = tuple(_E2E)


def write_task(layout: str, directory: Path, *, seed: int, sizes: Mapping[str, int]) -> None:
    """Write one task of the synthetic language in the layout of a published data set.

    Train examples use a part of the open word classes only; dev and test use them all, and
    running text (``write_corpus``) tells what the other words mean.

    Args:
        layout: ``sst2``, ``cola``, ``rte``, ``stsb``, ``squad`` or ``e2e``.
        directory: where the files go; made if missing.
        seed: any integer; the same seed gives the same bytes.
        sizes: split (``train``, ``dev``, ``test``) -> number of examples, >= 1. A split left
            out is not written. Counts questions for ``squad`` (which has no test split) and
            meaning representations for ``e2e``.

    Raises:
        ConfigError: unknown layout or split, or a size below 1.
    """
    if layout not in LAYOUTS:
        raise ConfigError(refusal("synthetic task", "layout", layout, LAYOUTS))
    allowed = _SPLITS[:2] if layout == "squad" else _SPLITS
    for split, size in sizes.items():
        if split not in allowed:
            raise ConfigError(refusal(layout, "split", split, allowed))
        if size < 1:
            raise ConfigError(f"{layout}: size of {split}: received {size}; allowed: 1 or more")
    directory.mkdir(parents=True, exist_ok=True)
    for split, size in sizes.items():
        draws = Draws.of(seed, layout, split, labelled_only=split == "train")
        _WRITERS.get(layout, _write_glue)(directory, layout, split, size, draws)


def write_corpus(path: Path, *, seed: int, documents: int) -> None:
    """Write running text for pre-training, one document on each line.

    Args:
        path: the text file; its folder is made if missing.
        seed: any integer; the same seed gives the same bytes.
        documents: number of lines, >= 1.

    Raises:
        ConfigError: if ``documents`` is below 1.
    """
    if documents < 1:
        raise ConfigError(f"corpus: documents: received {documents}; allowed: 1 or more")
    draws = Draws.of(seed, "corpus")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{document(draws)}\n" for _ in range(documents))


def _noisy(draws: Draws, label: bool) -> bool:
    """The label, or rarely the other one."""
    return label != (draws.random() < LABEL_NOISE)


def _sst2(draws: Draws, index: int) -> tuple[str, ...]:
    """Sentence and label 0 or 1; in a contrast the last clause decides."""
    del index
    topic, polarity = draws.choice(TOPICS), draws.polarity()
    sentence = opinion_clause(draws, topic, polarity)
    if draws.random() < 0.2:
        against = opinion_clause(draws, topic, draws.other(OPINIONS, polarity))
        sentence = f"{against} , but in the end {sentence}"
    return f"{sentence} .", str(int(_noisy(draws, polarity == "positive")))


def _broken(draws: Draws, noun: str, is_plural: bool) -> list[str]:
    """A sentence with one fault: agreement, sense, order or reflexive."""
    fault = draws.choice(("verb", "sense", "determiner", "order", "order"))
    if fault == "sense":
        wrong = draws.choice(VERBS[draws.other(NOUNS, KIND_OF[noun])])
        return list(number_clause(draws, noun, is_plural=is_plural, verb=wrong))
    parts = list(number_clause(draws, noun, is_plural=is_plural))
    opposite = number_clause(draws, noun, is_plural=not is_plural)
    if fault == "verb":
        parts[-1] = opposite[-1]
    elif fault == "determiner":
        parts[0] = draws.choice(("this", "every") if is_plural else ("these", "many"))
    else:
        place = draws.randrange(len(parts) - 1)
        parts[place : place + 2] = parts[place + 1], parts[place]
    return parts


def _cola(draws: Draws, index: int) -> tuple[str, ...]:
    """Source, label, original mark and sentence; about three in five are acceptable."""
    del index
    acceptable = draws.random() < 0.6
    if draws.random() < 0.2:
        person = draws.choice(PEOPLE)
        verb = draws.choice(("likes", "knows", "washes"))
        words = [person, verb, "herself" if (person in SHE) == acceptable else "himself"]
    else:
        noun, is_plural = draws.noun(), draws.random() < 0.5
        if acceptable:
            words = list(number_clause(draws, noun, is_plural=is_plural))
        else:
            words = _broken(draws, noun, is_plural)
    label = _noisy(draws, acceptable)
    return "wo01", str(int(label)), "" if label else "*", " ".join([*words, "."])


def _entailment(draws: Draws, holds: bool) -> tuple[str, str]:
    """A premise and a hypothesis that follows from it or contradicts it."""
    person, noun, town = draws.choice(PEOPLE), draws.noun(), draws.town()
    form = draws.choice(("opinion", "opinion", "opinion", "opinion", "kind", "town"))
    if form == "opinion":
        topic, polarity = draws.choice(TOPICS), draws.polarity()
        said = polarity if holds else draws.other(OPINIONS, polarity)
        premise = f"{person} called the {topic} {draws.opinion(polarity)} ."
        ways = (
            f"{person} {LIKED[said]} the {topic} .",
            f"the {topic} was {draws.opinion(said)} .",
        )
        return premise, draws.choice(ways)
    kind, region = KIND_OF[noun], REGION_OF[town]
    premise = f"{person} saw {article(noun)} {noun} in {town} ."
    if form == "kind":
        kind = kind if holds else draws.other(NOUNS, kind)
        return premise, f"{person} saw {article(kind)} {kind} ."
    region = region if holds else draws.other(TOWNS, region)
    if form == "region":
        return premise, f"{person} was in the {region} ."
    return premise, f"{person} was in {town if holds else draws.choice(draws.towns[region])} ."


def _rte(draws: Draws, index: int) -> tuple[str, ...]:
    """Index, premise, hypothesis and label, half of them entailed.

    Two in five of the others deny what follows, which shows in one word, as in the published
    task; the rest contradict it in its meaning alone.
    """
    holds = draws.random() < 0.5
    denies = not holds and draws.random() < 0.4
    premise, hypothesis = _entailment(draws, holds or denies)
    if denies:
        for verb, denied in _DENIALS:
            hypothesis = hypothesis.replace(f" {verb} ", f" {denied} ")
    label = "entailment" if _noisy(draws, holds) else "not_entailment"
    return str(index), premise, hypothesis, label


def _vary(
    draws: Draws, word: str, classes: Mapping[str, Sequence[str]], own: str, far: str
) -> tuple[str, float]:
    """The word itself (1), one of its class (0.5) or one of another class (0)."""
    fate = draws.random()
    if fate < 0.4:
        return word, 1.0
    if fate < 0.7:
        return draws.other(classes[own], word), 0.5
    return draws.choice(classes[far]), 0.0


def _stsb(draws: Draws, index: int) -> tuple[str, ...]:
    """Ten columns; above all the score says whether both sentences think alike of the thing.

    Then it counts its name and its place: the same word fully, one of the same class by half.
    """
    polarity, noun, town = draws.polarity(), draws.noun(), draws.town()
    opinion, kind, region = draws.opinion(polarity), KIND_OF[noun], REGION_OF[town]
    far_kind, far_region = draws.other(NOUNS, kind), draws.other(TOWNS, region)
    agrees = draws.random() < 0.5
    said = polarity if agrees else draws.other(OPINIONS, polarity)
    noun2, near_noun = _vary(draws, noun, draws.nouns, kind, far_kind)
    town2, near_town = _vary(draws, town, draws.towns, region, far_region)
    meaning = 0.6 * agrees + 0.3 * near_noun + 0.1 * near_town
    score = min(5.0, max(0.0, 5 * meaning + draws.gauss(0, 0.25)))
    sentences = (
        f"{article(opinion)} {opinion} {noun} in {town} .",
        f"in {town2} {draws.choice(PEOPLE)} {LIKED[said]} the {noun2} .",
    )
    head = (str(index), "world-text", "world", "2026", str(index), "none", "none")
    return (*head, *sentences, f"{score:.3f}")


_GLUE: dict[str, tuple[Callable[[Draws, int], tuple[str, ...]], str]] = {
    "sst2": (_sst2, "sentence label"),
    "cola": (_cola, ""),  # the published train and dev files have no header line
    "rte": (_rte, "index sentence1 sentence2 label"),
    "stsb": (_stsb, "index genre filename year old_index source1 source2 sentence1 sentence2 "
             "score"),
}  # fmt: skip
"""Layout -> maker of a row, and the columns."""


def _write_glue(directory: Path, layout: str, split: str, size: int, draws: Draws) -> None:
    """Tab-separated without quoting; test files carry an index and no label."""
    make, columns = _GLUE[layout]
    header, rows = columns.split(), [make(draws, index) for index in range(size)]
    if split == "test":
        if layout in ("sst2", "cola"):
            column = {"sst2": 0, "cola": 3}[layout]
            header = ["index", "sentence", ""]
            rows = [(str(index), row[column], "") for index, row in enumerate(rows)]
        header, rows = header[:-1], [row[:-1] for row in rows]
    with (directory / f"{split}.tsv").open("w", encoding="utf-8", newline="\n") as file:
        file.writelines("\t".join(row) + "\n" for row in ([header, *rows] if header else rows))


def _paragraph(draws: Draws, identifier: str, questions: int) -> dict[str, Any]:
    """A paragraph about one or two people and 1 to 4 questions about them."""
    if draws.random() < _ONE_PERSON:
        people = [person_facts(draws, draws.choice(PEOPLE))]
    else:
        people = _two_people(draws)
    clauses = [clause for facts in people for clause in person_clauses(draws, facts)]
    clauses += [f"{facts['name']} likes the {facts['spot']}" for facts in people]
    draws.shuffle(clauses)
    context = " . ".join(clauses) + " ."
    asked = [
        (question.format(facts["name"]), facts[key])
        for facts in people
        for key, question in _QUESTIONS.items()
    ]
    entries = []
    for number, (question, text) in enumerate(draws.sample(asked, questions)):
        start = f" {context} ".index(f" {text} ")  # names and jobs may be parts of other words
        answers = [{"text": text, "answer_start": start}]
        entries.append({"id": f"{identifier}-{number}", "question": question, "answers": answers})
    return {"context": context, "qas": entries}


def _two_people(draws: Draws) -> list[Facts]:
    """Facts about two people that differ in everything that is asked for."""
    first, second = draws.sample(PEOPLE, 2)
    facts = person_facts(draws, first)
    while True:
        others = person_facts(draws, second)
        if all(others[key] != facts[key] for key in facts):
            return [facts, others]


def _write_squad(directory: Path, layout: str, split: str, size: int, draws: Draws) -> None:
    """The official JSON of version 1.1; every paragraph but the last has two questions."""
    del layout
    paragraphs = [
        _paragraph(draws, f"{split}-{start:05d}", min(_QUESTIONS_PER_PARAGRAPH, size - start))
        for start in range(0, size, _QUESTIONS_PER_PARAGRAPH)
    ]
    content = {"version": "1.1", "data": [{"title": "People", "paragraphs": paragraphs}]}
    text = json.dumps(content, ensure_ascii=False)
    (directory / f"{split}-v1.1.json").write_text(text, encoding="utf-8", newline="\n")


def _write_e2e(directory: Path, layout: str, split: str, size: int, draws: Draws) -> None:
    """Quoted CSV: so many representations, each with up to so many references."""
    del layout
    name, references = _E2E[split]
    rows: dict[str, list[str]] = {}
    while len(rows) < size:
        facts = venue_facts(draws)
        meaning = meaning_representation(facts)
        if meaning not in rows:
            texts = [venue_text(draws, facts) for _ in range(references)]
            rows[meaning] = list(dict.fromkeys(texts))
    with (directory / name).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerow(("mr", "ref"))
        writer.writerows((meaning, text) for meaning, texts in rows.items() for text in texts)


_WRITERS = {"squad": _write_squad, "e2e": _write_e2e}
LAYOUTS: tuple[str, ...] = (*_GLUE, *_WRITERS)
