"""Sets of (subject, property, object) triples, written out as one line of text."""

from collections.abc import Sequence
from typing import Any

from sparsetune.errors import shown

FIELDS = ("subject", "property", "object")


def linearise(triples: Sequence[tuple[str, str, str]]) -> str:
    """Write triples as ``subject : property : object | subject : property : object``.

    Args:
        triples: at least one, in published order.

    Returns:
        One line; names stay as published, underscores and quotes included.

    Source:
        The preparation of WebNLG and DART in the LoRA repository (Hu et al. 2021,
        arXiv:2106.09685; examples/NLG at commit c4593f060e6a).
    Differs:
        Nothing.

    Example:
        >>> linearise([("Ada", "home", "Oslo"), ("Oslo", "country", "Norway")])
        'Ada : home : Oslo | Oslo : country : Norway'
    """
    return " | ".join(" : ".join(triple) for triple in triples)


def triple_of(fields: Sequence[Any]) -> tuple[str, str, str]:
    """Check that a triple has three texts.

    Args:
        fields: subject, property and object as read.

    Returns:
        The three.

    Raises:
        ValueError: another number of fields, or one that is not a text.
    """
    if isinstance(fields, str) or not isinstance(fields, Sequence) or len(fields) != len(FIELDS):
        raise ValueError(f"got triple {shown(fields)}, need three texts ({', '.join(FIELDS)})")
    if not all(isinstance(field, str) for field in fields):
        raise ValueError(f"got triple {shown(fields)}, need three texts ({', '.join(FIELDS)})")
    return fields[0], fields[1], fields[2]
