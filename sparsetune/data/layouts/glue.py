"""The nine GLUE tasks: original TSV files (plain or gzip) or the hub's parquet, same examples.

Columns are found by header name; TSV has no quoting. Rows in messages are counted from 1 and
include the header line. Test files have an index and texts, never a label.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sparsetune.config.load import Task
from sparsetune.data.examples import Split, TextExample
from sparsetune.data.published import (
    class_of,
    find_files,
    placed,
    read_rows,
    score_of,
    text_of,
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
_HIDDEN = "hidden by the publisher: the split cannot be used"
_BINARY = ("0", "1")
_ENTAILMENT = ("entailment", "not_entailment")
_NLI = ("entailment", "neutral", "contradiction")
_PAIR = ("sentence1", "sentence2")


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
        hub_labels: label texts in the order of parquet's numbers.
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
    header: tuple[str, ...] = ()
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
    "stsb": GlueLayout(_PAIR, "score", _PAIR, _test("STS-B", 1_379)),
    "wnli": GlueLayout(_PAIR, "label", _PAIR, _test("WNLI", 146)),
}  # fmt: skip


def forms(task: Task, directory: Path) -> dict[str, tuple[list[str], str]]:
    """Files of each split."""
    del directory
    endings = ("tsv", "jsonl") if task.layout == "mnli" else ("tsv",)
    return {
        stem: ([f"{stem}.{ending}" for ending in endings], hub) for stem, hub in _HUB_SPLITS.items()
    }


def rows(path: Path, task: Task, split: Split) -> Iterator[tuple[list[str], float]]:
    """Texts exactly as published, and label.

    Source:
        Wang et al. 2019, GLUE, arXiv:1804.07461; file layouts of its distribution.
    Differs:
        Nothing; labels hidden by the publisher are an error, not a class.
    """
    del split
    layout = LAYOUTS[task.layout]
    numbers = {label: number for number, label in enumerate(task.labels)}
    if path.suffix == ".parquet":
        known = enumerate(layout.hub_labels)
        numbers = {str(one): numbers[label] for one, label in known if label in numbers}
    for where, texts, raw in _rows(path, layout):
        with placed(path, f"{where}: {layout.label}"):
            if task.kind == "regression":
                # Parquet stores 32-bit scores; seven digits give back the published decimal.
                raw = f"{raw:.7g}" if isinstance(raw, float) else raw
                label = score_of(raw, LOWEST_SCORE, HIGHEST_SCORE)
            else:
                label = class_of(raw, numbers, _HIDDEN if raw == -1 else "")
        yield texts, label


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
    as_test = replace(layout, label=layout.test_index, hub_label="idx", header=())
    return {
        part.stem: _tests(paths, as_test, part.stem)
        for part in layout.tests
        if (paths := _test_files(directory, part))
    }


def test_files(directory: Path, task: Task) -> list[Path]:
    """Name the files that :func:`read_tests` reads."""
    parts = LAYOUTS[task.layout].tests if task.layout in LAYOUTS else ()
    return [path for part in parts for path in _test_files(directory, part)]


def _test_files(directory: Path, part: TestPart) -> list[Path]:
    name = f"{part.stem}.tsv"
    hub = part.on_hub and any(directory.glob(f"{part.stem}-*-of-*.parquet"))
    if not hub and not any((directory / one).is_file() for one in (name, f"{name}.gz")):
        return []
    return find_files(directory, [name], part.stem if hub else None)


def _tests(paths: Sequence[Path], layout: GlueLayout, stem: str) -> list[TextExample]:
    examples: list[TextExample] = []
    for path in paths:
        for where, texts, index in _rows(path, layout):
            if str(index) != str(len(examples)):
                raise DataError(
                    f"{path}: {where}: index: received {shown(index)}, need {len(examples)}; a "
                    "submission has one line for each test example, in order"
                )
            second = texts[1] if len(texts) == 2 else None
            examples.append(TextExample(f"{stem}-{index}", texts[0], second, None))
    return examples


def _rows(path: Path, layout: GlueLayout) -> Iterator[tuple[str, list[str], Any]]:
    """Place, texts, and the value of the label column."""
    is_tsv = ".tsv" in path.suffixes
    texts_of = layout.texts if is_tsv else layout.hub_texts
    if is_tsv:
        damaged = layout.damaged_rows_allowed if path.name.startswith("train") else 0
        read = read_rows(
            path, (*texts_of, layout.label),
            header=layout.header, last_counts=True, damaged_allowed=damaged,
        )  # fmt: skip
    else:
        read = read_rows(path, (*texts_of, layout.hub_label))
    for where, (*texts, raw) in read:
        with placed(path, where):
            found = list(map(text_of, texts, texts_of))
        yield where, found, raw
