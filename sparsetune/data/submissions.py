"""GLUE's unlabelled test files, and the files that its server takes predictions in.

Test rows have an index and texts, never a label: they are predicted, not evaluated.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sparsetune.data.layouts import glue
from sparsetune.data.published import TextExample, find_files, read_parquet
from sparsetune.errors import ConfigError, DataError, shown
from sparsetune.records import write_text_atomically


@dataclass(frozen=True)
class Part:
    """One test file and the submission file made from it.

    Attributes:
        stem: of the TSV file.
        submission: stem of the file that the server takes.
        published_examples: rows of GLUE's own test file.
        shards: split name of the parquet form; None = the hub keeps it elsewhere.
    """

    stem: str
    submission: str
    published_examples: int
    shards: str | None = "test"


PARTS: dict[str, tuple[Part, ...]] = {
    "cola": (Part("test", "CoLA", 1_063),),
    "mnli": (
        Part("test_matched", "MNLI-m", 9_796, shards="test_matched"),
        Part("test_mismatched", "MNLI-mm", 9_847, shards="test_mismatched"),
        # The diagnostic sentences have no training data: MNLI's model answers them.
        Part("diagnostic", "AX", 1_104, shards=None),
    ),
    "mrpc": (Part("test", "MRPC", 1_725),),
    "qnli": (Part("test", "QNLI", 5_463),),
    "qqp": (Part("test", "QQP", 390_965),),
    "rte": (Part("test", "RTE", 3_000),),
    "sst2": (Part("test", "SST-2", 1_821),),
    "stsb": (Part("test", "STS-B", 1_379),),
    "wnli": (Part("test", "WNLI", 146),),
}
"""Layout -> its test files, in the order of GLUE's submission."""

_INDEX = {"qqp": "id"}  # every other test file calls it "index"


def unlabelled_files(directory: Path, task: Any) -> list[Path]:
    """Test files of a task that are there; nobody needs them but a submission.

    Args:
        directory: folder in the published layout.
        task: catalogue entry; ``layout`` is read.

    Returns:
        Existing files; none for a task that is not GLUE's.

    Raises:
        DataError: a parquet shard is missing.
    """
    parts = PARTS.get(task.layout, ())
    return [path for part in parts for path in _files(directory, part)]


def read_unlabelled(directory: Path, task: Any) -> dict[Part, list[TextExample]]:
    """Read the test files of a task that are there.

    Args:
        directory: folder in the published layout.
        task: catalogue entry; ``id`` and ``layout`` are read.

    Returns:
        Part -> examples without labels, in file order, which is the order of their indices.

    Raises:
        ConfigError: the task is not GLUE's.
        DataError: no test file is there, or one is damaged; indices that do not count from 0.

    Source:
        Wang et al. 2019, GLUE, arXiv:1804.07461; file layouts of its distribution.
    Differs:
        Nothing.
    """
    if task.layout not in PARTS:
        raise ConfigError(
            f"task {task.id}: layout {task.layout!r} has no GLUE submission; "
            f"allowed: {', '.join(PARTS)}"
        )
    layout = replace(glue.LAYOUTS[task.layout], label=_INDEX.get(task.layout, "index"), header=None)
    there = {part: _files(directory, part) for part in PARTS[task.layout]}
    if not any(there.values()):
        part = PARTS[task.layout][0]
        find_files(directory, [f"{part.stem}.tsv"], part.shards)  # raises, and lists what is there
    return {part: _examples(paths, layout, part) for part, paths in there.items() if paths}


def write_submission(path: Path, task: Any, count: int, predictions: Sequence[Any]) -> None:
    """Write predictions as GLUE's server takes them: ``index`` and ``prediction``, tab-separated.

    Args:
        path: ``<submission>.tsv``; written atomically.
        task: catalogue entry; ``kind`` and ``labels`` are read.
        count: rows of the test file.
        predictions: ``(count,)`` in the order of the test file: label numbers, or scores, which
            are clipped to [0, 5] and printed with three decimals.

    Raises:
        DataError: another number of predictions, or one that is no label of the task.
    """
    if len(predictions) != count:
        raise DataError(f"{path}: got {len(predictions)} predictions for {count} test examples")
    lines = ["index\tprediction"]
    for index, prediction in enumerate(predictions):
        try:
            lines.append(f"{index}\t{_shown(task, prediction)}")
        except ValueError as error:
            raise DataError(f"{path}: prediction {index}: {error}") from None
    write_text_atomically(path, "\n".join(lines) + "\n")


def _shown(task: Any, prediction: Any) -> str:
    if task.kind == "regression":
        if prediction != prediction:
            raise ValueError("got nan, need a number")
        return f"{min(max(prediction, glue.LOWEST_SCORE), glue.HIGHEST_SCORE):.3f}"
    if prediction not in range(len(task.labels)):
        raise ValueError(f"got {prediction!r}, need 0 to {len(task.labels) - 1}")
    return task.labels[prediction]


def _files(directory: Path, part: Part) -> list[Path]:
    names = [f"{part.stem}.tsv", f"{part.stem}.tsv.gz"]
    shards = part.shards is not None and any(directory.glob(f"{part.shards}-*-of-*.parquet"))
    if not shards and not any((directory / name).is_file() for name in names):
        return []
    return find_files(directory, names[:1], part.shards)


def _examples(paths: Sequence[Path], layout: glue.GlueLayout, part: Part) -> list[TextExample]:
    examples: list[TextExample] = []
    for path in paths:
        rows = _parquet_rows if path.suffix == ".parquet" else glue.tsv_rows
        for row, texts, index in rows(path, layout):
            if str(index) != str(len(examples)):
                raise DataError(
                    f"{path}: row {row}: index: got {shown(index)}, need {len(examples)}; a "
                    "submission has one line for each test example, in order"
                )
            second = texts[1] if len(texts) == 2 else None
            examples.append(TextExample(f"{part.stem}-{index}", texts[0], second, None))
    return examples


def _parquet_rows(
    path: Path, layout: glue.GlueLayout
) -> Iterator[tuple[int, tuple[str, ...], Any]]:
    for row, (*texts, index) in enumerate(read_parquet(path, (*layout.hub_texts, "idx")), start=1):
        if not all(isinstance(text, str) for text in texts):
            raise DataError(f"{path}: row {row}: got {shown(texts)}, need texts")
        yield row, tuple(texts), index
