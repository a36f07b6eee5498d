import shutil

import pytest
from unit.evaluation.generated_texts import PREDICTIONS, REFERENCES

from sparsetune.evaluation.metrics import meteor
from sparsetune.evaluation.metrics.ptb import ptb_words

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


@pytest.mark.parametrize(("text", "words"), SENTENCES.items())
def test_words_by_hand(text, words):
    assert ptb_words(text) == words.split()


def test_words_are_those_of_the_java_tokeniser():
    if shutil.which("java") is None:
        pytest.skip("no java on the PATH")
    try:
        java, home = meteor._tools()
    except meteor._AbsentError as why:
        pytest.skip(str(why))
    texts = [*SENTENCES, *PREDICTIONS, *(text for texts in REFERENCES for text in texts)]
    prepared = meteor._prepared(texts, java, home, 60)
    assert [" ".join(ptb_words(text)) for text in texts] == prepared
