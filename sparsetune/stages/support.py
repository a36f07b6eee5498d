"""Stage ``support``: the positions of the sparse residual S2, once per backbone and recipe."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sparsetune.architectures.families import FAMILIES
from sparsetune.architectures.loading import Kind, load_model
from sparsetune.config.backbone import Backbone
from sparsetune.config.support import GrebsmoSupport, SupportSettings
from sparsetune.dsee.progress import Progress
from sparsetune.dsee.support import GreBsmoConfig, model_supports
from sparsetune.errors import ModelError
from sparsetune.records import SupportRecord, replacing
from sparsetune.records.parts import SupportMeasured
from sparsetune.stages.context import Context, asked_of, hashes


def make_support(
    recipe: SupportSettings,
    backbone: Backbone,
    context: Context,
    *,
    suite: str,
    backbone_directory: Path,
    output: Path,
) -> None:
    """Choose S2's positions in every target matrix of a backbone.

    Args:
        recipe: from ``config/supports``.
        backbone: whose weights are looked at.
        context: the job.
        suite: for the record.
        backbone_directory: the backbone's folder.
        output: where ``support.safetensors`` and ``record.json`` go.

    Raises:
        ModelError: the recipe asks for more positions than a matrix has.
    """
    kind: Kind = "generation" if FAMILIES[backbone.architecture].generates else "regression"
    model = load_model(backbone_directory, kind=kind, label_count=1, seed=0)
    context.ready()
    grebsmo = None
    if isinstance(recipe, GrebsmoSupport):
        names = GreBsmoConfig.__dataclass_fields__.keys() & type(recipe).model_fields.keys()
        grebsmo = GreBsmoConfig(**recipe.model_dump(include=names))
    results = model_supports(
        model,
        recipe.targets,
        recipe=recipe.recipe,
        n_sparse=recipe.n_sparse,
        seed=recipe.seed,
        grebsmo=grebsmo,
        on_matrix=Progress(),
    )
    positions = {key: result.positions.to(torch.int32) for key, result in results.items()}
    with replacing(output / "support.safetensors") as partial:
        save_file(positions, partial)
    context.leave(
        output / "record.json",
        SupportRecord,
        asked={"suite": suite, "backbone": backbone.id, **asked_of("support", recipe)},
        inputs=hashes([backbone_directory / "record.json"]),
        measured=SupportMeasured(
            matrices=len(positions),
            positions=sum(tensor.numel() for tensor in positions.values()),
            residual={key: result.residual for key, result in results.items()},
        ),
    )


def read_support(path: Path) -> dict[str, Tensor]:
    """Read positions written by :func:`make_support`.

    Returns:
        Site key -> int64, sorted flat positions.

    Raises:
        ModelError: the file is missing or damaged.
    """
    try:
        return {key: tensor.long() for key, tensor in load_file(path).items()}
    except Exception as error:
        raise ModelError(f"{path}: not a readable support: {error}") from None
