"""Closed JSON Schemas, and violations told in one line that names the key.

The schemas stand in ``workflow/schemas``; an installed package carries a copy of them.
"""

import functools
import json
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
from jsonschema.exceptions import best_match

from sparsetune.errors import nearest


@functools.cache
def _schema(name: str) -> dict[str, Any]:
    beside = Path(__file__).resolve().parent.parent / "workflow" / "schemas"
    folder = beside if beside.is_dir() else resources.files("sparsetune.schemas")
    return json.loads((folder / f"{name}.schema.json").read_text(encoding="utf-8"))


@functools.cache
def _validator(name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(_schema(name))


def first_violation(schema: str, value: Any) -> str | None:
    """Say in one line where ``value`` first departs from a schema.

    Args:
        schema: name of a schema in ``workflow/schemas``, without ``.schema.json``.
        value: JSON-like value.

    Returns:
        ``key: what was received; what is allowed``, or None if the value satisfies the schema.
    """
    error = best_match(_validator(schema).iter_errors(value))
    return None if error is None else _told(error)


def _told(error: jsonschema.ValidationError) -> str:
    where = ".".join(str(part) for part in error.absolute_path) or "top level"
    received = _short(error.instance)
    match error.validator:
        case "additionalProperties":
            allowed = sorted(error.schema.get("properties", {}))
            unknown = next(key for key in error.instance if key not in allowed)
            told = f"{where}: unknown key {unknown!r}; allowed: {', '.join(allowed)}"
            return told + nearest(unknown, allowed)
        case "required":
            missing = [key for key in error.validator_value if key not in error.instance]
            return f"{where}: missing key {missing[0]!r}"
        case "type":
            kinds = error.validator_value
            need = kinds if isinstance(kinds, str) else " or ".join(kinds)
            return f"{where}: got {received}, need {need}"
        case "enum":
            allowed = ", ".join(str(value) for value in error.validator_value)
            return f"{where}: got {received}; allowed: {allowed}" + nearest(
                error.instance, error.validator_value
            )
        case "const":
            return f"{where}: got {received}, need {error.validator_value!r}"
        case "minimum" | "exclusiveMinimum" | "maximum" | "exclusiveMaximum":
            sign = {
                "minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<",
            }[error.validator]  # fmt: skip
            return f"{where}: got {received}, need a number {sign} {error.validator_value}"
        case "pattern":
            return f"{where}: got {received}, need text matching {error.validator_value}"
        case _:
            return f"{where}: got {received}: {error.message.splitlines()[0][:200]}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
