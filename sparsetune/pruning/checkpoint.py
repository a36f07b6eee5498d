"""The one save format: a safetensors file whose metadata holds one JSON manifest.

    model.safetensors
        metadata          {"sparsetune": manifest}: what the tensors are, see ``Manifest``
        <parameter>       what was trained, or every weight if the file holds a whole model
        support/<site>    int32: places of single trained entries, flat in O x I
        mask/<site>       uint8, bits: which weights of the base are kept

Manifest and tensors are one file, so halves of two savings never meet. A run's file and the folder
of ``sparsetune.save`` are both this; beside a whole model stands its ``config.json``, for readers
that know Hugging Face's folders.
"""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sparsetune.architectures.anatomy import HEADS_BY_LAYER, Anatomy, model_class
from sparsetune.architectures.base import Site, check_plain
from sparsetune.errors import ModelError, first_line
from sparsetune.pruning.manifest import KEY, MASK, SUPPORT, Base, Manifest, Sizes, parse_manifest
from sparsetune.pruning.masks import pack_mask, unpack_mask
from sparsetune.pruning.structured import remove, sizes_of
from sparsetune.pruning.zeros import check_zeros
from sparsetune.records import replacing, write_json

TENSORS, CONFIG = "model.safetensors", "config.json"


def write_file(path: Path, tensors: Mapping[str, Tensor], manifest: Manifest) -> None:
    """Write a file of this format, atomically; the same content gives the same bytes.

    Args:
        path: the file; its folder is made.
        tensors: any device.
        manifest: what they are.
    """
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    told = json.dumps(manifest.model_dump(mode="json"), sort_keys=True)
    with replacing(path) as partial:
        save_file(stored, partial, metadata={KEY: told})


def read_file(path: Path) -> tuple[Manifest, dict[str, Tensor]]:
    """Read a file of this format onto the CPU.

    Args:
        path: the file.

    Raises:
        ModelError: missing, damaged, without a manifest, or of another format; in one line.
    """
    if not path.is_file():
        raise ModelError(f"{path}: no such file; needed: one that sparsetune saved")
    try:
        with safe_open(path, framework="pt") as file:
            manifest = parse_manifest(path, file.metadata())
            return manifest, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: not a readable safetensors file: {first_line(error)}") from None


def read_manifest(path: Path) -> Manifest:
    """Read what a file that was just written says of itself."""
    with safe_open(path, framework="pt") as file:
        return parse_manifest(path, file.metadata())


def base_of(model: nn.Module, saved: Collection[str], masks: Mapping[str, Tensor]) -> Base:
    """Name and identify the weights of a model that are not saved.

    Args:
        model: of a known architecture.
        saved: parameters that are saved.
        masks: bool, ``O x I``, by site key: where False, the weight counts as zero.
    """
    config: Any = model.config
    name = getattr(config, "_name_or_path", None) or None
    if name and Path(name).is_dir():  # where it lies is this machine's affair
        name = Path(name).name
    revision = getattr(config, "_commit_hash", None)
    return Base(name=name, revision=revision, sha256=_sha256(_frozen(model, saved, masks)))


def check_base(
    path: Path, base: Base, model: nn.Module, saved: Collection[str], masks: Mapping[str, Tensor]
) -> None:
    """Check that a model has the frozen weights that an update was trained on.

    Args:
        path: of the update, for the message.
        base: from its manifest.
        model: the plain model, or with the update attached.
        saved: parameters that the file holds.
        masks: that the file holds.

    Raises:
        ModelError: it has others.
    """
    if base_of(model, saved, masks).sha256 != base.sha256:
        raise ModelError(
            f"{path}: trained on {base.name or 'a model'} with other frozen weights than this "
            f"{type(model).__name__}: another checkpoint, other kept heads or neurons, another "
            "dtype, or a part drawn anew (a pooler)"
        )


