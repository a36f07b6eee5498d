"""Tasks for tests of data, as the catalogue has them but without its checks, and files for them."""

import io

import pyarrow
import pyarrow.parquet

from sparsetune.config.backbone import HubSource, MirrorSource
from sparsetune.config.task import Columns, Generation, Splits, SyntheticTask, Task

_SOURCES = {"hub": HubSource, "mirror": MirrorSource, "world": SyntheticTask}


def source_of(kind, **values):
    """A source of one kind."""
    return _SOURCES[kind].model_validate({"kind": kind, **values})


def task_of(layout, kind="classification", labels=("0", "1"), split="dev", **others):
    """A task of a layout; ``source``, ``columns``, ``splits`` and ``generation`` are mappings."""
    classes = {"columns": Columns, "splits": Splits}
    values = {"evaluation_part": None, **others}
    for name, of in classes.items():
        values[name] = of.model_validate(others[name]) if others.get(name) else None
    if others.get("source"):
        values["source"] = source_of(**others["source"])
    if others.get("generation"):
        values["generation"] = Generation.model_construct(**others["generation"])
    return Task.model_construct(
        id=layout, layout=layout, kind=kind, labels=labels, evaluation_split=split, **values
    )


def parquet(**columns):
    """The bytes of a parquet file."""
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), buffer)
    return buffer.getvalue()


def files_below(folder):
    """Path -> content of every file."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}
