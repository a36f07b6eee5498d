"""The E2E challenge: its CSV files, the linearised ``||`` files, or the hub's parquet.

The linearised files (of Prefix-Tuning and LoRA) hold the same examples with renamed slots and
tokenised texts, so a folder is read in one form or the other, never in both.
"""

import contextlib
import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from sparsetune.data.published import (
    GenerationExample,
    find_files,
    read_lines,
    read_parquet,
    read_text,
)
from sparsetune.data.references import group_references
from sparsetune.errors import DataError, shown

Split = Literal["train", "evaluation"]

# Of each split: the challenge's file, the linearised one, the hub's split.
_FORMS = {
    "train": ("trainset.csv", "train.txt", "train"),
    "dev": ("devset.csv", "valid.txt", "validation"),
    "test": ("testset_w_refs.csv", "test.txt", "test"),
}
_HUB_COLUMNS = ("meaning_representation", "human_reference")
_SLOT = re.compile(r"\s*([^\[\],]+)\[([^\[\]]*)\]\s*(?:,|$)")


def files(directory: Path, task: Any, split: Split) -> list[Path]:
    """Files that hold one split of E2E.

    Args:
        directory: folder in the published layout.
        task: catalogue entry; ``evaluation_split`` is read.
        split: which half.

    Returns:
        One file, or all parquet shards in order.

    Raises:
        DataError: the file is missing, the split was never published, or the folder holds the
            other split in another form only.
    """
    stems = {"train": "train", "evaluation": task.evaluation_split}
    for stem in stems.values():
        if stem not in _FORMS:
            allowed = ", ".join(_FORMS)
            raise DataError(f"{directory}: E2E has no split {stem!r}; allowed: {allowed}")
    other = stems["evaluation" if split == "train" else "train"]
    mine, theirs = _found(directory, stems[split]), _found(directory, other)
    both = [form for form in mine if form in theirs]
    if mine and theirs and not both:
        one, two = (next(iter(found.values()))[0].name for found in (mine, theirs))
        raise DataError(
            f"{directory}: holds {one} and {two}, which are different forms of E2E; need both "
            "splits in one form"
        )
    if not mine:
        csv_name, txt_name, hub = _FORMS[stems[split]]
        return find_files(directory, (csv_name, txt_name), hub)
    return mine[both[0]] if both else next(iter(mine.values()))


def read(directory: Path, task: Any, split: Split) -> list[GenerationExample]:
    """Examples of one split, in file order.

    Args:
        directory: folder in the published layout.
        task: catalogue entry; ``evaluation_split`` is read.
        split: which half; see :func:`sparsetune.data.references.group_references`.

    Returns:
        Sources as :func:`linearise` writes them, those of the linearised files as they stand;
        references without blanks at their ends.

    Raises:
        DataError: missing or damaged file, wrong header, or a bad row.

    Source:
        Novikova et al. 2017, arXiv:1706.09254; file layouts of the challenge, and of LoRA
        (Hu et al. 2021, arXiv:2106.09685).
    Differs:
        Nothing.
    """
    stem = "train" if split == "train" else task.evaluation_split
    rows = [row for path in files(directory, task, split) for row in _rows(path)]
    return group_references(rows, split, stem=stem)


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
            raise ValueError(f"got {shown(meaning)}, need slot[value], slot[value], ...")
        parts.append(f"{slot[1].strip()} : {slot[2].strip()}")
        position = slot.end()
    if not parts:
        raise ValueError("got an empty meaning representation, need slot[value], ...")
    return " | ".join(parts)


_Row = tuple[str, str, str]


def _found(directory: Path, stem: str) -> dict[str, list[Path]]:
    """Forms that a split is there in, whole -> its files."""
    csv_name, txt_name, hub = _FORMS[stem]
    forms = {"csv": ([csv_name], None), "lines": ([txt_name], None), "hub": ([], hub)}
    found = {}
    for form, (names, shards) in forms.items():
        with contextlib.suppress(DataError):
            found[form] = find_files(directory, names, shards)
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
            raise DataError(f"{path}: row 1: got header {shown(header)}, need mr, ref")
        for cells in reader:
            if len(cells) != 2:
                raise DataError(
                    f"{path}: row {reader.line_num}: got {len(cells)} columns, need 2 (mr, ref)"
                )
            yield _row(path, reader.line_num, *cells)
    except csv.Error as error:
        raise DataError(f"{path}: row {reader.line_num}: not CSV: {error}") from None
    if reader.line_num == 1:
        raise DataError(f"{path}: the file has a header but no examples")


def _parquet_rows(path: Path) -> Iterator[_Row]:
    for row, (meaning, reference) in enumerate(read_parquet(path, _HUB_COLUMNS), start=1):
        if not isinstance(meaning, str) or not isinstance(reference, str):
            raise DataError(
                f"{path}: row {row}: got {shown((meaning, reference))}, need two texts "
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
            raise DataError(f"{path}: row {row}: got {shown(line)}, need one line context||target")
        yield halves[0], halves[0], halves[1]
