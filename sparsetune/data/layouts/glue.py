"""The nine GLUE tasks: original TSV files (plain or gzip) or the hub's parquet, same examples.

Columns are found by header name; TSV has no quoting. Rows in messages are counted from 1 and
include the header line.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sparsetune.data.published import TextExample, find_files, read_lines, read_parquet
from sparsetune.errors import DataError, shown

LOWEST_SCORE, HIGHEST_SCORE = 0.0, 5.0

_PARQUET_SPLITS = {
    "train": "train",
    "dev": "validation",
    "dev_matched": "validation_matched",
    "dev_mismatched": "validation_mismatched",
    "test": "test",
}
_BINARY = ("0", "1")
_ENTAILMENT = ("entailment", "not_entailment")
_NLI = ("entailment", "neutral", "contradiction")


@dataclass(frozen=True)
class GlueLayout:
    """Where one task keeps its texts and label.

    Attributes:
        texts: header names of the one or two text columns in the TSV.
        label: header name of the label column; its last occurrence counts.
        hub_texts: the same columns in parquet.
        hub_labels: label texts in the order of parquet's numbers; empty = regression.
        header: column names of a TSV without a header line.
        damaged_rows_allowed: rows of ``train.tsv`` that were published with a wrong column count.
    """

    texts: tuple[str, ...]
    label: str
    hub_texts: tuple[str, ...]
    hub_labels: tuple[str, ...] = _BINARY
    header: tuple[str, ...] | None = None
    damaged_rows_allowed: int = 0


_PAIR = ("sentence1", "sentence2")
LAYOUTS = {
    "cola": GlueLayout(
        ("sentence",),
        "label",
        ("sentence",),
        header=("source", "label", "original mark", "sentence"),
    ),
    "mnli": GlueLayout(_PAIR, "gold_label", ("premise", "hypothesis"), hub_labels=_NLI),
    "mrpc": GlueLayout(("#1 String", "#2 String"), "Quality", _PAIR),
    "qnli": GlueLayout(
        ("question", "sentence"), "label", ("question", "sentence"), hub_labels=_ENTAILMENT
    ),
    # Three of the 363,849 published train rows are cut; the hub's copy leaves them out too.
    "qqp": GlueLayout(
        ("question1", "question2"),
        "is_duplicate",
        ("question1", "question2"),
        damaged_rows_allowed=3,
    ),
    "rte": GlueLayout(_PAIR, "label", _PAIR, hub_labels=_ENTAILMENT),
    "sst2": GlueLayout(("sentence",), "label", ("sentence",)),
    "stsb": GlueLayout(_PAIR, "score", _PAIR, hub_labels=()),
    "wnli": GlueLayout(_PAIR, "label", _PAIR),
}


def files(directory: Path, task: Any, split: Literal["train", "evaluation"]) -> list[Path]:
    """Files that hold one split of a GLUE task.

    Args:
        directory: folder in the published layout.
        task: catalogue entry; ``layout`` and ``evaluation_split`` are read.
        split: which half.

    Returns:
        One file, or all parquet shards in order.

    Raises:
        DataError: nothing of an accepted name is there.
    """
    stem = "train" if split == "train" else task.evaluation_split
    names = [f"{stem}.tsv"]
    if task.layout == "mnli":
        names.append(f"{stem}.jsonl")
    return find_files(directory, names, _PARQUET_SPLITS[stem])


def read(directory: Path, task: Any, split: Literal["train", "evaluation"]) -> list[TextExample]:
    """Examples of one split, in file order.

    Args:
        directory: folder in the published layout.
        task: catalogue entry; ``layout``, ``kind``, ``labels``, ``evaluation_split`` are read.
        split: which half.

    Returns:
        Texts exactly as published; ``label`` is an index into ``task.labels``, or for
        regression a float in [0, 5].

    Raises:
        DataError: a file is missing or damaged, a row has a wrong column count, or a label is
            not one of the task's.

    Source:
        Wang et al. 2019, GLUE, arXiv:1804.07461; file layouts of its distribution.
    Differs:
        Nothing; labels hidden by the publisher are an error, not a class.
    """
    layout = LAYOUTS[task.layout]
    stem = "train" if split == "train" else task.evaluation_split
    to_label = _score if task.kind == "regression" else _class_number(task.labels)
    examples: list[TextExample] = []
    for path in files(directory, task, split):
        for row, texts, raw in _rows(path, layout):
            try:
                label = to_label(raw)
            except ValueError as error:
                raise DataError(f"{path}: row {row}: {layout.label}: {error}") from None
            second = texts[1] if len(texts) == 2 else None
            examples.append(TextExample(f"{stem}-{len(examples)}", texts[0], second, label))
    return examples


_Row = tuple[int, tuple[str, ...], Any]


def _rows(path: Path, layout: GlueLayout) -> Iterator[_Row]:
    if path.suffix == ".parquet":
        return _parquet_rows(path, layout)
    if ".jsonl" in path.suffixes:
        return _jsonl_rows(path, layout)
    return tsv_rows(path, layout)


def tsv_rows(path: Path, layout: GlueLayout) -> Iterator[_Row]:
    """Rows of one TSV file: row number, texts, and the cell of the layout's label column.

    Args:
        path: plain or gzip.
        layout: names of the columns.

    Raises:
        DataError: a column is missing, a row has a wrong column count, or there are no rows.
    """
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
                f"{path}: row {row}: got {len(cells)} columns, need {len(header)} "
                f"({', '.join(header)}); the row begins {shown(line[:40])}"
            )


def _column(path: Path, header: tuple[str, ...], name: str) -> int:
    if name not in header:
        raise DataError(
            f"{path}: row 1: the header lacks column {name!r}; it has: {', '.join(header)}"
        )
    return len(header) - 1 - header[::-1].index(name)


def _jsonl_rows(path: Path, layout: GlueLayout) -> Iterator[_Row]:
    for row, line in enumerate(read_lines(path), start=1):
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}: row {row}: not JSON: {error}") from None
        keys = (*layout.hub_texts, "label")
        if not isinstance(value, dict) or not all(isinstance(value.get(key), str) for key in keys):
            raise DataError(
                f"{path}: row {row}: got {shown(value)}, need an object with texts "
                f"{', '.join(keys)}"
            )
        yield row, tuple(value[key] for key in layout.hub_texts), value["label"]


def _parquet_rows(path: Path, layout: GlueLayout) -> Iterator[_Row]:
    for row, (*texts, raw) in enumerate(read_parquet(path, (*layout.hub_texts, "label")), start=1):
        if not all(isinstance(text, str) for text in texts):
            raise DataError(f"{path}: row {row}: got {shown(texts)}, need texts")
        if not layout.hub_labels:
            # Parquet stores 32-bit scores; seven digits give back the published decimal.
            yield row, tuple(texts), None if raw is None else f"{raw:.7g}"
        elif isinstance(raw, int) and 0 <= raw < len(layout.hub_labels):
            yield row, tuple(texts), layout.hub_labels[raw]
        else:
            hidden = " (hidden by the publisher: the split cannot be used)" if raw == -1 else ""
            allowed = ", ".join(str(number) for number in range(len(layout.hub_labels)))
            raise DataError(
                f"{path}: row {row}: label: got {shown(raw)}{hidden}; allowed: {allowed}"
            )


def _class_number(labels: tuple[str, ...]) -> Callable[[Any], int]:
    numbers = {label: number for number, label in enumerate(labels)}

    def convert(raw: Any) -> int:
        if raw not in numbers:
            raise ValueError(f"got {shown(raw)}; allowed: {', '.join(labels)}")
        return numbers[raw]

    return convert


def _score(raw: Any) -> float:
    try:
        score = float(raw)
    except (TypeError, ValueError):
        score = float("nan")
    if not LOWEST_SCORE <= score <= HIGHEST_SCORE:  # false for NaN as well
        raise ValueError(
            f"got {shown(raw)}, need a number in [{LOWEST_SCORE:g}, {HIGHEST_SCORE:g}]"
        )
    return score
