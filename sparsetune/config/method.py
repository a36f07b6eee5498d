"""A method: update (what trains), mask (which weights are kept), phases (in which order).

Each kind of update has its settings class; the registry of them is open.
"""

import functools
import importlib
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BeforeValidator, Field, SerializeAsAny, ValidationError, ValidationInfo
from pydantic_core import PydanticCustomError

from sparsetune.config.backbone import Architecture
from sparsetune.config.settings import (
    Count,
    Id,
    Items,
    OptimizerSettings,
    Positive,
    Rule,
    Settings,
    Share,
    Thing,
    UniqueItems,
    broken,
    names_differ,
    none_of,
)
from sparsetune.errors import violation


class UpdateSettings(Settings):
    """Base of the settings of every kind of update.

    A subclass is known by its ``kind``, and by its ``type`` where it has one, from the moment that
    it is defined; both are annotated as a ``Literal`` of one value. The classes stand in
    ``sparsetune/methods/kinds``, with all that a kind does.

    Example:
        >>> class HalfUpdate(UpdateSettings):
        ...     kind: Literal["half"]
        ...     rank: Count
        >>> UpdateSettings.of({"kind": "half", "rank": 2}).rank
        2
        >>> del UpdateSettings.known["half", None]
    """

    known: ClassVar[dict[tuple[str, str | None], type["UpdateSettings"]]] = {}
    """(kind, type) -> class; type is None for a kind that has none."""

    kind: str = Field(description="which change of the weights trains")

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Register the subclass."""
        fields = cls.model_fields
        names = get_args(fields["kind"].annotation)
        if not names:  # a base of several kinds
            return
        types = get_args(fields["type"].annotation) if "type" in fields else (None,)
        key = (names[0], types[0])
        other = cls.known.setdefault(key, cls)
        if other is not cls:
            raise TypeError(f"update {key}: both {other.__qualname__} and {cls.__qualname__}")

    @classmethod
    def of(cls, raw: Any, info: ValidationInfo | None = None) -> "UpdateSettings":
        """Validate settings by the class of their kind and type.

        Args:
            raw: a mapping, or settings.
            info: of the validation that this one is a part of.

        Raises:
            PydanticCustomError: they break the class's schema, or no class is known.
        """
        if isinstance(raw, UpdateSettings):
            return raw
        if not isinstance(raw, Mapping):
            raise PydanticCustomError("dict_type", "a mapping")
        _load_kinds()
        kind, kinds = raw.get("kind"), dict.fromkeys(key[0] for key in cls.known)
        if kind not in kinds:
            raise none_of("kind", kind, kinds)
        types = [key[1] for key in cls.known if key[0] == kind]
        given = None if types == [None] else raw.get("type")
        if given not in types:
            raise none_of("type", given, types)
        model = cls.known[kind, given]
        try:
            return model.model_validate(raw, context=info.context if info else None)
        except ValidationError as error:  # told here: the method knows the base alone
            key, _, told = violation(model, error).partition(": ")
            raise broken("" if key == "top level" else key, told) from None

    @classmethod
    def classes(cls) -> list[type["UpdateSettings"]]:
        """The settings class of every kind."""
        _load_kinds()
        return list(cls.known.values())

    def rules_with(self, phases: "tuple[Phase, ...]") -> Iterator[Rule]:
        """What must hold between the update and the method's phases."""
        yield from ()


@functools.cache
def _load_kinds() -> None:
    """Import what defines the kinds of updates: by name, since methods build on config."""
    importlib.import_module("sparsetune.methods.registry")


class NoMask(Settings):
    """Every weight stays."""

    kind: Literal["none"]


Score = Literal["delta", "weight", "weight+delta", "random", "inverse"]


class UnstructuredMask(Settings):
    """The smallest weights of a pool become zero."""

    kind: Literal["unstructured"]
    pools: Literal["two", "one", "matrix"] = Field(
        description="what is pruned together: {query, value} and the rest; all; each matrix by "
        "itself"
    )
    adapted_sparsity: Share = Field(
        description="share of zeros in adapted matrices (query, value), in [0, 1)"
    )
    rest_sparsity: Share = Field(description="share of zeros in the other matrices, in [0, 1)")
    score: Score = Field(description="score of adapted matrices")

    def rules(self) -> Iterator[Rule]:
        """One pool has one ratio."""
        yield (
            self.pools != "one" or self.adapted_sparsity == self.rest_sparsity,
            "pools",
            "one has one ratio: adapted_sparsity and rest_sparsity must be equal, received "
            f"{self.adapted_sparsity} and {self.rest_sparsity}",
        )


class NOfMMask(Settings):
    """Some of every few weights in a row are kept."""

    kind: Literal["n-of-m"]
    n: Count = Field(description="weights kept of every m inputs in a row of a matrix")
    m: int = Field(ge=2, description="size of a group; divides the inputs of every matrix")
    score: Score = Field(description="score of adapted matrices")

    def rules(self) -> Iterator[Rule]:
        """No more are kept than there are."""
        yield self.n <= self.m, "n", f"received {self.n}; allowed: up to mask.m, {self.m}"


