import os
import shutil
import types

import pytest
from unit.evaluation.generated_texts import GOLDEN, PREDICTIONS, REFERENCES

from sparsetune.evaluation.metrics import assess, coco
from sparsetune.evaluation.metrics.coco import meteor, ptb_words

SENTENCES = {
    "Don't you think it's cheap?": "do n't you think it 's cheap",
    "I cannot go (really) - yes -- ok...": "i can not go -lrb- really -rrb- yes ok",
    'He said "it\'s £20."': "he said it 's # 20",
    "Dr. Smith's U.S. pub at St. James, 1,000.5 km away.": (
        "dr. smith 's u.s. pub at st. james 1,000.5 km away"
    ),
    "A 5-star, family-friendly café; 3/5 or 10:30.": ("a 5-star family-friendly café 3/5 or 10:30"),
    "From £20 -25 for hors d'oeuvres!": "from # 20 -25 for hors d'oeuvres",
    "It is in the city center., near a café..": "it is in the city center. near a café",
    "HIV/AIDS is studied": "hiv/aids is studied",
}
TEXTS = [*SENTENCES, *PREDICTIONS, *(text for texts in REFERENCES for text in texts)]


def rouge_l(predictions, references):
    return coco.rouge_l(predictions, references).value


def cider(predictions, references):
    return coco.cider(predictions, references).value


@pytest.mark.parametrize(("text", "words"), SENTENCES.items())
def test_words_by_hand(text, words):
    assert ptb_words(text) == words


def test_words_are_those_of_the_java_tokeniser():
    if shutil.which("java") is None:
        pytest.skip("no java on the PATH")
    assert [ptb_words(text) for text in TEXTS] == coco._java_words(TEXTS, 60)


def test_rouge_l_by_hand():
    # "b d" is common, in order: precision 2/4 and recall 2/2, weighed with beta 1.2.
    expected = (1 + 1.44) * 0.5 * 1 / (1 + 1.44 * 0.5)
    assert rouge_l(["a b c d"], [["b d"]]) == pytest.approx(expected)
    # Precision of the long reference (3/4), recall of the short one (2/2).
    expected = (1 + 1.44) * 0.75 * 1 / (1 + 1.44 * 0.75)
    assert rouge_l(["a b c d"], [["b d", "a b c f g h"]]) == pytest.approx(expected)
    # Case and punctuation do not count; examples have equal weight; no words, no score.
    assert rouge_l(["The pub, by the river."], [["the pub by the river"]]) == pytest.approx(1)
    assert rouge_l(["a", "b"], [["a"], ["c"]]) == 0.5
    assert rouge_l(["", "..."], [["a"], ["a"]]) == 0


def test_cider_by_hand():
    # Two examples, each word in one of them, so that all weigh ln 2. First: "a" of "a b" meets
    # "a c" with cosine 1/2, no pair does: 10 * (1/2 + 0 + 0 + 0) / 4. Second: a single word
    # that fits: 10 * (1 + 0 + 0 + 0) / 4.
    assert cider(["a b", "x"], [["a c"], ["x"]]) == pytest.approx((1.25 + 2.5) / 2)
    # The references themselves score ten; words of all examples weigh nothing.
    texts = ["a b c d e", "f g h i j"]
    assert cider(texts, [[text] for text in texts]) == pytest.approx(10)
    assert cider(["a b", "a b"], [["a b"], ["a b"]]) == 0


def test_scores_are_those_of_the_caption_scripts():
    assert rouge_l(PREDICTIONS, REFERENCES) == pytest.approx(GOLDEN["coco_rouge_l_fraction"])
    assert cider(PREDICTIONS, REFERENCES) == pytest.approx(GOLDEN["coco_cider_score"])


@pytest.mark.parametrize(
    ("predictions", "references", "reason"),
    [
        (PREDICTIONS[:1], REFERENCES[:1], "undefined: over one example"),
        (["a", "b"], [["."], [""]], "undefined: no reference has a word"),
    ],
)
def test_cider_that_is_undefined_is_explained(predictions, references, reason):
    values, notes = assess(["coco_cider_score"], predictions, references)
    assert values == {"coco_cider_score": None}
    assert notes["coco_cider_score"].startswith(reason)


