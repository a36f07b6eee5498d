"""The three kinds of example, and the parquet files that the ``dataset`` stage leaves of a task.

Read through pyarrow alone: every job begins here, and importing ``datasets`` takes about a second
to pyarrow's tenth. What a published file looks like is told in ``layouts``.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow
import pyarrow.parquet

from sparsetune.errors import DataError, first_line

Split = Literal["train", "evaluation"]


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

_TEXT = pyarrow.string()
_ANSWERS = pyarrow.list_(pyarrow.struct({"text": _TEXT, "start": pyarrow.int64()}))
_CLASSES: dict[str, tuple[type[Any], dict[str, pyarrow.DataType]]] = {
    "span": (SpanExample, dict.fromkeys(("id", "question", "context"), _TEXT) | {
        "answers": _ANSWERS}),
    "generation": (GenerationExample, {
        "id": _TEXT, "source": _TEXT, "references": pyarrow.list_(_TEXT)}),
    **{
        kind: (TextExample, dict.fromkeys(("id", "text", "second_text"), _TEXT) | {"label": label})
        for kind, label in (
            ("classification", pyarrow.int64()), ("regression", pyarrow.float64()))
    },
}  # fmt: skip
"""Kind of task -> class of its examples, and its columns in parquet."""


def split_file(dataset: Path, split: str) -> Path:
    """Name the file of a split.

    Args:
        dataset: the task's folder.
        split: ``train``, ``evaluation``, or the stem of one of GLUE's test files.
    """
    return dataset / f"{split}.parquet"


def write_examples(path: Path, kind: str, examples: Sequence[Example]) -> None:
    """Write examples to parquet; the same examples give the same bytes.

    Args:
        path: of :func:`split_file`.
        kind: of the task.
        examples: all of that kind.
    """
    _, columns = _CLASSES[kind]
    values = {name: [getattr(example, name) for example in examples] for name in columns}
    if kind == "span":
        values["answers"] = [
            [{"text": text, "start": start} for text, start in answers]
            for answers in values["answers"]
        ]
    arrays = [pyarrow.array(values[name], type) for name, type in columns.items()]
    pyarrow.parquet.write_table(pyarrow.table(arrays, names=list(columns)), path)


def read_examples(dataset: Path, task: Any, split: str, limit: int | None = None) -> list[Any]:
    """Read a split that the ``dataset`` stage wrote; everything in it has been checked.

    Args:
        dataset: the task's folder.
        task: from the catalogue; ``kind`` is read.
        split: see :func:`split_file`.
        limit: keep the first so many; None = all.

    Returns:
        TextExample, SpanExample or GenerationExample, in published order.

    Raises:
        DataError: the file is missing or damaged, or holds examples of another kind.
    """
    make, columns = _CLASSES[task.kind]
    path = split_file(dataset, split)
    table = _table(path)
    if table.column_names != list(columns):
        raise DataError(
            f"{path}: columns: received {', '.join(table.column_names)}; allowed: "
            f"{', '.join(columns)} (of kind {task.kind}); run the dataset stage again"
        )
    return [make(*row) for row in _rows(table.slice(0, limit))]


def count_examples(dataset: Path, split: str) -> int:
    """Count the examples of a split without reading them; see :func:`read_examples`."""
    return _table(split_file(dataset, split), columns=[]).num_rows


def _table(path: Path, columns: list[str] | None = None) -> pyarrow.Table:
    if not path.is_file():
        raise DataError(f"{path}: no such file; the dataset stage writes it")
    try:
        return pyarrow.parquet.read_table(path, columns=columns, memory_map=True)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable parquet file: {first_line(error)}") from None


def _rows(table: pyarrow.Table) -> Iterator[tuple[Any, ...]]:
    columns = [table.column(name).to_pylist() for name in table.column_names]
    if "answers" in table.column_names:
        columns[-1] = [tuple((one["text"], one["start"]) for one in each) for each in columns[-1]]
    elif "references" in table.column_names:
        columns[-1] = [tuple(each) for each in columns[-1]]
    return zip(*columns, strict=True)
