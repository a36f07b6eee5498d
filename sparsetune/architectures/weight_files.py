"""Which files hold a folder's weights, and what shapes are in them, without loading any."""

import math
from collections.abc import Collection
from pathlib import Path

from sparsetune.errors import DataError, ModelError, first_line
from sparsetune.records import read_json, write_json

INDEX = "model.safetensors.index.json"
"""Names the shards of a model in several files."""
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")


def weight_files(directory: Path) -> list[Path]:
    """Name the safetensors files of a folder.

    Args:
        directory: Hugging Face folder.

    Raises:
        ModelError: there are none, or a shard is missing or named unsafely.
    """
    single, index = directory / "model.safetensors", directory / INDEX
    if single.is_file():
        return [single]
    if index.is_file():
        return _shards(index)
    pickles = sorted(path.name for pattern in _PICKLES for path in directory.glob(pattern))
    if pickles:
        raise ModelError(
            f"{directory}: {pickles[0]} is a pickle checkpoint, which can run code and is never "
            "read; need model.safetensors"
        )
    raise ModelError(
        f"{directory}: no model.safetensors (or {INDEX} with its shards); pickle checkpoints "
        "are never read"
    )


def stored_parameters(path: Path) -> int:
    """Count the weights of a safetensors file.

    Raises:
        ModelError: the file is unreadable.
    """
    return sum(math.prod(shape) for shape in stored_shapes(path).values())


def stored_shapes(path: Path) -> dict[str, list[int]]:
    """Read the name and the shape of every tensor of a safetensors file.

    Raises:
        ModelError: the file is unreadable.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: not a readable safetensors file: {first_line(error)}") from None


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(read_json(index, what="weight index")["weight_map"].values()))
    except DataError as error:
        raise ModelError(str(error)) from None
    except (KeyError, TypeError, AttributeError):
        raise ModelError(f"{index}: weight_map is missing; need weight name -> file") from None
    for name in names:
        # A name with a folder in it would lead out of the backbone's folder.
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise ModelError(f"{index}: weight_map: received {name!r}, need a *.safetensors name")
        if not (index.parent / name).is_file():
            raise ModelError(f"{index.parent / name}: no such file, but {INDEX} names it")
    return [index.parent / name for name in names]


def drop_tensors(directory: Path, names: Collection[str]) -> None:
    """Rewrite a folder's weights without some tensors; its index follows.

    Args:
        directory: Hugging Face folder of our own.
        names: of the tensors.
    """
    from safetensors.torch import load_file, save_file

    for path in weight_files(directory):
        tensors = load_file(path)
        kept = {name: tensor for name, tensor in tensors.items() if name not in names}
        if not kept:
            path.unlink()
        elif len(kept) < len(tensors):
            save_file(kept, path, metadata={"format": "pt"})
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        told = read_json(index, what="weight index")
        places = told["weight_map"].items()
        told["weight_map"] = {name: file for name, file in places if name not in names}
        write_json(index, told)