# Stands in for Java: the tokeniser gives every line back; METEOR is up to the test.
JAVA = """#!/bin/sh
case "$*" in *PTBTokenizer*) exec cat;; esac
for one; do case "$one" in */said|*/accepted) cat "$one" >> "$HEARD";; esac; done
{}
"""


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Install a stand-in for Java that does what the given shell lines say."""

    def install(lines):
        for jar in (coco._METEOR_JAR, coco._TOKENIZER_JAR):
            (tmp_path / jar).parent.mkdir(parents=True)
            (tmp_path / jar).touch()
        java = tmp_path / "java"
        java.write_text(JAVA.format(lines))
        java.chmod(0o755)
        package = types.SimpleNamespace(submodule_search_locations=[str(tmp_path)])
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setenv("HEARD", str(tmp_path / "heard"))
        monkeypatch.setattr(coco.importlib.util, "find_spec", lambda name: package)
        return tmp_path / "heard"

    return install


def test_meteor_is_the_corpus_value_and_the_variant_is_told(program):
    heard = program("echo 0.6")
    value, note = meteor(["a pub , here", ""], [["a pub .", "...", "b\u2028c\rd\x85e"], ["b"]])
    assert value == 0.6
    assert "METEOR 1.5" in note
    # Predictions, then as many references for each: punctuation, empty references and line
    # breaks inside a text are gone, and the last reference fills up.
    said, accepted = ["a pub here", ""], ["a pub", "b c d e", "b c d e", "b", "b", "b"]
    assert heard.read_text().splitlines() == [*said, *accepted]


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("echo 'no memory left' >&2; exit 1", "failed with exit 1: no memory left"),
        ("exit 3", "failed with exit 3: no message"),
        ("echo x", "gave 'x' for the corpus"),
        ("echo NaN", "gave 'NaN' for the corpus"),
        ("exec tail -f /dev/null", "did not end in 0.3 seconds"),
    ],
)
def test_a_program_that_fails_is_told_of_and_the_other_metrics_stand(program, lines, reason):
    program(lines)
    value, note = meteor(["a", "b"], [["a"], ["b"]], timeout_seconds=0.3)
    assert value is None
    assert note.startswith("absent: ")
    assert reason in note


def test_a_tokeniser_that_loses_lines_is_told_of(program, tmp_path):
    program("")
    (tmp_path / "java").write_text("#!/bin/sh\necho one line\n")
    value, note = meteor(["a"], [["a"]])
    assert value is None
    assert "gave 1 lines for 2" in note


def test_without_java_or_the_package_there_is_none_and_how_to_get_it(monkeypatch):
    names = ["meteor_1_5_fraction", "coco_rouge_l_fraction", "coco_cider_score", "bleu_fraction"]
    monkeypatch.setattr(coco.shutil, "which", lambda name: None)
    values, notes = assess(names, PREDICTIONS, REFERENCES)
    assert [name for name, value in values.items() if value is None] == names[:1]
    assert notes[names[0]] == "absent: no java on the PATH, and METEOR 1.5 is a Java program"
    monkeypatch.setattr(coco.shutil, "which", lambda name: "java")
    monkeypatch.setattr(coco.importlib.util, "find_spec", lambda name: None)
    values, notes = assess(names, PREDICTIONS, REFERENCES)
    assert [name for name, value in values.items() if value is None] == names[:3]
    for name in names[:3]:
        assert notes[name].startswith("absent: ")
        assert "pip install 'sparsetune[nlg]'" in notes[name]


@pytest.mark.slow
def test_meteor_is_that_of_the_caption_scripts():
    value, note = meteor(PREDICTIONS, REFERENCES)
    if value is None and ("no java" in note or "not installed" in note):
        pytest.skip(note)
    assert value == pytest.approx(GOLDEN["meteor_1_5_fraction"])
