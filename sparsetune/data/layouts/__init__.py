"""Published layouts, one module each: which files hold a split, and what their rows mean.

A module has ``forms`` (split -> accepted file names and name of the parquet split) and ``read``.
Nothing here imports torch.
"""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from sparsetune.config.load import Task
from sparsetune.data.examples import Example, Split
from sparsetune.data.layouts import dart, e2e, glue, squad, table, webnlg
from sparsetune.data.published import find_files, stem_of
from sparsetune.errors import ConfigError, DataError, refusal

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
        TextExample, SpanExample or GenerationExample, in file order, at least one.

    Raises:
        DataError: naming the file, the row, the value received and the values allowed.
        ConfigError: the layout is unknown.
    """
    return _layout(task).read(split_files(directory, task, split), task, split)


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


def _layout(task: Task) -> ModuleType:
    if task.layout not in _LAYOUTS:
        raise ConfigError(refusal(f"task {task.id}", "layout", task.layout, sorted(_LAYOUTS)))
    return _LAYOUTS[task.layout]
