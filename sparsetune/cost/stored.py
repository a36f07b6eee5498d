"""The sizes of a stored model from which heads and neurons were removed; torch is not needed."""

from pathlib import Path

from sparsetune.cost.shapes import ModelShape
from sparsetune.errors import ModelError
from sparsetune.records import read_json


def as_stored(dense: ModelShape, folder: Path) -> ModelShape:
    """Describe the model of a folder as it is.

    Args:
        dense: as its ``config.json`` says, before any removal.
        folder: whose ``config.json`` has ``heads_by_layer`` and ``neurons_by_layer`` if something
            was removed.

    Returns:
        ``dense`` itself, or the smaller shape.

    Raises:
        DataError: the file is not JSON.
        ModelError: it does not fit the model.
    """
    path, keys = folder / "config.json", ("heads_by_layer", "neurons_by_layer")
    config = read_json(path, what="backbone configuration")
    if not any(key in config for key in keys):
        return dense
    try:
        kept = [[range(count) for count in config[key]] for key in keys]
    except (KeyError, TypeError):
        raise ModelError(f"{path}: need {' and '.join(keys)}, a number for each layer") from None
    return dense.with_kept(*kept)
