"""DART v1.1.1: the published JSON files (plain or gzip), or the hub's parquet."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from sparsetune.data.published import GenerationExample, find_files, read_json_file, read_parquet
from sparsetune.data.references import group_references
from sparsetune.data.triples import linearise, triple_of
from sparsetune.errors import DataError, shown

Split = Literal["train", "evaluation"]

_PARQUET_SPLITS = {"train": "train", "dev": "validation", "test": "test"}
_COLUMNS = ("tripleset", "annotations")


def files(directory: Path, task: Any, split: Split) -> list[Path]:
    """Files that hold one split of DART.

    Args:
        directory: folder in the published layout.
        task: catalogue entry; ``evaluation_split`` is read.
        split: which half.

    Returns:
        One file, or all parquet shards in order.

    Raises:
        DataError: the file is missing, or the split was never published.
    """
    stem = "train" if split == "train" else task.evaluation_split
    if stem not in _PARQUET_SPLITS:
        allowed = ", ".join(_PARQUET_SPLITS)
        raise DataError(f"{directory}: DART has no split {stem!r}; allowed: {allowed}")
    return find_files(directory, [f"dart-v1.1.1-full-{stem}.json"], _PARQUET_SPLITS[stem])


def read(directory: Path, task: Any, split: Split) -> list[GenerationExample]:
    """Examples of one split, in file order.

    Args:
        directory: folder in the published layout.
        task: catalogue entry; ``evaluation_split`` is read.
        split: ``train`` gives one example a text, ``evaluation`` one an entry.

    Returns:
        Sources as :func:`sparsetune.data.triples.linearise` writes them, relations in lower case.
        Entries without annotations, which the published files may have, give no example.

    Raises:
        DataError: missing or damaged file, a bad entry, or no text in the whole split.

    Source:
        Nan et al. 2021, arXiv:2007.02871, version 1.1.1; linearisation as in LoRA (Hu et al.
        2021, arXiv:2106.09685).
    Differs:
        Nothing.
    """
    stem = "train" if split == "train" else task.evaluation_split
    paths = files(directory, task, split)
    rows = []
    for path in paths:
        for where, triples, annotations in _entries(path):
            try:
                source, texts = _source(triples), _texts(annotations)
            except ValueError as error:
                raise DataError(f"{path}: {where}: {error}") from None
            rows += [((path, where), source, text) for text in texts]
    if not rows:
        raise DataError(f"{paths[0]}: no entry has a text")
    return group_references(rows, split, stem=stem)


def _entries(path: Path) -> Iterator[tuple[str, Any, Any]]:
    if path.suffix == ".parquet":
        for row, (triples, annotations) in enumerate(read_parquet(path, _COLUMNS), start=1):
            yield f"row {row}", triples, annotations
        return
    entries = read_json_file(path)
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{path}: got {shown(entries)}, need a list with entries")
    for number, entry in enumerate(entries, start=1):
        missing = [key for key in _COLUMNS if not isinstance(entry, dict) or key not in entry]
        if missing:
            raise DataError(
                f"{path}: entry {number}: lacks {missing[0]!r}; need {', '.join(_COLUMNS)}"
            )
        yield f"entry {number}", entry["tripleset"], entry["annotations"]


def _source(triples: Any) -> str:
    if not isinstance(triples, list) or not triples:
        raise ValueError(f"tripleset: got {shown(triples)}, need a list with triples")
    checked = [triple_of(triple) for triple in triples]
    return linearise([(subject, relation.lower(), end) for subject, relation, end in checked])


def _texts(annotations: Any) -> Sequence[str]:
    # Parquet keeps a list of objects as an object of lists.
    if isinstance(annotations, dict):
        texts = annotations.get("text")
    elif isinstance(annotations, list):
        texts = [one.get("text") if isinstance(one, dict) else None for one in annotations]
    else:
        texts = None
    if not isinstance(texts, list):
        raise ValueError(f"annotations: got {shown(annotations)}, need a list with texts")
    for text in texts:
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"annotations: got text {shown(text)}, need a text")
    return [text.strip() for text in texts]
