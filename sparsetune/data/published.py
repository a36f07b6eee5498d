"""Files of a published layout: found, opened and read as rows, whatever form they have.

A file is plain, gzip, or parquet shards. Every fault is a one-line DataError that names the file
and the place in it. What the columns mean is told by the layouts' own modules.
"""

import codecs
import contextlib
import csv
import gzip
import io
import itertools
import json
import math
import re
import tempfile
import zlib
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsetune.config.load import Task
from sparsetune.data.examples import GenerationExample, Split
from sparsetune.errors import DataError, first_line, shown

_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.parquet$")
# Files of the hub's own parquet conversion, which lie in a folder for each split.
_CONVERTED = re.compile(r"\d{4}\.parquet")
_LISTED_NAMES = 12
_OTHER_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)
_LONGEST_FIELD = 2**31 - 1
_LARGEST_SCORE = 1e18  # squares of differences stay finite in 32 bits, in which losses are taken


def stem_of(task: Task, split: Split) -> str:
    """Name a split of a task as its publisher does: ``train``, ``dev``, ``test`` or another."""
    return "train" if split == "train" else task.evaluation_split


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
    found = _shards(directory, shards) if shards else []
    if found:
        return found
    wanted = next(iter(names), f"{shards}-00000-of-00001.parquet")
    there = sorted(entry.name for entry in directory.iterdir())
    more = f" and {len(there) - _LISTED_NAMES} more" if len(there) > _LISTED_NAMES else ""
    raise DataError(
        f"{directory / wanted}: no such file (accepted: {_accepted(names, shards)}); "
        f"the folder holds: {(', '.join(there[:_LISTED_NAMES]) + more) or 'nothing'}"
    )


def read_lines(path: Path) -> list[str]:
    r"""Lines of a plain or gzip file, split on ``\n`` only, one trailing ``\r`` of each removed.

    Published sentences hold Unicode line separators, so ``str.splitlines`` would cut rows.

    Returns:
        At least one line; blank ones at the end are left out.

    Raises:
        DataError: unreadable, damaged gzip, not UTF-8 (row and byte offset are named), or blank.
    """
    lines = [line.removesuffix("\r") for line in _text(path).split("\n")]
    while not lines[-1].strip(" "):  # a line of tabs has columns
        lines.pop()
    return lines


def read_json(path: Path) -> Any:
    """Value of a plain or gzip JSON file.

    Raises:
        DataError: as :func:`read_lines`, not JSON (row and column are named), or with half of a
            character, which no text can hold that is written, tokenised or sent.
    """
    try:
        text = _text(path)
        return _whole(json.loads(text), text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}: row {error.lineno}: not JSON at column {error.colno}: {error.msg}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON that can be read: {first_line(error)}") from None


