"""The E2E challenge: its CSV files, the linearised ``||`` files, or the hub's parquet.

The linearised files (of Prefix-Tuning and LoRA) hold the same examples with renamed slots and
tokenised texts, so a folder is read in one form or the other, never in both.
"""

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from sparsetune.config.load import Task
from sparsetune.data.examples import Split
from sparsetune.data.published import find_files, placed, read_lines, read_rows, text_of
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


def forms(task: Task, directory: Path) -> dict[str, _Form]:
    """Files of each split: in the one form that train and the evaluation split are both there in.

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


def rows(path: Path, task: Task, split: Split) -> Iterator[tuple[str, str, list[str]]]:
    """Rows with one reference each; sources of linearised files as they stand.

    Source:
        Novikova et al. 2017, arXiv:1706.09254; file layouts of the challenge, and of LoRA
        (Hu et al. 2021, arXiv:2106.09685).
    Differs:
        Nothing.
    """
    del task, split
    if ".txt" in path.suffixes:
        yield from _linearised_rows(path)
        return
    columns = ("mr", "ref") if ".csv" in path.suffixes else _HUB_COLUMNS
    for where, (meaning, reference) in read_rows(path, columns):
        with placed(path, where):
            text = text_of(reference, columns[1], filled=True)
            source = linearise(text_of(meaning, columns[0]))
        yield meaning, source, [text]


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
            raise ValueError(f"mr: received {shown(meaning)}, need slot[value], slot[value], ...")
        parts.append(f"{slot[1].strip()} : {slot[2].strip()}")
        position = slot.end()
    if not parts:
        raise ValueError("mr: received an empty meaning representation, need slot[value], ...")
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


def _linearised_rows(path: Path) -> Iterator[tuple[str, str, list[str]]]:
    for row, line in enumerate(read_lines(path), start=1):
        halves = [half.strip() for half in line.split("||")]
        if len(halves) != 2 or not all(halves):
            raise DataError(
                f"{path}: row {row}: received {shown(line)}, need one line context||target"
            )
        yield halves[0], halves[0], halves[1:]
