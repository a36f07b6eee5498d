"""Tasks and running text of the synthetic language, by seed, in published layouts.

The loaders that read them read the real data sets too.
"""

import csv
import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsetune.data.synthetic.grammar import (
    KIND_OF,
    KINDS,
    POLARITIES,
    REGION_OF,
    Vocabulary,
    document,
    meaning_representation,
    number_clause,
    opinion_clause,
    other,
    person_clauses,
    person_facts,
    stream,
    venue_facts,
    venue_text,
    vocabulary,
)
from sparsetune.data.synthetic.words import HE, SHE, TOPICS, TOWNS, VERBS, article
from sparsetune.errors import ConfigError

PEOPLE: tuple[str, ...] = SHE + HE
# Annotators disagree now and then; without this a good model would score 100 %.
LABEL_NOISE = 0.03
_DENIALS = (
    ("saw", "never saw"),
    ("was", "was not"),
    ("liked", "never liked"),
    ("disliked", "never disliked"),
)
# Most paragraphs are about one person, where the kind of question decides; in the others the
# names must be told apart as well.
_ONE_PERSON = 0.75


def _noisy(stream: random.Random, label: bool) -> bool:
    """The label, or rarely the other one."""
    return label != (stream.random() < LABEL_NOISE)


def sst2_row(stream: random.Random, words: Vocabulary, index: int) -> tuple[str, ...]:
    """Sentence and label 0 or 1; in a contrast the last clause decides."""
    del index
    topic, polarity = stream.choice(TOPICS), stream.choice(POLARITIES)
    sentence = opinion_clause(stream, words, topic, polarity)
    if stream.random() < 0.2:
        against = opinion_clause(stream, words, topic, other(stream, POLARITIES, polarity))
        sentence = f"{against} , but in the end {sentence}"
    return f"{sentence} .", str(int(_noisy(stream, polarity == "positive")))


def _break_sentence(stream: random.Random, noun: str, is_plural: bool) -> str:
    """A sentence with one fault: agreement, sense, order or reflexive."""
    fault = stream.choice(("verb", "sense", "determiner", "order", "order"))
    kind = KIND_OF[noun]
    if fault == "sense":
        wrong = stream.choice(VERBS[other(stream, KINDS, kind)])
        return " ".join(number_clause(stream, noun, is_plural=is_plural, verb=wrong))
    parts = list(number_clause(stream, noun, is_plural=is_plural))
    opposite = number_clause(stream, noun, is_plural=not is_plural)
    if fault == "verb":
        parts[-1] = opposite[-1]
    elif fault == "determiner":
        parts[0] = stream.choice(("this", "every") if is_plural else ("these", "many"))
    else:
        position = stream.randrange(len(parts) - 1)
        parts[position], parts[position + 1] = parts[position + 1], parts[position]
    return " ".join(parts)


def cola_row(stream: random.Random, words: Vocabulary, index: int) -> tuple[str, ...]:
    """Source, label, original mark and sentence; about three in five are acceptable."""
    del index
    acceptable = stream.random() < 0.6
    if stream.random() < 0.2:
        person = stream.choice(PEOPLE)
        ends = ("herself", "himself") if person in SHE else ("himself", "herself")
        verb = stream.choice(("likes", "knows", "washes"))
        sentence = f"{person} {verb} {ends[0] if acceptable else ends[1]} ."
    else:
        noun, is_plural = words.noun(stream), stream.random() < 0.5
        if acceptable:
            sentence = " ".join(number_clause(stream, noun, is_plural=is_plural)) + " ."
        else:
            sentence = _break_sentence(stream, noun, is_plural) + " ."
    label = _noisy(stream, acceptable)
    return "wo01", str(int(label)), "" if label else "*", sentence


def _entailment(stream: random.Random, words: Vocabulary, holds: bool) -> tuple[str, str]:
    """A premise and a hypothesis that follows from it or contradicts it."""
    person, noun, town = stream.choice(PEOPLE), words.noun(stream), words.town(stream)
    form = stream.choice(("opinion", "opinion", "kind", "kind", "region", "town"))
    if form == "opinion":
        topic, polarity = stream.choice(TOPICS), stream.choice(POLARITIES)
        said = polarity if holds else other(stream, POLARITIES, polarity)
        premise = f"{person} called the {topic} {words.opinion(stream, polarity)} ."
        verb = {"positive": "liked", "negative": "disliked"}[said]
        hypothesis = stream.choice(
            (f"{person} {verb} the {topic} .", f"the {topic} was {words.opinion(stream, said)} .")
        )
        return premise, hypothesis
    premise = f"{person} saw {article(noun)} {noun} in {town} ."
    if form == "kind":
        kind = KIND_OF[noun] if holds else other(stream, KINDS, KIND_OF[noun])
        return premise, f"{person} saw {article(kind)} {kind} ."
    if form == "region":
        region = REGION_OF[town] if holds else other(stream, tuple(TOWNS), REGION_OF[town])
        return premise, f"{person} was in the {region} ."
    return premise, f"{person} was in {town if holds else _other_town(stream, words, town)} ."


