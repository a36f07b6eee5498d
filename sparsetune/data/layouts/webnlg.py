"""WebNLG 2017: the challenge's JSON files (plain or gzip), evaluated on all entries or a part.

The data set's hub repository holds a loading script and no files that this layout reads. How
triples are written out is told here, for DART as well.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsetune.config.load import Task
from sparsetune.data.examples import GenerationExample, Split
from sparsetune.data.published import find_files, group_references, read_json_file, stem_of
from sparsetune.errors import DataError, shown

_TRIPLE = ("subject", "property", "object")


@dataclass(frozen=True)
class _Entry:
    category: str
    source: str
    references: tuple[str, ...]


def forms(task: Task, directory: Path) -> dict[str, tuple[list[str], None]]:
    """Split -> accepted file names; there is no parquet."""
    del task, directory
    return {stem: ([f"{stem}.json"], None) for stem in ("train", "dev", "test")}


def read(paths: Sequence[Path], task: Task, split: Split) -> list[GenerationExample]:
    """Read the examples of one split, in file order.

    Args:
        paths: the file of the split; train's lies beside it.
        task: catalogue entry; ``evaluation_split`` and ``evaluation_part`` are read: ``all``
            (or None), or the entries whose category is ``seen`` or ``unseen`` in train's file.
        split: ``train`` gives one example a reference, ``evaluation`` one an entry.

    Returns:
        Sources of the modified triples as :func:`linearise` writes them.

    Raises:
        DataError: missing or damaged file, a bad entry, or a part without entries.

    Source:
        Gardent et al. 2017, WebNLG challenge; linearisation and categories as in LoRA
        (Hu et al. 2021, arXiv:2106.09685).
    Differs:
        All published references are kept. LoRA leaves out those commented ``toFix``: 77 of
        18,102 in train, 10 of 2,268 in dev, none in test.
    """
    (path,) = paths
    entries = _entries(path)
    if split == "evaluation" and task.evaluation_part in ("seen", "unseen"):
        (train,) = find_files(path.parent, ["train.json"])
        seen = {entry.category for entry in _entries(train)}
        wanted = task.evaluation_part == "seen"
        entries = [entry for entry in entries if (entry.category in seen) == wanted]
        if not entries:
            raise DataError(
                f"{path}: no entry has a category that is {task.evaluation_part} in train's file"
            )
    rows = (
        (number, entry.source, reference)
        for number, entry in enumerate(entries)
        for reference in entry.references
    )
    return group_references(rows, split, stem=stem_of(task, split))


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


def triple_of(fields: Any) -> tuple[str, str, str]:
    """Check that a triple is a list of three texts.

    Args:
        fields: subject, property and object as read.

    Raises:
        ValueError: it is not.
    """
    if not (
        isinstance(fields, list)
        and len(fields) == len(_TRIPLE)
        and all(isinstance(field, str) for field in fields)
    ):
        need = f"three texts ({', '.join(_TRIPLE)})"
        raise ValueError(f"received triple {shown(fields)}, need {need}")
    return fields[0], fields[1], fields[2]


def _entries(path: Path) -> list[_Entry]:
    document = read_json_file(path)
    entries = document.get("entries") if isinstance(document, dict) else None
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{path}: entries: received {shown(entries)}, need a list with entries")
    return list(_checked(path, entries))


def _checked(path: Path, entries: list[Any]) -> Iterator[_Entry]:
    for number, holder in enumerate(entries, start=1):
        where = f"{path}: entry {number}"
        if not isinstance(holder, dict) or list(holder) != [str(number)]:
            received = list(holder) if isinstance(holder, dict) else holder
            raise DataError(
                f"{where}: received {shown(received)}, need one object with the key '{number}'"
            )
        try:
            yield _entry(holder[str(number)])
        except ValueError as error:
            raise DataError(f"{where}: {error}") from None


def _entry(value: Any) -> _Entry:
    keys = ("category", "modifiedtripleset", "lexicalisations")
    missing = [key for key in keys if not isinstance(value, dict) or key not in value]
    if missing:
        raise ValueError(f"lacks {missing[0]!r}; need {', '.join(keys)}")
    category, triples, texts = (value[key] for key in keys)
    if not isinstance(category, str) or not category:
        raise ValueError(f"category: received {shown(category)}, need a text")
    if not isinstance(triples, list) or not triples:
        raise ValueError(f"modifiedtripleset: received {shown(triples)}, need a list with triples")
    if not isinstance(texts, list) or not texts:
        raise ValueError(f"lexicalisations: received {shown(texts)}, need a list with texts")
    source = linearise([_triple(one) for one in triples])
    return _Entry(category, source, tuple(_text(one) for one in texts))


def _triple(value: Any) -> tuple[str, str, str]:
    missing = [key for key in _TRIPLE if not isinstance(value, dict) or key not in value]
    if missing:
        raise ValueError(f"received triple {shown(value)}, which lacks {missing[0]!r}")
    return triple_of([value[key] for key in _TRIPLE])


def _text(value: Any) -> str:
    text = value.get("lex") if isinstance(value, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"lexicalisations: received lex {shown(text)}, need a text")
    return text.strip()
