"""What the one save format says of itself; torch is not needed to read it.

See ``checkpoint`` for the format.
"""

import math
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open

from sparsetune.errors import ModelError, first_line, violation
from sparsetune.records.parts import absent

KEY = "sparsetune"
"""Of the metadata. One key only: the library writes several in an order that changes."""
SUPPORT, MASK = "support/", "mask/"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Sizes(_Part):
    """Sizes of a model after removal, as ``structured.sizes_of`` tells them.

    Attributes:
        model_type: the architecture.
        layers: how many.
        head_size: features per head.
        heads: heads of each layer.
        ffn_width: neurons of each layer.
    """

    model_type: str
    layers: int
    head_size: int
    heads: list[int]
    ffn_width: list[int]


class Base(_Part):
    """The model that an update was trained on.

    Attributes:
        name: repository, or the name of a local folder; None = not known.
        revision: commit of the hub; None = not known.
        sha256: of the weights that are not in the file, as they are under the masks.
        source: what transformers loaded it by, a repository, or the absolute path of a folder; not
            told by a run, which has its backbone.
        file_sha256: of its file of weights, see ``base_model.source_of``.
    """

    name: str | None
    revision: str | None
    sha256: str
    source: str | None = absent()
    file_sha256: str | None = absent()


class Kept(_Part):
    """What was kept of the base, by number.

    Attributes:
        heads: for each layer of the base; None = all.
        neurons: likewise.
        layers: None = all; heads and neurons are told for all layers.
    """

    heads: list[list[int]] | None = None
    neurons: list[list[int]] | None = None
    layers: list[int] | None = None


class Head(_Part):
    """How a run put its backbone under a task's head.

    Attributes:
        kind: task kind.
        label_count: outputs of a classification or regression head.
        seed: of what the backbone lacks.
        random_weights: True = the backbone's shape with random weights.
    """

    kind: str
    label_count: int
    seed: int
    random_weights: bool


class Manifest(_Part):
    """What the tensors of a file are.

    Attributes:
        format: number of the format.
        model_class: of transformers.
        sizes: of the model as saved.
        base: None = the file holds every weight.
        config: of transformers; not told by a run.
        kept: what a run removed from its backbone; None = not known, or nothing.
        head: of a run.
        update: settings of what is attached, with its ``kind``; None = nothing.
        trained: parameters that trained.
    """

    format: Literal[1] = 1
    model_class: str
    sizes: Sizes
    base: Base | None = None
    config: dict[str, Any] | None = None
    kept: Kept | None = None
    head: Head | None = None
    update: dict[str, Any] | None = None
    trained: list[str]


class Counts(NamedTuple):
    """What stands in a file beside the trained parameters.

    Attributes:
        supports: site key -> single trained entries.
        kept: site key -> weights that its mask keeps.
    """

    supports: dict[str, int]
    kept: dict[str, int]


def parse_manifest(path: Path, metadata: dict[str, str] | None) -> Manifest:
    """Read the manifest in a file's metadata.

    Args:
        path: of the file, for the message.
        metadata: of the file.

    Raises:
        ModelError: there is none, or it is of another format; in one line.
    """
    told = (metadata or {}).get(KEY)
    if told is None:
        raise ModelError(f"{path}: no manifest in its metadata; needed: one that sparsetune saved")
    try:
        return Manifest.model_validate_json(told)
    except ValidationError as error:
        raise ModelError(f"{path}: manifest: {violation(Manifest, error)}") from None


def read_counts(path: Path) -> tuple[Manifest, Counts]:
    """Read what a file says of itself, and count what its supports and masks hold.

    Args:
        path: the file.

    Raises:
        ModelError: missing, damaged, without a manifest, or of another format; in one line.
    """
    import numpy as np

    supports, kept = {}, {}
    try:
        with safe_open(path, framework="np") as file:
            manifest = parse_manifest(path, file.metadata())
            for name in file.keys():  # noqa: SIM118
                room, _, key = name.partition("/")
                if f"{room}/" == SUPPORT:
                    supports[key] = math.prod(file.get_slice(name).get_shape())
                elif f"{room}/" == MASK:
                    kept[key] = int(np.unpackbits(file.get_tensor(name)).sum())
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: not a readable safetensors file: {first_line(error)}") from None
    return manifest, Counts(supports, kept)