class HeadsMask(Settings):
    """The same number of heads is removed from every layer, in the middle of the run."""

    kind: Literal["heads"]
    head_sparsity: Share = Field(
        description="share of the heads removed in each layer, in [0, 1), rounded half up; one "
        "stays"
    )
    score: Literal["delta", "weight+delta", "random"] = Field(
        description="score of a head: sum over its rows of query and value"
    )


class TicketMask(Settings):
    """A ticket's heads and neurons are removed before the first phase."""

    kind: Literal["ticket"]
    ticket: Id = Field(description="file in config/tickets: which heads and neurons to keep")
    vary: Annotated[dict[str, Any], Field(min_length=1)] | None = Field(
        default=None, description="keys laid over the ticket's own, after the ticket's overrides"
    )


Mask = NoMask | UnstructuredMask | NOfMMask | HeadsMask | TicketMask
# Masks that are drawn in a prune phase, and the updates under which they can be.
_UPDATES_UNDER = {"unstructured": ("dsee", "full"), "n-of-m": ("dsee", "full"), "heads": ("dsee",)}


class TrainPhase(OptimizerSettings):
    """Training."""

    name: Id = Field(description="unique in the method")
    kind: Literal["train"]
    epochs: Positive = Field(description="passes over the training examples")
    label_smoothing: Share = Field(
        default=0.0,
        description="share of each target spread evenly over all classes or tokens, in [0, 1)",
    )


class PrunePhase(Settings):
    """Drawing the mask, or a part of it."""

    name: Id = Field(description="unique in the method")
    kind: Literal["prune"]
    share: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="share of the mask's zeros reached in this phase, in (0, 1]",
    )
    rewind: bool = Field(
        default=False, description="trained values go back to the run's start, masks stay"
    )


Phase = TrainPhase | PrunePhase


class NotFor(Settings):
    """Where the method cannot run; a suite that asks for it runs everything else."""

    architectures: UniqueItems[Architecture] = Field(description="of a backbone")
    reason: str = Field(
        min_length=1,
        max_length=200,
        pattern="^[^\n]*$",
        description="one line, printed under every table",
    )


class Method(Thing):
    """Update + mask + phases, after the overrides for one backbone and task."""

    start: Literal["pretrained", "random"] = Field(description="weights at the start")
    update: Annotated[SerializeAsAny[UpdateSettings], BeforeValidator(UpdateSettings.of)]
    mask: Mask = Field(discriminator="kind")
    phases: Items[Annotated[Phase, Field(discriminator="kind")]]
    not_for: Items[NotFor] = ()

    def settings(self) -> dict[str, Any]:
        """The resolved settings, as data."""
        return self.model_dump(
            mode="json", exclude_none=True, include={"start", "update", "mask", "phases"}
        )

    def rules(self) -> Iterator[Rule]:
        """Update, mask and phases must fit together."""
        yield names_differ(self.phases)
        yield (
            self.start == "pretrained" or self.update.kind == "full",
            "start",
            f"received {self.start!r} with update.kind {self.update.kind}; allowed there: "
            "pretrained",
        )
        yield (
            any(isinstance(phase, TrainPhase) for phase in self.phases),
            "phases",
            "at least one must train",
        )
        yield from self.update.rules_with(self.phases)
        yield from self._mask_rules()
        yield from self._prune_rules()

    def _mask_rules(self) -> Iterator[Rule]:
        kind, update = self.mask.kind, self.update.kind
        allowed = _UPDATES_UNDER.get(kind)
        yield (
            allowed is None or update in allowed,
            "mask.kind",
            f"{kind} with update.kind {update}; it needs {' or '.join(allowed or ())}",
        )
        score = getattr(self.mask, "score", "weight")
        yield (
            update != "full" or score == "weight",
            "mask.score",
            f"received {score}; update.kind full has no update beside the weights, allowed: weight",
        )

    def _prune_rules(self) -> Iterator[Rule]:
        mask = self.mask.kind
        prunes = [phase for phase in self.phases if isinstance(phase, PrunePhase)]
        shares = [p.share if "share" in p.model_fields_set else None for p in prunes]
        given = [share for share in shares if share is not None]
        told = ", ".join("none" if share is None else f"{share:g}" for share in shares)
        yield (
            (mask in _UPDATES_UNDER) == bool(prunes),
            "phases",
            "mask.kind unstructured, n-of-m and heads need at least one prune phase, others none; "
            f"received {len(prunes)} with mask.kind {mask}",
        )
        yield (
            mask != "heads" or len(prunes) == 1,
            "phases",
            f"mask.kind heads needs exactly one prune phase, received {len(prunes)}",
        )
        yield (
            mask != "heads" or not any(phase.rewind for phase in prunes),
            "phases",
            "rewind does not go with mask.kind heads: removed heads have no start values",
        )
        yield (
            len(prunes) < 2 or len(given) == len(prunes),
            "phases",
            f"each of several prune phases needs a share, received {told}",
        )
        yield (
            all(earlier < later for earlier, later in pairwise(given)),
            "phases",
            f"shares must increase from prune phase to prune phase, received {told}",
        )
        yield (
            not given or given[-1] == 1,
            "phases",
            f"the share of the last prune phase must be 1, received {told}",
        )
