"""The model that an update was trained on: where its weights lie, and how to have it again.

``checkpoint`` identifies the frozen weights themselves; here is what finds them: the name that
transformers loaded them by, its revision, and the sha256 of their file.
"""

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from sparsetune.architectures.anatomy import model_class
from sparsetune.architectures.families import FAMILIES
from sparsetune.architectures.weight_files import weight_files
from sparsetune.errors import ModelError, first_line, refusal
from sparsetune.pruning.checkpoint import load_whole, read_file
from sparsetune.pruning.manifest import KEY, Base, Kept, Manifest
from sparsetune.pruning.structured import remove
from sparsetune.records import digest_of
from sparsetune.records.files import sha256_of

# An attribute of the module: it is copied with it, and must not reach a state dict.
_NOTE = "kept_of_base"


def source_of(model: nn.Module) -> dict[str, str | None]:
    """Tell where transformers loaded a model from, as fields of ``Base``.

    Args:
        model: any with a configuration of transformers.

    Returns:
        ``source`` as it was given, but a folder by its absolute path; ``revision`` of the hub's
        cache, and ``file_sha256`` of its weights: of the one file, or of the names and hashes of
        its shards; only what is known.
    """
    config: Any = getattr(model, "config", None)
    source = getattr(config, "_name_or_path", None) or None
    if source is None:
        return {}
    if Path(source).is_dir():  # found from any directory
        source = str(Path(source).resolve())
    files = _files(source, None)
    told: dict[str, str | None] = {"source": source, "file_sha256": _sha256(files)}
    if files and files[0].parent.parent.name == "snapshots":  # of the hub's cache
        told["revision"] = files[0].parent.name
    return told


def load_base(path: Path, manifest: Manifest) -> nn.Module:
    """Load the model that an update was trained on, from its folder or the hub's local cache.

    Args:
        path: of the update's file, for messages.
        manifest: from it.

    Returns:
        The model as transformers or ``load_whole`` gives it, on the CPU in evaluation mode, of the
        saved class and dtype; the global generators are left alone. What the checkpoint lacks is
        drawn.

    Raises:
        ModelError: the file does not tell its base, that is not there, its weights' file is
            another than then, or the class is none of transformers'.
    """
    base, config = manifest.base, manifest.config
    kind = manifest.model_class
    needed = "needed: sparsetune.load(folder, model) with that model"
    if base is None or base.source is None or config is None:
        told = base and base.name
        raise ModelError(
            f"{path}: holds an update of {told or kind}, whose base it does not tell; {needed}"
        )
    found = model_class(manifest.sizes.model_type, kind)
    if found is None:
        raise ModelError(f"{path}: holds an update of {kind}, a class of its own; {needed}")
    files = _files(base.source, base.revision)
    if not files:
        raise ModelError(
            f"{path}: base: received {base.source!r}, which is no folder with weights here and "
            f"not in the hub's cache; {needed}"
        )
    if base.file_sha256 is not None and _sha256(files) != base.file_sha256:
        raise ModelError(
            f"{path}: base: {base.source!r} holds other weights than when the update was trained "
            f"(sha256 {_sha256(files)}; needed: {base.file_sha256})"
        )
    if _is_ours(files[0]):
        whole, state = read_file(files[0])
        if whole.base is not None:
            raise ModelError(f"{path}: base: {base.source!r} holds an update; {needed}")
        return _kept(load_whole(files[0], whole, state), manifest)
    try:
        told = found.config_class.from_dict(_with_sizes_of(base, found, config))
        dtype = getattr(torch, str(config.get("dtype")))
        model, _ = _read(found, base.source, base.revision, config=told, dtype=dtype)
    except Exception as error:  # the library raises many kinds for a damaged folder
        raise ModelError(
            f"{path}: base: {base.source!r} cannot be loaded: {first_line(error)}"
        ) from None
    return _kept(model.eval(), manifest)


def is_plain(folder: Path) -> bool:
    """Tell whether transformers has written a folder that it reads by itself.

    Args:
        folder: any path.
    """
    try:
        told = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return "transformers_weights" not in told and not _is_ours(weight_files(folder)[0])
    except (OSError, ValueError, TypeError, SafetensorError, ModelError):
        return False


