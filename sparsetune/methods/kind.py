"""What a kind of update brings: settings, how it attaches, what it keeps, what it counts."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from sparsetune.config.method import UpdateSettings
from sparsetune.cost.shapes import ModelShape
from sparsetune.cost.updates import UpdateCount

if TYPE_CHECKING:
    from torch import Tensor, nn


class Companion(Protocol):
    """What an update does besides having gradients, step by step while it trains."""

    def begin(self, total_steps: int) -> None:
        """Get ready for a training of ``total_steps`` optimizer steps.

        Raises:
            ModelError: that is too few for this update.
        """

    def loss(self) -> "Tensor":
        """A term that is added to the task's loss; a scalar with gradients."""

    def after_gradients(self, step: int) -> None:
        """Act after optimizer step ``step``, from 1, while its gradients are still there."""

    def state(self) -> "dict[str, Tensor]":
        """What a checkpoint must hold besides the trained parameters."""

    def load_state(self, state: "Mapping[str, Tensor]") -> None:
        """Go on from a state."""

    def finish(self) -> dict[str, Any]:
        """Drop from the model what training has given up.

        Returns:
            Changes of the ``update`` settings, with which the model is rebuilt as it is now.
        """


@dataclass(frozen=True)
class Attached:
    """What was attached.

    Attributes:
        supports: site key -> int64 flat positions of single trained entries, in the order of
            their values.
        companion: what must be called while the update trains; None = nothing.
    """

    supports: "Mapping[str, Tensor]" = field(default_factory=dict)
    companion: Companion | None = None


class UpdateKind(UpdateSettings):
    """Base of every kind of update: its settings as attributes, and everything that is its own.

    A subclass stands in ``sparsetune.methods.kinds``, where the registry finds it; a method's
    ``update`` chooses it by its ``kind``, and by its ``type`` where it has one.

    Attributes:
        products: submodules, by the first part of their name below a wrapped projection, whose
            values a token is multiplied with.
        scales: likewise those that only scale or count, and cost no multiply-add.
    """

    products: ClassVar[frozenset[str]] = frozenset()
    scales: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def attach(self, model: "nn.Module", supports: "Mapping[str, Tensor]", seed: int) -> Attached:
        """Prepare ``model`` in place so that exactly the update and the task head train.

        Args:
            model: of a known architecture, with a task head.
            supports: site key -> flat positions (int64) of single trained entries: DSEE's S2, or
                Supra's as a run's file has them; empty otherwise.
            seed: of the run; the update's random start has a stream of its own.

        Raises:
            ModelError: the update does not fit the model.
        """

    @abstractmethod
    def count(self, shape: ModelShape, entries: Mapping[str, int]) -> UpdateCount:
        """Count the update on a model, without one.

        Args:
            shape: the model after any removal.
            entries: site key -> single entries, where a run has some; empty = none were chosen yet.

        Raises:
            ModelError: the update does not fit the shape.
        """