def packed(supports: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Store places and masks as the format has them.

    Args:
        supports: site key -> flat positions.
        masks: site key -> bool, ``O x I``.
    """
    places = {SUPPORT + key: one.to(torch.int32) for key, one in supports.items()}
    return places | {MASK + key: pack_mask(mask) for key, mask in masks.items()}


def part_of(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Take the tensors of one prefix, without it; ``""`` = those that have none."""
    if not prefix:
        return {name: tensor for name, tensor in tensors.items() if "/" not in name}
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def masks_of(tensors: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Unpack the masks of a file for the model that they are for.

    Raises:
        ModelError: a mask is for a projection of another shape, or for none.
    """
    anatomy = Anatomy.of(model)
    bits = part_of(tensors, MASK)
    return {key: unpack_mask(one, anatomy.site_of(key).shape) for key, one in bits.items()}


def check_tensors(
    path: Path | str, state: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]
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


def foreign_config(config: Any, reader: str) -> dict[str, Any]:
    """Make the ``config.json`` of a folder whose weights transformers would misread.

    transformers takes whatever fits of a ``model.safetensors``, and draws the rest anew. A name of
    weights that it cannot take stops it, with an error that ends in that name.

    Args:
        config: of transformers, as it is or as JSON holds it.
        reader: what reads the folder.
    """
    told = config if isinstance(config, dict) else json.loads(config.to_json_string(use_diff=False))
    return {**told, "transformers_weights": f"read it by {reader}"}


def save_whole(model: nn.Module, folder: Path, *, reader: str | None = None) -> None:
    """Save every weight of a model, from which heads, neurons or layers may have been removed.

    A tokenizer goes into the same folder by its own ``save_pretrained``.

    Args:
        model: of one of transformers' own classes, nothing attached.
        folder: gets ``model.safetensors`` and ``config.json``; other files are left alone.
        reader: what transformers says of a model with heads or neurons removed, which it cannot
            read; None = the model is for readers that know its sizes.

    Raises:
        ModelError: something is attached, a masked weight is not zero any more, the class is not
            from transformers, or the weights are of several dtypes.
    """
    for site in Anatomy.of(model).sites():
        try:
            check_plain(site)
        except ModelError:
            raise ModelError(
                f"{site.path} ({type(site.module).__name__}) has something attached; merge it "
                "first (sparsetune.merge(model, 'dense')) or detach it"
            ) from None
    check_zeros(model)
    kind, sizes = type(model), sizes_of(model)
    if model_class(sizes.model_type, kind.__name__) is not kind:
        raise ModelError(
            f"{kind.__qualname__} is not one of transformers' own classes, which alone are rebuilt "
            "from a folder; needed: an update of it (apply_dsee), or its state_dict()"
        )
    dtypes = sorted({str(parameter.dtype) for parameter in model.parameters()})
    if len(dtypes) > 1:
        raise ModelError(f"weights of {', '.join(dtypes)}; needed: one dtype")
    own: Any = model.config
    config = json.loads(own.to_json_string(use_diff=False))
    config["architectures"] = [kind.__name__]
    config["dtype"] = dtypes[0].removeprefix("torch.")
    manifest = Manifest(
        model_class=kind.__name__,
        sizes=sizes,
        config=config,
        trained=sorted(name for name, p in model.named_parameters() if p.requires_grad),
    )
    write_file(folder / TENSORS, _untied(model), manifest)
    smaller = reader is not None and HEADS_BY_LAYER in config
    write_json(folder / CONFIG, foreign_config(config, str(reader)) if smaller else config)


def load_whole(path: Path, manifest: Manifest, state: Mapping[str, Tensor]) -> nn.Module:
    """Rebuild a model that ``save_whole`` saved.

    Args:
        path: of the file, for messages.
        manifest: from it.
        state: its tensors.

    Returns:
        The model on the CPU, in evaluation mode, with the library's default attention; bit for bit
        the saved weights, in their dtype; what trained when it was saved can train.

    Raises:
        ModelError: sizes do not fit the configuration or the weights.
    """
    model = _dense(path, manifest)
    _check_sizes(path, manifest.sizes, sizes_of(model))
    remove(
        model,
        [range(count) for count in manifest.sizes.heads],
        [range(count) for count in manifest.sizes.ffn_width],
    )
    own = model.state_dict()
    # Of tied weights one name is stored; the other follows it.
    stored = {own[name].data_ptr() for name in state if name in own}
    needed = {
        name: tuple(tensor.shape)
        for name, tensor in own.items()
        if name in state or tensor.data_ptr() not in stored
    }
    check_tensors(path, state, needed)
    model.load_state_dict(state, strict=False)
    trained = set(manifest.trained)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
    return model.eval()


def _dense(path: Path, manifest: Manifest) -> nn.Module:
    """Build the unpruned model of a configuration; its random weights are thrown away."""
    config, kind = manifest.config, manifest.sizes.model_type
    if config is None or config.get("model_type") != kind:
        told = config and config.get("model_type")
        raise ModelError(f"{path}: config: model_type: received {told!r}; allowed: {kind}")
    found = model_class(kind, manifest.model_class)
    if found is None:
        raise ModelError(
            f"{path}: model_class: {manifest.model_class!r} is no model of type {kind}"
        )
    try:
        dtype = getattr(torch, str(config.get("dtype")))
        with torch.random.fork_rng(devices=[]):
            return found(found.config_class.from_dict(dict(config))).to(dtype)
    except Exception as error:  # the library raises many kinds for a damaged configuration
        raise ModelError(f"{path}: config: unusable: {first_line(error)}") from None


def _check_sizes(path: Path, saved: Sizes, dense: Sizes) -> None:
    for key in ("layers", "head_size"):
        own, other = getattr(saved, key), getattr(dense, key)
        if own != other:
            raise ModelError(f"{path}: sizes.{key}: received {own}; allowed: {other}, as in config")
    for key, unit in (("heads", "heads"), ("ffn_width", "neurons")):
        counts = getattr(saved, key)
        if len(counts) != dense.layers:
            raise ModelError(f"{path}: sizes.{key}: received {counts}; needed: one for each layer")
        for layer, (count, most) in enumerate(zip(counts, getattr(dense, key), strict=True)):
            if not 1 <= count <= most:
                raise ModelError(
                    f"{path}: sizes.{key} of layer {layer}: received {count}; "
                    f"allowed: 1 to {most} {unit}"
                )


def _untied(model: nn.Module) -> dict[str, Tensor]:
    """The state with one name for tied weights."""
    named: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in model.state_dict().items():
        named.setdefault(tensor.data_ptr(), (name, tensor))
    return dict(named.values())


def _sha256(tensors: Iterator[tuple[str, Tensor]]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors, key=lambda item: item[0]):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _frozen(
    model: nn.Module, saved: Collection[str], masks: Mapping[str, Tensor]
) -> Iterator[tuple[str, Tensor]]:
    masked: dict[int, list[Site]] = {}
    for site in Anatomy.of(model).sites():
        if site.key in masks:
            masked.setdefault(id(site.module.weight), []).append(site)
    for name, parameter in model.named_parameters():
        if name in saved:
            continue
        tensor = parameter.detach()
        if id(parameter) in masked:
            tensor = tensor.clone()
            for site in masked[id(parameter)]:
                site.weight_view(tensor).masked_fill_(~masks[site.key].to(tensor.device), 0.0)
        yield name, tensor