def _other_town(stream: random.Random, words: Vocabulary, town: str) -> str:
    """A town of another region."""
    return stream.choice(words.towns[other(stream, tuple(TOWNS), REGION_OF[town])])


def rte_row(stream: random.Random, words: Vocabulary, index: int) -> tuple[str, ...]:
    """Index, premise, hypothesis and label, half of them entailed.

    Two in five of the others deny what follows, which shows in one word, as in the published
    task; the rest contradict it in its meaning alone.
    """
    holds = stream.random() < 0.5
    denies = not holds and stream.random() < 0.4
    premise, hypothesis = _entailment(stream, words, holds or denies)
    if denies:
        for verb, denied in _DENIALS:
            hypothesis = hypothesis.replace(f" {verb} ", f" {denied} ")
    label = "entailment" if _noisy(stream, holds) else "not_entailment"
    return str(index), premise, hypothesis, label


def _vary(stream: random.Random, word: str, same: list[str], far: list[str]) -> tuple[str, float]:
    """The word itself (1), one of its class (0.5) or one of another class (0)."""
    fate = stream.random()
    if fate < 0.4:
        return word, 1.0
    if fate < 0.7:
        return other(stream, same, word), 0.5
    return stream.choice(far), 0.0


def stsb_row(stream: random.Random, words: Vocabulary, index: int) -> tuple[str, ...]:
    """Ten columns; the score counts shared words fully and words of the same class by half."""
    polarity, noun, town = stream.choice(POLARITIES), words.noun(stream), words.town(stream)
    opinion = words.opinion(stream, polarity)
    far_kind = other(stream, KINDS, KIND_OF[noun])
    far_region = other(stream, tuple(TOWNS), REGION_OF[town])
    far_opinions = words.opinions[other(stream, POLARITIES, polarity)]
    noun2, near_noun = _vary(
        stream, noun, list(words.nouns[KIND_OF[noun]]), list(words.nouns[far_kind])
    )
    town2, near_town = _vary(
        stream, town, list(words.towns[REGION_OF[town]]), list(words.towns[far_region])
    )
    opinion2, near_opinion = _vary(
        stream, opinion, list(words.opinions[polarity]), list(far_opinions)
    )
    meaning = 0.4 * near_noun + 0.2 * near_town + 0.4 * near_opinion
    score = min(5.0, max(0.0, 5 * meaning + stream.gauss(0, 0.25)))
    sentences = (
        f"{article(opinion)} {opinion} {noun} in {town} .",
        f"in {town2} there is {article(opinion2)} {opinion2} {noun2} .",
    )
    head = (str(index), "world-text", "world", "2026", str(index), "none", "none")
    return (*head, *sentences, f"{score:.3f}")


GLUE_ROWS: dict[str, Callable[[random.Random, Vocabulary, int], tuple[str, ...]]] = {
    "sst2": sst2_row,
    "cola": cola_row,
    "rte": rte_row,
    "stsb": stsb_row,
}


def squad_paragraph(
    stream: random.Random, words: Vocabulary, identifier: str, questions: int
) -> dict[str, Any]:
    """Make a paragraph about one or two people and 1 to 4 questions about them, in v1.1's form."""
    if stream.random() < _ONE_PERSON:
        facts = [person_facts(stream, words, stream.choice(PEOPLE))]
    else:
        facts = _two_people(stream, words)
    clauses = [clause for fact in facts for clause in person_clauses(stream, fact)]
    clauses += [f"{fact['name']} likes the {fact['spot']}" for fact in facts]
    stream.shuffle(clauses)
    context = " . ".join(clauses) + " ."
    asked = [
        entry
        for fact in facts
        for entry in (
            (f"where does {fact['name']} live ?", fact["town"]),
            (f"what job does {fact['name']} have ?", fact["job"]),
            (f"what does {fact['name']} own ?", fact["thing"]),
            (f"which place does {fact['name']} like ?", fact["spot"]),
        )
    ]
    return {
        "context": context,
        "qas": [
            {
                "id": f"{identifier}-{number}",
                "question": question,
                "answers": [{"text": text, "answer_start": _find_word(context, text)}],
            }
            for number, (question, text) in enumerate(stream.sample(asked, questions))
        ],
    }


def _two_people(stream: random.Random, words: Vocabulary) -> list[dict[str, str]]:
    """Facts about two people that differ in everything that is asked for."""
    first, second = stream.sample(PEOPLE, 2)
    facts = person_facts(stream, words, first)
    while True:
        others = person_facts(stream, words, second)
        if all(others[key] != facts[key] for key in facts):
            return [facts, others]


