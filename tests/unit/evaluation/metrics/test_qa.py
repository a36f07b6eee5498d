import numpy as np
import pytest

from sparsetune.errors import DataError
from sparsetune.evaluation.metrics import score
from sparsetune.evaluation.metrics.qa import best_spans, normalise_answer, span_f1

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
    assert best_spans([(starts, ends)], [window()], [CONTEXT]) == ["Blue Heron"]


def test_tokens_outside_the_context_and_backward_spans_never_win():
    # [CLS] and the question score most; the best end (t4) lies before the best start (t7).
    starts, ends = logits(t0=9.0, t1=9.0, t7=3.0, t4=1.0), logits(t0=9.0, t4=4.0, t7=1.0)
    assert best_spans([(starts, ends)], [window()], [CONTEXT]) == ["Blue"]


def test_answers_are_no_longer_than_allowed():
    starts, ends = logits(t3=5.0), logits(t8=5.0, t5=1.0)
    assert best_spans([(starts, ends)], [window()], [CONTEXT]) == [CONTEXT]
    shorter = best_spans([(starts, ends)], [window()], [CONTEXT], maximum_answer_tokens=5)
    assert shorter == ["The Blue Heron"]


def test_best_window_wins_and_the_earlier_one_on_ties():
    first, second = window(), window([None, None, None, *WORDS[3:]])
    low, high = logits(t4=1.0), logits(t6=2.0)
    assert best_spans([(low, low), (high, high)], [first, second], [CONTEXT]) == ["serves"]
    flat = (np.zeros(len(WORDS) + 4),) * 2
    assert best_spans([flat, flat], [second, first], [CONTEXT]) == ["serves"]


def test_n_best_search_equals_the_exhaustive_one_when_all_are_ranked():
    rng = np.random.default_rng(0)
    for _ in range(50):
        # Few distinct values, so that ties are frequent.
        starts, ends = (rng.integers(0, 4, len(WORDS) + 4).astype(float) for _ in range(2))
        found = best_spans([(starts, ends)], [window()], [CONTEXT], maximum_answer_tokens=3)
        assert found == [naive(starts, ends, window()["offset_mapping"], 3)]


def test_only_the_n_best_ends_are_tried():
    starts, ends = logits(t7=3.0), logits(t4=4.0, t7=1.0)
    assert best_spans([(starts, ends)], [window()], [CONTEXT], n_best=1) == [""]


def test_padded_logits_and_several_examples():
    other = "Two words"
    features = [window(example=1, words=[(0, 3), (4, 9)]), window()]
    pad = np.concatenate([logits(t4=1.0), np.full(5, 99.0)])
    assert best_spans([(pad, pad)] * 2, features, [CONTEXT, other]) == ["Blue", "words"]


@pytest.mark.parametrize(
    ("starts", "features", "contexts", "message"),
    [
        ([], [window()], [CONTEXT], "received logits of 0 for 1 features"),
        ([np.zeros(3)], [window()], [CONTEXT], "window 1: received 3 start and 3 end logits for"),
        ([logits(t4=np.nan)], [window()], [CONTEXT], "window 1: a logit is not finite"),
        ([logits()], [window(example=1)], [CONTEXT], "example_index: received 1; allowed: 0 to 0"),
        ([logits()], [window()], [CONTEXT, "b"], "example 1: received no window"),
    ],
)
def test_windows_that_do_not_fit_are_refused(starts, features, contexts, message):
    with pytest.raises(DataError, match=message):
        best_spans(list(zip(starts, starts, strict=True)), features, contexts)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Blue-Heron, a pub!", "blueheron pub"),
        ("an apple", "apple"),
        ("theatre", "theatre"),
        ("A.N. Other", "other"),  # punctuation goes before articles do
        ("$1,000", "1000"),
        ("l’été", "l’été"),  # noqa: RUF001 - only ASCII punctuation is dropped
    ],
)
def test_normalisation_worked_examples(text, normal):
    assert normalise_answer(text) == normal


@pytest.mark.parametrize(
    ("prediction", "answer", "f1"),
    [
        ("the red house", "a red barn", 0.5),  # 1 shared of 2 and 2
        ("in the old red house", "red house", 2 * (2 / 4) * 1 / (2 / 4 + 1)),
        ("red red", "red", 2 * 0.5 * 1 / 1.5),  # words count as often as they occur
        ("blue", "red", 0.0),
        ("the", "a", 0.0),  # nothing is left of either
    ],
)
def test_span_f1_worked_examples(prediction, answer, f1):
    assert span_f1(prediction, answer) == pytest.approx(f1)


def test_span_metrics_take_the_best_answer_of_each_example():
    predictions = ["The river Tay", "1066", "blue"]
    references = [["Tay", "river Tay"], ["in 1066", "1067"], ["red"]]
    scores = score(["exact_match_fraction", "span_f1_fraction"], predictions, references)
    assert scores["exact_match_fraction"] == pytest.approx(1 / 3)
    assert scores["span_f1_fraction"] == pytest.approx((1 + 2 / 3 + 0) / 3)
