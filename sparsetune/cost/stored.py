"""The sizes of a model's folder from which heads and neurons were removed; torch is not needed."""

from pathlib import Path

from sparsetune.cost.shapes import ModelShape
from sparsetune.errors import ModelError
from sparsetune.records import read_json

SHAPES_FILE = "sparsetune_shapes.json"
"""Sizes of each layer, beside the weights."""


def as_stored(dense: ModelShape, folder: Path) -> ModelShape:
    """Describe the model of a folder as it is.

    Args:
        dense: as its ``config.json`` says, before any removal.
        folder: with ``sparsetune_shapes.json`` if something was removed.

    Returns:
        ``dense`` itself, or the smaller shape.

    Raises:
        DataError: the file is not JSON.
        ModelError: it does not fit the model.
    """
    path = folder / SHAPES_FILE
    if not path.exists():
        return dense
    saved = read_json(path, what="description of a model")
    try:
        kept = [[range(count) for count in saved[key]] for key in ("heads", "ffn_width")]
    except (KeyError, TypeError):
        raise ModelError(f"{path}: need heads and ffn_width, a number for each layer") from None
    return dense.with_kept(*kept)
