"""Errors that a user can cause, each one line: where, what was received, what is allowed.

The CLI prints the message and exits with the class's code; everything else is a defect of ours.
"""

import difflib
import errno
import importlib.util
import os
from collections.abc import Iterable
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError


class SparsetuneError(Exception):
    """Base of every expected error.

    ``exit_code`` is what the command line returns for it.
    """

    exit_code = 1


class ConfigError(SparsetuneError):
    """The catalogue, a suite or a command-line value is wrong (the user's mistake)."""

    exit_code = 2


class DataError(SparsetuneError):
    """A data file is missing, damaged or not in its published layout."""

    exit_code = 2


class ModelError(SparsetuneError):
    """A backbone, ticket, support or saved run is missing, unsafe or does not fit."""

    exit_code = 2


class TrainingError(SparsetuneError):
    """Training cannot go on: a loss that is not finite, a device that is not there."""

    exit_code = 3


class DiskError(SparsetuneError):
    """There is no room, or no right, to write; what was written before is whole."""

    exit_code = 3


def is_full_disk(error: BaseException) -> bool:
    """Whether an exception says that a disk, or a quota of one, is full.

    Args:
        error: from Python or from a library that has only the system's words.
    """
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return os.strerror(errno.ENOSPC) in str(error)


def is_full_gpu(error: BaseException) -> bool:
    """Whether an exception of torch says that a GPU, or the share of one, has no memory left.

    Args:
        error: told by the name of its class, since torch is imported by few.
    """
    return any(one.__name__ == "OutOfMemoryError" for one in type(error).__mro__)


def is_full_memory(error: BaseException | None) -> bool:
    """Whether an exception, or one that it came from, says that memory is used up.

    Args:
        error: from Python, the system, or a library that has only words for it.
    """
    words = ("can't allocate memory", os.strerror(errno.ENOMEM), "std::bad_alloc")
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, MemoryError) or any(word in str(error) for word in words):
            return True
        seen.add(id(error))  # one may have been raised from itself
        error = error.__cause__ or error.__context__
    return False


def nearest(word: object, known: Iterable[object]) -> str:
    """Name the nearest known word, as a suffix for a message; empty if none is near.

    Args:
        word: what was received.
        known: what is allowed.

    Example:
        >>> nearest("quary", ["query", "value"])
        "; did you mean 'query'?"
    """
    match = difflib.get_close_matches(str(word), [str(one) for one in known], n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else ""


def refusal(where: object, key: str, received: object, known: Iterable[object]) -> str:
    """Tell a value that is none of the known ones, in the one form that all refusals have.

    Args:
        where: the file or object.
        key: the key or row in it.
        received: the value.
        known: the values that are allowed.

    Example:
        >>> refusal("dsee", "targets", "quary", ["query", "value"])
        "dsee: targets: received 'quary'; allowed: query, value; did you mean 'query'?"
    """
    return f"{where}: {key}: {_chosen(repr(received), received, known)}"


def require_extra(what: str, extra: str, modules: Iterable[str]) -> None:
    """Refuse, before work starts, what needs packages that only an extra of this one brings.

    Args:
        what: what was asked for, as the message shall name it.
        extra: the extra's name.
        modules: what must be importable; nothing is imported.

    Raises:
        ConfigError: one of them is not installed.

    Example:
        >>> require_extra("tables", "workflow", ["json", "csv"])
    """
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"{what}: environment: received one without {', '.join(missing)}; "
            f"allowed: one with them (pip install 'sparsetune[{extra}]')"
        )


def first_line(error: BaseException) -> str:
    """First line of an exception's text, cut to 200 characters, for one-line messages."""
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]


