"""The three kinds of example, and how a file of a published layout is found and opened.

Plain files, gzip files and parquet shards; every fault is a one-line DataError that names the
file and the row. What the columns mean is told by the layouts' own modules.
"""

import gzip
import json
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsetune.errors import DataError, first_line

_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.parquet$")
# Files of the hub's own parquet conversion, which lie in a folder for each split.
_CONVERTED = re.compile(r"\d{4}\.parquet")
_LISTED_NAMES = 12


@dataclass(frozen=True, slots=True)
class TextExample:
    """One sentence or sentence pair.

    Attributes:
        id: ``<split>-<n>``, n counted from 0 in file order.
        text: the (first) sentence, as published.
        second_text: the second sentence; None for single-sentence tasks.
        label: class number, score (regression), or None if unlabelled.
    """

    id: str
    text: str
    second_text: str | None
    label: int | float | None


@dataclass(frozen=True, slots=True)
class SpanExample:
    """One question about a paragraph.

    Attributes:
        id: the published question id.
        question: as published.
        context: the paragraph that holds the answers.
        answers: ``(text, start)`` pairs, start in characters of ``context``; at least one.
    """

    id: str
    question: str
    context: str
    answers: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class GenerationExample:
    """One input of data-to-text generation.

    Attributes:
        id: ``<split>-<n>``, n counted from 0 in file order.
        source: the linearised input.
        references: acceptable outputs, at least one.
    """

    id: str
    source: str
    references: tuple[str, ...]


Example = TextExample | SpanExample | GenerationExample


def find_files(directory: Path, names: Sequence[str], shards: str | None = None) -> list[Path]:
    """Find the file or the parquet shards that hold one split.

    Args:
        directory: folder to look in.
        names: accepted file names, best first; each may also stand there as ``name.gz``. Empty =
            this layout has no other form than parquet.
        shards: parquet split name, e.g. ``train`` for ``train-00000-of-00001.parquet``, or for
            ``train/0000.parquet`` as the hub converts data sets; taken when none of ``names`` is
            there. None = this layout has no parquet form.

    Returns:
        One file, or all shards in order.

    Raises:
        DataError: the folder or every accepted file is missing, or a shard is.
    """
    if not directory.is_dir():
        raise DataError(f"{directory}: no such folder; it must hold {_accepted(names, shards)}")
    for name in names:
        for candidate in (directory / name, directory / f"{name}.gz"):
            if candidate.is_file():
                return [candidate]
    found = sorted(directory.glob(f"{shards}-*-of-*.parquet")) if shards else []
    if found:
        _check_shards(found)
        return found
    found = _converted_shards(directory, shards) if shards else []
    if found:
        return found
    wanted = next(iter(names), f"{shards}-00000-of-00001.parquet")
    raise DataError(
        f"{directory / wanted}: no such file (accepted: {_accepted(names, shards)}); "
        f"the folder holds: {_listing(directory)}"
    )


def stored_name(path: Path) -> str:
    """Name under which a file can lie in one folder with the files of the other splits.

    Args:
        path: a file that :func:`find_files` found.

    Returns:
        Its own name; ``train-0000.parquet`` for ``train/0000.parquet``.
    """
    return f"{path.parent.name}-{path.name}" if _CONVERTED.fullmatch(path.name) else path.name


def read_text(path: Path) -> str:
    """Text of a plain or gzip file: strict UTF-8, byte order mark removed, line ends untouched.

    Args:
        path: a name that ends in ``.gz`` is unpacked.

    Returns:
        The whole text, not blank.

    Raises:
        DataError: unreadable, damaged gzip, not UTF-8 (row and byte offset are named), or empty.
    """
    data = _read_bytes(path)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        row = data.count(b"\n", 0, error.start) + 1
        bad = data[error.start : error.start + 1].hex()
        raise DataError(
            f"{path}: row {row}: byte 0x{bad} at offset {error.start} is not valid UTF-8"
        ) from None
    text = text.removeprefix("\ufeff")
    if not text.strip():
        raise DataError(f"{path}: the file is empty; it must hold at least one example")
    return text


def read_lines(path: Path) -> list[str]:
    r"""Lines of a text file, split on ``\n`` only, one trailing ``\r`` of each removed.

    Published sentences hold Unicode line separators, so ``str.splitlines`` would cut rows.

    Args:
        path: a name that ends in ``.gz`` is unpacked.

    Returns:
        At least one line; the empty piece after the last line end is left out.

    Raises:
        DataError: as :func:`read_text`.
    """
    lines = read_text(path).split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def read_json_file(path: Path) -> Any:
    """Value of a plain or gzip JSON file.

    Args:
        path: a name that ends in ``.gz`` is unpacked.

    Returns:
        What the JSON holds; its shape is for the caller to check.

    Raises:
        DataError: as :func:`read_text`, or not JSON (row and column are named).
    """
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}: row {error.lineno}: not JSON at column {error.colno}: {error.msg}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON that can be read: {first_line(error)}") from None


def read_parquet(path: Path, columns: Sequence[str]) -> list[tuple[Any, ...]]:
    """Rows of one parquet file, the named columns in the given order.

    Args:
        path: one shard.
        columns: names of the columns wanted.

    Returns:
        One tuple a row, at least one.

    Raises:
        DataError: unreadable, empty, or a column is missing.
    """
    # pyarrow takes a tenth of a second to import and most tasks do not need it.
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            there = file.schema_arrow.names
            missing = [name for name in columns if name not in there]
            if missing:
                raise DataError(
                    f"{path}: missing column {missing[0]!r}; the columns are: {', '.join(there)}"
                )
            table = file.read(columns=list(columns))
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable parquet file: {first_line(error)}") from None
    if table.num_rows == 0:
        raise DataError(f"{path}: the file is empty; it must hold at least one example")
    return list(zip(*(table.column(name).to_pylist() for name in columns), strict=True))


def _read_bytes(path: Path) -> bytes:
    try:
        if path.suffix == ".gz":
            with gzip.open(path, "rb") as file:
                return file.read()
        return path.read_bytes()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"{path}: damaged or truncated gzip: {first_line(error)}; fetch it again"
        ) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None


def _check_shards(found: Sequence[Path]) -> None:
    for number, path in enumerate(found):
        match = _SHARD.search(path.name)
        if match is None or int(match[1]) != number or int(match[2]) != len(found):
            raise DataError(
                f"{path}: shard {number + 1} of {len(found)} found; need all shards, "
                "numbered from 00000 and with one total"
            )


def _converted_shards(directory: Path, split: str) -> list[Path]:
    inside = sorted((directory / split).glob("*.parquet"))
    found = [path for path in inside if _CONVERTED.fullmatch(path.name)]
    found = found or sorted(directory.glob(f"{split}-[0-9][0-9][0-9][0-9].parquet"))
    for number, path in enumerate(found):
        if not path.name.endswith(f"{number:04d}.parquet"):
            raise DataError(
                f"{path}: shard {number:04d} of {split!r} is missing; need all, from 0000"
            )
    return found


def _accepted(names: Sequence[str], shards: str | None) -> str:
    forms = [form for name in names for form in (name, f"{name}.gz")]
    if shards:
        forms += [f"{shards}-*-of-*.parquet", f"{shards}/0000.parquet"]
    return ", ".join(forms)


def _listing(directory: Path) -> str:
    names = sorted(entry.name for entry in directory.iterdir())
    more = f" and {len(names) - _LISTED_NAMES} more" if len(names) > _LISTED_NAMES else ""
    return (", ".join(names[:_LISTED_NAMES]) + more) or "nothing"
