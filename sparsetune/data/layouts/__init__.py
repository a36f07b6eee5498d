"""Published layouts, one module each: which files hold a split, and what their rows mean.

A module has ``forms(task, directory)``: split -> accepted file names and name of the parquet split,
and ``rows(path, task, split)``: what a file holds, in its order, by kind of task:

* classification, regression: texts (one or two) and label;
* generation: key, source and references; consecutive rows with one key are one input;
* span: place, and the question, whose id is empty where none was published.

Nothing here imports torch.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType

from sparsetune.config.load import Task
from sparsetune.data.examples import Example, SpanExample, Split, TextExample
from sparsetune.data.layouts import dart, e2e, glue, squad, table, webnlg
from sparsetune.data.published import find_files, group_references, stem_of
from sparsetune.errors import ConfigError, DataError, refusal, shown

_LAYOUTS: dict[str, ModuleType] = {
    **dict.fromkeys(glue.LAYOUTS, glue),
    "squad": squad,
    "e2e": e2e,
    "webnlg": webnlg,
    "dart": dart,
    "table": table,
}


def read_published(directory: Path, task: Task, split: Split) -> Sequence[Example]:
    """Read one split of a task to the end, from files in its published layout.

    Args:
        directory: the folder that holds the files.
        task: catalogue entry.
        split: ``train``, or ``evaluation`` = the split that ``task.evaluation_split`` names.

    Returns:
        TextExample, SpanExample or GenerationExample, in file order, at least one. A label is an
        index into ``task.labels``, or a float for regression, or None where the task drops rows
        without one; of generation, ``train`` has one example a reference, ``evaluation`` one an
        input.

    Raises:
        DataError: naming the file, the row, the value received and the values allowed.
        ConfigError: the layout is unknown.
    """
    paths, layout, stem = split_files(directory, task, split), _layout(task), stem_of(task, split)
    rows = (row for path in paths for row in layout.rows(path, task, split))
    examples: Sequence[Example]
    if task.kind == "generation":
        flat = ((key, source, one) for key, source, references in rows for one in references)
        examples = group_references(flat, split, stem=stem)
    elif task.kind == "span":
        examples = _questions(rows, stem)
    else:
        examples = [
            TextExample(f"{stem}-{number}", texts[0], texts[1] if len(texts) == 2 else None, label)
            for number, (texts, label) in enumerate(rows)
        ]
    if not examples:
        raise DataError(f"{paths[0]}: the {split} split holds no example")
    return examples


def split_files(directory: Path, task: Task, split: Split) -> list[Path]:
    """Find the files that one split of a task is read from.

    Args:
        directory: the folder that holds the files.
        task: catalogue entry.
        split: as for :func:`read_published`.

    Returns:
        One file, or all parquet shards in order.

    Raises:
        DataError: a file is missing (the message lists what is there), or the split was never
            published.
        ConfigError: the layout is unknown.
    """
    forms = _layout(task).forms(task, directory)
    stem = stem_of(task, split)
    if stem not in forms:
        raise DataError(refusal(directory, f"split of {task.layout}", stem, forms))
    return find_files(directory, *forms[stem])


def files_read(directory: Path, task: Task) -> list[Path]:
    """Find every file that a task is read from: both splits, and GLUE's unlabelled tests.

    Args:
        directory: the folder that holds the files.
        task: catalogue entry.

    Returns:
        Files in the order of the splits, each once.

    Raises:
        DataError: as :func:`split_files`.
    """
    splits: tuple[Split, ...] = ("train", "evaluation")
    files = [path for split in splits for path in split_files(directory, task, split)]
    return list(dict.fromkeys([*files, *glue.test_files(directory, task)]))


def _layout(task: Task) -> ModuleType:
    if task.layout not in _LAYOUTS:
        raise ConfigError(refusal(f"task {task.id}", "layout", task.layout, sorted(_LAYOUTS)))
    return _LAYOUTS[task.layout]


def _questions(rows: Iterable[tuple[str, SpanExample]], stem: str) -> list[SpanExample]:
    """The questions, each with every answer where it is said to be, and an id of its own."""
    examples: dict[str, SpanExample] = {}
    for where, one in rows:
        name = one.id or f"{stem}-{len(examples)}"
        if not one.answers:
            raise DataError(f"{where}: question {name!r} has no answer; need at least 1")
        for text, start in one.answers:
            found = one.context[start : start + len(text)] if start >= 0 else ""
            if not text or found != text:
                raise DataError(
                    f"{where}: question {name!r}: answer {shown(text)} is not the context's text "
                    f"at character {start}, which is {shown(found)}"
                )
        if name in examples:
            raise DataError(f"{where}: question id {name!r} stands there twice")
        examples[name] = SpanExample(name, one.question, one.context, one.answers)
    return list(examples.values())
