"""Word vectors from co-occurrence counts: where a small backbone's pre-training starts.

A budget of a minute is too short for a model of random weights to discover by gradient which words
belong together; counting tells it at once, and masked language modelling goes on from there.
"""

from collections.abc import Collection, Sequence

import numpy as np


def cooccurrence_embeddings(
    documents: Sequence[Sequence[int]],
    *,
    vocabulary_size: int,
    width: int,
    skipped: Collection[int],
) -> np.ndarray:
    """Factorise how much more often than by chance two tokens stand in one document.

    Args:
        documents: token ids of each document.
        vocabulary_size: V, above every id.
        width: D, at most V.
        skipped: special tokens, which stand in every document and say nothing.

    Returns:
        float32, ``(V, D)``: rows of length 1 (0 for tokens that are skipped or alone), from the
        largest singular values of the positive pointwise mutual information. The sign of each
        dimension is fixed by its largest entry.

    Source:
        Levy and Goldberg 2014, "Neural word embedding as implicit matrix factorization",
        section 5 (shifted PPMI by SVD, symmetric: each side gets the square root of the values).
    Differs:
        The window is the document, and each pair counts once in it; no shift.
    """
    present = np.zeros((len(documents), vocabulary_size), dtype=np.float32)
    for row, document in enumerate(documents):
        present[row, list(document)] = 1.0
    present[:, sorted(skipped)] = 0.0
    together = present.T @ present
    np.fill_diagonal(together, 0.0)
    each = together.sum(axis=1)
    expected = np.outer(each, each) / max(each.sum(), 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        information = np.where(together > 0, np.log(together / expected), 0.0)
    left, values, _ = np.linalg.svd(np.maximum(information, 0.0))
    vectors = left[:, :width] * np.sqrt(values[:width])
    vectors *= np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(width)])
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 1e-6)
    vectors[each == 0] = 0.0
    return vectors.astype(np.float32)
