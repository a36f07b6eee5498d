"""A yes or no for plain JSON Schemas, many times faster than the library that tells what is wrong.

Thousands of records are read at once, and nearly all of them are right. The library stays the
judge: whatever is not a plain yes here goes to it, and so does every schema with another keyword.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

QuickCheck = Callable[[Any], bool]
"""True = the value satisfies the schema; False = let the library look."""

_NOTES = {"$schema", "title", "description"}
_TYPES: dict[str, QuickCheck] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    # 1.0 is an integer to JSON Schema: the library says so.
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
}


class _UnknownKeywordError(Exception):
    """The schema says something that only the library understands."""


def quick_check(schema: Mapping[str, Any]) -> QuickCheck | None:
    """Compile a schema.

    Args:
        schema: a JSON Schema, draft 2020-12.

    Returns:
        A function that says yes to nothing that the library refuses, though it may say no to what
        the library accepts; None for a schema with a keyword that is not known here.
    """
    try:
        return _compiled(schema)
    except _UnknownKeywordError:
        return None


def _compiled(schema: Any) -> QuickCheck:
    if not isinstance(schema, Mapping):
        raise _UnknownKeywordError(schema)
    keywords = {key: value for key, value in schema.items() if key not in _NOTES}
    parts = {"required", "properties", "additionalProperties"}
    checks = [_keyword(key, value) for key, value in keywords.items() if key not in parts]
    if parts & keywords.keys():
        checks.append(_members(keywords))
    return lambda value: all(check(value) for check in checks)


def _keyword(name: str, told: Any) -> QuickCheck:
    """One keyword; those of texts and numbers refuse other values, which the library accepts."""
    match name:
        case "type":
            kinds = [_TYPES[kind] for kind in ([told] if isinstance(told, str) else told)]
            return kinds[0] if len(kinds) == 1 else lambda value: any(is_(value) for is_ in kinds)
        case "enum" if all(isinstance(one, str) for one in told):
            allowed = frozenset(told)
            return lambda value: isinstance(value, str) and value in allowed
        case "pattern":
            search = re.compile(told).search
            return lambda value: isinstance(value, str) and search(value) is not None
        case "maxLength":
            return lambda value: isinstance(value, str) and len(value) <= told
        case "minimum":
            return lambda value: value is None or (_TYPES["number"](value) and value >= told)
    raise _UnknownKeywordError(name)


def _members(schema: Mapping[str, Any]) -> QuickCheck:
    required = frozenset(schema.get("required", ()))
    known = {key: _compiled(one) for key, one in schema.get("properties", {}).items()}
    others = schema.get("additionalProperties", True)
    rest = (lambda _: others) if isinstance(others, bool) else _compiled(others)

    def check(value: Any) -> bool:
        return (
            isinstance(value, dict)
            and required <= value.keys()
            and all(known.get(key, rest)(one) for key, one in value.items())
        )

    return check
