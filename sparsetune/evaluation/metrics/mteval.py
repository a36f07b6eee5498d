"""BLEU and NIST as the E2E challenge's script gives them, in its Python variant of mteval-v13a.

Published E2E scores of the LoRA line of work and of DSEE come from that variant (``-p``).
Sacrebleu's BLEU, which keeps the case, is in ``generation_metrics.py``.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence

BLEU_ORDER = 4
NIST_ORDER = 5

_TINY_HITS, _SMALL_COUNT = 1e-15, 1e-9
_BETA = -math.log(0.5) / math.log(1.5) ** 2
"""Makes the NIST length penalty 1/2 where the output has 2/3 of the references' words."""

_ENTITIES = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))
_SYMBOL = re.compile(r"""([ !"#$%&()*+/:;<=>?@\[\\\]^_`{|}~])""")
_POINT_AFTER_OTHER = re.compile(r"([^0-9])([.,])")
_POINT_BEFORE_OTHER = re.compile(r"([.,])([^0-9])")
_DASH_AFTER_DIGIT = re.compile(r"([0-9])(-)")

Words = list[str]


def mteval_words(text: str) -> Words:
    """Lower-case a text and cut it into the words that mteval-v13a counts.

    Symbols stand alone; full stops and commas do unless digits surround them; a dash does after
    a digit only; apostrophes never do.

    Args:
        text: one sentence or more.

    Returns:
        The words; one empty word for a text without any, as the script has it.

    Source:
        mteval-v13a, default (not international) tokenisation.
    Differs:
        Nothing.

    Example:
        >>> mteval_words("It's £20-25 (3.5 of 5), family-friendly.")
        ["it's", '£20', '-', '25', '(', '3.5', 'of', '5', ')', ',', 'family-friendly', '.']
    """
    text = text.replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    for entity, character in _ENTITIES:
        text = text.replace(entity, character)
    text = _SYMBOL.sub(r" \1 ", f" {text} ")
    text = _POINT_AFTER_OTHER.sub(r"\1 \2 ", text)
    text = _POINT_BEFORE_OTHER.sub(r" \1 \2", text)
    text = _DASH_AFTER_DIGIT.sub(r"\1 \2 ", text)
    return text.lower().split() or [""]


def e2e_bleu(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Corpus BLEU of the E2E script: 4-grams, any case, closest reference length, no smoothing.

    Args:
        predictions: ``(N,)`` texts, N >= 1.
        references: ``(N,)`` lists of at least one text.

    Returns:
        BLEU in [0, 1]. A set without any matching n-gram of some order gets about 0 (its hits
        count as 1e-15), and outputs shorter than four words lower the n-gram counts of the
        others, so that a set with many of them can exceed 1: both as the script does.

    Source:
        Papineni et al. 2002 (ACL), in the variant of Novikova et al. 2017, arXiv:1706.09254:
        ``measure_scores.py -p``.
    Differs:
        Nothing. Without ``-p`` the script runs Perl, which smooths orders without a match and
        counts no n-grams below zero; all other sets score the same there.
    """
    totals = [sum(column) for column in zip(*bleu_counts(predictions, references), strict=True)]
    return bleu_of_counts(totals)


def bleu_counts(
    predictions: Sequence[str], references: Sequence[Sequence[str]]
) -> list[tuple[int, ...]]:
    """What each example adds to BLEU's corpus counts.

    Args:
        predictions: as for :func:`e2e_bleu`.
        references: likewise.

    Returns:
        For each example the n-grams found, by order, the n-grams there, and the length of the
        closest reference.
    """
    rows = []
    orders = range(1, BLEU_ORDER + 1)
    for words, accepted in _word_lists(predictions, references):
        found = [sum(_hits(words, accepted, order).values()) for order in orders]
        there = [len(words) - order + 1 for order in orders]
        closest = min(map(len, accepted), key=lambda n: (abs(n - len(words)), n))
        rows.append((*found, *there, closest))
    return rows


def bleu_of_counts(totals: Sequence[float]) -> float:
    """BLEU from the sums of :func:`bleu_counts` over a corpus."""
    hits, counts = totals[:BLEU_ORDER], totals[BLEU_ORDER:-1]
    logs = [
        math.log(max(hit, _TINY_HITS) / max(count, _SMALL_COUNT))
        for hit, count in zip(hits, counts, strict=True)
    ]
    brevity = min(0.0, 1 - totals[-1] / counts[0])
    return math.exp(brevity + sum(logs) / BLEU_ORDER)


def e2e_nist(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Corpus NIST of the E2E script: rare n-grams, up to five words, weigh more.

    An n-gram is worth ``log2(count of its beginning / its own count)`` in all references, where
    the beginning of a single word is any word. The score is the worth of all matches divided by
    the number of n-grams, summed over orders, times a length penalty against the mean reference.

    Args:
        predictions: ``(N,)`` texts, N >= 1.
        references: ``(N,)`` lists of at least one text.

    Returns:
        NIST, >= 0, in bits: no fraction, and without a fixed upper end.

    Source:
        Doddington 2002 (HLT), in the variant of Novikova et al. 2017, arXiv:1706.09254:
        ``measure_scores.py -p``.
    Differs:
        An order without any n-gram adds 0, where the script divides by zero. Without ``-p`` the
        script runs Perl, whose penalty averages the references' lengths over all of them
        together: other values where their number varies and the output is short.
    """
    lists = list(_word_lists(predictions, references))
    known = Counter(
        gram
        for _, accepted in lists
        for words in accepted
        for order in range(1, NIST_ORDER + 1)
        for gram in _grams(words, order)
    )
    known[()] = sum(len(words) for _, accepted in lists for words in accepted)
    score = 0.0
    for order in range(1, NIST_ORDER + 1):
        worth = sum(
            count * math.log2(known[gram[:-1]] / known[gram])
            for words, accepted in lists
            for gram, count in _hits(words, accepted, order).items()
        )
        score += worth / (sum(len(words) - order + 1 for words, _ in lists) or 1)
    mean_length = sum(sum(map(len, accepted)) / len(accepted) for _, accepted in lists)
    return score * _nist_penalty(sum(len(words) for words, _ in lists) / mean_length)


def _nist_penalty(ratio: float) -> float:
    return 1.0 if ratio >= 1 else math.exp(-_BETA * math.log(ratio) ** 2)


def _word_lists(
    predictions: Sequence[str], references: Sequence[Sequence[str]]
) -> list[tuple[Words, list[Words]]]:
    return [
        (mteval_words(prediction), [mteval_words(text) for text in texts])
        for prediction, texts in zip(predictions, references, strict=True)
    ]


def _grams(words: Words, order: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + order]) for i in range(len(words) - order + 1)]


def _hits(words: Words, accepted: list[Words], order: int) -> Counter[tuple[str, ...]]:
    """Count n-grams of the words, each at most as often as in the reference richest in it."""
    most: Counter[tuple[str, ...]] = Counter()
    for reference in accepted:
        most |= Counter(_grams(reference, order))
    return Counter(_grams(words, order)) & most
