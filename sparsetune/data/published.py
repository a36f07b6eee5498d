"""How a file of a published layout is found and opened: plain, gzip, or parquet shards.

Every fault is a one-line DataError that names the file and the row. What the columns mean is told
by the layouts' own modules.
"""

import gzip
import itertools
import json
import re
import tempfile
import zlib
from collections.abc import Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sparsetune.config.load import Task
from sparsetune.data.examples import GenerationExample, Split
from sparsetune.errors import DataError, first_line

_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.parquet$")
# Files of the hub's own parquet conversion, which lie in a folder for each split.
_CONVERTED = re.compile(r"\d{4}\.parquet")
_LISTED_NAMES = 12


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


def read_json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Values of a file with JSON on each line, and the numbers of their rows, from 1.

    Raises:
        DataError: as :func:`read_text`, or a row is not JSON.
    """
    for row, line in enumerate(read_lines(path), start=1):
        try:
            yield row, json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: row {row}: not JSON: {error}") from None


def read_parquet(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Rows of one parquet file, through ``datasets``, and their numbers from 1.

    Args:
        path: one shard.
        columns: names of the columns wanted.

    Yields:
        Row number, and the named columns in the given order; at least one row.

    Raises:
        DataError: unreadable, empty, or a column is missing.
    """
    # The library takes a second to import, and most jobs of this stage do not need it.
    import datasets
    import pyarrow

    datasets.disable_progress_bars()
    try:
        # It copies what it reads; nobody needs the copy after this.
        with tempfile.TemporaryDirectory() as scratch:
            table = datasets.Dataset.from_parquet(str(path), cache_dir=scratch, keep_in_memory=True)
    except (datasets.exceptions.DatasetsError, pyarrow.ArrowException, OSError, ValueError) as e:
        reason = first_line(e.__cause__ or e)
        raise DataError(f"{path}: not a readable parquet file: {reason}") from None
    missing = [name for name in columns if name not in table.column_names]
    if missing:
        there = ", ".join(table.column_names)
        raise DataError(f"{path}: missing column {missing[0]!r}; the columns are: {there}")
    if not len(table):
        raise DataError(f"{path}: the file is empty; it must hold at least one example")
    rows = zip(*(table.data.column(name).to_pylist() for name in columns), strict=True)
    yield from enumerate(rows, start=1)


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