def shown(value: object) -> str:
    """``repr`` of a received value, cut to 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def violation(model: "type[BaseModel]", error: "ValidationError") -> str:
    """Tell where a value first departs from a pydantic model, in one line.

    A key that the model does not have comes first: the missing one is often the same, misspelt.

    Args:
        model: what the value was validated against; its class attribute ``not_written``, if it has
            one, names fields that no file may have.
        error: what the validation raised; a custom error of type ``rule`` has ``key`` and ``told``
            in its context.

    Returns:
        ``key: received ...; allowed: ...``, with the nearest known word where one is near.

    Example:
        >>> from pydantic import BaseModel, ConfigDict, ValidationError
        >>> class Phase(BaseModel):
        ...     model_config = ConfigDict(extra="forbid")
        ...     steps: int = 1
        >>> try:
        ...     Phase(stpes=3)
        ... except ValidationError as error:
        ...     violation(Phase, error)
        "top level: unknown key 'stpes'; allowed: steps; did you mean 'steps'?"
    """
    found = error.errors(include_url=False)
    first = next((one for one in found if one["type"] == "extra_forbidden"), found[0])
    place, fields = _resolved(model, first["loc"])
    where, parent = (".".join(path) or "top level" for path in (place, place[:-1]))
    received = shown(first["input"])
    match first["type"]:
        case "extra_forbidden":
            told = f"{parent}: unknown key {place[-1]!r}; allowed: {', '.join(sorted(fields))}"
            return told + nearest(place[-1], fields)
        case "missing":
            return f"{parent}: missing key {place[-1]!r}"
        case "rule":
            key, told = first["ctx"]["key"], first["ctx"]["told"]
            return f"{'.'.join([*place, key] if key else place) or 'top level'}: {told}"
        case "value_error" | "assertion_error":
            return f"{where}: {first['msg'].partition(', ')[2]}"
        case "literal_error" | "enum":
            known = first["ctx"]["expected"].replace(" or ", ", ").replace("'", "").split(", ")
            return f"{where}: {_chosen(received, first['input'], known)}"
        case "union_tag_invalid":
            key, tag = first["ctx"]["discriminator"].strip("'"), first["ctx"]["tag"]
            known = first["ctx"]["expected_tags"].replace("'", "").split(", ")
            return f"{'.'.join([*place, key])}: {_chosen(repr(tag), tag, known)}"
        case "json_invalid":
            return f"not JSON: {first['ctx']['error']}"
        case "union_tag_not_found":
            return f"{where}: missing key {first['ctx']['discriminator']}"
        case _:
            wanted = _WANTED.get(first["type"], first["msg"]).format(**first.get("ctx", {}))
            return f"{where}: received {received}; allowed: {wanted}"


def _chosen(received: str, value: object, known: Iterable[object]) -> str:
    names = [str(one) for one in known]
    return f"received {received}; allowed: {', '.join(names) or 'none'}{nearest(value, names)}"


_WANTED = {
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "greater_than_equal": "a number >= {ge:.12g}",
    "greater_than": "a number > {gt:.12g}",
    "less_than_equal": "a number <= {le:.12g}",
    "less_than": "a number < {lt:.12g}",
    "string_pattern_mismatch": "text matching {pattern}",
    "string_too_short": "text of {min_length} characters or more",
    "string_too_long": "text of {max_length} characters or less",
    "too_short": "{min_length} items or more",
    "too_long": "{max_length} items or less",
}
"""Type of pydantic's error -> what is allowed."""


def _resolved(model: Any, path: tuple[int | str, ...]) -> tuple[list[str], list[str]]:
    """Leave out of a path what names a member of a union; and the fields at its last key."""
    from pydantic import BaseModel

    here, place, fields = _members(model), list[str](), list[str]()
    for part in path:
        models = [one for one in here if isinstance(one, type) and issubclass(one, BaseModel)]
        own = [one.model_fields[part] for one in models if part in one.model_fields]
        chosen = [one for one in models if _is_called(one, part)]
        others = [one for one in here if one not in models and get_args(one)]
        if chosen and (not own or len(models) > 1):  # a tag may be called like a key
            here = chosen
            continue
        if own:
            fields = [name for one in models for name in _written(one)]
            here = [one for field in own for one in _members(field.annotation)]
        elif others:
            here = [one for other in others for one in _members(_item(other))]
        else:
            fields = list(dict.fromkeys(name for one in models for name in _written(one)))
            if not models:
                continue
        place.append(str(part))
    return place, fields


def _item(annotation: Any) -> Any:
    """The type of an item of a list, or of a value of a mapping."""
    arguments = get_args(annotation)
    return arguments[0] if arguments[-1] is Ellipsis else arguments[-1]


def _written(model: "type[BaseModel]") -> list[str]:
    return [one for one in model.model_fields if one not in getattr(model, "not_written", ())]


def _members(annotation: Any) -> list[Any]:
    """The types that an annotation may stand for; unions and annotations are opened."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [one for part in get_args(annotation) for one in _members(part)]
    return [annotation]


def _is_called(model: "type[BaseModel]", part: int | str) -> bool:
    """Whether pydantic names a member of a union so: by its class, or by the value of its tag."""
    tags = [get_args(field.annotation) for field in model.model_fields.values()]
    return part == model.__name__ or any(part in values for values in tags)
