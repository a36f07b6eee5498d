"""Data to text: the E2E challenge's CSV files (plain or gzip).

WebNLG and DART have a layout name but no reader yet, and say so.
"""

import csv
import io
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from sparsetune.data.published import GenerationExample, find_files, read_text, shown
from sparsetune.errors import DataError

_E2E_FILES = {"train": "trainset.csv", "dev": "devset.csv", "test": "testset_w_refs.csv"}
_SLOT = re.compile(r"\s*([^\[\],]+)\[([^\[\]]*)\]\s*(?:,|$)")


def files(directory: Path, task: Any, split: Literal["train", "evaluation"]) -> list[Path]:
    """Files that hold one split.

    Args:
        directory: folder in the published layout.
        task: catalogue entry; ``layout`` and ``evaluation_split`` are read.
        split: which half.

    Returns:
        One file.

    Raises:
        DataError: the file is missing, or the layout has no reader yet.
    """
    if task.layout != "e2e":
        raise DataError(f"{directory}: layout {task.layout!r} cannot be read yet; readable: e2e")
    stem = "train" if split == "train" else task.evaluation_split
    if stem not in _E2E_FILES:
        raise DataError(f"{directory}: E2E has no split {stem!r}; allowed: {', '.join(_E2E_FILES)}")
    return find_files(directory, [_E2E_FILES[stem]])


def read(
    directory: Path, task: Any, split: Literal["train", "evaluation"]
) -> list[GenerationExample]:
    """Examples of one split, in file order.

    Args:
        directory: folder in the published layout.
        task: catalogue entry; ``layout`` and ``evaluation_split`` are read.
        split: ``train`` gives one example a row; ``evaluation`` makes consecutive rows with the
            same meaning representation the references of one example.

    Returns:
        Sources as :func:`linearise` writes them; references without blanks at their ends.

    Raises:
        DataError: missing or damaged file, wrong header, or a bad row.

    Source:
        Novikova et al. 2017, arXiv:1706.09254; file layouts of the challenge.
    Differs:
        Nothing.
    """
    (path,) = files(directory, task, split)
    stem = "train" if split == "train" else task.evaluation_split
    rows = list(_e2e_rows(path))
    if not rows:
        raise DataError(f"{path}: the file has a header but no examples")
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


def _e2e_rows(path: Path) -> Iterator[tuple[str, str, str]]:
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
            meaning, reference = cells[0], cells[1].strip()
            if not reference:
                raise DataError(f"{path}: row {reader.line_num}: ref is empty, need a text")
            try:
                yield meaning, linearise(meaning), reference
            except ValueError as error:
                raise DataError(f"{path}: row {reader.line_num}: mr: {error}") from None
    except csv.Error as error:
        raise DataError(f"{path}: row {reader.line_num}: not CSV: {error}") from None
