"""Features of a task's examples for training: encoded, and kept on disk where they are many.

Many features are made by ``Dataset.map`` of ``datasets`` and cached by it, in the task's folder
under a name that tells everything that decides what they are. A cache is no result: nothing depends
on it and it may be deleted at any time. Small splits are encoded faster than the library is
imported, so they take neither.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import tokenizers
import transformers
from torch import Tensor

from sparsetune.config.load import Task
from sparsetune.data.corpus import TrainingBlocks
from sparsetune.data.corpus import collate as collate_blocks
from sparsetune.data.examples import count_examples, read_examples
from sparsetune.data.tokenization import collate, encode
from sparsetune.errors import first_line
from sparsetune.records import STAGES, digest_of, sha256_of

logger = logging.getLogger(__name__)
FOLDER = "features"
LEAST_EXAMPLES = 10_000  # about half a second of encoding
Batches = Callable[[list[Any]], dict[str, Tensor]]


def training_features(
    task: Task, dataset: Path, tokenizer: Any, limit: int | None
) -> tuple[Sequence[dict[str, Any]], Batches]:
    """Encode a task's training split, or take its features from the cache.

    Args:
        task: from the catalogue.
        dataset: the task's folder; the cache is ``features/`` in it.
        tokenizer: of the backbone.
        limit: keep the first N examples; None = all.

    Returns:
        Features, and the function that makes a batch of some of them.

    Raises:
        DataError: a file is missing or damaged.
    """
    count = count_examples(dataset, "train")
    few = min(count, count if limit is None else limit) < LEAST_EXAMPLES
    make = _encoded if few or not (dataset / "record.json").is_file() else _cached
    return make(task, dataset, tokenizer, limit), partial(
        collate, pad_token_id=tokenizer.pad_token_id
    )


def masked_features(
    features: Sequence[Mapping[str, Any]], tokenizer: Any, *, fraction: float, seed: int
) -> tuple[TrainingBlocks, Batches]:
    """Turn a task's training features into texts with tokens to predict.

    Args:
        features: encoded examples; their labels are left out.
        tokenizer: with a mask token.
        fraction: share of the tokens to predict, in (0, 1).
        seed: of the choice, >= 0; each text always has the same tokens hidden.

    Returns:
        The texts, and the function that makes a batch of some of them.
    """
    texts = [feature["input_ids"] for feature in features]
    segments = [feature.get("token_type_ids") for feature in features]
    masked = TrainingBlocks(texts, tokenizer, fraction=fraction, seed=seed, segments=segments)
    return masked, collate_blocks


class FeatureColumns(Sequence[dict[str, Any]]):
    """Features held as one array a field instead of millions of Python integers.

    ``datasets`` gives a row in a tenth of a millisecond, which a short training step would notice.

    Attributes:
        lengths: tokens of each feature.
    """

    def __init__(self, table: pyarrow.Table) -> None:
        """Take the fields of a table: lists of int, int or float."""
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

    def __getitem__(self, index: int) -> dict[str, Any]:  # type: ignore[override]  # no slices
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


def features_key(dataset: Path, task: Task, tokenizer: Any, limit: int | None) -> str:
    """Digest of everything that decides what the features are, our code that makes them included.

    Args:
        dataset: see :func:`training_features`, likewise for the others.
        task: kind, labels, window and lengths are read.
        tokenizer: its vocabulary, rules and special tokens are read.
        limit: examples that are kept.

    Returns:
        16 hex digits.
    """
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    kept = {name: value for name, value in rules.items() if name not in ("truncation", "padding")}
    return digest_of(
        {
            "dataset": sha256_of(dataset / "record.json"),
            "tokenizer": kept,
            "special_tokens": [tokenizer.sep_token_id, tokenizer.eos_token_id],
            "task": [
                task.kind, list(task.labels), task.maximum_tokens, task.window_stride_tokens,
                task.generation and task.generation.maximum_new_tokens, limit,
            ],
            "stages": [STAGES["dataset"], STAGES["tune"]],
            "libraries": [tokenizers.__version__, transformers.__version__],
            # The code may change what it gives without a new stage version.
            "code": [sha256_of(path) for path in sorted(Path(__file__).parent.glob("*.py"))],
        }
    )  # fmt: skip


def _encoded(
    task: Task, dataset: Path, tokenizer: Any, limit: int | None
) -> Sequence[dict[str, Any]]:
    return encode(read_examples(dataset, task, "train", limit), task, tokenizer, for_training=True)


def _cached(
    task: Task, dataset: Path, tokenizer: Any, limit: int | None
) -> Sequence[dict[str, Any]]:
    """Features through the library's cache, whose files appear whole or not at all."""
    # The library takes a second to import, and only large tasks need it.
    import datasets

    datasets.disable_progress_bars()
    key = features_key(dataset, task, tokenizer, limit)
    path = dataset / FOLDER / f"{key}.arrow"
    examples: list[Any] = []

    def encode_rows(rows: Sequence[int]) -> dict[str, list[Any]]:
        if not examples:
            examples.extend(read_examples(dataset, task, "train", limit))
        features = encode([examples[row] for row in rows], task, tokenizer, for_training=True)
        return {name: [feature[name] for feature in features] for name in features[0]}

    def mapped(*, use_cache: bool) -> FeatureColumns:
        count = min(filter(None, (count_examples(dataset, "train"), limit)))
        made = datasets.Dataset.from_dict({"row": range(count)}).map(
            encode_rows, input_columns="row", remove_columns="row", batched=True,
            cache_file_name=str(path), new_fingerprint=key, load_from_cache_file=use_cache,
        )  # fmt: skip
        return FeatureColumns(made.data.table)

    try:
        path.parent.mkdir(exist_ok=True)
        if path.is_file():
            try:
                return mapped(use_cache=True)
            except (pyarrow.ArrowException, OSError, ValueError) as error:
                logger.warning("%s: damaged (%s); encoding again", path, first_line(error))
        return mapped(use_cache=False)
    except OSError as error:
        logger.warning("%s: not kept: %s", path, error.strerror or error)
        return _encoded(task, dataset, tokenizer, limit)
