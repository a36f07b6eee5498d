"""Models with fewer heads and neurons, as folders like Hugging Face's: save and load back.

The plain ``from_pretrained`` cannot load them, because ``config.json`` has one size for all
layers; the sizes of each layer stand beside it, in ``sparsetune_shapes.json``.
"""

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sparsetune.architectures.base import Anatomy, check_plain
from sparsetune.cost.stored import SHAPES_FILE
from sparsetune.errors import DataError, ModelError
from sparsetune.pruning.structured import remove, shapes
from sparsetune.records import read_json, replacing, sha256_of, write_json

_CONFIG, _SHAPES, _TENSORS = "config.json", SHAPES_FILE, "model.safetensors"
_FORMAT = 1
_SIZES = {"heads": "heads", "ffn_width": "neurons"}


def save_compact(model: nn.Module, folder: Path | str) -> None:
    """Save a model from which heads and neurons were removed.

    The folder gets ``model.safetensors``, ``config.json`` and ``sparsetune_shapes.json``, each
    written atomically; the last names the first's sha256, so that halves of two savings are never
    loaded. A tokenizer goes into the same folder by its own ``save_pretrained``.

    Args:
        model: a BERT, RoBERTa or GPT-2 of one of transformers' own classes, plain: a DSEE update
            is merged first.
        folder: made if it is not there; other files in it are left alone.

    Raises:
        ModelError: something is attached to the model, its class is not from transformers, or
            its weights are of several dtypes.
    """
    folder, sizes = Path(folder), shapes(model)
    for site in Anatomy.of(model).sites():
        try:
            check_plain(site)
        except ModelError:
            raise ModelError(
                f"{site.path} ({type(site.module).__name__}) has something attached; merge it "
                "first (sparsetune.merge(model, 'dense')) or detach it"
            ) from None
    if _class_named(type(model).__name__, sizes["model_type"]) is not type(model):
        raise ModelError(f"{type(model).__qualname__} is not one of transformers' own classes")
    dtypes = sorted({str(parameter.dtype) for parameter in model.parameters()})
    if len(dtypes) > 1:
        raise ModelError(f"weights of {', '.join(dtypes)}; needed: one dtype")
    config = json.loads(model.config.to_json_string(use_diff=False))
    config["architectures"] = [type(model).__name__]
    config["dtype"] = dtypes[0].removeprefix("torch.")
    with replacing(folder / _TENSORS) as partial:
        save_file(_untied(model), str(partial), metadata={"format": "pt"})
    write_json(folder / _CONFIG, config)
    digest = sha256_of(folder / _TENSORS)
    write_json(folder / _SHAPES, {"format": _FORMAT, **sizes, "tensors_sha256": digest})


def load_compact(folder: Path | str) -> nn.Module:
    """Rebuild a model that ``save_compact`` saved.

    Args:
        folder: as ``save_compact`` wrote it.

    Returns:
        The model on the CPU, in evaluation mode, with the library's default attention; bit for bit
        the saved weights, in their dtype.

    Raises:
        ModelError: files are missing, damaged or not of one saving, or sizes do not fit the
            configuration or the weights.
    """
    folder = Path(folder)
    settings, saved = _read_object(folder / _CONFIG), _read_object(folder / _SHAPES)
    if saved.get("format") != _FORMAT:
        found = saved.get("format")
        raise ModelError(f"{folder / _SHAPES}: format: received {found!r}, allowed: {_FORMAT}")
    state = read_tensors(folder / _TENSORS)
    if sha256_of(folder / _TENSORS) != saved.get("tensors_sha256"):
        raise ModelError(f"{folder / _TENSORS}: not the file that {_SHAPES} names")
    model = _dense(folder / _CONFIG, settings)
    _check_sizes(folder / _SHAPES, saved, shapes(model))
    remove(
        model,
        [list(range(count)) for count in saved["heads"]],
        [list(range(count)) for count in saved["ffn_width"]],
    )
    own = model.state_dict()
    # Of tied weights one name is stored; the other follows it.
    stored = {own[name].data_ptr() for name in state if name in own}
    needed = {
        name: tuple(tensor.shape)
        for name, tensor in own.items()
        if name in state or tensor.data_ptr() not in stored
    }
    check_tensors(folder / _TENSORS, state, needed)
    model.load_state_dict(state, strict=False)
    return model.eval()


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file onto the CPU.

    Args:
        path: the file.

    Returns:
        Tensors by name.

    Raises:
        ModelError: the file is missing or damaged.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: not a readable safetensors file: {error}") from None


