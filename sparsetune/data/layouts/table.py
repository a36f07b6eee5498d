"""Any other data set: its task file says which columns hold what, and which file which split."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from sparsetune.data.layouts.squad import answers_of, checked_questions
from sparsetune.data.published import Example, SpanExample, TextExample
from sparsetune.data.references import group_references
from sparsetune.data.tabular import find_table, read_rows
from sparsetune.errors import DataError, shown

Split = Literal["train", "evaluation"]


def files(directory: Path, task: Any, split: Split) -> list[Path]:
    """Files that hold one split.

    Args:
        directory: folder that holds the tables.
        task: catalogue entry; ``evaluation_split`` and ``splits`` are read.
        split: which half.

    Returns:
        One file, or all parquet shards in order.

    Raises:
        DataError: nothing of an accepted name is there.
    """
    return find_table(directory, task.splits[_stem(task, split)])


def read(directory: Path, task: Any, split: Split) -> list[Example]:
    """Examples of one split, in file order.

    Args:
        directory: folder that holds the tables.
        task: catalogue entry; ``kind``, ``columns``, ``splits``, ``labels`` and
            ``evaluation_split`` are read.
        split: which half.

    Returns:
        What the kind needs. A class is found by its label's text or by its number from 0 (where
        labels are numbers themselves, by text only); a list of source texts is joined by `` | ``;
        consecutive rows with one source are the references of one example.

    Raises:
        DataError: missing or damaged file, or a bad row.
    """
    stem = _stem(task, split)
    columns = task.columns
    if task.kind == "span":
        names = [columns["question"], columns["context"], columns["answers"]]
        return _spans(_rows(directory, task, split, names=[*names, *_id_column(columns)]), stem)
    if task.kind == "generation":
        rows = _rows(directory, task, split, names=[columns["source"], columns["references"]])
        return group_references(_pairs(rows), split, stem=stem)
    rows = _rows(directory, task, split, names=[*columns["texts"], columns["label"]])
    convert = _score if task.kind == "regression" else _class_number(task.labels)
    return list(_texts(rows, columns["label"], stem, convert=convert))


_Row = tuple[Path, int, tuple[Any, ...]]


def _stem(task: Any, split: Split) -> str:
    return "train" if split == "train" else task.evaluation_split


def _id_column(columns: Any) -> list[str]:
    return [columns["id"]] if "id" in columns else []


def _rows(directory: Path, task: Any, split: Split, *, names: Sequence[str]) -> Iterator[_Row]:
    for path in files(directory, task, split):
        for row, values in read_rows(path, names):
            yield path, row, values


def _texts(
    rows: Iterator[_Row], label_column: str, stem: str, *, convert: Callable[[Any], int | float]
) -> Iterator[TextExample]:
    for number, (path, row, (*texts, raw)) in enumerate(rows):
        with _told(path, row):
            first, *others = [_text(one) for one in texts]
        with _told(path, row, label_column):
            label = convert(raw)
        yield TextExample(f"{stem}-{number}", first, others[0] if others else None, label)


def _spans(rows: Iterator[_Row], stem: str) -> list[SpanExample]:
    return checked_questions(
        (path, f"row {row}", _span(path, row, values, spare_id=f"{stem}-{number}"))
        for number, (path, row, values) in enumerate(rows)
    )


def _span(path: Path, row: int, values: tuple[Any, ...], *, spare_id: str) -> SpanExample:
    question, context, answers, *key = values
    with _told(path, row):
        name = str(key[0]) if key and key[0] is not None else ""
        if key and not name:
            raise ValueError("the id is empty")
        return SpanExample(name or spare_id, _text(question), _text(context), answers_of(answers))


def _pairs(rows: Iterator[_Row]) -> Iterator[tuple[str, str, str]]:
    for path, row, (source, references) in rows:
        with _told(path, row):
            parts = source if isinstance(source, list) else [source]
            joined = " | ".join(_filled(part).strip() for part in parts)
            texts = references if isinstance(references, list) else [references]
            if not joined or not texts:
                raise ValueError("has an empty list, need at least one text")
            for text in texts:
                yield joined, joined, _filled(text).strip()


@contextmanager
def _told(path: Path, row: int, column: str = "") -> Iterator[None]:
    """Say where a bad value stands."""
    try:
        yield
    except ValueError as error:
        raise DataError(f"{path}: row {row}: {column and f'{column}: '}{error}") from None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"got {shown(value)}, need a text")
    return value


def _filled(value: Any) -> str:
    if not _text(value).strip():
        raise ValueError(f"got {shown(value)}, need a text that is not empty")
    return value


def _class_number(labels: Sequence[str]) -> Callable[[Any], int]:
    numbers = {label: number for number, label in enumerate(labels)}
    if not any(label.lstrip("-").isdigit() for label in labels):
        numbers |= {str(number): number for number in range(len(labels))}

    def convert(raw: Any) -> int:
        found = numbers.get(str(raw)) if isinstance(raw, str | int) else None
        if found is None:
            hidden = " (hidden by the publisher: the split cannot be used)" if raw == -1 else ""
            raise ValueError(f"got {shown(raw)}{hidden}; allowed: {', '.join(numbers)}")
        return found

    return convert


def _score(raw: Any) -> float:
    try:
        score = float(raw)
    except (TypeError, ValueError):
        score = math.nan
    if not math.isfinite(score):
        raise ValueError(f"got {shown(raw)}, need a finite number")
    return score
