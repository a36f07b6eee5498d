"""Rows of a table file: TSV without quoting, CSV, JSON lines, a JSON list, or parquet.

Plain or gzip. Which columns are wanted is the caller's to say, what they mean too.
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sparsetune.data.published import (
    find_files,
    read_json_file,
    read_lines,
    read_parquet,
    read_text,
)
from sparsetune.errors import DataError, shown

ENDINGS = ("parquet", "jsonl", "json", "csv", "tsv")

Row = tuple[int, tuple[Any, ...]]


def find_table(directory: Path, name: str) -> list[Path]:
    """Find the file or the parquet shards that hold one split.

    Args:
        directory: folder to look in.
        name: file name without its ending, and name of the split in shards.

    Returns:
        One file, or all shards in order.

    Raises:
        DataError: as :func:`sparsetune.data.published.find_files`.
    """
    return find_files(directory, [f"{name}.{ending}" for ending in ENDINGS], name)


def read_rows(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    """Read the named columns of a table, row by row.

    Args:
        path: its name tells the form; a name that ends in ``.gz`` is unpacked.
        columns: names wanted, in this order.

    Yields:
        Row number and values. Rows are counted from 1; in TSV and CSV those are the file's lines,
        the header's included. Values are texts in TSV and CSV, otherwise whatever is stored.

    Raises:
        DataError: unreadable or empty file, a missing column, or a row of another shape.
    """
    form = path.name.removesuffix(".gz").rpartition(".")[2]
    if form == "parquet":
        yield from enumerate(read_parquet(path, columns), start=1)
    elif form == "jsonl":
        yield from _objects(path, _json_lines(path), columns)
    elif form == "json":
        values = read_json_file(path)
        if not isinstance(values, list) or not values:
            raise DataError(f"{path}: got {shown(values)}, need a list with objects")
        yield from _objects(path, enumerate(values, start=1), columns)
    else:
        yield from _cells(path, _tsv(path) if form == "tsv" else _csv(path), columns)


def _json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    for row, line in enumerate(read_lines(path), start=1):
        try:
            yield row, json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: row {row}: not JSON: {error}") from None


def _objects(
    path: Path, values: Iterator[tuple[int, Any]], columns: Sequence[str]
) -> Iterator[Row]:
    for row, value in values:
        if not isinstance(value, dict):
            raise DataError(f"{path}: row {row}: got {shown(value)}, need an object")
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
) -> Iterator[Row]:
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
                f"{path}: row {row}: got {len(cells)} columns, need {len(header)} "
                f"({_listed(header)})"
            )
        yield row, tuple(cells[place] for place in places)
    if row == 1:
        raise DataError(f"{path}: the file has a header but no examples")


def _listed(names: Iterable[str]) -> str:
    # A name that was read may hold a line break, and a message has one line.
    return ", ".join(repr(name)[1:-1] for name in names)
