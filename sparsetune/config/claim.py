"""The papers' claims as checkable statements: read, validated. Nothing is tested here.

A claim says that a measured quantity of one method stands in a relation to another method's, or
to a number. Imports no torch.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError

from sparsetune.config.backbone import Architecture
from sparsetune.config.load import Catalogue
from sparsetune.config.reading import read_yaml, validated
from sparsetune.config.settings import (
    Id,
    Items,
    Penalty,
    Rule,
    Settings,
    Text,
    UniqueItems,
    broken,
    none_of,
    only_with,
)
from sparsetune.errors import ConfigError, violation

Relation = Literal["above", "at-least", "at-most", "within"]
Paper = Literal["DSEE", "EarlyBERT"]
PAPERS: tuple[Paper, ...] = get_args(Paper)


@dataclass(frozen=True)
class Quantity:
    """What is measured of a run, or of the runs of a method.

    Attributes:
        heading: as printed.
        unit: ``points`` (of a score in percent) or ``%``.
        counted: exact, the same on every machine: no noise, no interval.
        group: on what one value is measured: a ``run``, or the ``tickets`` that the searches of
            one backbone and seed drew on all tasks.
        to_reference: as a part of what the dense run takes.
    """

    heading: str
    unit: str
    counted: bool = True
    group: Literal["run", "tickets"] = "run"
    to_reference: bool = False


QUANTITIES: dict[str, Quantity] = {
    "score": Quantity("primary metric", "points", counted=False),
    "inference-macs-saved": Quantity("effective inference MACs saved", "%"),
    "backbone-macs-saved": Quantity("effective inference MACs saved, without the update's", "%"),
    "trained-share": Quantity("trained parameters, without head", "%", to_reference=True),
    "training-macs-saved": Quantity("training MACs saved, search counted", "%", to_reference=True),
    "seconds-saved": Quantity(
        "training time saved, search counted", "%", counted=False, to_reference=True
    ),
    "pretraining-macs-saved": Quantity("pre-training MACs saved, search counted", "%"),
    "heads-in-common": Quantity(
        "heads in common above chance", "points", counted=False, group="tickets"
    ),
    "neurons-in-common": Quantity(
        "neurons in common above chance", "points", counted=False, group="tickets"
    ),
}
"""What claims can be about."""


def _known_quantity(name: str) -> str:
    if name not in QUANTITIES:
        raise none_of("", name, QUANTITIES)
    return name


class Requirement(Settings):
    """A setting without which a run is not what is claimed."""

    method: Id = Field(description="left or right.method")
    setting: str = Field(
        pattern=r"^[a-z_]+([.][a-z_]+)*$", description="dotted path in the run's resolved settings"
    )
    value: bool | int | float | str = Field(description="what it must be")
    otherwise: Text = Field(description="what is told of a run with another value")

    def found_in(self, settings: Any) -> Any:
        """The value that a run's resolved settings have there; None where they have none."""
        for part in self.setting.split("."):
            settings = settings.get(part) if isinstance(settings, Mapping) else None
        return settings

    def met_by(self, settings: Any) -> bool:
        """Whether a run is what is claimed."""
        return bool(self.found_in(settings) == self.value)


class Published(Settings):
    """Where the paper tests a claim."""

    backbones: UniqueItems[Id] = Field(description="ids; those of left, where there are twins")
    tasks: UniqueItems[Id] = Field(description="ids")


class Right(Settings):
    """With what left is compared: exactly one of both."""

    method: Id | None = Field(
        default=None, description="method id, on the same backbone and task, seed by seed"
    )
    value: float | None = Field(default=None, description="in the quantity's unit")

    def rules(self) -> Iterator[Rule]:
        """One of both."""
        yield (self.method is None) != (self.value is None), "", "needs method or value, not both"


def _side(given: Any) -> Any:
    """The method or the value that a right side names."""
    if not isinstance(given, Mapping):
        return given
    try:
        right = Right.model_validate(given)
    except ValidationError as error:
        key, _, told = violation(Right, error).partition(": ")
        raise broken("" if key == "top level" else key, told) from None
    return right.method or right.value


