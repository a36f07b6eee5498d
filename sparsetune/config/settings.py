"""What all settings have in common: closed, frozen, strictly typed; wrong ones told in one line.

The models themselves are in the module of the thing that they describe.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    Strict,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from sparsetune.errors import nearest

Rule = tuple[bool, str, str]
"""Whether it holds, the dotted key that it is about, and what is told otherwise."""

Item = TypeVar("Item")


def _each_once(items: tuple[Item, ...]) -> tuple[Item, ...]:
    if len(set(items)) < len(items):
        raise broken("", f"received {_short(list(items))}; allowed: each only once")
    return items


Items = Annotated[tuple[Item, ...], Strict(False), Field(min_length=1)]
"""A list in YAML, with one item at least."""
UniqueItems = Annotated[Items[Item], AfterValidator(_each_once)]
"""Likewise, with no item twice."""

ID = re.compile(r"[a-z0-9]+([.-][a-z0-9]+)*")
"""What an id looks like: it becomes a part of paths."""
Id = Annotated[str, Field(pattern=f"^{ID.pattern}$", max_length=64)]
Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Penalty = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Projection = Literal["query", "key", "value", "attention_output", "ffn_in", "ffn_out"]


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

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            for key in value:
                if key not in cls.model_fields:
                    raise PydanticCustomError(
                        "unknown_key", "unknown", {"key": key, "allowed": cls.keys_allowed()}
                    )
        return value

    @model_validator(mode="after")
    def _refuse_broken_rules(self) -> Self:
        for holds, key, told in self.rules():
            if not holds:
                raise broken(key, told)
        return self

    # Access like a mapping, until every room reads attributes.
    def __getitem__(self, key: str) -> Any:
        if key not in self:
            raise KeyError(key)
        return getattr(self, key)

    def __contains__(self, key: object) -> bool:
        given = key in type(self).model_fields
        return given and (key in self.model_fields_set or getattr(self, str(key)) is not None)

    def __iter__(self) -> Iterator[str]:  # type: ignore[override]
        return iter(self.keys())

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key, or a default."""
        return getattr(self, key) if key in self else default

    def keys(self) -> list[str]:
        """Keys that have a value."""
        return [key for key in type(self).model_fields if key in self]

    def items(self) -> list[tuple[str, Any]]:
        """Keys and values."""
        return [(key, getattr(self, key)) for key in self.keys()]


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
        key, f"received {_short(received)}; allowed: {', '.join(known)}{nearest(received, known)}"
    )


def first_violation(error: ValidationError, value: Any, *, rules: bool = True) -> str | None:
    """Tell the first violation in one line: key, what was received, what is allowed.

    An unknown key is told before anything else, since it is most often a key misspelt that is
    missing elsewhere.

    Args:
        error: of a model's validation.
        value: what was validated.
        rules: whether broken rules between keys count.

    Returns:
        The line, or None if only rules are broken and those do not count.
    """
    found = [one for one in error.errors(include_url=False) if rules or one["type"] != "rule"]
    found.sort(key=lambda one: one["type"] != "unknown_key")
    return _told(found[0], value) if found else None


_WANTED = {
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "greater_than_equal": "a number >= {ge:g}",
    "greater_than": "a number > {gt:g}",
    "less_than_equal": "a number <= {le:.12g}",
    "less_than": "a number < {lt:g}",
    "string_pattern_mismatch": "text matching {pattern}",
    "string_too_short": "text of {min_length} characters or more",
    "string_too_long": "text of {max_length} characters or less",
    "too_short": "{min_length} items or more",
    "too_long": "{max_length} items or less",
}


def _told(error: ErrorDetails, value: Any) -> str:
    kind, context = error["type"], error.get("ctx", {})
    path = _path(error["loc"], value)
    if kind == "missing":
        return f"{_dotted(path[:-1])}: missing key {path[-1]!r}"
    if kind == "union_tag_not_found":
        return f"{_dotted(path)}: missing key {context['discriminator']}"
    if kind == "unknown_key":
        key, allowed = context["key"], context["allowed"]
        told = f"{_dotted(path)}: unknown key {key!r}; allowed: {', '.join(allowed)}"
        return told + nearest(key, allowed)
    if kind == "rule":
        key = context["key"]
        return f"{_dotted([*path, key] if key else path)}: {context['told']}"
    received = error["input"]
    if kind == "union_tag_invalid":
        path, received = [*path, context["discriminator"].strip("'")], context["tag"]
    if kind in ("union_tag_invalid", "literal_error"):
        allowed = re.findall(r"'([^']*)'", context.get("expected_tags") or context["expected"])
        told = f"received {_short(received)}; allowed: {', '.join(allowed)}"
        return f"{_dotted(path)}: {told}{nearest(received, allowed)}"
    wanted = _WANTED.get(kind, error["msg"]).format(**context)
    return f"{_dotted(path)}: received {_short(received)}; allowed: {wanted}"


def _path(location: tuple[int | str, ...], value: Any) -> list[int | str]:
    """The keys of a location, without the tags that unions leave in it."""
    path: list[int | str] = []
    here, tagged = value, True  # the whole is no member of a union
    for part in location:
        if not tagged and isinstance(here, Mapping) and here.get("kind") == part:
            tagged = True
            continue
        path.append(part)
        inside = isinstance(here, Mapping) or (isinstance(here, list) and isinstance(part, int))
        try:
            here = here[part] if inside else None
        except LookupError:
            here = None
        tagged = False
    return path


def _dotted(path: Iterable[int | str]) -> str:
    return ".".join(str(part) for part in path) or "top level"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
