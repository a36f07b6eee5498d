"""Super-Tuning with a rank (Supra), through PEFT: a low-rank product and the largest weights."""

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from sparsetune.config.settings import Count, Positive
from sparsetune.cost.shapes import ModelShape
from sparsetune.cost.updates import UpdateCount, low_rank_branches
from sparsetune.errors import ModelError
from sparsetune.methods.kind import Attached
from sparsetune.methods.kinds.peft import ADAPTER, Dropout, PeftUpdate

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sparsetune.architectures.base import Site


class SupraUpdate(PeftUpdate):
    """Supra, through PEFT: LoRA and single entries.

    Source:
        arXiv:2607.09287, as PEFT 0.21 has it.
    Differs:
        Nothing; PEFT refuses GPT-2's transposed matrices.
    """

    kind: Literal["peft"]
    type: Literal["supra"]
    rank: Count = Field(description="rank r")
    alpha: Positive = Field(
        description="scale numerator of the low-rank part: s = alpha / r; single entries have "
        "scale 1"
    )
    dropout: Dropout
    n_sparse: Count = Field(
        description="single entries trained in each matrix: the largest weights"
    )

    products = frozenset({"supertuning_lora_A", "supertuning_lora_B", "supertuning_values"})

    def inject(
        self, model: "nn.Module", sites: "Mapping[str, Site]", supports: "Mapping[str, Tensor]"
    ) -> Attached:
        """Let PEFT choose the entries, or take those of a run's file."""
        from peft import SupertuningConfig

        config = SupertuningConfig(
            target_modules=sorted(sites),
            sparsity=_untrained_share(self.n_sparse, sites.values()),
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
        )
        try:
            self.injected(model, config)
        except TypeError as error:  # the module is not one that PEFT takes
            raise ModelError(f"update supra: {error}") from None
        chosen = {}
        for path, site in sites.items():
            layer: Any = model.get_submodule(path)
            positions = layer.supertuning_indices[ADAPTER]
            if supports:
                _write_positions(positions, supports, site)
            chosen[site.key] = positions.long()
        return Attached(chosen)

    def count(self, shape: ModelShape, entries: Mapping[str, int]) -> UpdateCount:
        """Count the factors and the entries, ``n_sparse`` in each matrix before any are chosen."""
        asked = {key: self.n_sparse for key, *_ in shape.matrices(self.targets, fused=True)}
        return UpdateCount(
            low_rank_branches(shape, self.targets, self.rank, entries=entries or asked)
        )


def _untrained_share(n_sparse: int, sites: "Collection[Site]") -> float:
    """PEFT's share of untrained entries that leaves ``n_sparse`` trained ones in each matrix.

    Raises:
        ModelError: matrices of several sizes, for which PEFT has no such share; or too small ones.
    """
    sizes = {site.shape[0] * site.shape[1] for site in sites}
    if len(sizes) > 1 or n_sparse > min(sizes):
        raise ModelError(
            f"update supra: received n_sparse {n_sparse} for matrices of {sorted(sizes)} entries; "
            "allowed: one size, and no more than that"
        )
    # PEFT rounds down; half an entry more keeps it from losing one to rounding of the share.
    return max(0.0, 1 - (n_sparse + 0.5) / sizes.pop())


def _write_positions(positions: "Tensor", supports: "Mapping[str, Tensor]", site: "Site") -> None:
    """Put the positions of a run's file in place of those that PEFT has just chosen."""
    given = supports.get(site.key)
    size = site.shape[0] * site.shape[1]
    if (
        given is None
        or given.shape != positions.shape
        or not 0 <= given.min() <= given.max() < size
    ):
        raise ModelError(
            f"update supra: {site.key}: received {'none' if given is None else list(given.shape)}; "
            f"allowed: {len(positions)} positions from 0 to {size - 1}"
        )
    positions.copy_(given)
