"""What PEFT attaches without a companion: LoRA and (IA)3; and what all of its updates share.

PEFT wraps whole stored matrices, so on GPT-2, whose query, key and value are one matrix, an
update of any of them is one of all three.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from sparsetune.config.settings import Count, Items, Positive, Projection, Rule, UniqueItems
from sparsetune.cost.shapes import ModelShape
from sparsetune.cost.updates import Branch, UpdateCount, low_rank_branches
from sparsetune.methods.kind import Attached, UpdateKind
from sparsetune.randomness import derive

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sparsetune.architectures.base import Site

ADAPTER = "default"

Dropout = Annotated[
    float, Field(ge=0, lt=1, description="dropout before the low-rank branch, in [0, 1)")
]


class PeftUpdate(UpdateKind):
    """Base of PEFT's updates: what trains is the adapter and the task head.

    Differs:
        On GPT-2 all of the fused matrix is updated, so (IA)3 scales queries too.
    """

    targets: UniqueItems[Projection] = Field(description="projections that are wrapped")

    def attach(self, model: "nn.Module", supports: "Mapping[str, Tensor]", seed: int) -> Attached:
        """Wrap every matrix that holds a target."""
        import torch

        from sparsetune.architectures.anatomy import Anatomy, task_head_parameters

        sites: dict[str, Site] = {}  # module path -> the first target that is stored there
        for site in Anatomy.of(model).sites():
            if site.projection in self.targets:
                sites.setdefault(site.path, site)
        heads = task_head_parameters(model)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, "update"))
            attached = self.inject(model, sites, supports)
        # PEFT itself has frozen all but its own parameters.
        for head in heads.values():
            head.requires_grad_(True)
        return attached

    @abstractmethod
    def inject(
        self, model: "nn.Module", sites: "Mapping[str, Site]", supports: "Mapping[str, Tensor]"
    ) -> Attached:
        """Let PEFT wrap the modules at ``sites``; its start is drawn from the global generator."""

    def injected(self, model: "nn.Module", config: Any) -> Attached:
        """Let PEFT inject one adapter, which needs nothing else."""
        from peft import inject_adapter_in_model

        inject_adapter_in_model(config, model, ADAPTER)
        return Attached()


def transposed(sites: "Mapping[str, Site]") -> bool:
    """Whether the matrices are stored in x out, as GPT-2's."""
    return any(site.stored_in_by_out for site in sites.values())


class LoraUpdate(PeftUpdate):
    """LoRA, through PEFT.

    Source:
        Hu et al. 2021, arXiv:2106.09685, as PEFT 0.21 has it.
    Differs:
        Nothing.
    """

    kind: Literal["peft"]
    type: Literal["lora"]
    rank: Count = Field(description="rank r")
    alpha: Positive = Field(description="scale numerator: s = alpha / r")
    dropout: Dropout

    products = frozenset({"lora_A", "lora_B"})

    def inject(
        self, model: "nn.Module", sites: "Mapping[str, Site]", supports: "Mapping[str, Tensor]"
    ) -> Attached:
        """Put two factors beside each matrix."""
        from peft import LoraConfig

        return self.injected(
            model,
            LoraConfig(
                r=self.rank,
                lora_alpha=self.alpha,  # type: ignore[arg-type]  # any number works
                lora_dropout=self.dropout,
                target_modules=sorted(sites),
                fan_in_fan_out=transposed(sites),
                bias="none",
            ),
        )

    def count(self, shape: ModelShape, entries: Mapping[str, int]) -> UpdateCount:
        """Count the two factors."""
        return UpdateCount(low_rank_branches(shape, self.targets, self.rank))


class Ia3Update(PeftUpdate):
    """(IA)3, through PEFT.

    Source:
        Liu et al. 2022, arXiv:2205.05638, as PEFT 0.21 has it.
    Differs:
        On GPT-2 queries are scaled too.
    """

    kind: Literal["peft"]
    type: Literal["ia3"]
    targets: UniqueItems[Projection] = Field(description="projections that a vector scales")
    feedforward: Items[Literal["ffn_out"]] = Field(
        description="which of the targets are scaled at their inputs, not at their outputs"
    )

    def rules(self) -> Iterator[Rule]:
        """What is scaled at its inputs is scaled."""
        beside = sorted(set(self.feedforward) - set(self.targets))
        yield not beside, "feedforward", f"{', '.join(beside)} must be in update.targets too"

    scales = frozenset({"ia3_l"})

    def inject(
        self, model: "nn.Module", sites: "Mapping[str, Site]", supports: "Mapping[str, Tensor]"
    ) -> Attached:
        """Put a vector on the outputs, or the inputs, of each matrix."""
        from peft import IA3Config

        # Whole paths: PEFT compares endings, and its "output.dense" is two matrices of a layer.
        inputs = [path for path, site in sites.items() if site.projection in self.feedforward]
        return self.injected(
            model,
            IA3Config(
                target_modules=sorted(sites),
                feedforward_modules=sorted(inputs),
                fan_in_fan_out=transposed(sites),
            ),
        )

    def count(self, shape: ModelShape, entries: Mapping[str, int]) -> UpdateCount:
        """Count the vectors: parameters, but no multiply-adds."""
        return UpdateCount(
            tuple(
                Branch(key, 0, vectors=columns if projection in self.feedforward else rows)
                for key, projection, rows, columns in shape.matrices(self.targets, fused=True)
            )
        )