def check_tensors(
    path: Path, state: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]
) -> None:
    """Check that stored tensors have the names and shapes that a model needs.

    Args:
        path: where they were read, for the message.
        state: what was read.
        expected: shapes by name.

    Raises:
        ModelError: naming the first tensor that is missing, unknown or of another shape.
    """
    for name in sorted(expected.keys() | state.keys()):
        found = tuple(state[name].shape) if name in state else "nothing"
        wanted = expected.get(name, "nothing")
        if found != wanted:
            raise ModelError(f"{path}: {name} is {found} in the file, the model needs {wanted}")


def _untied(model: nn.Module) -> dict[str, Tensor]:
    """The state with one name for tied weights.

    The library would name the others in the file, in an order that changes from time to time.
    """
    named: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in model.state_dict().items():
        named.setdefault(tensor.data_ptr(), (name, tensor.contiguous()))
    return dict(named.values())


def _read_object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ModelError(f"{path}: no such file; needed: a folder that save_compact wrote")
    try:
        value = read_json(path, what="description of a model")
    except DataError as error:
        raise ModelError(str(error)) from None
    if not isinstance(value, dict):
        raise ModelError(f"{path}: received a {type(value).__name__}, needed: an object")
    return value


def _class_named(name: str, model_type: str) -> Any:
    """The class of that name among transformers' own of that type; None if there is none."""
    module = importlib.import_module(f"transformers.models.{model_type}.modeling_{model_type}")
    return getattr(module, name, None)


def _dense(path: Path, settings: Mapping[str, Any]) -> nn.Module:
    """Build the unpruned model of a configuration; its random weights are thrown away."""
    from transformers import PreTrainedModel

    model_type, classes = settings.get("model_type"), settings.get("architectures")
    if model_type not in ("bert", "roberta", "gpt2"):
        raise ModelError(f"{path}: model_type: received {model_type!r}, allowed: bert roberta gpt2")
    named = classes[0] if isinstance(classes, list) and len(classes) == 1 else None
    found = _class_named(str(named), model_type)
    if not (isinstance(found, type) and issubclass(found, PreTrainedModel)):
        raise ModelError(f"{path}: architectures: {classes!r} is no model of type {model_type}")
    try:
        dtype = getattr(torch, str(settings.get("dtype")))
        config = found.config_class.from_dict(dict(settings))
        with torch.random.fork_rng(devices=[]):
            return found(config).to(dtype)
    except Exception as error:  # the library raises many kinds for a damaged configuration
        raise ModelError(f"{path}: unusable: {error!r}".splitlines()[0]) from None


def _check_sizes(path: Path, saved: Mapping[str, Any], dense: Mapping[str, Any]) -> None:
    for key in ("model_type", "layers", "head_size"):
        if saved.get(key) != dense[key]:
            raise ModelError(
                f"{path}: {key}: received {saved.get(key)!r}, {_CONFIG} says {dense[key]!r}"
            )
    for key, unit in _SIZES.items():
        counts = saved.get(key)
        if not isinstance(counts, list) or len(counts) != dense["layers"]:
            raise ModelError(f"{path}: {key}: received {counts!r}, needed: one for each layer")
        for layer, (count, most) in enumerate(zip(counts, dense[key], strict=True)):
            if type(count) is not int or not 1 <= count <= most:
                raise ModelError(
                    f"{path}: {key} of layer {layer}: received {count!r}, "
                    f"allowed: 1 to {most} {unit}"
                )
