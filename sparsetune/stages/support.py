"""Stage ``support``: the positions of the sparse residual S2, once per backbone and recipe."""

import logging
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from sparsetune.architectures.families import FAMILIES
from sparsetune.architectures.loading import Kind, load_model
from sparsetune.config.backbone import Backbone
from sparsetune.config.support import GrebsmoSupport, SupportSettings
from sparsetune.dsee.support import GreBsmoConfig, model_supports
from sparsetune.errors import ModelError
from sparsetune.records import SupportRecord, replacing
from sparsetune.records.parts import SupportMeasured
from sparsetune.stages.context import Context, asked_of, hashes

logger = logging.getLogger(__name__)

_LINES = 10


class Progress:
    """Tells how far the choice has come: a bar on a terminal, a few lines in a log."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None

    def __call__(self, done: int, total: int, key: str) -> None:
        """Show one more matrix.

        Args:
            done: matrices done, from 1.
            total: of how many.
            key: the last one's site.
        """
        if not sys.stderr.isatty():
            if done * _LINES // total > (done - 1) * _LINES // total:
                logger.info("%d of %d matrices, last %s", done, total, key)
            return
        if self._bar is None:
            self._bar = tqdm(total=total, desc="support", unit="matrix", file=sys.stderr)
        self._bar.set_postfix_str(key, refresh=False)
        self._bar.update(done - self._bar.n)
        if done == total:
            self._bar.close()


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
