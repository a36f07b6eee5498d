"""DART v1.1.1: the published JSON files (plain or gzip), or the hub's parquet."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sparsetune.config.load import Task
from sparsetune.data.examples import Split
from sparsetune.data.layouts.webnlg import linearise, triple_of
from sparsetune.data.published import placed, read_rows, text_of
from sparsetune.errors import shown

_HUB_SPLITS = {"train": "train", "dev": "validation", "test": "test"}


def forms(task: Task, directory: Path) -> dict[str, tuple[list[str], str]]:
    """Files of each split."""
    del task, directory
    return {stem: ([f"dart-v1.1.1-full-{stem}.json"], hub) for stem, hub in _HUB_SPLITS.items()}


def rows(path: Path, task: Task, split: Split) -> Iterator[tuple[str, str, list[str]]]:
    """Entries; those without annotations, which the published files may have, give no example.

    Source:
        Nan et al. 2021, arXiv:2007.02871, version 1.1.1; linearisation, with relations in lower
        case, as in LoRA (Hu et al. 2021, arXiv:2106.09685).
    Differs:
        Nothing.
    """
    del task, split
    for where, (triples, annotations) in read_rows(path, ("tripleset", "annotations")):
        with placed(path, where):
            source, texts = _source(triples), _texts(annotations)
        yield f"{path}: {where}", source, texts


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
    return [text_of(text, "annotations", filled=True) for text in texts]
