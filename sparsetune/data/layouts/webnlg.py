"""WebNLG 2017: the challenge's JSON files (plain or gzip), evaluated on all entries or a part.

The data set's hub repository holds a loading script and no files that this layout reads.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sparsetune.data.published import GenerationExample, find_files, read_json_file
from sparsetune.data.references import group_references
from sparsetune.data.triples import FIELDS, linearise, triple_of
from sparsetune.errors import DataError, shown

Split = Literal["train", "evaluation"]

_SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class _Entry:
    category: str
    source: str
    references: tuple[str, ...]


def files(directory: Path, task: Any, split: Split) -> list[Path]:
    """Files that hold one split of WebNLG 2017.

    Args:
        directory: folder in the published layout.
        task: catalogue entry; ``evaluation_split`` is read.
        split: which half.

    Returns:
        One file.

    Raises:
        DataError: the file is missing, or the split was never published.
    """
    stem = "train" if split == "train" else task.evaluation_split
    if stem not in _SPLITS:
        raise DataError(
            f"{directory}: WebNLG 2017 has no split {stem!r}; allowed: {', '.join(_SPLITS)}"
        )
    return find_files(directory, [f"{stem}.json"])


def read(directory: Path, task: Any, split: Split) -> list[GenerationExample]:
    """Examples of one split, in file order.

    Args:
        directory: folder in the published layout.
        task: catalogue entry; ``evaluation_split`` and ``evaluation_part`` are read: ``all``
            (or None), or the entries whose category is ``seen`` or ``unseen`` in train's file.
        split: ``train`` gives one example a reference, ``evaluation`` one an entry.

    Returns:
        Sources of the modified triples as :func:`sparsetune.data.triples.linearise` writes them.

    Raises:
        DataError: missing or damaged file, a bad entry, or a part without entries.

    Source:
        Gardent et al. 2017, WebNLG challenge; linearisation and categories as in LoRA
        (Hu et al. 2021, arXiv:2106.09685).
    Differs:
        All published references are kept. LoRA leaves out those commented ``toFix``: 77 of
        18,102 in train, 10 of 2,268 in dev, none in test.
    """
    stem = "train" if split == "train" else task.evaluation_split
    (path,) = files(directory, task, split)
    entries = _entries(path)
    if split == "evaluation" and task.evaluation_part in ("seen", "unseen"):
        seen = {entry.category for entry in _entries(files(directory, task, "train")[0])}
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
    return group_references(rows, split, stem=stem)


def _entries(path: Path) -> list[_Entry]:
    document = read_json_file(path)
    entries = document.get("entries") if isinstance(document, dict) else None
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{path}: entries: got {shown(entries)}, need a list with entries")
    return list(_checked(path, entries))


def _checked(path: Path, entries: list[Any]) -> Iterator[_Entry]:
    for number, holder in enumerate(entries, start=1):
        where = f"{path}: entry {number}"
        if not isinstance(holder, dict) or list(holder) != [str(number)]:
            got = list(holder) if isinstance(holder, dict) else holder
            raise DataError(f"{where}: got {shown(got)}, need one object with the key '{number}'")
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
        raise ValueError(f"category: got {shown(category)}, need a text")
    if not isinstance(triples, list) or not triples:
        raise ValueError(f"modifiedtripleset: got {shown(triples)}, need a list with triples")
    if not isinstance(texts, list) or not texts:
        raise ValueError(f"lexicalisations: got {shown(texts)}, need a list with texts")
    return _Entry(
        category, linearise([_triple(one) for one in triples]), tuple(_text(one) for one in texts)
    )


def _triple(value: Any) -> tuple[str, str, str]:
    missing = [key for key in FIELDS if not isinstance(value, dict) or key not in value]
    if missing:
        raise ValueError(f"got triple {shown(value)}, which lacks {missing[0]!r}")
    return triple_of([value[key] for key in FIELDS])


def _text(value: Any) -> str:
    text = value.get("lex") if isinstance(value, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"lexicalisations: got lex {shown(text)}, need a text")
    return text.strip()
