"""Encoded features of a large training split, kept on disk between jobs.

A cache, no result: nothing depends on it, it may be deleted at any time, and a file that is
damaged or stands for anything else is made again. Small splits are encoded faster than looked up.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import tokenizers
import transformers

from sparsetune.errors import first_line
from sparsetune.records import STAGES, digest_of, replacing, sha256_of

logger = logging.getLogger(__name__)
FOLDER = "features"
LEAST_EXAMPLES = 10_000  # about half a second of encoding
_KEY = b"sparsetune.key"


class FeatureColumns(Sequence):
    """Features held as one array a field instead of millions of Python integers.

    Attributes:
        lengths: tokens of each feature.
    """

    def __init__(self, table: pyarrow.Table) -> None:
        """Take the fields of a table made by :func:`write_features`."""
        self._rows = table.num_rows
        self._scalars: dict[str, np.ndarray] = {}
        self._lists: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for name in table.column_names:
            column = table.column(name).combine_chunks()
            if pyarrow.types.is_list(column.type):
                self._lists[name] = (column.values.to_numpy(), column.offsets.to_numpy())
            else:
                self._scalars[name] = column.to_numpy()
        self._names = table.column_names
        self.lengths = np.diff(self._lists["input_ids"][1]).tolist()

    def __len__(self) -> int:
        """Number of features."""
        return self._rows

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One feature, as ``encode`` gave it: lists of int, and int or float."""
        if not -self._rows <= index < self._rows:
            raise IndexError(index)
        row = index % self._rows
        return {name: self._value(name, row) for name in self._names}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Features in order."""
        return (self[row] for row in range(self._rows))

    def _value(self, name: str, row: int) -> Any:
        if name in self._scalars:
            return self._scalars[name][row].item()
        values, offsets = self._lists[name]
        return values[offsets[row] : offsets[row + 1]].tolist()


def cached_features(
    dataset: Path,
    task: Any,
    tokenizer: Any,
    limit: int | None,
    make: Callable[[], list[dict[str, Any]]],
) -> Sequence[dict[str, Any]]:
    """Training features from the cache, or made and, if they are many, kept there.

    Args:
        dataset: the task's folder, with ``record.json``; the cache is ``features/`` in it.
        task: catalogue entry; all that encoding reads of it is part of the key.
        tokenizer: a fast Hugging Face tokenizer.
        limit: examples that are kept; None = all.
        make: reads and encodes the split.

    Returns:
        Features as ``make`` gives them, as a list or as :class:`FeatureColumns`.
    """
    folder = dataset / FOLDER
    if not (dataset / "record.json").is_file():
        return make()
    key = features_key(dataset, task, tokenizer, limit) if folder.is_dir() else None
    found = read_features(folder / f"{key}.parquet", key) if key else None
    if found is not None:
        return found
    features = make()
    if len(features) >= LEAST_EXAMPLES:
        key = key or features_key(dataset, task, tokenizer, limit)
        return write_features(folder / f"{key}.parquet", key, features)
    return features


def features_key(dataset: Path, task: Any, tokenizer: Any, limit: int | None) -> str:
    """Digest of everything that decides what the features are, our code that makes them included.

    Args:
        dataset: see :func:`cached_features`, likewise for the others.
        task: layout, kind, labels, window and lengths are read.
        tokenizer: its vocabulary, rules and special tokens are read.
        limit: examples that are kept.

    Returns:
        16 hex digits.
    """
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    kept = {name: value for name, value in rules.items() if name not in ("truncation", "padding")}
    generation = task.generation or {}
    return digest_of(
        {
            "dataset": sha256_of(dataset / "record.json"),
            "tokenizer": kept,
            "special_tokens": [tokenizer.sep_token_id, tokenizer.eos_token_id],
            "task": [
                task.layout, task.kind, list(task.labels), task.maximum_tokens,
                task.window_stride_tokens, generation.get("maximum_new_tokens"), limit,
            ],
            "stages": [STAGES["dataset"], STAGES["tune"]],
            "libraries": [tokenizers.__version__, transformers.__version__],
            # A reader may change what it gives without a new stage version.
            "code": [sha256_of(path) for path in sorted(Path(__file__).parent.glob("*.py"))],
        }
    )  # fmt: skip


def read_features(path: Path, key: str) -> FeatureColumns | None:
    """Read features, or None if the file is missing, damaged or stands for something else."""
    try:
        with pyarrow.parquet.ParquetFile(path, page_checksum_verification=True) as file:
            if (file.schema_arrow.metadata or {}).get(_KEY) != key.encode():
                logger.warning("%s: written for other features; encoding again", path)
                return None
            return FeatureColumns(file.read())
    except FileNotFoundError:
        return None
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        logger.warning("%s: damaged (%s); encoding again", path, first_line(error))
        return None


def write_features(path: Path, key: str, features: Sequence[Mapping[str, Any]]) -> FeatureColumns:
    """Write features atomically; a folder that cannot be written to is no fault.

    Args:
        path: the file.
        key: from :func:`features_key`; stored inside.
        features: at least one, all with the same fields: lists of int, or int or float.

    Returns:
        The features, in a fraction of the memory.
    """
    columns = {
        name: pyarrow.array(
            [feature[name] for feature in features],
            pyarrow.list_(pyarrow.int32()) if isinstance(features[0][name], list) else None,
        )
        for name in features[0]
    }
    table = pyarrow.table(columns).replace_schema_metadata({_KEY: key})
    try:
        with replacing(path) as partial:
            pyarrow.parquet.write_table(
                table, partial, compression="zstd", write_page_checksum=True
            )
    except OSError as error:
        logger.warning("%s: not kept: %s", path, error.strerror or error)
    return FeatureColumns(table)
