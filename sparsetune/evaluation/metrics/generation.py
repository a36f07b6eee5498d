"""Metrics of texts: sacrebleu's BLEU, TER and chrF, and the E2E challenge's BLEU and NIST.

Two variants of a metric have two names, and none stands in for another: each says which it is.
E2E's are the Python variant of mteval-v13a (``-p``), from which the published E2E scores of the
LoRA line of work and of DSEE come; no library has it. The captions' metrics are in ``coco.py``.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from sparsetune.evaluation.metrics.registry import Form, Measure, Outcome, metric

BLEU_ORDER = 4
NIST_ORDER = 5

_E2E_NOTE = "as E2E's measure_scores.py -p: any case, mteval-v13a words"
_TINY_HITS, _SMALL_COUNT = 1e-15, 1e-9
_BETA = -math.log(0.5) / math.log(1.5) ** 2
"""Makes the NIST length penalty 1/2 where the output has 2/3 of the references' words."""

_ENTITIES = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))
_SYMBOL = re.compile(r"""([ !"#$%&()*+/:;<=>?@\[\\\]^_`{|}~])""")
_POINT_AFTER_OTHER = re.compile(r"([^0-9])([.,])")
_POINT_BEFORE_OTHER = re.compile(r"([.,])([^0-9])")
_DASH_AFTER_DIGIT = re.compile(r"([0-9])(-)")

Words = list[str]
Texts = Sequence[str]
Accepted = Sequence[Sequence[str]]


def _sacrebleu(name: str) -> Measure:
    """One of sacrebleu's metrics, with its signature as note."""

    def measure(predictions: Texts, references: Accepted) -> Outcome:
        from sacrebleu import metrics

        # Sacrebleu takes the first references of all examples, then the second ones, ...; an
        # example that has fewer is padded with None.
        most = max(len(texts) for texts in references)
        streams = [[t[i] if i < len(t) else None for t in references] for i in range(most)]
        scorer = getattr(metrics, name)(references=streams)
        value = scorer.corpus_score(list(predictions), None).score / 100
        return Outcome(value, f"sacrebleu {scorer.get_signature().format()}")

    return measure


def _bleu_form(predictions: Texts, references: Accepted) -> Form:
    from sacrebleu.metrics import BLEU

    scorer = BLEU()
    orders = scorer.max_ngram_order
    # Of each example alone sacrebleu tells the counts that it would add up over the corpus.
    alone = [
        scorer.corpus_score([prediction], [[text] for text in texts])
        for prediction, texts in zip(predictions, references, strict=True)
    ]
    cells = np.array([[*one.counts, *one.totals, one.sys_len, one.ref_len] for one in alone])

    def value(row: list[float]) -> float:
        *grams, said, accepted = (round(cell) for cell in row)
        found, there, smooth = grams[:orders], grams[orders:], scorer.smooth_method
        return scorer.compute_bleu(found, there, said, accepted, smooth).score / 100

    return _row_by_row(value, cells)


def _row_by_row(value: Callable[[list[float]], float], cells: np.ndarray) -> Form:
    """Form of a metric that is a function of sums over the examples."""
    return lambda counts: np.array([value(row) for row in (counts @ cells).tolist()])


metric("bleu_fraction", form=_bleu_form)(_sacrebleu("BLEU"))
metric("ter_fraction")(_sacrebleu("TER"))
metric("chrf_fraction")(_sacrebleu("CHRF"))


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


def _e2e_bleu_form(predictions: Texts, references: Accepted) -> Form:
    return _row_by_row(_bleu_of_counts, np.array(_bleu_counts(predictions, references), float))


@metric("e2e_bleu_fraction", form=_e2e_bleu_form)
def e2e_bleu(predictions: Texts, references: Accepted) -> Outcome:
    """Corpus BLEU of the E2E script: 4-grams, any case, closest reference length, no smoothing.

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
    counts = _bleu_counts(predictions, references)
    totals = [sum(column) for column in zip(*counts, strict=True)]
    return Outcome(_bleu_of_counts(totals), _E2E_NOTE)


@metric("e2e_nist_score")
def e2e_nist(predictions: Texts, references: Accepted) -> Outcome:
    """Corpus NIST of the E2E script: rare n-grams, up to five words, weigh more.

    An n-gram is worth ``log2(count of its beginning / its own count)`` in all references, where
    the beginning of a single word is any word. The score is the worth of all matches divided by
    the number of n-grams, summed over orders, times a length penalty against the mean reference.

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
    lists = _word_lists(predictions, references)
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
    ratio = sum(len(words) for words, _ in lists) / mean_length
    penalty = 1.0 if ratio >= 1 else math.exp(-_BETA * math.log(ratio) ** 2)
    return Outcome(score * penalty, _E2E_NOTE)


def _bleu_counts(predictions: Texts, references: Accepted) -> list[tuple[int, ...]]:
    """Of each example n-grams found, n-grams there, by order, and the closest length."""
    rows = []
    orders = range(1, BLEU_ORDER + 1)
    for words, accepted in _word_lists(predictions, references):
        found = [sum(_hits(words, accepted, order).values()) for order in orders]
        there = [len(words) - order + 1 for order in orders]
        closest = min(map(len, accepted), key=lambda n: (abs(n - len(words)), n))
        rows.append((*found, *there, closest))
    return rows


def _bleu_of_counts(totals: Sequence[float]) -> float:
    """BLEU from the sums of ``_bleu_counts`` over a corpus."""
    hits, counts = totals[:BLEU_ORDER], totals[BLEU_ORDER:-1]
    logs = [
        math.log(max(hit, _TINY_HITS) / max(count, _SMALL_COUNT))
        for hit, count in zip(hits, counts, strict=True)
    ]
    brevity = min(0.0, 1 - totals[-1] / counts[0])
    return math.exp(brevity + sum(logs) / BLEU_ORDER)


def _word_lists(predictions: Texts, references: Accepted) -> list[tuple[Words, list[Words]]]:
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
