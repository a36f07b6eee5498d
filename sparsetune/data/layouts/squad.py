"""SQuAD v1.1: the published JSON (plain or gzip), or the hub's parquet with the same questions.

Every answer must equal the paragraph's text at its published place; nothing is repaired.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sparsetune.config.load import Task
from sparsetune.data.examples import SpanExample, Split
from sparsetune.data.published import placed, read_json, read_rows, text_of
from sparsetune.errors import DataError, shown

_HUB_SPLITS = {"train": "train", "dev": "validation"}
_COLUMNS = ("id", "question", "context", "answers")


def forms(task: Task, directory: Path) -> dict[str, tuple[list[str], str]]:
    """Files of each split."""
    del task, directory
    return {stem: ([f"{stem}-v1.1.json"], hub) for stem, hub in _HUB_SPLITS.items()}


def rows(path: Path, task: Task, split: Split) -> Iterator[tuple[str, SpanExample]]:
    """Questions, with every published answer.

    Source:
        Rajpurkar et al. 2016, arXiv:1606.05250; version 1.1.
    Differs:
        Nothing.
    """
    del task, split
    read = read_rows(path, _COLUMNS) if path.suffix == ".parquet" else _json_rows(path)
    for where, values in read:
        with placed(path, where):
            question = question_of(*values)
            text_of(values[0], "id", filled=True)
        yield f"{path}: {where}", question


def question_of(name: Any, question: Any, context: Any, answers: Any) -> SpanExample:
    """Check the parts of a question; the places of its answers are checked with all others'.

    Args:
        name: its id, or None.
        question: a text.
        context: a text.
        answers: a list of objects with ``text`` and ``answer_start``, or an object of two lists.

    Raises:
        ValueError: another shape, a text that is not a string or a start that is not an integer.
    """
    try:
        if isinstance(answers, dict):
            pairs = tuple(zip(answers["text"], answers["answer_start"], strict=True))
        else:
            pairs = tuple((one["text"], one["answer_start"]) for one in answers)
    except (KeyError, TypeError, ValueError):
        raise ValueError(
            f"answers: received {shown(answers)}, need text and answer_start of each"
        ) from None
    for text, start in pairs:
        if type(start) is not int:
            raise ValueError(f"answers: answer_start: received {shown(start)}, need an integer")
        text_of(text, "answers")
    return SpanExample(
        str(name or ""), text_of(question, "question"), text_of(context, "context"), pairs
    )


def _json_rows(path: Path) -> Iterator[tuple[str, tuple[Any, ...]]]:
    document = read_json(path)
    for i, article in _items(path, "", document, key="data"):
        for j, paragraph in _items(path, f"data[{i}].", article, key="paragraphs"):
            place = f"data[{i}].paragraphs[{j}]."
            for k, entry in _items(path, place, paragraph, key="qas"):
                whole = {**paragraph, **entry} if isinstance(entry, dict) else {}
                if not whole.keys() >= set(_COLUMNS):
                    raise DataError(
                        f"{path}: {place}qas[{k}]: received {shown(entry)}, need id, question, "
                        "answers and the paragraph's context"
                    )
                yield f"{place}qas[{k}]", tuple(whole[name] for name in _COLUMNS)


def _items(path: Path, place: str, holder: Any, *, key: str) -> Iterator[tuple[int, Any]]:
    values = holder.get(key) if isinstance(holder, dict) else None
    if not isinstance(values, list):
        raise DataError(f"{path}: {place}{key}: received {shown(values)}, need a list")
    return enumerate(values)
