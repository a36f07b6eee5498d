"""YAML files of the catalogue: strict reading, schema checks, and merging of overrides."""

import json
import math
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from sparsetune.errors import ConfigError, nearest
from sparsetune.validation import first_violation


class _StrictLoader(yaml.SafeLoader):
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
                None, None, f"got {node.value}, need a finite number", node.start_mark
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


def read_checked(path: Path, schema: str) -> Mapping[str, Any]:
    """Read one YAML file that must satisfy a schema, alone or laid over its ``base``.

    ``base`` names another file of the same folder. The file's own keys are merged over that
    file's, see :func:`merged`; its overrides come after the base's, so they win.

    Returns:
        The whole content, without the key ``base``.

    Raises:
        ConfigError: see :func:`read_yaml`; the first violation, with the key's path; or a base
            that is unknown or has a base itself.
    """
    value = read_yaml(path)
    if isinstance(value, Mapping) and "base" in value:
        value = _over_base(value, path, schema)
    return _satisfying(value, schema, path)


def _satisfying(value: Any, schema: str, path: Path) -> Mapping[str, Any]:
    violation = first_violation(schema, value)
    if violation:
        raise ConfigError(f"{path}: {violation}")
    return value


def _over_base(value: Mapping[str, Any], path: Path, schema: str) -> dict[str, Any]:
    own = {key: content for key, content in value.items() if key != "base"}
    known = sorted(other.stem for other in path.parent.glob("*.yaml") if other != path)
    if value["base"] not in known:
        told = nearest(value["base"], known)
        raise ConfigError(f"{path}: base: got {value['base']!r}; known: {', '.join(known)}{told}")
    base_path = path.with_name(f"{value['base']}.yaml")
    base = read_yaml(base_path)
    if isinstance(base, Mapping) and "base" in base:
        raise ConfigError(f"{path}: base: {value['base']!r} has a base itself; allowed: one level")
    if "description" not in own:
        raise ConfigError(f"{path}: top level: missing key 'description'")
    result = merged(_satisfying(base, schema, base_path), own, origin=str(path))
    if isinstance(own.get("overrides"), list):
        result["overrides"] = [*base.get("overrides", ()), *own["overrides"]]
    return result


def mirrored_text(source: Mapping[str, Any], mirror: Path) -> dict[str, Any]:
    """Say where a mirror keeps running text.

    Args:
        source: of kind ``text``, whose relative paths are then those below ``mirror/datasets``;
            or ``hub-text``, whose files then lie in the folder named like the repository, without
            its owner.
        mirror: the mirror's folder.

    Returns:
        The source, of kind ``text``.
    """
    datasets = mirror / "datasets"
    kept = {key: source[key] for key in ("seed", "documents") if key in source}
    if source["kind"] == "text":
        paths = [datasets / path for path in source["paths"]]
    else:
        folder = datasets / source["repository"].rpartition("/")[2]
        paths = [folder / name for name in source["files"]]
    return {"kind": "text", "paths": [str(path) for path in paths], **kept}


def check_places(
    overrides: Iterable[Mapping[str, Any]], known: Mapping[str, Sequence[str]], *, origin: str
) -> None:
    """Check that overrides apply to things that exist: a misspelt id would never apply.

    Args:
        overrides: each with ``where``, as the schema has it.
        known: key of ``where`` (``backbones``, ``tasks``) -> ids of the catalogue.
        origin: what a message calls the file.

    Raises:
        ConfigError: naming the first unknown id.
    """
    for index, override in enumerate(overrides):
        for key, ids in override["where"].items():
            for unknown in (one for one in ids if one not in known[key]):
                raise ConfigError(
                    f"{origin}: overrides.{index}.where.{key}: unknown id {unknown!r}"
                    f"; known: {', '.join(known[key])}{nearest(unknown, known[key])}"
                )


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
