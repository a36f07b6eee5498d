"""SQuAD v1.1: the published JSON (plain or gzip), or the hub's parquet with the same questions.

Every answer must equal the paragraph's text at its published place; nothing is repaired.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sparsetune.config.load import Task
from sparsetune.data.examples import SpanExample, Split
from sparsetune.data.published import read_json_file, read_parquet
from sparsetune.errors import DataError, shown

_HUB_SPLITS = {"train": "train", "dev": "validation"}
_Row = tuple[Path, str, SpanExample]


def forms(task: Task, directory: Path) -> dict[str, tuple[list[str], str]]:
    """Split -> accepted file names and name of the parquet split."""
    del task, directory
    return {stem: ([f"{stem}-v1.1.json"], hub) for stem, hub in _HUB_SPLITS.items()}


def read(paths: Sequence[Path], task: Task, split: Split) -> list[SpanExample]:
    """Read the questions of one split, in file order.

    Args:
        paths: files of the split.
        task: catalogue entry.
        split: which half.

    Returns:
        One example a question, with every published answer.

    Raises:
        DataError: damaged file, a key is missing, a question has no answer or its id twice, or an
            answer differs from the paragraph at its place.

    Source:
        Rajpurkar et al. 2016, arXiv:1606.05250; version 1.1.
    Differs:
        Nothing.
    """
    del task
    examples = checked_questions(
        row
        for path in paths
        for row in (_parquet_rows(path) if path.suffix == ".parquet" else _json_rows(path))
    )
    if not examples:
        raise DataError(f"{paths[0]}: the {split} split holds no questions")
    return examples


def checked_questions(rows: Iterable[_Row]) -> list[SpanExample]:
    """Check that every answer is where it is said to be, and that no id is there twice.

    Args:
        rows: (file, place in it, example).

    Returns:
        The examples, in order.

    Raises:
        DataError: at the first that is not so, or has no answer.
    """
    examples: list[SpanExample] = []
    seen: set[str] = set()
    for path, where, example in rows:
        _check_answers(path, where, example)
        if example.id in seen:
            raise DataError(f"{path}: {where}: question id {example.id!r} stands there twice")
        seen.add(example.id)
        examples.append(example)
    return examples


def answers_of(value: Any) -> tuple[tuple[str, int], ...]:
    """Read the answers of a question.

    Args:
        value: a list of objects with ``text`` and ``answer_start``, or an object of two lists.

    Raises:
        ValueError: another shape, a text that is not a string or a start that is not an integer.
    """
    try:
        if isinstance(value, dict):
            pairs = tuple(zip(value["text"], value["answer_start"], strict=True))
        else:
            pairs = tuple((one["text"], one["answer_start"]) for one in value)
    except (KeyError, TypeError, ValueError):
        raise ValueError(
            f"answers: received {shown(value)}, need text and answer_start of each"
        ) from None
    if not all(isinstance(text, str) for text, _ in pairs):
        raise ValueError("answers: a text is not a string")
    if not all(type(start) is int for _, start in pairs):
        raise ValueError("answers: an answer_start is not an integer")
    return pairs


def _json_rows(path: Path) -> Iterator[_Row]:
    document = read_json_file(path)
    for i, article in _items(path, "", document, key="data"):
        for j, paragraph in _items(path, f"data[{i}].", article, key="paragraphs"):
            place = f"data[{i}].paragraphs[{j}]."
            for k, entry in _items(path, place, paragraph, key="qas"):
                where = f"{place}qas[{k}]"
                try:
                    found = (entry["id"], entry["question"], paragraph["context"], entry["answers"])
                    yield path, where, _span(*found)
                except (KeyError, TypeError, ValueError) as error:
                    raise DataError(
                        f"{path}: {where}: received {shown(entry)}: need id, question, answers "
                        f"(text, answer_start) and the paragraph's context ({error})"
                    ) from None


def _items(path: Path, place: str, holder: Any, *, key: str) -> Iterator[tuple[int, Any]]:
    values = holder.get(key) if isinstance(holder, dict) else None
    if not isinstance(values, list):
        raise DataError(f"{path}: {place}{key}: received {shown(values)}, need a list")
    return enumerate(values)


def _span(key: Any, question: Any, context: Any, answers: Any) -> SpanExample:
    if not all(isinstance(text, str) for text in (key, question, context)):
        raise ValueError("a text is not a string")
    return SpanExample(key, question, context, answers_of(answers))


def _parquet_rows(path: Path) -> Iterator[_Row]:
    for row, values in read_parquet(path, ("id", "question", "context", "answers")):
        try:
            yield path, f"row {row}", _span(*values)
        except ValueError as error:
            raise DataError(f"{path}: row {row}: {error}") from None


def _check_answers(path: Path, where: str, example: SpanExample) -> None:
    if not example.answers:
        raise DataError(f"{path}: {where}: question {example.id!r} has no answer; need at least 1")
    for text, start in example.answers:
        found = example.context[start : start + len(text)] if start >= 0 else ""
        if not text or found != text:
            raise DataError(
                f"{path}: {where}: question {example.id!r}: answer {shown(text)} is not the "
                f"context's text at character {start}, which is {shown(found)}"
            )
