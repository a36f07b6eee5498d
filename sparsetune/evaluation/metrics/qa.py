"""Answers cut from a context: logits of overlapping windows to texts, and SQuAD's two scores."""

import functools
import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sparsetune.errors import DataError
from sparsetune.evaluation.metrics.registry import Form, Outcome, mean_form, metric

N_BEST = 20
MAXIMUM_ANSWER_TOKENS = 30

_TEXTS_KEPT = 1 << 16  # all runs of a task meet the same accepted texts
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def best_spans(
    outputs: Sequence[tuple[np.ndarray, np.ndarray]],
    features: Sequence[Mapping[str, Any]],
    contexts: Sequence[str],
    *,
    n_best: int = N_BEST,
    maximum_answer_tokens: int = MAXIMUM_ANSWER_TOKENS,
) -> list[str]:
    """Answer each question with the best valid span over all windows of its context.

    A span is valid if both ends lie in the context, it does not end before it starts, and it
    is no longer than allowed. Its score is the sum of its two logits. Ties go to the earliest
    window, then the earliest start, then the earliest end.

    Args:
        outputs: for each window its start and end logits, real ``(T,)``, padding allowed at the
            end.
        features: for each window ``example_index`` (into ``contexts``) and ``offset_mapping``:
            of every token (first, last + 1) character in the context, or None outside it.
        contexts: the text that each example's answer is cut from.
        n_best: starts and ends considered in each window, the largest first, >= 1.
        maximum_answer_tokens: longest answer, in tokens, >= 1.

    Returns:
        One text for each context; empty where no window has a valid span.

    Raises:
        DataError: counts that do not fit, a logit in the context that is not finite, or an
            example that has no window.

    Source:
        Devlin et al. 2019, arXiv:1810.04805, section 4.2; n-best search as in the published
        SQuAD scripts.
    Differs:
        Only tokens of the context are ranked, so that none of the n best is spent elsewhere.
    """
    if len(outputs) != len(features):
        raise DataError(
            f"windows: received logits of {len(outputs)} for {len(features)} features; "
            "allowed: as many of each"
        )
    best: list[tuple[float, str] | None] = [None] * len(contexts)
    for number, (feature, logits) in enumerate(zip(features, outputs, strict=True), start=1):
        index, offsets = feature["example_index"], feature["offset_mapping"]
        if not 0 <= index < len(contexts):
            raise DataError(
                f"window {number}: example_index: received {index}; allowed: 0 to "
                f"{len(contexts) - 1}"
            )
        inside, starts, ends = _in_context(offsets, logits, number)
        # A stable sort of the negated logits keeps the earlier token first among equals.
        first, last = (np.argsort(-side, kind="stable")[:n_best] for side in (starts, ends))
        spans = [
            (float(starts[i] + ends[j]), -int(inside[i]), -int(inside[j]))
            for i in first
            for j in last
            if inside[i] <= inside[j] < inside[i] + maximum_answer_tokens
        ]
        found = max(spans, default=None)
        before = best[index] or (-np.inf, "")
        if found is not None and found[0] > before[0]:
            text = contexts[index][offsets[-found[1]][0] : offsets[-found[2]][1]]
            before = (found[0], text)
        best[index] = before
    if None in best:
        raise DataError(f"example {best.index(None)}: received no window; allowed: one or more")
    return [answer[1] for answer in best if answer is not None]


@functools.lru_cache(maxsize=_TEXTS_KEPT)
def normalise_answer(text: str) -> str:
    """Lower-case a text, drop ASCII punctuation, then English articles, then spare blanks.

    Source:
        Rajpurkar et al. 2016, arXiv:1606.05250, section 6.1 (SQuAD v1.1's evaluation).
    Differs:
        Nothing.

    Example:
        >>> normalise_answer("The  Blue-Heron, a pub!")
        'blueheron pub'
    """
    bare = text.lower().translate(_WITHOUT_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


@functools.lru_cache(maxsize=_TEXTS_KEPT)
def span_f1(prediction: str, answer: str) -> float:
    """Harmonic mean of precision and recall over the words of two normalised texts.

    Args:
        prediction: one predicted text.
        answer: one accepted text.

    Returns:
        F1 in [0, 1]; words count as often as they occur; 0 when no word is shared.

    Source:
        Rajpurkar et al. 2016, arXiv:1606.05250, section 6.1.
    Differs:
        Nothing: two texts without any word share none, so they score 0.

    Example:
        >>> round(span_f1("the red house", "a red barn"), 3)
        0.5
    """
    predicted, expected = normalise_answer(prediction).split(), normalise_answer(answer).split()
    shared = sum((Counter(predicted) & Counter(expected)).values())
    if shared == 0:
        return 0.0
    return 2 * shared / (len(predicted) + len(expected))


def exact_matches(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[bool]:
    """Whether each text equals one of its accepted texts after SQuAD's normalisation.

    Args:
        predictions: ``(N,)`` texts.
        references: ``(N,)`` accepted texts of each example.
    """
    return [
        normalise_answer(prediction) in {normalise_answer(answer) for answer in answers}
        for prediction, answers in zip(predictions, references, strict=True)
    ]


def _best_f1(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    return [
        max(span_f1(prediction, answer) for answer in answers)
        for prediction, answers in zip(predictions, references, strict=True)
    ]


def _exact_match_form(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Form:
    return mean_form(exact_matches(predictions, references))


def _span_f1_form(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Form:
    return mean_form(_best_f1(predictions, references))


@metric("exact_match_fraction", form=_exact_match_form)
def exact_match(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Outcome:
    """Share of examples that equal an accepted text; see :func:`exact_matches`."""
    found = exact_matches(predictions, references)
    return Outcome(sum(found) / len(found))


@metric("span_f1_fraction", form=_span_f1_form)
def mean_span_f1(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Outcome:
    """Mean over examples of :func:`span_f1` with the accepted text that fits best."""
    found = _best_f1(predictions, references)
    return Outcome(sum(found) / len(found))


def _in_context(
    offsets: Sequence[Any], logits: tuple[np.ndarray, np.ndarray], window: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A window's tokens that lie in the context, with their start and end logits."""
    starts, ends = (np.asarray(side, dtype=np.float64) for side in logits)
    if min(len(starts), len(ends)) < len(offsets):
        raise DataError(
            f"window {window}: received {len(starts)} start and {len(ends)} end logits for "
            f"{len(offsets)} tokens"
        )
    inside = np.array([n for n, offset in enumerate(offsets) if offset is not None], dtype=np.int64)
    starts, ends = starts[inside], ends[inside]
    if not np.isfinite(starts).all() or not np.isfinite(ends).all():
        raise DataError(f"window {window}: a logit is not finite")
    return inside, starts, ends
