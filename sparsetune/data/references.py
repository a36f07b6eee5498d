"""References of data-to-text examples: one by one to train on, grouped where scores are made."""

import itertools
from collections.abc import Hashable, Iterable
from typing import Literal

from sparsetune.data.published import GenerationExample


def group_references(
    rows: Iterable[tuple[Hashable, str, str]], split: Literal["train", "evaluation"], *, stem: str
) -> list[GenerationExample]:
    """Make examples of rows that each have one reference.

    Args:
        rows: (key, source, reference) in file order; rows of one input share its key.
        split: ``train`` gives one example a row; ``evaluation`` makes the references of
            consecutive rows with one key those of one example, in file order, repetitions kept.
        stem: begins the examples' ids.

    Returns:
        Examples in file order; the source is that of the key's first row.

    Source:
        Novikova et al. 2017, arXiv:1706.09254 and its scorer: consecutive instances of one input.
    Differs:
        Nothing. A key that comes back after another one starts a new example.

    Example:
        >>> rows = [(1, "a", "One."), (1, "a", "Two."), (2, "b", "Three.")]
        >>> [example.references for example in group_references(rows, "evaluation", stem="dev")]
        [('One.', 'Two.'), ('Three.',)]
    """
    if split == "train":
        grouped = [(source, (reference,)) for _, source, reference in rows]
    else:
        grouped = [
            (group[0][1], tuple(reference for _, _, reference in group))
            for _, grouper in itertools.groupby(rows, key=lambda row: row[0])
            for group in [list(grouper)]
        ]
    return [
        GenerationExample(f"{stem}-{number}", source, references)
        for number, (source, references) in enumerate(grouped)
    ]
