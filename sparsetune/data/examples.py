"""The door to the published layouts: examples of a task's split, and a full check of a folder.

Each layout lives in its own module; nothing here imports torch.
"""

from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from sparsetune.data.layouts import dart, e2e, glue, squad, table, webnlg
from sparsetune.data.published import Example, GenerationExample, SpanExample, TextExample
from sparsetune.errors import ConfigError

__all__ = [
    "Example",
    "GenerationExample",
    "SpanExample",
    "TextExample",
    "check",
    "files_of",
    "read_examples",
    "split_files",
]

Split = Literal["train", "evaluation"]

_LAYOUTS: dict[str, ModuleType] = {
    **dict.fromkeys(glue.LAYOUTS, glue),
    "squad": squad,
    "e2e": e2e,
    "webnlg": webnlg,
    "dart": dart,
    "table": table,
}


def read_examples(directory: Path, task: Any, split: Split) -> list[Any]:
    """Read one split of a task from files in its published layout.

    Args:
        directory: the folder that holds the files.
        task: catalogue entry; ``layout``, ``kind``, ``labels``, ``evaluation_split``,
            ``evaluation_part``, ``columns`` and ``splits`` are read.
        split: ``train``, or ``evaluation`` = the split that ``task.evaluation_split`` names.

    Returns:
        TextExample, SpanExample or GenerationExample, in file order.

    Raises:
        DataError: naming the file, the row, the value received and the values allowed.
        ConfigError: the layout is unknown.
    """
    return _layout(task).read(directory, task, split)


def files_of(directory: Path, task: Any) -> list[Path]:
    """Files that both splits of a task are read from.

    Args:
        directory: the folder that holds the files.
        task: catalogue entry; ``layout`` and ``evaluation_split`` are read.

    Returns:
        Existing files, those of the train split first.

    Raises:
        DataError: a file is missing; the message lists what is there.
        ConfigError: the layout is unknown.
    """
    return [
        *split_files(directory, task, "train"),
        *split_files(directory, task, "evaluation"),
    ]


def split_files(directory: Path, task: Any, split: Split) -> list[Path]:
    """Files that one split of a task is read from.

    Args:
        directory: the folder that holds the files.
        task: catalogue entry, as for :func:`files_of`.
        split: ``train`` or ``evaluation``.

    Returns:
        Existing files.

    Raises:
        DataError: a file is missing; the message lists what is there.
        ConfigError: the layout is unknown.
    """
    return _layout(task).files(directory, task, split)


def check(directory: Path, task: Any) -> dict[str, Any]:
    """Read both splits of a task to the end and count what is there.

    Args:
        directory: the folder that holds the files.
        task: catalogue entry, as for :func:`read_examples`.

    Returns:
        ``train_examples`` and ``evaluation_examples``; for classification also
        ``train_label_counts`` and ``evaluation_label_counts`` (label text -> examples), for
        regression ``*_score_mean`` and for generation ``*_references`` of both splits.

    Raises:
        DataError: at the first bad row.
        ConfigError: the layout is unknown.
    """
    counts: dict[str, Any] = {}
    for split in ("train", "evaluation"):
        examples = read_examples(directory, task, split)
        counts[f"{split}_examples"] = len(examples)
        if task.kind == "classification":
            numbers = Counter(example.label for example in examples)
            counts[f"{split}_label_counts"] = {
                label: numbers[number] for number, label in enumerate(task.labels)
            }
        elif task.kind == "regression":
            mean = sum(example.label for example in examples) / len(examples)
            counts[f"{split}_score_mean"] = round(mean, 6)
        elif task.kind == "generation":
            counts[f"{split}_references"] = sum(len(example.references) for example in examples)
    return counts


def _layout(task: Any) -> ModuleType:
    if task.layout not in _LAYOUTS:
        allowed = ", ".join(sorted(_LAYOUTS))
        raise ConfigError(f"task {task.id}: layout: got {task.layout!r}; allowed: {allowed}")
    return _LAYOUTS[task.layout]
