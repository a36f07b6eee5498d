"""A ticket: which heads and neurons are kept, by a search, at random, or by dropping layers."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from sparsetune.config.backbone import Scope
from sparsetune.config.settings import (
    Count,
    OptimizerSettings,
    Penalty,
    Positive,
    Rule,
    Settings,
    Share,
    Thing,
    only_with,
)


class SearchTraining(OptimizerSettings):
    """The training that a search leaves early."""

    epochs: Positive = Field(description="passes over the training examples")


class Settling(Settings):
    """When masks count as settled."""

    window: int = Field(default=5, ge=2, description="checks whose masks must agree")
    epsilon: Penalty = Field(
        default=0.1, description="how far they may differ, relative to independent masks, 0 or more"
    )


class SearchSettings(Settings):
    """EarlyBERT's search for coefficients of heads and neurons."""

    objective: Literal["task", "mlm"] = Field(
        default="task",
        description="loss of the search: the task's own, or masked language modelling on the "
        "task's training texts (where the backbone is a masked language model)",
    )
    masked_fraction: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="share of tokens to predict, in (0, 1); for objective mlm",
    )
    train: SearchTraining
    head_penalty: Penalty = Field(description="lambda of the l1 term on heads")
    neuron_penalty: Penalty = Field(description="lambda of the l1 term on neurons")
    stop: Literal["fixed", "settled"] = Field(
        default="fixed",
        description="the search ends after a fixed length, or when its masks have settled",
    )
    stop_epochs: Positive | None = Field(
        default=None,
        description="length of a fixed search, as a share of an epoch; this or stop_steps",
    )
    stop_steps: Count | None = Field(
        default=None, description="length of a fixed search in optimizer steps; this or stop_epochs"
    )
    cap_epochs: Positive | None = Field(
        default=None, description="a settled search ends here at the latest, in epochs"
    )
    checks_per_epoch: Count = Field(
        default=100, description="how often in an epoch masks are drawn and compared"
    )
    settle: Settling = Settling()

    def rules(self) -> Iterator[Rule]:
        """What its stop rule and its objective need, and no more."""
        yield (
            (self.stop_epochs is None) != (self.stop_steps is None),
            "",
            "needs either stop_epochs or stop_steps",
        )
        capped, masked = self.cap_epochs is not None, self.masked_fraction is not None
        yield only_with("cap_epochs", capped, self.stop == "settled", "stop settled")
        yield only_with("masked_fraction", masked, self.objective == "mlm", "objective mlm")


class TicketSettings(Thing):
    """Base of the tickets of every origin."""

    origin: str = Field(description="where the ticket comes from")


class DrawnTicket(TicketSettings):
    """Base of the tickets that keep some heads and neurons of every layer."""

    head_sparsity: Share = Field(description="share of heads dropped, in [0, 1)")
    head_scope: Scope = Field(
        default="layer", description="heads compete over all layers or in each"
    )
    neuron_sparsity: Share = Field(description="share of FFN neurons dropped, in [0, 1)")
    neuron_scope: Scope = Field(description="neurons compete over all layers or in each")
    neuron_multiple: Count = Field(
        default=1,
        description="neurons kept in a layer are rounded to the nearest multiple of this; 1 = as "
        "drawn",
    )


class SearchedTicket(DrawnTicket):
    """EarlyBERT's: heads and neurons of the largest coefficients that a search found."""

    origin: Literal["search"]
    search: SearchSettings


class RandomTicket(DrawnTicket):
    """Heads and neurons drawn at random."""

    origin: Literal["random"]


class LayersTicket(TicketSettings):
    """Whole layers dropped, evenly spaced."""

    origin: Literal["layers"]
    layer_sparsity: Share = Field(description="share of layers dropped, in [0, 1)")


TICKETS: dict[str, type[TicketSettings]] = {
    "search": SearchedTicket,
    "random": RandomTicket,
    "layers": LayersTicket,
}
"""Origin -> class."""
