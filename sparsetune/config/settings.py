"""What all settings have in common: closed, frozen, strictly typed; wrong ones told in one line.

The models themselves are in the module of the thing that they describe.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    Strict,
    ValidationInfo,
    model_validator,
)
from pydantic_core import PydanticCustomError

from sparsetune.errors import nearest, shown
from sparsetune.records import parts

Rule = tuple[bool, str, str]
"""Whether it holds, the dotted key that it is about, and what is told otherwise."""

Item = TypeVar("Item")


def _each_once(items: tuple[Item, ...]) -> tuple[Item, ...]:
    if len(set(items)) < len(items):
        raise broken("", f"received {shown(list(items))}; allowed: each only once")
    return items


Items = Annotated[tuple[Item, ...], Strict(False), Field(min_length=1)]
"""A list in YAML, with one item at least."""
UniqueItems = Annotated[Items[Item], AfterValidator(_each_once)]
"""Likewise, with no item twice."""

ID = re.compile(parts.ID)
Id = Annotated[str, Field(pattern=f"^{ID.pattern}$", max_length=64)]
Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Penalty = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Projection = Literal["query", "key", "value", "attention_output", "ffn_in", "ffn_gate", "ffn_out"]


class Settings(BaseModel):
    """Base of every model: unknown keys, other types and broken rules are refused.

    A string is no number and ``true`` is not 1; a whole number is taken where a number is asked.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
    not_written: ClassVar[frozenset[str]] = frozenset()
    """Fields that resolving fills in; a file may not have them."""

    def rules(self) -> Iterator[Rule]:
        """What must hold between its keys; the first that does not is told."""
        yield from ()

    def resolved(self) -> dict[str, Any]:
        """Everything that a result may depend on, as JSON data.

        What has no value is left out, and a default counts as if it were written: neither an
        optional key that comes to a model later nor a default written out changes a digest.
        """
        return self.model_dump(
            mode="json", exclude_none=True, exclude={"description", *self.not_written}
        )

    @classmethod
    def keys_allowed(cls) -> list[str]:
        """Keys that a file may have."""
        return sorted(cls.model_fields.keys() - cls.not_written)

    @model_validator(mode="after")
    def _refuse_broken_rules(self, info: ValidationInfo) -> Self:
        if (info.context or {}).get("rules", True):
            for holds, key, told in self.rules():
                if not holds:
                    raise broken(key, told)
        return self


class Thing(Settings):
    """Base of what has an id: a file of the catalogue, or a variant in one."""

    not_written: ClassVar = frozenset({"id"})

    id: Id = Field(description="the file's name")
    description: Text = Field(description="one line")

    def settings(self) -> dict[str, Any]:
        """What a stage that makes the thing depends on, as JSON data."""
        return self.resolved()


class OptimizerSettings(Settings):
    """How anything is trained, whatever it is and however long."""

    learning_rate: Positive = Field(description="peak learning rate")
    batch_size: Count = Field(
        description="examples in one optimizer step on one device, before accumulation"
    )
    gradient_accumulation: Count = Field(description="batches in one optimizer step")
    weight_decay: Penalty = Field(description="decoupled weight decay")
    warmup_fraction: Share = Field(
        description="share of the steps with a rising learning rate, in [0, 1)"
    )
    schedule: Literal["linear", "constant", "cosine"] = Field(description="learning-rate schedule")
    maximum_gradient_norm: Positive = Field(description="gradients are clipped to this norm")


def broken(key: str, told: str) -> PydanticCustomError:
    """An error of a rule, for a validator to raise.

    Args:
        key: dotted, from the model that raises; empty for the model itself.
        told: what was received and what is allowed.
    """
    return PydanticCustomError("rule", "rule", {"key": key, "told": told})


def none_of(key: str, received: object, allowed: Iterable[object]) -> PydanticCustomError:
    """Likewise for a value that is none of those that are allowed."""
    known = [str(one) for one in allowed]
    return broken(
        key, f"received {shown(received)}; allowed: {', '.join(known)}{nearest(received, known)}"
    )


def only_with(key: str, given: bool, wanted: bool, where: str) -> Rule:
    """The rule of a key that must be there in one case and may not in any other.

    Args:
        key: dotted, from the model whose rule it is.
        given: whether it is there.
        wanted: whether the case is at hand.
        where: the case, in words.
    """
    return given == wanted, key, f"needed by {where}, and only there"


def names_differ(phases: Sequence[Any]) -> Rule:
    """The rule that no two phases have one name."""
    names = [phase.name for phase in phases]
    told = f"names must differ, received {', '.join(names)}"
    return len(names) == len(set(names)), "phases", told