def _as_written(value: float | str) -> float | str:
    """A whole number without a point, as people write it."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


class Claim(Settings):
    """One claim."""

    id: Id = Field(description="unique among the claims")
    says: Text = Field(description="the claim in our words, one sentence")
    paper: Paper = Field(description="whose method it is about")
    source: Text = Field(description="paper, section or table; or why the claim stands here")
    published: Published
    quantity: Annotated[str, AfterValidator(_known_quantity)] = Field(
        description="what is compared", json_schema_extra={"enum": list(QUANTITIES)}
    )
    left: Id = Field(description="method id")
    right: Annotated[
        str | int | float,
        BeforeValidator(_side, json_schema_input_type=Right),
        AfterValidator(_as_written),
    ] = Field(description="method id, or a number in the quantity's unit")
    relation: Relation = Field(
        description="left above right; at least right less tolerance; at most right plus "
        "tolerance; within tolerance of right"
    )
    tolerance: Annotated[Penalty, AfterValidator(_as_written)] = Field(
        default=0, description="in the quantity's unit"
    )
    because: Text = Field(default="", description="why this tolerance")
    twins: Annotated[dict[Id, Id], Field(min_length=1)] | None = Field(
        default=None, description="backbone of left -> backbone of right; left out = the same"
    )
    architectures: UniqueItems[Architecture] = Field(
        default=(), description="that the claim is about; left out = all"
    )
    requires: Items[Requirement] = ()
    only_there: Text = Field(
        default="",
        description="why no other backbone or task can decide it; left out = any can, at its own "
        "scale",
    )

    @property
    def backbones(self) -> tuple[str, ...]:
        """Where the paper tests it."""
        return self.published.backbones

    @property
    def tasks(self) -> tuple[str, ...]:
        """On what the paper tests it."""
        return self.published.tasks

    @property
    def measure(self) -> Quantity:
        """What ``quantity`` names."""
        return QUANTITIES[self.quantity]

    @property
    def number(self) -> float | None:
        """What left is compared with, where it is no method."""
        return None if isinstance(self.right, str) else float(self.right)

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that it compares."""
        return (self.left, self.right) if isinstance(self.right, str) else (self.left,)

    def as_data(self) -> dict[str, Any]:
        """Everything that a verdict may depend on, as JSON data."""
        return self.model_dump(mode="json")

    def rules(self) -> Iterator[Rule]:
        """What relation, quantity and sides ask of each other."""
        for key in ("tolerance", "because"):
            given, wanted = key in self.model_fields_set, self.relation != "above"
            yield only_with(key, given, wanted, "relation at-least, at-most and within")
        about_number = self.number is not None
        yield (
            not about_number or self.quantity != "score",
            "right.value",
            "not for quantity score, whose numbers hang on backbone and task; allowed: "
            "right.method",
        )
        yield (
            self.measure.group != "tickets" or (about_number and not self.twins),
            "right",
            f"quantity {self.quantity} is compared with chance; allowed: value, without twins",
        )
        pretraining = self.quantity == "pretraining-macs-saved"
        yield (
            not pretraining or (bool(self.twins) and about_number),
            "quantity",
            f"{self.quantity} needs twins (left = what it is measured of, right = against what) "
            "and right.value",
        )
        yield (
            not self.twins or pretraining or not about_number,
            "twins",
            "needs right.method, or quantity pretraining-macs-saved",
        )
        yield (
            self.right != self.left or bool(self.twins),
            "right.method",
            f"received {self.left!r}, which is left; allowed: another method",
        )

    def ids(self) -> Iterator[tuple[str, str, str]]:
        """(kind of thing, key, id) of everything that it names."""
        for key, method in zip(("left", "right.method"), self.methods, strict=False):
            yield "method", key, method
        yield from (("backbone", "published.backbones", one) for one in self.backbones)
        yield from (("task", "published.tasks", one) for one in self.tasks)
        for pair in (self.twins or {}).items():
            yield from (("backbone", "twins", one) for one in pair)


class ClaimsFile(Settings):
    """What ``claims.yaml`` says."""

    description: Text = Field(description="one line")
    claims: Items[dict[str, Any]] = Field(description="in the order to print")


def read_claims(path: Path, catalogue: Catalogue) -> tuple[Claim, ...]:
    """Read every claim.

    Args:
        path: ``config/claims.yaml``.
        catalogue: whose ids the claims may name.

    Returns:
        The claims in the file's order.

    Raises:
        ConfigError: the file breaks its schema, names something that does not exist, or breaks a
            rule between its keys; one line with the claim's id and the key.
    """
    claims: dict[str, Claim] = {}
    for index, raw in enumerate(validated(ClaimsFile, read_yaml(path), origin=path).claims):
        origin = f"{path}: claim {raw.get('id', index)}"
        claim = validated(Claim, raw, origin=origin)
        if claim.id in claims:
            raise ConfigError(f"{origin}: id: twice")
        for thing, key, name in claim.ids():
            catalogue.require_known(thing, name, f"{origin}: {key}")
        for number, need in enumerate(claim.requires):  # last: left itself may be misspelt
            if need.method not in claim.methods:
                raise ConfigError(
                    f"{origin}: requires.{number}.method: received {need.method!r}; allowed: left "
                    "or right.method"
                )
        claims[claim.id] = claim
    return tuple(claims.values())
