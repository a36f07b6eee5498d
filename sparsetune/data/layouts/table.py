"""Any other data set: its task file says which columns hold what, and which file which split.

A table is TSV without quoting, CSV, JSON lines or a JSON list (plain or gzip), or parquet. Parquet
is read through ``datasets``; the others by Python's own readers, since ``datasets`` 5.2 fills up a
CSV row that is too short, shifts the columns of one that is too long, and makes a date of a JSON
text that looks like one, all without a word.
"""

import csv
import io
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sparsetune.config.load import Task
from sparsetune.data.examples import Example, SpanExample, Split, TextExample
from sparsetune.data.layouts.squad import answers_of, checked_questions
from sparsetune.data.published import (
    group_references,
    read_json_file,
    read_json_lines,
    read_lines,
    read_parquet,
    read_text,
    stem_of,
)
from sparsetune.errors import DataError, shown

_ENDINGS = ("parquet", "jsonl", "json", "csv", "tsv")
_Row = tuple[Path, int, tuple[Any, ...]]


def forms(task: Task, directory: Path) -> dict[str, tuple[list[str], str]]:
    """Split -> accepted file names and name of the parquet split."""
    del directory
    return {
        stem: ([f"{name}.{ending}" for ending in _ENDINGS], name)
        for stem, name in (task.splits.resolved() if task.splits else {}).items()
    }


def read(paths: Sequence[Path], task: Task, split: Split) -> Sequence[Example]:
    """Read the examples of one split, in file order.

    Args:
        paths: files of the split.
        task: catalogue entry; ``kind``, ``columns``, ``labels`` and ``evaluation_split`` are read.
        split: which half.

    Returns:
        What the kind needs. A class is found by its label's text or by its number from 0 (where
        labels are numbers themselves, by text only); a list of source texts is joined by `` | ``;
        consecutive rows with one source are the references of one example.

    Raises:
        DataError: damaged file, or a bad row.
    """
    stem, columns = stem_of(task, split), task.columns.resolved() if task.columns else {}
    if task.kind == "span":
        names = [columns[key] for key in ("question", "context", "answers", "id") if key in columns]
        return _spans(_rows(paths, names), stem)
    if task.kind == "generation":
        rows = _rows(paths, [columns["source"], columns["references"]])
        return group_references(_pairs(rows), split, stem=stem)
    rows = _rows(paths, [*columns["texts"], columns["label"]])
    convert = _score if task.kind == "regression" else _class_number(task.labels)
    return list(_texts(rows, columns["label"], stem, convert=convert))


def _rows(paths: Sequence[Path], columns: Sequence[str]) -> Iterator[_Row]:
    """File, row number from 1 (lines in TSV and CSV, the header's included), the columns' values.

    Values are texts in TSV and CSV, otherwise whatever is stored.
    """
    for path in paths:
        form = path.name.removesuffix(".gz").rpartition(".")[2]
        if form == "parquet":
            rows = read_parquet(path, columns)
        elif form in ("json", "jsonl"):
            rows = _objects(
                path, read_json_lines(path) if form == "jsonl" else _list(path), columns
            )
        else:
            rows = _cells(path, _tsv(path) if form == "tsv" else _csv(path), columns)
        for row, values in rows:
            yield path, row, values


def _list(path: Path) -> Iterator[tuple[int, Any]]:
    values = read_json_file(path)
    if not isinstance(values, list) or not values:
        raise DataError(f"{path}: received {shown(values)}, need a list with objects")
    return enumerate(values, start=1)


def _objects(
    path: Path, values: Iterator[tuple[int, Any]], columns: Sequence[str]
) -> Iterator[tuple[int, tuple[Any, ...]]]:
    for row, value in values:
        if not isinstance(value, dict):
            raise DataError(f"{path}: row {row}: received {shown(value)}, need an object")
        missing = [name for name in columns if name not in value]
        if missing:
            raise DataError(
                f"{path}: row {row}: missing column {missing[0]!r}; it has: {_listed(value)}"
            )
        yield row, tuple(value[name] for name in columns)


def _tsv(path: Path) -> Iterator[tuple[int, list[str]]]:
    for row, line in enumerate(read_lines(path), start=1):
        yield row, line.split("\t")


def _csv(path: Path) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        for cells in reader:
            yield reader.line_num, cells
    except csv.Error as error:
        raise DataError(f"{path}: row {reader.line_num}: not CSV: {error}") from None


def _cells(
    path: Path, rows: Iterator[tuple[int, list[str]]], columns: Sequence[str]
) -> Iterator[tuple[int, tuple[str, ...]]]:
    _, header = next(rows)
    for name in columns:
        if header.count(name) != 1:
            fault = "twice or more" if name in header else "not"
            raise DataError(
                f"{path}: row 1: column {name!r} is {fault} in the header; it has: "
                f"{_listed(header)}"
            )
    places = [header.index(name) for name in columns]
    row = 1
    for row, cells in rows:
        if len(cells) != len(header):
            raise DataError(
                f"{path}: row {row}: received {len(cells)} columns, need {len(header)} "
                f"({_listed(header)})"
            )
        yield row, tuple(cells[place] for place in places)
    if row == 1:
        raise DataError(f"{path}: the file has a header but no examples")


def _listed(names: Sequence[str] | dict[str, Any]) -> str:
    # A name that was read may hold a line break, and a message has one line.
    return ", ".join(repr(name)[1:-1] for name in names)


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
        raise ValueError(f"received {shown(value)}, need a text")
    return value


def _filled(value: Any) -> str:
    if not _text(value).strip():
        raise ValueError(f"received {shown(value)}, need a text that is not empty")
    return value


def _class_number(labels: Sequence[str]) -> Callable[[Any], int]:
    numbers = {label: number for number, label in enumerate(labels)}
    if not any(label.lstrip("-").isdigit() for label in labels):
        numbers |= {str(number): number for number in range(len(labels))}

    def convert(raw: Any) -> int:
        found = numbers.get(str(raw)) if isinstance(raw, str | int) else None
        if found is None:
            hidden = " (hidden by the publisher: the split cannot be used)" if raw == -1 else ""
            raise ValueError(f"received {shown(raw)}{hidden}; allowed: {', '.join(numbers)}")
        return found

    return convert


def _score(raw: Any) -> float:
    try:
        score = float(raw)
    except (TypeError, ValueError):
        score = math.nan
    if not math.isfinite(score):
        raise ValueError(f"received {shown(raw)}, need a finite number")
    return score
