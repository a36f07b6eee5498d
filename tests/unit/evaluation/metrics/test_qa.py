from types import SimpleNamespace

import numpy as np
import pytest

from sparsetune.errors import DataError
from sparsetune.evaluation.metrics.qa import answers_of, best_spans

CONTEXT = "The Blue Heron serves Thai food"
WORDS = [(0, 3), (4, 8), (9, 14), (15, 21), (22, 26), (27, 31)]


def window(words=WORDS, example=0):
    # [CLS] question [SEP] context [SEP]
    return {"example_index": example, "offset_mapping": [None, None, None, *words, None]}


def logits(**values):
    array = np.full(len(WORDS) + 4, -5.0)
    for position, value in values.items():
        array[int(position[1:])] = value
    return array


def naive(start, end, offsets, longest):
    spans = [
        (-(start[i] + end[j]), i, j)
        for i in range(len(offsets))
        for j in range(i, min(i + longest, len(offsets)))
        if offsets[i] and offsets[j]
    ]
    _, i, j = min(spans)
    return CONTEXT[offsets[i][0] : offsets[j][1]]


def test_best_pair_is_cut_from_the_context():
    starts, ends = logits(t4=3.0, t7=2.0), logits(t5=3.0, t8=1.0)
    assert best_spans([starts], [ends], [window()], contexts=[CONTEXT]) == ["Blue Heron"]


def test_tokens_outside_the_context_and_backward_spans_never_win():
    # [CLS] and the question score most; the best end (t4) lies before the best start (t7).
    starts, ends = logits(t0=9.0, t1=9.0, t7=3.0, t4=1.0), logits(t0=9.0, t4=4.0, t7=1.0)
    assert best_spans([starts], [ends], [window()], contexts=[CONTEXT]) == ["Blue"]


def test_answers_are_no_longer_than_allowed():
    starts, ends = logits(t3=5.0), logits(t8=5.0, t5=1.0)
    features = [window()]
    assert best_spans([starts], [ends], features, contexts=[CONTEXT]) == [CONTEXT]
    shorter = best_spans([starts], [ends], features, contexts=[CONTEXT], maximum_answer_tokens=5)
    assert shorter == ["The Blue Heron"]


def test_best_window_wins_and_the_earlier_one_on_ties():
    first, second = window(), window([None, None, None, *WORDS[3:]])
    low, high = logits(t4=1.0), logits(t6=2.0)
    assert best_spans([low, high], [low, high], [first, second], contexts=[CONTEXT]) == ["serves"]
    flat = np.zeros(len(WORDS) + 4)
    assert best_spans([flat, flat], [flat, flat], [second, first], contexts=[CONTEXT]) == ["serves"]


def test_n_best_search_equals_the_exhaustive_one_when_all_are_ranked():
    rng = np.random.default_rng(0)
    for _ in range(50):
        # Few distinct values, so that ties are frequent.
        starts, ends = (rng.integers(0, 4, len(WORDS) + 4).astype(float) for _ in range(2))
        found = best_spans(
            [starts], [ends], [window()], contexts=[CONTEXT], maximum_answer_tokens=3
        )
        assert found == [naive(starts, ends, window()["offset_mapping"], 3)]


def test_only_the_n_best_ends_are_tried():
    starts, ends = logits(t7=3.0), logits(t4=4.0, t7=1.0)
    assert best_spans([starts], [ends], [window()], contexts=[CONTEXT], n_best=1) == [""]


def test_padded_logits_and_several_examples():
    other = "Two words"
    features = [window(example=1, words=[(0, 3), (4, 9)]), window()]
    pad = np.concatenate([logits(t4=1.0), np.full(5, 99.0)])
    examples = [SimpleNamespace(context=CONTEXT), SimpleNamespace(context=other)]
    assert answers_of(examples, features, [(pad, pad), (pad, pad)]) == ["Blue", "words"]


@pytest.mark.parametrize(
    ("starts", "features", "contexts", "message"),
    [
        ([], [window()], [CONTEXT], "got 0 start logits"),
        ([np.zeros(3)], [window()], [CONTEXT], "window 1: got 3 start and 3 end logits for 10"),
        ([logits(t4=np.nan)], [window()], [CONTEXT], "window 1: a logit is not finite"),
        ([logits()], [window(example=1)], [CONTEXT], "example_index is 1, need 0 to 0"),
        ([logits()], [window()], [CONTEXT, "b"], "example 1: no window"),
    ],
)
def test_windows_that_do_not_fit_are_refused(starts, features, contexts, message):
    with pytest.raises(DataError, match=message):
        best_spans(starts, starts, features, contexts=contexts)
