"""The nine GLUE tasks: original TSV files (plain or gzip) or the hub's parquet, same examples.

Columns are found by header name; TSV has no quoting. Rows in messages are counted from 1 and
include the header line. Test files have an index and texts, never a label.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sparsetune.config.load import Task
from sparsetune.data.examples import Split, TextExample
from sparsetune.data.published import (
    find_files,
    read_json_lines,
    read_lines,
    read_parquet,
    stem_of,
)
from sparsetune.errors import DataError, shown

LOWEST_SCORE, HIGHEST_SCORE = 0.0, 5.0

_HUB_SPLITS = {
    "train": "train",
    "dev": "validation",
    "dev_matched": "validation_matched",
    "dev_mismatched": "validation_mismatched",
    "test": "test",
}
_BINARY = ("0", "1")
_ENTAILMENT = ("entailment", "not_entailment")
_NLI = ("entailment", "neutral", "contradiction")
_PAIR = ("sentence1", "sentence2")
_HIDDEN = " (hidden by the publisher: the split cannot be used)"
_Row = tuple[int, tuple[str, ...], Any]


@dataclass(frozen=True)
class TestPart:
    """One unlabelled test file and the submission file made from it.

    Attributes:
        stem: of the TSV file.
        submission: stem of the file that GLUE's server takes.
        published_examples: rows of GLUE's own test file.
        on_hub: whether the hub has it, as a split of the same name.
    """

    __test__ = False  # no test class

    stem: str
    submission: str
    published_examples: int
    on_hub: bool = True


@dataclass(frozen=True)
class GlueLayout:
    """Where one task keeps its texts and label.

    Attributes:
        texts: header names of the one or two text columns in the TSV.
        label: header name of the label column; its last occurrence counts.
        hub_texts: the same columns in parquet.
        tests: test files, in the order of GLUE's submission.
        hub_label: name of the label column in parquet.
        hub_labels: label texts in the order of parquet's numbers; empty = regression.
        header: column names of a TSV without a header line.
        damaged_rows_allowed: rows of ``train.tsv`` that were published with a wrong column count.
        test_index: header name of the index column in test files.
    """

    texts: tuple[str, ...]
    label: str
    hub_texts: tuple[str, ...]
    tests: tuple[TestPart, ...]
    hub_label: str = "label"
    hub_labels: tuple[str, ...] = _BINARY
    header: tuple[str, ...] | None = None
    damaged_rows_allowed: int = 0
    test_index: str = "index"


def _test(submission: str, examples: int) -> tuple[TestPart, ...]:
    return (TestPart("test", submission, examples),)


LAYOUTS = {
    "cola": GlueLayout(
        ("sentence",), "label", ("sentence",), _test("CoLA", 1_063),
        header=("source", "label", "original mark", "sentence"),
    ),
    "mnli": GlueLayout(
        _PAIR, "gold_label", ("premise", "hypothesis"),
        (
            TestPart("test_matched", "MNLI-m", 9_796),
            TestPart("test_mismatched", "MNLI-mm", 9_847),
            # The diagnostic sentences have no training data: MNLI's model answers them.
            TestPart("diagnostic", "AX", 1_104, on_hub=False),
        ),
        hub_labels=_NLI,
    ),
    "mrpc": GlueLayout(("#1 String", "#2 String"), "Quality", _PAIR, _test("MRPC", 1_725)),
    "qnli": GlueLayout(
        ("question", "sentence"), "label", ("question", "sentence"), _test("QNLI", 5_463),
        hub_labels=_ENTAILMENT,
    ),
    # Three of the 363,849 published train rows are cut; the hub's copy leaves them out too.
    "qqp": GlueLayout(
        ("question1", "question2"), "is_duplicate", ("question1", "question2"),
        _test("QQP", 390_965), damaged_rows_allowed=3, test_index="id",
    ),
    "rte": GlueLayout(_PAIR, "label", _PAIR, _test("RTE", 3_000), hub_labels=_ENTAILMENT),
    "sst2": GlueLayout(("sentence",), "label", ("sentence",), _test("SST-2", 1_821)),
    "stsb": GlueLayout(_PAIR, "score", _PAIR, _test("STS-B", 1_379), hub_labels=()),
    "wnli": GlueLayout(_PAIR, "label", _PAIR, _test("WNLI", 146)),
}  # fmt: skip


def forms(task: Task, directory: Path) -> dict[str, tuple[list[str], str]]:
    """Split -> accepted file names and name of the parquet split."""
    del directory
    endings = ("tsv", "jsonl") if task.layout == "mnli" else ("tsv",)
    return {
        stem: ([f"{stem}.{ending}" for ending in endings], hub) for stem, hub in _HUB_SPLITS.items()
    }


def read(paths: Sequence[Path], task: Task, split: Split) -> list[TextExample]:
    """Read the examples of one split, in file order.

    Args:
        paths: files of the split.
        task: catalogue entry; ``layout``, ``kind``, ``labels``, ``evaluation_split`` are read.
        split: which half.

    Returns:
        Texts exactly as published; ``label`` is an index into ``task.labels``, or for
        regression a float in [0, 5].

    Raises:
        DataError: a file is damaged, a row has a wrong column count, or a label is not one of the
            task's.

    Source:
        Wang et al. 2019, GLUE, arXiv:1804.07461; file layouts of its distribution.
    Differs:
        Nothing; labels hidden by the publisher are an error, not a class.
    """
    layout, stem = LAYOUTS[task.layout], stem_of(task, split)
    to_label = _score if task.kind == "regression" else _class_number(task.labels)
    examples: list[TextExample] = []
    for path in paths:
        for row, texts, raw in _rows(path, layout):
            try:
                label = to_label(raw)
            except ValueError as error:
                raise DataError(f"{path}: row {row}: {layout.label}: {error}") from None
            examples.append(_example(f"{stem}-{len(examples)}", texts, label))
    return examples


def read_tests(directory: Path, task: Task) -> dict[str, list[TextExample]]:
    """Read the test files of a GLUE task that are there; nobody needs them but a submission.

    Args:
        directory: folder in the published layout.
        task: catalogue entry; ``layout`` is read.

    Returns:
        Stem of the file -> examples without labels, in file order, which is the order of their
        indices; empty for a task that is not GLUE's.

    Raises:
        DataError: a file is damaged, or its indices do not count from 0.

    Source:
        Wang et al. 2019, GLUE, arXiv:1804.07461; file layouts of its distribution.
    Differs:
        Nothing.
    """
    if task.layout not in LAYOUTS:
        return {}
    layout = LAYOUTS[task.layout]
    as_test = replace(layout, label=layout.test_index, hub_label="idx", hub_labels=(), header=None)
    return {
        part.stem: _tests(paths, as_test, part.stem)
        for part in layout.tests
        if (paths := _test_files(directory, part))
    }


def _example(name: str, texts: tuple[str, ...], label: float | None) -> TextExample:
    return TextExample(name, texts[0], texts[1] if len(texts) == 2 else None, label)


def _test_files(directory: Path, part: TestPart) -> list[Path]:
    name = f"{part.stem}.tsv"
    hub = part.on_hub and any(directory.glob(f"{part.stem}-*-of-*.parquet"))
    if not hub and not any((directory / one).is_file() for one in (name, f"{name}.gz")):
        return []
    return find_files(directory, [name], part.stem if hub else None)


def _tests(paths: Sequence[Path], layout: GlueLayout, stem: str) -> list[TextExample]:
    examples: list[TextExample] = []
    for path in paths:
        for row, texts, index in _rows(path, layout):
            if str(index) != str(len(examples)):
                raise DataError(
                    f"{path}: row {row}: index: received {shown(index)}, need {len(examples)}; a "
                    "submission has one line for each test example, in order"
                )
            examples.append(_example(f"{stem}-{index}", texts, None))
    return examples


def _rows(path: Path, layout: GlueLayout) -> Iterator[_Row]:
    if path.suffix == ".parquet":
        return _parquet_rows(path, layout)
    if ".jsonl" in path.suffixes:
        return _jsonl_rows(path, layout)
    return _tsv_rows(path, layout)


def _tsv_rows(path: Path, layout: GlueLayout) -> Iterator[_Row]:
    """Row number, texts, and the cell of the label column."""
    lines = read_lines(path)
    first = 0 if layout.header else 1
    header = layout.header or tuple(lines[0].split("\t"))
    text_columns = [_column(path, header, name) for name in layout.texts]
    label_column = _column(path, header, layout.label)
    if len(lines) == first:
        raise DataError(f"{path}: the file has a header but no examples")
    damaged_left = layout.damaged_rows_allowed if path.name.startswith("train") else 0
    for row, line in enumerate(lines[first:], start=first + 1):
        cells = line.split("\t")
        if len(cells) == len(header):
            yield row, tuple(cells[column] for column in text_columns), cells[label_column]
        elif damaged_left:
            damaged_left -= 1
        else:
            raise DataError(
                f"{path}: row {row}: received {len(cells)} columns, need {len(header)} "
                f"({', '.join(header)}); the row begins {shown(line[:40])}"
            )


def _column(path: Path, header: tuple[str, ...], name: str) -> int:
    if name not in header:
        raise DataError(
            f"{path}: row 1: the header lacks column {name!r}; it has: {', '.join(header)}"
        )
    return len(header) - 1 - header[::-1].index(name)


def _jsonl_rows(path: Path, layout: GlueLayout) -> Iterator[_Row]:
    for row, value in read_json_lines(path):
        keys = (*layout.hub_texts, "label")
        if not isinstance(value, dict) or not all(isinstance(value.get(key), str) for key in keys):
            raise DataError(
                f"{path}: row {row}: received {shown(value)}, need an object with texts "
                f"{', '.join(keys)}"
            )
        yield row, tuple(value[key] for key in layout.hub_texts), value["label"]


def _parquet_rows(path: Path, layout: GlueLayout) -> Iterator[_Row]:
    for row, (*texts, raw) in read_parquet(path, (*layout.hub_texts, layout.hub_label)):
        if not all(isinstance(text, str) for text in texts):
            raise DataError(f"{path}: row {row}: received {shown(texts)}, need texts")
        if isinstance(raw, float) or not layout.hub_labels:
            # Parquet stores 32-bit scores; seven digits give back the published decimal.
            yield row, tuple(texts), f"{raw:.7g}" if isinstance(raw, float) else raw
        elif isinstance(raw, int) and 0 <= raw < len(layout.hub_labels):
            yield row, tuple(texts), layout.hub_labels[raw]
        else:
            allowed = ", ".join(str(number) for number in range(len(layout.hub_labels)))
            raise DataError(
                f"{path}: row {row}: label: received {shown(raw)}{_HIDDEN if raw == -1 else ''}; "
                f"allowed: {allowed}"
            )


def _class_number(labels: tuple[str, ...]) -> Callable[[Any], int]:
    numbers = {label: number for number, label in enumerate(labels)}

    def convert(raw: Any) -> int:
        if raw not in numbers:
            raise ValueError(f"received {shown(raw)}; allowed: {', '.join(labels)}")
        return numbers[raw]

    return convert


def _score(raw: Any) -> float:
    try:
        score = float(raw)
    except (TypeError, ValueError):
        score = float("nan")
    if not LOWEST_SCORE <= score <= HIGHEST_SCORE:  # false for NaN as well
        raise ValueError(
            f"received {shown(raw)}, need a number in [{LOWEST_SCORE:g}, {HIGHEST_SCORE:g}]"
        )
    return score
