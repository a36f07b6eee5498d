"""Any other data set: its task file says which columns hold what, and which file which split."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sparsetune.config.load import Task
from sparsetune.data.examples import Split
from sparsetune.data.layouts.squad import question_of
from sparsetune.data.published import class_of, is_unlabelled, placed, read_rows, score_of, text_of

_UNLABELLED = "no label; drop_unlabelled: true leaves such rows out"
_ENDINGS = ("parquet", "jsonl", "json", "csv", "tsv")


def forms(task: Task, directory: Path) -> dict[str, tuple[list[str], str]]:
    """Files of each split."""
    del directory
    return {
        stem: ([f"{name}.{ending}" for ending in _ENDINGS], name)
        for stem, name in (task.splits.resolved() if task.splits else {}).items()
    }


def rows(path: Path, task: Task, split: Split) -> Iterator[tuple[Any, ...]]:
    """What the task's kind needs of each row.

    A class is found by its label's text or by its number from 0 (where labels are numbers
    themselves, by text only), and is None where the task lets rows without one be dropped; a list
    of source texts is joined by `` | ``; rows with one source are references of one input.
    """
    del split
    columns = task.columns.resolved() if task.columns else {}
    if task.kind == "span":
        keys = [key for key in ("question", "context", "answers", "id") if key in columns]
        for where, values in read_rows(path, [columns[key] for key in keys]):
            with placed(path, where):
                name = _id(values[3]) if len(values) > 3 else None
                question = question_of(name, *values[:3])
            yield f"{path}: {where}", question
    elif task.kind == "generation":
        for where, values in read_rows(path, [columns["source"], columns["references"]]):
            with placed(path, where):
                source = _filled_texts(values[0], columns["source"])
                references = _filled_texts(values[1], columns["references"])
            yield " | ".join(source), " | ".join(source), references
    else:
        label, numbers = columns["label"], _numbers(task.labels)
        for where, (*texts, raw) in read_rows(path, [*columns["texts"], label]):
            with placed(path, where):
                found = list(map(text_of, texts, columns["texts"]))
            unlabelled = is_unlabelled(raw, numbers)
            if unlabelled and task.drop_unlabelled:
                yield found, None
                continue
            why = _UNLABELLED if unlabelled else ""
            with placed(path, f"{where}: {label}"):
                yield found, class_of(raw, numbers, why) if numbers else score_of(raw)


def _id(value: Any) -> str:
    name = "" if value is None else str(value)
    text_of(name, "id", filled=True)
    return name


def _filled_texts(value: Any, name: str) -> list[str]:
    listed = value if isinstance(value, list) else [value]
    texts = [text_of(text, name, filled=True) for text in listed]
    if not texts:
        raise ValueError(f"{name}: received [], need at least one text")
    return texts


def _numbers(labels: tuple[str, ...]) -> dict[str, int]:
    numbers = {label: number for number, label in enumerate(labels)}
    if not any(label.lstrip("-").isdigit() for label in labels):
        numbers |= {str(number): number for number in range(len(labels))}
    return numbers
