"""DSEE: a low-rank product and single entries beside every adapted matrix."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from sparsetune.config.settings import Count, Id, Positive
from sparsetune.cost.shapes import ModelShape
from sparsetune.cost.updates import UpdateCount, low_rank_branches
from sparsetune.methods.kind import Attached, UpdateKind

if TYPE_CHECKING:
    from torch import Tensor, nn


class DseeUpdate(UpdateKind):
    """U V + S2; the matrices that it stands beside are those that have a support.

    Source:
        Chen et al. 2023, arXiv:2111.00160 section 3; see :mod:`sparsetune.dsee`.
    Differs:
        Nothing beyond :mod:`sparsetune.dsee.layer`.
    """

    kind: Literal["dsee"]
    rank: Count = Field(description="rank r of U V")
    alpha: Positive = Field(description="scale numerator: s = alpha / r")
    init: Literal["zero", "normal"] = Field(
        description="start of U and S2: zero (the paper) or normal (what the released code does)"
    )
    support: Id = Field(description="file in config/supports: where S2 may be non-zero")

    products = frozenset({"branches"})

    def attach(self, model: "nn.Module", supports: "Mapping[str, Tensor]", seed: int) -> Attached:
        """Put U V and S2 beside the weights."""
        from sparsetune.dsee.config import DseeConfig
        from sparsetune.dsee.layer import apply_dsee

        config = DseeConfig(
            rank=self.rank,
            alpha=self.alpha,
            n_sparse=max((len(positions) for positions in supports.values()), default=0),
            targets=tuple(dict.fromkeys(key.rpartition(".")[2] for key in supports)),
            init=self.init,
            support=supports,
            seed=seed,
        )
        apply_dsee(model, config)
        return Attached(supports)

    def count(self, shape: ModelShape, entries: Mapping[str, int]) -> UpdateCount:
        """Count both parts beside every matrix that has an entry in ``entries``."""
        targets = {key.rpartition(".")[2] for key in entries}
        return UpdateCount(
            low_rank_branches(shape, targets, self.rank, fused=False, entries=entries)
        )