def load_plain(folder: Path) -> nn.Module:
    """Load a model that transformers has saved.

    Args:
        folder: that ``is_plain``.

    Returns:
        The model of the class that its ``config.json`` names, on the CPU in evaluation mode.

    Raises:
        ModelError: no class of a known family, weights that are damaged or of other shapes, or
            some are not there, which would be drawn anew.
    """
    path = folder / "config.json"
    told = json.loads(path.read_text(encoding="utf-8"))
    kind, names = told.get("model_type"), told.get("architectures") or [None]
    if kind not in FAMILIES:
        raise ModelError(refusal(path, "model_type", kind, FAMILIES))
    found = model_class(kind, str(names[0]))
    if found is None:
        raise ModelError(
            f"{path}: architectures: received {names[0]!r}; allowed: a class of transformers of "
            f"type {kind}"
        )
    try:
        model, loading = _read(found, str(folder.resolve()), None, dtype="auto")
    except Exception as error:  # the library raises many kinds for a damaged folder
        raise ModelError(f"{folder}: cannot be loaded: {first_line(error)}") from None
    lacking = sorted(loading["missing_keys"])
    if lacking:
        raise ModelError(
            f"{folder}: {len(lacking)} weights of a {found.__name__} are not there, first "
            f"{lacking[0]}; needed: all of them"
        )
    return model.eval()


def _read(found: Any, source: str, revision: str | None, **options: Any) -> tuple[Any, Any]:
    """Read by transformers what is here already, leaving the global generators alone."""
    with torch.random.fork_rng(devices=[]):
        read: tuple[Any, Any] = found.from_pretrained(
            source,
            revision=revision or "main",
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
    return read


def _with_sizes_of(base: Base, found: Any, config: dict[str, Any]) -> dict[str, Any]:
    """A saved configuration with the sizes of the base, which had more heads and neurons."""
    own = found.config_class.from_pretrained(
        base.source, revision=base.revision or "main", local_files_only=True
    )
    family = FAMILIES[own.model_type]
    names = (family.config_neurons, *(family.config_heads or ()))
    return config | {name: getattr(own, name) for name in names if hasattr(own, name)}


def _kept(model: nn.Module, manifest: Manifest) -> nn.Module:
    """Remove the heads and neurons that the update's model no longer had, and name the base."""
    config: Any = model.config
    config.name_or_path = manifest.base.source if manifest.base else ""
    kept = manifest.kept
    if kept is not None and kept.heads is not None:
        remove(model, kept.heads, kept.neurons)
        note_kept(model, kept.heads, kept.neurons, layers=True)
    return model


def note_kept(
    model: nn.Module,
    heads: Sequence[Sequence[int]],
    neurons: Sequence[Sequence[int]] | None,
    *,
    layers: bool,
) -> None:
    """Note on a model what a removal kept of its base, counted as in the base itself.

    Args:
        model: after the removal; what was noted before is counted on from.
        heads: for each layer, by the numbers of before the removal.
        neurons: likewise; None = all.
        layers: True if all layers stayed. A base of which layers went is not named by updates.
    """
    before = kept_of(model) or Kept()
    all_heads = _composed(before.heads, heads)
    all_neurons = _composed(before.neurons, neurons)
    noted = Kept(heads=all_heads, neurons=all_neurons)
    vars(model)[_NOTE] = noted if layers else Kept(layers=[])


def _composed(
    before: list[list[int]] | None, now: Sequence[Sequence[int]] | None
) -> list[list[int]] | None:
    if now is None:
        return before
    if before is None:
        return [list(one) for one in now]
    return [[old[n] for n in one] for old, one in zip(before, now, strict=True)]


def kept_of(model: nn.Module) -> Kept | None:
    """Tell what ``note_kept`` noted; None = nothing was removed."""
    found: Kept | None = vars(model).get(_NOTE)
    return found


def _files(source: str, revision: str | None) -> list[Path]:
    """The files of weights, where they are here already; nothing is fetched."""
    folder = Path(source)
    if not folder.is_dir():
        from transformers.utils.hub import cached_file

        try:
            known = cached_file(source, "config.json", revision=revision, local_files_only=True)
        except (OSError, ValueError):
            return []
        folder = Path(known or "").parent
    try:
        return weight_files(folder)
    except ModelError:
        return []


def _sha256(files: list[Path]) -> str | None:
    hashes = {}
    for path in files:
        told = path.stat()
        hashes[path.name] = _known_sha256(path, told.st_size, told.st_mtime_ns)
    return digest_of(hashes) if len(hashes) > 1 else next(iter(hashes.values()), None)


@functools.lru_cache(maxsize=64)  # a Trainer's every checkpoint names its base
def _known_sha256(path: Path, size: int, changed: int) -> str:
    del size, changed  # another file of that name, then
    return sha256_of(path)


def _is_ours(path: Path) -> bool:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return KEY in (file.metadata() or {})
