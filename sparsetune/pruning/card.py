"""The README.md of a saved folder: what the model is, of which base, and how it is loaded."""

from pathlib import Path
from typing import Any

from torch import nn

from sparsetune.architectures.anatomy import Anatomy, model_class
from sparsetune.architectures.base import UpdatedProjection
from sparsetune.pruning.manifest import Manifest
from sparsetune.pruning.zeros import zero_counts
from sparsetune.records.files import write_text_atomically

CARD = "README.md"
_OURS = "---\nlibrary_name: sparsetune\n---\n"


def write_card(folder: Path, model: nn.Module, manifest: Manifest) -> None:
    """Write the card of a saved model, over an earlier one of ours but over no other file.

    Args:
        folder: that was saved to.
        model: that was saved.
        manifest: of the file beside it.
    """
    path = folder / CARD
    if path.exists() and not path.read_text(encoding="utf-8", errors="replace").startswith(_OURS):
        return
    write_text_atomically(path, _OURS + "\n".join(_lines(model, manifest)) + "\n")


def reader_of(manifest: Manifest) -> str:
    """Tell the call that gives a saved model back, from what its file says of itself.

    Args:
        manifest: of the file.
    """
    base, kind = manifest.base, manifest.sizes.model_type
    found = base is None or (base.source and model_class(kind, manifest.model_class))
    return "sparsetune.load(folder)" if found else "sparsetune.load(folder, model)"


def _lines(model: nn.Module, manifest: Manifest) -> list[str]:
    sizes, base, update = manifest.sizes, manifest.base, manifest.update or {}
    own = dict(model.named_parameters())
    whole, trained = (sum(own[n].numel() for n in names) for names in (own, manifest.trained))
    zeros, entries = (sum(one) for one in zip(*zero_counts(model).values(), strict=True))
    lines = ["", f"# {manifest.model_class} of type {sizes.model_type}", ""]
    if base is not None:
        settings = ", ".join(_told(key, value) for key, value in update.items() if key != "kind")
        lines += [f"An update ({update.get('kind')}, {settings}) of a frozen base model:", ""]
        lines += [f"- base model: {base.name or 'not known'}"]
        lines += [f"- revision: {base.revision}"] if base.revision else []
        lines += [f"- sha256 of its weights: {base.file_sha256}"] if base.file_sha256 else []
        layers = _updated_layers(model)
        some = 0 < len(layers) < sizes.layers
        lines += [f"- layers with an update: {layers}, of {sizes.layers}"] if some else []
    else:
        lines += ["A whole model:", ""]
    reader = reader_of(manifest)
    reader += "  # model: the base" if "model" in reader else ""
    return [
        *lines,
        f"- heads of each layer: {sizes.heads}",
        f"- feed-forward neurons of each layer: {sizes.ffn_width}",
        f"- trained: {trained:,} of {whole:,} parameters ({trained / whole:.2%})",
        f"- zeros in the projections: {zeros:,} of {entries:,} ({zeros / entries:.2%})",
        "",
        "```python",
        "import sparsetune",
        "",
        f"model = {reader}",
        "```",
    ]


def _told(key: str, value: Any) -> str:
    if isinstance(value, dict):
        value = ", ".join(f"{one}: {told}" for one, told in value.items())
        return f"{key} ({value})"
    return f"{key} {value}"


def _updated_layers(model: nn.Module) -> list[int]:
    """Numbers of the layers that an update is attached to."""
    return sorted(
        {
            site.layer
            for site in Anatomy.of(model).sites()
            if isinstance(site.module, UpdatedProjection) and site.module.updated
        }
    )
