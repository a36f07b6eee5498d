"""DART v1.1.1: the published JSON files (plain or gzip), or the hub's parquet."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sparsetune.config.load import Task
from sparsetune.data.examples import GenerationExample, Split
from sparsetune.data.layouts.webnlg import linearise, triple_of
from sparsetune.data.published import group_references, read_json_file, read_parquet, stem_of
from sparsetune.errors import DataError, shown

_HUB_SPLITS = {"train": "train", "dev": "validation", "test": "test"}
_COLUMNS = ("tripleset", "annotations")


def forms(task: Task, directory: Path) -> dict[str, tuple[list[str], str]]:
    """Split -> accepted file names and name of the parquet split."""
    del task, directory
    return {stem: ([f"dart-v1.1.1-full-{stem}.json"], hub) for stem, hub in _HUB_SPLITS.items()}


def read(paths: Sequence[Path], task: Task, split: Split) -> list[GenerationExample]:
    """Read the examples of one split, in file order.

    Args:
        paths: files of the split.
        task: catalogue entry; ``evaluation_split`` is read.
        split: ``train`` gives one example a text, ``evaluation`` one an entry.

    Returns:
        Sources as :func:`sparsetune.data.layouts.webnlg.linearise` writes them, relations in lower
        case. Entries without annotations, which the published files may have, give no example.

    Raises:
        DataError: damaged file, a bad entry, or no text in the whole split.

    Source:
        Nan et al. 2021, arXiv:2007.02871, version 1.1.1; linearisation as in LoRA (Hu et al.
        2021, arXiv:2106.09685).
    Differs:
        Nothing.
    """
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
    return group_references(rows, split, stem=stem_of(task, split))


def _entries(path: Path) -> Iterator[tuple[str, Any, Any]]:
    if path.suffix == ".parquet":
        for row, (triples, annotations) in read_parquet(path, _COLUMNS):
            yield f"row {row}", triples, annotations
        return
    entries = read_json_file(path)
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{path}: received {shown(entries)}, need a list with entries")
    for number, entry in enumerate(entries, start=1):
        missing = [key for key in _COLUMNS if not isinstance(entry, dict) or key not in entry]
        if missing:
            raise DataError(
                f"{path}: entry {number}: lacks {missing[0]!r}; need {', '.join(_COLUMNS)}"
            )
        yield f"entry {number}", entry["tripleset"], entry["annotations"]


def _source(triples: Any) -> str:
    if not isinstance(triples, list) or not triples:
        raise ValueError(f"tripleset: received {shown(triples)}, need a list with triples")
    checked = [triple_of(triple) for triple in triples]
    return linearise([(subject, relation.lower(), end) for subject, relation, end in checked])


def _texts(annotations: Any) -> list[str]:
    # Parquet keeps a list of objects as an object of lists.
    if isinstance(annotations, dict):
        texts = annotations.get("text")
    elif isinstance(annotations, list):
        texts = [one.get("text") if isinstance(one, dict) else None for one in annotations]
    else:
        texts = None
    if not isinstance(texts, list):
        raise ValueError(f"annotations: received {shown(annotations)}, need a list with texts")
    for text in texts:
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"annotations: received text {shown(text)}, need a text")
    return [text.strip() for text in texts]