def _find_word(context: str, text: str) -> int:
    """Start of the text as whole words; names and jobs may be parts of other words."""
    return f" {context} ".index(f" {text} ")


def e2e_rows(stream: random.Random, representations: int, references: int) -> list[tuple[str, str]]:
    """Make rows ``(mr, ref)``: so many representations, each with up to so many references."""
    rows: list[tuple[str, str]] = []
    seen: set[str] = set()
    while len(seen) < representations:
        facts = venue_facts(stream)
        mr = meaning_representation(facts)
        if mr in seen:
            continue
        seen.add(mr)
        texts = dict.fromkeys(venue_text(stream, facts) for _ in range(references))
        rows.extend((mr, text) for text in texts)
    return rows


LAYOUTS: tuple[str, ...] = (*GLUE_ROWS, "squad", "e2e")
SPLITS: tuple[str, ...] = ("train", "dev", "test")
# References of one meaning representation, as in the challenge: several where scores are computed.
E2E_REFERENCES: Mapping[str, int] = {"train": 1, "dev": 4, "test": 4}
_E2E_FILES: Mapping[str, str] = {
    "train": "trainset.csv",
    "dev": "devset.csv",
    "test": "testset_w_refs.csv",
}
_GLUE_HEADERS: Mapping[str, tuple[str, ...]] = {
    "sst2": ("sentence", "label"),
    "cola": (),  # the published train and dev files have no header line
    "rte": ("index", "sentence1", "sentence2", "label"),
    "stsb": (
        *("index", "genre", "filename", "year", "old_index", "source1", "source2"),
        *("sentence1", "sentence2", "score"),
    ),
}
_QUESTIONS_PER_PARAGRAPH = 2


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
    _check(layout, sizes)
    directory.mkdir(parents=True, exist_ok=True)
    for split, size in sizes.items():
        words = vocabulary(labelled_only=split == "train")
        if layout == "squad":
            _write_squad(directory, split, seed=seed, size=size, words=words)
        elif layout == "e2e":
            texts = e2e_rows(stream(seed, layout, split), size, E2E_REFERENCES[split])
            _write_e2e(directory / _E2E_FILES[split], texts)
        else:
            draws = stream(seed, layout, split)
            rows = [GLUE_ROWS[layout](draws, words, index) for index in range(size)]
            _write_glue(directory / f"{split}.tsv", layout, split, rows)


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
        raise ConfigError(f"corpus: documents is {documents}, allowed: 1 or more")
    draws = stream(seed, "corpus")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{document(draws)}\n" for _ in range(documents))


def _check(layout: str, sizes: Mapping[str, int]) -> None:
    """Refuse what cannot be written, before anything is."""
    if layout not in LAYOUTS:
        raise ConfigError(f"generated task: layout {layout!r}, allowed: {', '.join(LAYOUTS)}")
    allowed = SPLITS[:2] if layout == "squad" else SPLITS
    for split, size in sizes.items():
        if split not in allowed:
            raise ConfigError(f"{layout}: split {split!r}, allowed: {', '.join(allowed)}")
        if size < 1:
            raise ConfigError(f"{layout}: size of {split} is {size}, allowed: 1 or more")


def _write_glue(path: Path, layout: str, split: str, rows: Iterable[Sequence[str]]) -> None:
    """Tab-separated without quoting; test files carry an index and no label."""
    header = _GLUE_HEADERS[layout]
    if split == "test":
        header, rows = _without_labels(layout, rows)
    lines = [header, *rows] if header else rows
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines("\t".join(row) + "\n" for row in lines)


def _without_labels(
    layout: str, rows: Iterable[Sequence[str]]
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows of a published test file."""
    if layout in ("sst2", "cola"):
        column = {"sst2": 0, "cola": 3}[layout]
        return ("index", "sentence"), [(str(n), row[column]) for n, row in enumerate(rows)]
    return _GLUE_HEADERS[layout][:-1], [tuple(row[:-1]) for row in rows]


def _write_squad(directory: Path, split: str, *, seed: int, size: int, words: Vocabulary) -> None:
    """The official JSON of version 1.1; every paragraph but the last has two questions."""
    draws = stream(seed, "squad", split)
    paragraphs = [
        squad_paragraph(
            draws, words, f"{split}-{start:05d}", min(_QUESTIONS_PER_PARAGRAPH, size - start)
        )
        for start in range(0, size, _QUESTIONS_PER_PARAGRAPH)
    ]
    content = {"version": "1.1", "data": [{"title": "People", "paragraphs": paragraphs}]}
    text = json.dumps(content, ensure_ascii=False)
    (directory / f"{split}-v1.1.json").write_text(text, encoding="utf-8", newline="\n")


def _write_e2e(path: Path, rows: Iterable[tuple[str, str]]) -> None:
    """Quoted CSV with a header."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerow(("mr", "ref"))
        writer.writerows(rows)
