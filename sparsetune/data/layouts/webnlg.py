"""WebNLG 2017: the challenge's JSON files (plain or gzip), evaluated on all entries or a part.

The data set's hub repository holds a loading script and no files that this layout reads. How
triples are written out is told here, for DART as well.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sparsetune.config.load import Task
from sparsetune.data.examples import Split
from sparsetune.data.published import find_files, placed, read_json, text_of
from sparsetune.errors import DataError, shown

_TRIPLE = ("subject", "property", "object")


def forms(task: Task, directory: Path) -> dict[str, tuple[list[str], None]]:
    """Files of each split; there is no parquet."""
    del task, directory
    return {stem: ([f"{stem}.json"], None) for stem in ("train", "dev", "test")}


def rows(path: Path, task: Task, split: Split) -> Iterator[tuple[str, str, list[str]]]:
    """Entries: all, or those whose category ``train.json`` beside the file has or lacks.

    Source:
        Gardent et al. 2017, WebNLG challenge; sources are the modified triples, linearisation and
        categories as in LoRA (Hu et al. 2021, arXiv:2106.09685).
    Differs:
        All published references are kept. LoRA leaves out those commented ``toFix``: 77 of
        18,102 in train, 10 of 2,268 in dev, none in test.
    """
    entries = list(_entries(path))
    if split == "evaluation" and task.evaluation_part in ("seen", "unseen"):
        (train,) = find_files(path.parent, ["train.json"])
        seen = {category for _, category, _, _ in _entries(train)}
        wanted = task.evaluation_part == "seen"
        entries = [entry for entry in entries if (entry[1] in seen) == wanted]
        if not entries:
            raise DataError(
                f"{path}: no entry has a category that is {task.evaluation_part} in train's file"
            )
    for where, _, source, references in entries:
        yield where, source, references


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
    if not isinstance(fields, list) or [type(one) for one in fields] != [str] * len(_TRIPLE):
        need = f"three texts ({', '.join(_TRIPLE)})"
        raise ValueError(f"received triple {shown(fields)}, need {need}")
    return fields[0], fields[1], fields[2]


def _entries(path: Path) -> Iterator[tuple[str, str, str, list[str]]]:
    """Place, category, source and references of each entry."""
    document = read_json(path)
    entries = document.get("entries") if isinstance(document, dict) else None
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{path}: entries: received {shown(entries)}, need a list with entries")
    for number, holder in enumerate(entries, start=1):
        with placed(path, f"entry {number}"):
            category, triples, texts = _parts(holder, str(number))
            source = linearise([triple_of(_fields(one)) for one in triples])
            references = [_reference(one) for one in texts]
        yield f"{path}: entry {number}", category, source, references


def _parts(holder: Any, number: str) -> tuple[str, list[Any], list[Any]]:
    if not isinstance(holder, dict) or list(holder) != [number]:
        received = list(holder) if isinstance(holder, dict) else holder
        raise ValueError(f"received {shown(received)}, need one object with the key {number!r}")
    entry, keys = holder[number], ("category", "modifiedtripleset", "lexicalisations")
    for key in keys:
        if not isinstance(entry, dict) or key not in entry:
            raise ValueError(f"lacks {key!r}; need {', '.join(keys)}")
        if key != keys[0] and not (isinstance(entry[key], list) and entry[key]):
            raise ValueError(f"{key}: received {shown(entry[key])}, need a list that is not empty")
    category, triples, texts = (entry[key] for key in keys)
    return text_of(category, "category", filled=True), triples, texts


def _fields(triple: Any) -> Any:
    return [triple.get(key) for key in _TRIPLE] if isinstance(triple, dict) else None


def _reference(value: Any) -> str:
    return text_of(value.get("lex") if isinstance(value, dict) else None, "lex", filled=True)
