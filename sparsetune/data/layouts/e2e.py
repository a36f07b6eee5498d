"""The E2E challenge: its CSV files, the linearised ``||`` files, or the hub's parquet.

The linearised files (of Prefix-Tuning and LoRA) hold the same examples with renamed slots and
tokenised texts, so a folder is read in one form or the other, never in both.
"""

import contextlib
import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from sparsetune.config.load import Task
from sparsetune.data.examples import GenerationExample, Split
from sparsetune.data.published import (
    find_files,
    group_references,
    read_lines,
    read_parquet,
    read_text,
    stem_of,
)
from sparsetune.errors import DataError, shown

# Of each split: the challenge's file, the linearised one, the hub's split.
_FORMS = {
    "train": ("trainset.csv", "train.txt", "train"),
    "dev": ("devset.csv", "valid.txt", "validation"),
    "test": ("testset_w_refs.csv", "test.txt", "test"),
}
_HUB_COLUMNS = ("meaning_representation", "human_reference")
_SLOT = re.compile(r"\s*([^\[\],]+)\[([^\[\]]*)\]\s*(?:,|$)")
_Form = tuple[Sequence[str], str | None]
_Row = tuple[str, str, str]


def forms(task: Task, directory: Path) -> dict[str, _Form]:
    """Split -> accepted file names and name of the parquet split.

    Args:
        task: catalogue entry; ``evaluation_split`` is read.
        directory: folder in the published layout.

    Returns:
        The one form that train and the evaluation split are both there in, if there is one.

    Raises:
        DataError: both are there, but in different forms.
    """
    every: dict[str, _Form] = {stem: (names[:2], names[2]) for stem, names in _FORMS.items()}
    if task.evaluation_split not in _FORMS:
        return every
    train, evaluation = _found(directory, "train"), _found(directory, task.evaluation_split)
    both = [form for form in train if form in evaluation]
    if both:
        return {stem: _one_form(stem)[both[0]] for stem in _FORMS}
    if train and evaluation:
        one, two = (next(iter(found.values())).name for found in (train, evaluation))
        raise DataError(
            f"{directory}: holds {one} and {two}, which are different forms of E2E; need both "
            "splits in one form"
        )
    return every


def read(paths: Sequence[Path], task: Task, split: Split) -> list[GenerationExample]:
    """Read the examples of one split, in file order.

    Args:
        paths: files of the split, in one form.
        task: catalogue entry; ``evaluation_split`` is read.
        split: which half; see :func:`sparsetune.data.published.group_references`.

    Returns:
        Sources as :func:`linearise` writes them, those of the linearised files as they stand;
        references without blanks at their ends.

    Raises:
        DataError: damaged file, wrong header, or a bad row.

    Source:
        Novikova et al. 2017, arXiv:1706.09254; file layouts of the challenge, and of LoRA
        (Hu et al. 2021, arXiv:2106.09685).
    Differs:
        Nothing.
    """
    rows = (row for path in paths for row in _rows(path))
    return group_references(rows, split, stem=stem_of(task, split))


def linearise(meaning: str) -> str:
    """Write an E2E meaning representation as ``slot : value | slot : value``.

    Args:
        meaning: e.g. ``name[The Blue Heron], food[Thai]``.

    Returns:
        Slots in published order.

    Raises:
        ValueError: not a list of ``slot[value]``.

    Source:
        Li and Liang 2021, arXiv:2101.00190 (Prefix-Tuning), the form of its E2E files.
    Differs:
        Slot names and values stay as published; theirs are renamed and tokenised.

    Example:
        >>> linearise("name[The Blue Heron], food[Thai]")
        'name : The Blue Heron | food : Thai'
    """
    parts, position = [], 0
    while position < len(meaning):
        slot = _SLOT.match(meaning, position)
        if slot is None:
            raise ValueError(f"received {shown(meaning)}, need slot[value], slot[value], ...")
        parts.append(f"{slot[1].strip()} : {slot[2].strip()}")
        position = slot.end()
    if not parts:
        raise ValueError("received an empty meaning representation, need slot[value], ...")
    return " | ".join(parts)


def _one_form(stem: str) -> dict[str, _Form]:
    csv_name, txt_name, hub = _FORMS[stem]
    return {"csv": ([csv_name], None), "lines": ([txt_name], None), "hub": ([], hub)}


def _found(directory: Path, stem: str) -> dict[str, Path]:
    """Forms that a split is there in, whole -> its first file."""
    found = {}
    for form, (names, shards) in _one_form(stem).items():
        with contextlib.suppress(DataError):
            found[form] = find_files(directory, names, shards)[0]
    return found


def _rows(path: Path) -> Iterator[_Row]:
    if path.suffix == ".parquet":
        return _parquet_rows(path)
    return _linearised_rows(path) if ".txt" in path.suffixes else _csv_rows(path)


def _csv_rows(path: Path) -> Iterator[_Row]:
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        header = next(reader)
        if header != ["mr", "ref"]:
            raise DataError(f"{path}: row 1: received header {shown(header)}, need mr, ref")
        for cells in reader:
            if len(cells) != 2:
                raise DataError(
                    f"{path}: row {reader.line_num}: received {len(cells)} columns, need 2 "
                    "(mr, ref)"
                )
            yield _row(path, reader.line_num, *cells)
    except csv.Error as error:
        raise DataError(f"{path}: row {reader.line_num}: not CSV: {error}") from None
    if reader.line_num == 1:
        raise DataError(f"{path}: the file has a header but no examples")


def _parquet_rows(path: Path) -> Iterator[_Row]:
    for row, (meaning, reference) in read_parquet(path, _HUB_COLUMNS):
        if not isinstance(meaning, str) or not isinstance(reference, str):
            raise DataError(
                f"{path}: row {row}: received {shown((meaning, reference))}, need two texts "
                f"({', '.join(_HUB_COLUMNS)})"
            )
        yield _row(path, row, meaning, reference)


def _row(path: Path, row: int, meaning: str, reference: str) -> _Row:
    if not reference.strip():
        raise DataError(f"{path}: row {row}: ref is empty, need a text")
    try:
        return meaning, linearise(meaning), reference.strip()
    except ValueError as error:
        raise DataError(f"{path}: row {row}: mr: {error}") from None


def _linearised_rows(path: Path) -> Iterator[_Row]:
    for row, line in enumerate(read_lines(path), start=1):
        halves = [half.strip() for half in line.split("||")]
        if len(halves) != 2 or not all(halves):
            raise DataError(
                f"{path}: row {row}: received {shown(line)}, need one line context||target"
            )
        yield halves[0], halves[0], halves[1]
