"""Start and end logits of overlapping windows to one answer text per question."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from sparsetune.errors import DataError

N_BEST = 20
MAXIMUM_ANSWER_TOKENS = 30


class _Candidate(NamedTuple):
    score: float
    start: int
    end: int


def answers_of(
    examples: Sequence[Any],
    features: Sequence[Mapping[str, Any]],
    outputs: Sequence[tuple[Any, Any]],
) -> list[str]:
    """Answer each example from its windows' logits, with the published settings.

    Args:
        examples: with ``context``, the text that answers are cut from.
        features: one per window, as :func:`best_spans` takes them.
        outputs: one (start logits, end logits) per window.

    Returns:
        One text per example.

    Raises:
        DataError: as :func:`best_spans`.
    """
    return best_spans(
        [start for start, _ in outputs],
        [end for _, end in outputs],
        features,
        contexts=[example.context for example in examples],
    )


def best_spans(
    start_logits: Sequence[np.ndarray],
    end_logits: Sequence[np.ndarray],
    features: Sequence[Mapping[str, Any]],
    *,
    contexts: Sequence[str],
    n_best: int = N_BEST,
    maximum_answer_tokens: int = MAXIMUM_ANSWER_TOKENS,
) -> list[str]:
    """Answer each question with the best valid span over all windows of its context.

    A span is valid if both ends lie in the context, it does not end before it starts, and it
    is no longer than allowed. Its score is the sum of its two logits. Ties go to the earliest
    window, then the earliest start, then the earliest end.

    Args:
        start_logits: one ``(T,)`` real array per window, padding allowed at its end.
        end_logits: likewise.
        features: per window, ``example_index`` (into ``contexts``) and ``offset_mapping``:
            per token, (first, last + 1) character in the context, or None outside it.
        contexts: the text that each example's answer is cut from.
        n_best: starts and ends considered in each window, the largest first, >= 1.
        maximum_answer_tokens: longest answer, in tokens, >= 1.

    Returns:
        One text per context; empty where no window has a valid span.

    Raises:
        DataError: counts that do not fit, a logit in the context that is not finite, or an
            example that has no window.

    Source:
        Devlin et al. 2019, arXiv:1810.04805, section 4.2; n-best search as in the published
        SQuAD scripts.
    Differs:
        Only tokens of the context are ranked, so that none of the n best is spent elsewhere.
    """
    best: list[tuple[float, str] | None] = [None] * len(contexts)
    for index, offsets, starts, ends in _windows(start_logits, end_logits, features, contexts):
        found = _best_in_window(starts, ends, _inside(offsets), n_best, maximum_answer_tokens)
        before = best[index] or (-np.inf, "")
        if found is not None and found.score > before[0]:
            text = contexts[index][offsets[found.start][0] : offsets[found.end][1]]
            before = (found.score, text)
        best[index] = before
    if None in best:
        raise DataError(f"example {best.index(None)}: no window, need at least one")
    return [text for _, text in best]


def _windows(
    start_logits: Sequence[np.ndarray],
    end_logits: Sequence[np.ndarray],
    features: Sequence[Mapping[str, Any]],
    contexts: Sequence[str],
) -> Iterator[tuple[int, Sequence[Any], np.ndarray, np.ndarray]]:
    """Yield (example index, offsets, start logits, end logits) of each window, checked."""
    if not len(start_logits) == len(end_logits) == len(features):
        raise DataError(
            f"windows: got {len(start_logits)} start logits, {len(end_logits)} end logits and "
            f"{len(features)} features, need as many of each"
        )
    for number, feature in enumerate(features, start=1):
        index, offsets = feature["example_index"], feature["offset_mapping"]
        starts = np.asarray(start_logits[number - 1], dtype=np.float64)
        ends = np.asarray(end_logits[number - 1], dtype=np.float64)
        if not 0 <= index < len(contexts):
            raise DataError(
                f"window {number}: example_index is {index}, need 0 to {len(contexts) - 1}"
            )
        if min(len(starts), len(ends)) < len(offsets):
            raise DataError(
                f"window {number}: got {len(starts)} start and {len(ends)} end logits for "
                f"{len(offsets)} tokens"
            )
        inside = _inside(offsets)
        if not np.isfinite(starts[inside]).all() or not np.isfinite(ends[inside]).all():
            raise DataError(f"window {number}: a logit is not finite")
        yield index, offsets, starts, ends


def _inside(offsets: Sequence[Any]) -> np.ndarray:
    return np.array([i for i, offset in enumerate(offsets) if offset is not None], dtype=np.int64)


def _best_in_window(
    starts: np.ndarray, ends: np.ndarray, inside: np.ndarray, n_best: int, longest: int
) -> _Candidate | None:
    valid = [
        _Candidate(float(starts[start] + ends[end]), int(start), int(end))
        for start in _largest(starts, inside, n_best)
        for end in _largest(ends, inside, n_best)
        if start <= end < start + longest
    ]
    return min(valid, key=lambda found: (-found.score, found.start, found.end), default=None)


def _largest(logits: np.ndarray, inside: np.ndarray, count: int) -> np.ndarray:
    # A stable sort of the negated logits keeps the earlier token first among equals.
    return inside[np.argsort(-logits[inside], kind="stable")[:count]]
