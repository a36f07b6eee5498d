"""The file of a run's predictions: id, prediction and reference of every evaluation example."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from sparsetune.errors import DataError, first_line
from sparsetune.records import replacing

NAME = "predictions.parquet"
_COLUMNS = ("id", "prediction", "reference")


@dataclass(frozen=True)
class Predictions:
    """What one run predicted.

    Attributes:
        path: where it was read from.
        ids: of the examples, in file order.
        predictions: label numbers, real scores or texts.
        references: label, score, or accepted texts of each example.
    """

    path: Path
    ids: list[str]
    predictions: list[Any]
    references: list[Any]


def write_predictions(
    path: Path, ids: Sequence[str], predictions: Sequence[Any], references: Sequence[Any]
) -> None:
    """Write a run's predictions atomically; references are kept as JSON.

    References stand beside the predictions so that runs can be compared without their data set.

    Args:
        path: the parquet file.
        ids: ``(N,)``.
        predictions: ``(N,)``: label numbers, real scores or texts.
        references: ``(N,)``: label, score, or accepted texts of each example.
    """
    table = pyarrow.table(
        {
            "id": list(ids),
            "prediction": list(predictions),
            "reference": [json.dumps(one, ensure_ascii=False) for one in references],
        }
    )
    with replacing(path) as partial:
        pyarrow.parquet.write_table(table, partial)


def read_predictions(path: Path, *, count: int) -> Predictions:
    """Read a run's predictions.

    Args:
        path: the parquet file.
        count: examples that the record beside it tells.

    Raises:
        DataError: the file is missing, unreadable or has another length; a column is missing,
            ids repeat, or a value is absent.
    """
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            missing = [name for name in _COLUMNS if name not in file.schema_arrow.names]
            if missing:
                raise DataError(f"{path}: no column {missing[0]!r}; rerun stage 'evaluate'")
            columns = file.read(columns=list(_COLUMNS)).to_pydict()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; rerun stage 'evaluate'") from None
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable parquet file: {first_line(error)}") from None
    ids, predictions, references = (columns[name] for name in _COLUMNS)
    if len(ids) != count:
        raise DataError(
            f"{path}: holds {len(ids)} predictions, evaluate.json beside it tells {count}; "
            "rerun stage 'evaluate'"
        )
    for name in _COLUMNS:
        if None in columns[name]:
            row = columns[name].index(None) + 1
            raise DataError(f"{path}: row {row}: {name}: received nothing; allowed: a value")
    if len(set(ids)) != len(ids):
        repeated = next(one for one in ids if ids.count(one) > 1)
        raise DataError(f"{path}: id {repeated!r} is there twice")
    try:
        # Labels repeat: each text is parsed once.
        parsed = {text: json.loads(text) for text in dict.fromkeys(references)}
        return Predictions(path, ids, predictions, [parsed[text] for text in references])
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: reference: not JSON: {error}") from None


def require_same_examples(first: Predictions, second: Predictions) -> None:
    """Refuse to pair predictions of different examples.

    Raises:
        DataError: another length, id or reference; the first difference is named.
    """
    if len(first.ids) != len(second.ids):
        raise DataError(
            f"{second.path}: holds {len(second.ids)} predictions, {first.path} holds "
            f"{len(first.ids)}; a paired test needs the same examples"
        )
    for name in ("ids", "references"):
        if getattr(first, name) == getattr(second, name):
            continue
        pairs = zip(getattr(first, name), getattr(second, name), strict=True)
        for row, (expected, received) in enumerate(pairs, start=1):
            if expected != received:
                raise DataError(
                    f"{second.path}: row {row}: {name.removesuffix('s')} is "
                    f"{str(received)[:60]!r}, {first.path} has {str(expected)[:60]!r}"
                )
