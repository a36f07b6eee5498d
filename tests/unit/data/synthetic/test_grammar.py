"""Facts and clauses of the synthetic language."""

import hashlib
import random

from sparsetune.data.synthetic.grammar import (
    KIND_OF,
    Draws,
    number_clause,
    venue_facts,
    venue_text,
)
from sparsetune.data.synthetic.tasks import LABEL_NOISE, _rte, _sst2
from sparsetune.data.synthetic.words import OPINIONS, article, inflected


def test_stream_is_the_documented_function_of_seed_and_names():
    digest = hashlib.sha256(b"7/sst2/train").digest()
    expected = random.Random(int.from_bytes(digest[:8], "big")).random()
    assert Draws.of(7, "sst2", "train").random() == expected


def test_regular_word_forms():
    words = {"heron": "herons", "fox": "foxes", "birch": "birches", "sing": "sings"}
    assert {word: inflected(word) for word in words} == words
    assert [article(word) for word in ("heron", "owl")] == ["a", "an"]


def test_verb_agrees_with_noun():
    draws = Draws(0)
    assert number_clause(draws, "heron", is_plural=False, verb="sing")[-1] == "sings"
    assert number_clause(draws, "heron", is_plural=True, verb="sing")[-1] == "sing"


def test_labelled_words_are_a_proper_part_of_all_words():
    small, whole = Draws.of(0, "a", labelled_only=True), Draws.of(0, "a")
    for field in ("nouns", "opinions", "towns"):
        for name, words in getattr(small, field).items():
            assert set(words) < set(getattr(whole, field)[name])


def test_no_opinion_word_has_two_polarities():
    assert not set(OPINIONS["positive"]) & set(OPINIONS["negative"])


def test_sst2_labels_follow_the_last_opinion_up_to_the_noise():
    draws = Draws.of(0, "check")
    rows = [_sst2(draws, index) for index in range(2000)]
    agree = []
    for sentence, label in rows:
        last = sentence.split(" but in the end ")[-1]
        found = [name for name, some in OPINIONS.items() if set(some) & set(last.split())]
        if len(found) == 1 and " never " not in last:
            agree.append((found[0] == "positive") == (label == "1"))
    # 1300 or so draws: four standard deviations of the noise are 0.02.
    assert abs(1 - sum(agree) / len(agree) - LABEL_NOISE) < 0.02


def test_rte_kind_follows_from_the_noun_up_to_the_noise():
    draws = Draws.of(0, "check")
    wrong = total = 0
    for index in range(2000):
        _, premise, hypothesis, label = _rte(draws, index)
        if " saw " in hypothesis:
            noun, kind = premise.split()[3], hypothesis.split()[3]
            wrong += (KIND_OF[noun] == kind) != (label == "entailment")
            total += 1
    assert abs(wrong / total - LABEL_NOISE) < 0.03


def test_venue_text_tells_name_and_values():
    draws = Draws(1)
    for _ in range(50):
        facts = venue_facts(draws)
        text = venue_text(draws, facts)
        said = [facts["name"], facts["eatType"], facts.get("food", ""), facts.get("priceRange", "")]
        assert all(value in text for value in said)
