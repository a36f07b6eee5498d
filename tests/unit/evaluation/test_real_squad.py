"""SQuAD v1.1 from the published file to the official score, with a model that is never wrong."""

from pathlib import Path

import numpy as np
import pytest
from transformers import BertTokenizerFast

from sparsetune.config.load import Catalogue
from sparsetune.data.layouts import read_published
from sparsetune.data.tokenization import encode
from sparsetune.evaluation.metrics import score
from sparsetune.evaluation.metrics.qa import best_spans

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"
EVERY = 25  # 423 of the 10,570 questions, from all articles


@pytest.fixture(scope="module")
def task(repository):
    return Catalogue(repository / "config").task("squad")


@pytest.fixture(scope="module")
def encoded(task):
    if not (SHARED / "squad").is_dir():
        pytest.skip("the real SQuAD file is not beside the repository")
    tokenizer = BertTokenizerFast(str(SHARED / "vocab" / "bert-base-uncased" / "vocab.txt"))
    examples = read_published(SHARED / "squad", task, "evaluation")[::EVERY]
    return examples, encode(examples, task, tokenizer, for_training=False)


def pointing_at_the_answer(features):
    """Logits that peak at the marked tokens; low everywhere in a window without the answer."""
    logits = []
    for feature in features:
        start, end = np.full((2, len(feature["input_ids"])), -9.0)
        if feature["end_positions"]:
            start[feature["start_positions"]] = end[feature["end_positions"]] = 9.0
        logits.append((start, end))
    return logits


def test_windows_have_the_published_length_and_overlap(task, encoded):
    examples, features = encoded
    assert (task.maximum_tokens, task.window_stride_tokens) == (384, 128)
    assert max(len(feature["input_ids"]) for feature in features) == 384
    assert {feature["example_index"] for feature in features} == set(range(len(examples)))
    assert len(features) > len(examples)


def test_right_tokens_give_the_official_full_score(task, encoded):
    examples, features = encoded
    contexts = [example.context for example in examples]
    answers = best_spans(pointing_at_the_answer(features), features, contexts)
    references = [[text for text, _ in example.answers] for example in examples]
    scores = score(task.metrics, answers, references)
    # Some answers end inside a word piece ("5" of "5th"), so a few spans are longer than marked.
    assert scores["exact_match_fraction"] > 0.99
    assert scores["span_f1_fraction"] > 0.995