def read_rows(
    path: Path,
    columns: Sequence[str],
    *,
    header: Sequence[str] = (),
    last_counts: bool = False,
    damaged_allowed: int = 0,
) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Rows of a table: TSV without quoting, CSV, JSON lines, a JSON list, or parquet.

    Parquet is read through ``datasets``; the others by Python's own readers, since ``datasets``
    5.2 fills up a CSV row that is too short, shifts the columns of one that is too long, and makes
    a date of a JSON text that looks like one, all without a word.

    Args:
        path: its ending tells the form; all but parquet may be gzip.
        columns: names of the columns wanted.
        header: column names of a TSV without a header line.
        last_counts: whether the last of the columns that share a name is meant; else two are
            refused. Of TSV and CSV, likewise for the next.
        damaged_allowed: so many rows with another number of columns are left out.

    Yields:
        Place (``row n`` from 1; lines in TSV and CSV, the header's included), and the columns'
        values: texts in TSV and CSV, otherwise whatever is stored.

    Raises:
        DataError: as :func:`read_lines`; a column or a row is missing, or a row is damaged.
    """
    form = path.name.removesuffix(".gz").rpartition(".")[2]
    if form == "parquet":
        rows = _parquet(path, columns)
    elif form in ("json", "jsonl"):
        rows = _objects(path, _json_lines(path) if form == "jsonl" else _json_list(path), columns)
    else:
        lines = _csv(path) if form == "csv" else _tsv(path)
        names = header or next(lines)[1]
        places = [_place(path, names, name, last_counts=last_counts) for name in columns]
        rows = _cells(path, lines, names, places, damaged_allowed)
    for row, values in rows:
        yield f"row {row}", values


@contextlib.contextmanager
def placed(path: Path, where: str) -> Iterator[None]:
    """Say where a bad value stands: ValueErrors of the block become DataErrors.

    Args:
        path: the file.
        where: the place in it, and the name of the value if it has one.
    """
    try:
        yield
    except ValueError as error:
        raise DataError(f"{path}: {where}: {error}") from None


def text_of(value: Any, name: str, *, filled: bool = False) -> str:
    """Check that a value is a text.

    Args:
        value: as read.
        name: of the value.
        filled: refuse a blank one too, and strip the others.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(value, str) or (filled and not value.strip()):
        raise ValueError(
            f"{name}: received {shown(value)}, need a text{' that is not empty' * filled}"
        )
    return value.strip() if filled else value


def class_of(value: Any, numbers: Mapping[str, int], why: str = "") -> int:
    """Find the number of a class.

    Args:
        value: as read: text or integer.
        numbers: by what stands for a class.
        why: what the message says of a value that stands for none.

    Raises:
        ValueError: it stands for none.
    """
    found = numbers.get(str(value)) if isinstance(value, str | int) else None
    if found is None:
        told = f" ({why})" if why else ""
        raise ValueError(f"received {shown(value)}{told}; allowed: {', '.join(numbers)}")
    return found


def is_unlabelled(value: Any, known: Iterable[str] = ()) -> bool:
    """Whether the value of a label says that there is none: null, NaN, blank, ``-`` or -1.

    Args:
        value: as read.
        known: what stands for a label, and is one even if it is ``-`` or -1.

    Example:
        >>> [is_unlabelled(value) for value in (-1, "-", None, 0)], is_unlabelled("-1", ["-1"])
        ([True, True, True, False], False)
    """
    if isinstance(value, float):
        return value != value or value == -1
    return value is None or (str(value) not in known and (str(value).strip() in ("", "-", "-1")))


def score_of(value: Any, low: float = -math.inf, high: float = math.inf) -> float:
    """Check that a value is a finite number, small enough for losses in 32 bits.

    Args:
        value: as read: text or number.
        low: least that is allowed.
        high: most that is allowed.

    Raises:
        ValueError: it is not.
    """
    try:
        # Python also reads true as 1 and 1_000 as 1000, which no table means.
        plain = not isinstance(value, bool) and "_" not in str(value)
        score = float(value) if plain else math.nan
    except (TypeError, ValueError, OverflowError):
        score = math.nan
    if math.isfinite(score) and low == -math.inf:
        low, high = -_LARGEST_SCORE, _LARGEST_SCORE
    if not math.isfinite(score) or not low <= score <= high:
        need = f"number in [{low:g}, {high:g}]" if math.isfinite(low) else "finite number"
        raise ValueError(f"received {shown(value)}, need a {need}")
    return score


def group_references(
    rows: Iterable[tuple[Hashable, str, str]], split: Split, *, stem: str
) -> list[GenerationExample]:
    """Make examples of rows that each have one reference.

    Args:
        rows: (key, source, reference) in file order; rows of one input share its key.
        split: ``train`` gives one example a row; ``evaluation`` makes the references of
            consecutive rows with one key those of one example, in file order, repetitions kept.
        stem: begins the examples' ids.

    Returns:
        Examples in file order; the source is that of the key's first row.

    Source:
        Novikova et al. 2017, arXiv:1706.09254 and its scorer: consecutive instances of one input.
    Differs:
        Nothing. A key that comes back after another one starts a new example.

    Example:
        >>> rows = [(1, "a", "One."), (1, "a", "Two."), (2, "b", "Three.")]
        >>> [example.references for example in group_references(rows, "evaluation", stem="dev")]
        [('One.', 'Two.'), ('Three.',)]
    """
    grouped: list[tuple[str, tuple[str, ...]]]
    if split == "train":
        grouped = [(source, (reference,)) for _, source, reference in rows]
    else:
        grouped = [
            (group[0][1], tuple(reference for _, _, reference in group))
            for _, grouper in itertools.groupby(rows, key=lambda row: row[0])
            for group in [list(grouper)]
        ]
    return [
        GenerationExample(f"{stem}-{number}", source, references)
        for number, (source, references) in enumerate(grouped)
    ]


def _text(path: Path) -> str:
    """Text of a plain or gzip file: strict UTF-8, byte order mark removed, line ends untouched."""
    data = _bytes(path)
    if data.startswith(_OTHER_MARKS):
        raise DataError(f"{path}: received UTF-16 or UTF-32, as its first bytes say; need UTF-8")
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        row = data.count(b"\n", 0, error.start) + 1
        bad = data[error.start : error.start + 1].hex()
        raise DataError(
            f"{path}: row {row}: byte 0x{bad} at offset {error.start} is not valid UTF-8"
        ) from None
    if not text.strip():
        raise DataError(f"{path}: the file is empty; it must hold at least one example")
    return text


def _bytes(path: Path) -> bytes:
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


def _whole(value: Any, source: str) -> Any:
    r"""Refuse a value with half of a character, which JSON may write as ``\ud83d``.

    Raises:
        ValueError: naming it.
    """
    if "\\u" not in source:
        return value
    try:
        text = json.dumps(value, ensure_ascii=False)
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        half = f"\\u{ord(text[error.start]):04x}"
        around = text[max(error.start - 20, 0) : error.start + 20]
        raise ValueError(
            f"received {shown(around)}, need text without {half}, which is half of a character"
        ) from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


def _json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    for row, line in enumerate(read_lines(path), start=1):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: row {row}: not JSON: {error}") from None
        with placed(path, f"row {row}"):
            yield row, _whole(value, line)


def _json_list(path: Path) -> Iterator[tuple[int, Any]]:
    values = read_json(path)
    if not isinstance(values, list) or not values:
        raise DataError(f"{path}: received {shown(values)}, need a list with objects")
    return enumerate(values, start=1)


def _objects(
    path: Path, values: Iterator[tuple[int, Any]], columns: Sequence[str]
) -> Iterator[tuple[int, tuple[Any, ...]]]:
    for row, value in values:
        if not isinstance(value, dict):
            raise DataError(f"{path}: row {row}: received {shown(value)}, need an object")
        for name in columns:
            if name not in value:
                raise DataError(
                    f"{path}: row {row}: missing column {name!r}; it has: {_listed(value)}"
                )
        yield row, tuple(value[name] for name in columns)


def _tsv(path: Path) -> Iterator[tuple[int, list[str]]]:
    for row, line in enumerate(read_lines(path), start=1):
        yield row, line.split("\t")


def _csv(path: Path) -> Iterator[tuple[int, list[str]]]:
    # Python's own limit, 131,072 characters, is for programs that fear their input's memory.
    csv.field_size_limit(_LONGEST_FIELD)
    reader = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    blank: list[tuple[int, list[str]]] = []
    try:
        for cells in reader:
            if len(cells) <= 1 and not "".join(cells).strip():
                blank.append((reader.line_num, cells))  # a fault only if another row follows
                continue
            yield from blank
            blank.clear()
            yield reader.line_num, cells
    except csv.Error as error:
        raise DataError(f"{path}: row {reader.line_num}: not CSV: {error}") from None


def _place(path: Path, header: Sequence[str], name: str, *, last_counts: bool) -> int:
    count = header.count(name)
    if count == 0 or (count > 1 and not last_counts):
        fault = "twice or more" if count else "not"
        raise DataError(
            f"{path}: row 1: column {name!r} is {fault} in the header; it has: {_listed(header)}"
        )
    return max(place for place, other in enumerate(header) if other == name)


def _cells(
    path: Path,
    rows: Iterator[tuple[int, list[str]]],
    header: Sequence[str],
    places: Sequence[int],
    damaged_allowed: int,
) -> Iterator[tuple[int, tuple[str, ...]]]:
    row = 0
    for row, cells in rows:
        if len(cells) == len(header):
            yield row, tuple(cells[place] for place in places)
        elif damaged_allowed:
            damaged_allowed -= 1
        else:
            raise DataError(
                f"{path}: row {row}: received {len(cells)} columns, need {len(header)} "
                f"({_listed(header)}); the row begins {shown(''.join(cells[:1])[:40])}"
            )
    if not row:
        raise DataError(f"{path}: the file has a header but no examples")


def _listed(names: Iterable[str]) -> str:
    # A name that was read may hold a line break, and a message has one line.
    return ", ".join(repr(name)[1:-1] for name in names)


def _parquet(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, tuple[Any, ...]]]:
    # The library takes a second to import, and most jobs of this stage do not need it.
    import datasets
    import pyarrow.parquet

    datasets.disable_progress_bars()
    try:
        # The library fails on a name that stands there twice, wanted or not.
        _refuse_repeated(path, pyarrow.parquet.read_schema(path).names)
        # It copies what it reads; nobody needs the copy after this.
        with tempfile.TemporaryDirectory() as scratch:
            table = datasets.Dataset.from_parquet(str(path), cache_dir=scratch, keep_in_memory=True)
    except (datasets.exceptions.DatasetsError, pyarrow.ArrowException, OSError, ValueError) as e:
        reason = first_line(e.__cause__ or e)
        raise DataError(f"{path}: not a readable parquet file: {reason}") from None
    for name in columns:
        if name not in table.column_names:
            there = _listed(table.column_names)
            raise DataError(f"{path}: missing column {name!r}; it has: {there}")
    if not len(table):
        raise DataError(f"{path}: the file is empty; it must hold at least one example")
    values = [_values(path, name, table.data.column(name)) for name in columns]
    return enumerate(zip(*values, strict=True), start=1)


def _refuse_repeated(path: Path, names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise DataError(
                f"{path}: column {name!r} is there twice or more; it has: {_listed(names)}"
            )


def _values(path: Path, name: str, column: Any) -> list[Any]:
    """Values of a column; parquet says that texts are UTF-8, and nobody checked it so far."""
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        for row, value in enumerate(column, start=1):
            try:
                value.as_py()
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{path}: row {row}: column {name!r}: not valid UTF-8: {first_line(error)}"
                ) from None
        raise


def _shards(directory: Path, split: str) -> list[Path]:
    found = sorted(directory.glob(f"{split}-*-of-*.parquet"))
    for number, path in enumerate(found):
        match = _SHARD.search(path.name)
        if match is None or int(match[1]) != number or int(match[2]) != len(found):
            raise DataError(
                f"{path}: shard {number + 1} of {len(found)} found; need all shards, "
                "numbered from 00000 and with one total"
            )
    if found:
        return found
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
