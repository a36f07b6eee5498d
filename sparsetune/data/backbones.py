"""Backbones brought to this machine: from the hub at a pinned commit, or from a mirror."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsetune.architectures.loading import check_folder, load_tokenizer
from sparsetune.architectures.weight_files import INDEX, weight_files
from sparsetune.data.hub import hub_snapshot
from sparsetune.data.manifests import checked_commit
from sparsetune.data.sources import copy_files, inventory, replaced_directory
from sparsetune.errors import DataError, ModelError

_TOKENIZER_PATTERNS = ("tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json")
HUB_PATTERNS = (
    "config.json",
    "generation_config.json",
    "model*.safetensors",
    INDEX,
    *_TOKENIZER_PATTERNS,
)


def fetch_backbone(backbone: Any, directory: Path, *, lock_file: Path) -> dict[str, Any]:
    """Make a checked local copy of a backbone's folder.

    Args:
        backbone: catalogue entry; ``id``, ``architecture`` and ``source`` (hub or mirror) are
            read.
        directory: the copy; replaced as a whole, and only on success.
        lock_file: YAML file that keeps the commits of hub branches.

    Returns:
        ``files`` (name -> sha256), ``stored_bytes``, ``parameters_stored`` (weights in the
        safetensors files) and ``revision`` (commit of the hub, or of the hub's
        files in a mirror that was filled from it; None for other mirrors).

    Raises:
        ModelError: not reachable, no safetensors, no tokenizer, damaged, or of another
            architecture.
    """
    source = backbone.source
    if source["kind"] == "hub":
        revision, folder = _fetched(source, HUB_PATTERNS, backbone.id, lock_file)
        origin = f"{source['repository']}@{revision[:12]}"
    elif source["kind"] == "mirror":
        revision, folder, origin = None, Path(source["path"]), source["path"]
    else:
        raise ModelError(f"backbone {backbone.id}: source {source['kind']} is not fetched")
    try:
        parameters = check_folder(folder, backbone.architecture)
        with replaced_directory(directory) as partial:
            copy_files(_wanted(folder), partial)
            found = inventory(partial)
            if revision is None:
                revision = checked_commit(folder, found["files"])
    except (ModelError, DataError) as error:
        raise ModelError(str(error).replace(str(folder), origin)) from None
    return {**found, "parameters_stored": parameters, "revision": revision}


def fetch_tokenizer(
    source: Mapping[str, Any], directory: Path, *, name: str, lock_file: Path
) -> None:
    """Copy the tokenizer of a published backbone, and nothing else of it.

    Args:
        source: of the backbone: hub or mirror.
        directory: where the tokenizer is loaded from and saved to; made if missing.
        name: the backbone's id, for the message.
        lock_file: YAML file that keeps the commits of hub branches.

    Raises:
        ModelError: not reachable, or without a readable fast tokenizer.
    """
    folder = Path(source.get("path", ""))
    if source["kind"] == "hub":
        _, folder = _fetched(source, ("config.json", *_TOKENIZER_PATTERNS), name, lock_file)
    load_tokenizer(folder).save_pretrained(directory)


def _fetched(
    source: Mapping[str, Any], patterns: Sequence[str], name: str, lock_file: Path
) -> tuple[str, Path]:
    try:
        return hub_snapshot(
            source,
            kind="model",
            patterns=patterns,
            lock_file=lock_file,
            advice="use a mirror: --config mirror=PATH with the model's files in "
            f"PATH/backbones/{name}/",
        )
    except DataError as error:
        raise ModelError(str(error)) from None


def _wanted(directory: Path) -> Sequence[Path]:
    weights = weight_files(directory)
    others = {
        path
        for pattern in HUB_PATTERNS
        for path in directory.glob(pattern)
        if path.is_file() and ".safetensors" not in path.name
    }
    index = [] if weights[0].name == "model.safetensors" else [directory / INDEX]
    return [*sorted(others), *index, *weights]
