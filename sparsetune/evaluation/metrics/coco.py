"""ROUGE-L and CIDEr as the COCO caption scripts define them, over Penn Treebank words.

The words come from ``ptb.py``. METEOR, which those scripts leave to a Java program, is in
``meteor.py``.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from sparsetune.evaluation.metrics.ptb import ptb_words

CIDER_ORDER = 4

_BETA = 1.2
_SIGMA_WORDS = 6.0
_CIDER_SCALE = 10.0

Gram = tuple[str, ...]


def rouge_l(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Mean over examples of COCO's ROUGE-L, which favours recall (beta 1.2).

    For each example, the longest common subsequence with every reference gives a precision and
    a recall; the best of each, even if they belong to different references, are combined.

    Args:
        predictions: ``(N,)`` texts, N >= 1.
        references: ``(N,)`` lists of at least one text.

    Returns:
        ROUGE-L in [0, 1].

    Source:
        Lin 2004 (ACL workshop), as in the COCO caption evaluation, Chen et al. 2015,
        arXiv:1504.00325.
    Differs:
        The words are those of ``ptb_words``, which are not the Java tokeniser's in rare cases.
        Not the ROUGE-L of summarisation, which takes one reference for both.
    """
    scores = [
        # A text without words counts as one empty word, as the scripts' split leaves it.
        _rouge_l_of(ptb_words(prediction) or [""], [ptb_words(text) or [""] for text in texts])
        for prediction, texts in zip(predictions, references, strict=True)
    ]
    return sum(scores) / len(scores)


def cider(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Mean over examples of COCO's CIDEr (the one its authors call CIDEr-D).

    N-grams of one to four words weigh by how few examples have them in their references; the
    score is 10 times the mean cosine with the references, with counts clipped and a penalty on
    unequal length.

    Args:
        predictions: ``(N,)`` texts, N >= 2: over one example every n-gram is everywhere, weighs
            nothing, and the score is 0.
        references: ``(N,)`` lists of at least one text.

    Returns:
        CIDEr in [0, 10]: no fraction.

    Source:
        Vedantam et al. 2015, arXiv:1411.5726, as in the COCO caption evaluation, Chen et al.
        2015, arXiv:1504.00325: lengths in the penalty are counted in word pairs, not in words.
    Differs:
        The words are those of ``ptb_words``, which are not the Java tokeniser's in rare cases.
    """
    counted = [
        (_gram_counts(prediction), [_gram_counts(text) for text in texts])
        for prediction, texts in zip(predictions, references, strict=True)
    ]
    examples_with = Counter(gram for _, texts in counted for gram in set().union(*texts))
    scores = []
    for prediction, texts in counted:
        vector = _Vector(prediction, examples_with, len(counted))
        alike = [vector.likeness(_Vector(text, examples_with, len(counted))) for text in texts]
        scores.append(_CIDER_SCALE * sum(alike) / len(alike))
    return sum(scores) / len(scores)


def _rouge_l_of(words: Sequence[str], accepted: Sequence[Sequence[str]]) -> float:
    shared = [_common_length(words, reference) for reference in accepted]
    if not any(shared):
        return 0.0
    precision = max(shared) / len(words)
    recall = max(n / len(text) for n, text in zip(shared, accepted, strict=True))
    return (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision)


def _common_length(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    above = [0] * (len(second) + 1)
    for word in first:
        row = [0]
        for column, other in enumerate(second):
            row.append(above[column] + 1 if word == other else max(above[column + 1], row[column]))
        above = row
    return above[-1]


def _gram_counts(text: str) -> Counter[Gram]:
    words = ptb_words(text)
    return Counter(
        tuple(words[i : i + order])
        for order in range(1, CIDER_ORDER + 1)
        for i in range(len(words) - order + 1)
    )


class _Vector:
    """The weights of a text's n-grams, by order, with the norm of each order."""

    def __init__(
        self, counts: Counter[Gram], examples_with: Mapping[Gram, int], examples: int
    ) -> None:
        self.weights: list[dict[Gram, float]] = [{} for _ in range(CIDER_ORDER)]
        for gram, count in counts.items():
            rarity = math.log(examples / max(examples_with[gram], 1))
            self.weights[len(gram) - 1][gram] = count * rarity
        self.norms = [math.hypot(*weights.values()) for weights in self.weights]
        self.pairs = sum(count for gram, count in counts.items() if len(gram) == 2)

    def likeness(self, reference: "_Vector") -> float:
        """Mean over orders of the clipped cosine, times the length penalty."""
        total = 0.0
        for order in range(CIDER_ORDER):
            theirs = reference.weights[order]
            norm = self.norms[order] * reference.norms[order]
            if norm:
                total += sum(
                    min(weight, theirs[gram]) * theirs[gram]
                    for gram, weight in self.weights[order].items()
                    if gram in theirs
                ) / norm  # fmt: skip
        penalty = math.exp(-((self.pairs - reference.pairs) ** 2) / (2 * _SIGMA_WORDS**2))
        return total / CIDER_ORDER * penalty
