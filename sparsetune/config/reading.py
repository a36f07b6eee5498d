"""YAML files of the catalogue: read strictly, validated, laid over each other."""

import json
import math
import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from sparsetune.config.settings import Settings
from sparsetune.errors import ConfigError, nearest, refusal, violation

Model = TypeVar("Model", bound=Settings)


class _StrictLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Safe YAML that refuses a key given twice, .nan and .inf, and reads 2e-5 as a number."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.MarkedYAMLError(None, None, "a key must be text", key_node.start_mark)
            if key in seen:
                raise yaml.MarkedYAMLError(None, None, f"key {key!r} twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_finite_float(self, node: yaml.ScalarNode) -> float:
        value = self.construct_yaml_float(node)
        if not math.isfinite(value):
            raise yaml.MarkedYAMLError(
                None, None, f"received {node.value}; allowed: a finite number", node.start_mark
            )
        return value


_StrictLoader.add_constructor("tag:yaml.org,2002:float", _StrictLoader.construct_finite_float)

_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def read_yaml(path: Path) -> Any:
    """Read one YAML file.

    Raises:
        ConfigError: missing, not UTF-8, not YAML, or with a key given twice; one line with
            the line number.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark else ""
        problem = getattr(error, "problem", None) or "not YAML"
        raise ConfigError(f"{path}:{line} {problem}") from None


def suite_content(given: str) -> tuple[Any, str]:
    """Read a suite that is given as a file or as its content.

    Args:
        given: name of a YAML file, or JSON.

    Returns:
        The content, not validated, and what a message calls it.

    Raises:
        ConfigError: see :func:`read_yaml`.
    """
    try:
        return json.loads(given), "--config"
    except json.JSONDecodeError:
        return read_yaml(Path(given)), given


def validated(
    model: type[Model], content: Any, *, origin: object, rules: bool = True, **resolved: Any
) -> Model:
    """Validate what was read.

    Args:
        model: its class.
        content: of a file, or of a part of it.
        origin: what a message calls it.
        rules: whether the rules between keys must hold; not where the content is half of what
            will be.
        resolved: fields that a file may not have.

    Raises:
        ConfigError: the first violation in one line, with the key.
    """
    if isinstance(content, Mapping):
        for key in model.not_written & content.keys():
            allowed = ", ".join(model.keys_allowed())
            raise ConfigError(f"{origin}: top level: unknown key {key!r}; allowed: {allowed}")
        content = {**content, **resolved}
    try:
        return model.model_validate(content, context={"rules": rules})
    except ValidationError as error:
        raise ConfigError(f"{origin}: {violation(model, error)}") from None


def merged(base: Mapping[str, Any], change: Mapping[str, Any], *, origin: str) -> dict[str, Any]:
    """Return ``base`` with ``change`` laid over it; neither argument is altered.

    Mappings merge key by key, but one that names another ``kind`` replaces the old one: its keys
    are others. ``phases`` is a list in the base and a mapping from phase names in the change.

    Raises:
        ConfigError: the change names a phase that the base does not have, or is no mapping.
    """
    result = dict(base)
    for key, value in change.items():
        old = base.get(key)
        if key == "phases" and isinstance(old, list):
            result[key] = _merged_phases(old, value, origin)
        elif isinstance(old, Mapping) and isinstance(value, Mapping) and _one_kind(old, value):
            result[key] = merged(old, value, origin=origin)
        else:
            result[key] = value
    return result


def _one_kind(old: Mapping[str, Any], change: Mapping[str, Any]) -> bool:
    return "kind" not in change or change["kind"] == old.get("kind")


def _merged_phases(
    phases: list[Mapping[str, Any]], changes: Mapping[str, Mapping[str, Any]], origin: str
) -> list[dict[str, Any]]:
    names = [phase["name"] for phase in phases]
    if not isinstance(changes, Mapping) or not all(
        isinstance(c, Mapping) for c in changes.values()
    ):
        raise ConfigError(f"{origin}: phases: need a mapping from phase names to what changes")
    for name in changes:
        if name not in names:
            raise ConfigError(
                f"{origin}: no phase {name!r}; phases: {', '.join(names)}{nearest(name, names)}"
            )
    return [{**phase, **changes.get(phase["name"], {})} for phase in phases]


def with_phases(content: Any, origin: str) -> Any:
    """Spell out the phases that take another's settings.

    A phase that says ``as: train`` has every key of phase ``train``, as overrides leave it, with
    its own keys laid over.

    Args:
        content: of a file; whatever has no such phase comes back as it is.
        origin: what a message calls it.

    Raises:
        ConfigError: there is no such phase, or it takes its own settings from another.
    """
    phases = content.get("phases") if isinstance(content, Mapping) else None
    if not isinstance(phases, list) or not all(isinstance(phase, Mapping) for phase in phases):
        return content
    given = {phase.get("name"): phase for phase in phases if "as" not in phase}
    result = []
    for index, phase in enumerate(phases):
        own = {key: value for key, value in phase.items() if key != "as"}
        if "as" in phase and phase["as"] not in list(given):
            raise ConfigError(refusal(origin, f"phases.{index}.as", phase["as"], given))
        result.append({**given[phase["as"]], **own} if "as" in phase else own)
    return {**content, "phases": result}
