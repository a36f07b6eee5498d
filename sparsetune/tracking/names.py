"""How settings and measured values are called in MLflow: params, metrics and their sections."""

import json
import re
from collections.abc import Mapping
from typing import Any

_PARAM_CHARACTERS = 6000
_NAME_CHARACTERS = 250
_NOT_METRICS = ("intervals_from",)


def flatten(tree: Mapping[str, Any], prefix: str = "", *, joint: str = ".") -> dict[str, Any]:
    """Nested mapping -> one level, names joined and made of characters MLflow takes."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        path = re.sub(r"[^\w\-. :/]", "_", f"{prefix}{name}")[:_NAME_CHARACTERS]
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{path}{joint}", joint=joint))
        else:
            flat[path] = value
    return flat


def as_params(settings: Mapping[str, Any]) -> dict[str, str]:
    """Settings as MLflow params: flat, text, cut to what MLflow stores; None is left out.

    What stands in a list under names, as phases do, is a param of its own, so that runs can be
    compared and searched by it. Other lists are JSON with sorted keys: a record, whose keys are
    sorted, gives the live run's text.

    Example:
        >>> as_params({"phases": [{"name": "train", "epochs": 3.0}], "labels": ["a", "b"]})
        {'phases.names': 'train', 'phases.train.epochs': '3.0', 'labels': '["a", "b"]'}
    """
    flat = flatten(_without_named_lists(settings))
    return {
        n: _as_text(value)[:_PARAM_CHARACTERS] for n, value in flat.items() if value is not None
    }


def _without_named_lists(tree: Mapping[str, Any]) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            told[name] = _without_named_lists(value)
        elif _is_named(value):
            members = {one["name"]: {k: v for k, v in one.items() if k != "name"} for one in value}
            told[name] = {"names": ", ".join(members), **_without_named_lists(members)}
        else:
            told[name] = value
    return told


def _is_named(value: object) -> bool:
    if not isinstance(value, list | tuple) or not value:
        return False
    names = [one.get("name") if isinstance(one, Mapping) else None for one in value]
    return all(isinstance(name, str) for name in names) and len(set(names)) == len(names)


def _as_text(value: object) -> str:
    return json.dumps(value, sort_keys=True) if isinstance(value, list | tuple) else str(value)


def as_finals(stage: str, measured: Mapping[str, Any]) -> dict[str, float]:
    """Numeric leaves of a record's ``measured`` as ``stage/name``.

    MLflow makes a section of what shares its text before the last slash, so that the curves and
    the headline, without a slash, come apart from them.

    Args:
        stage: of the record.
        measured: nested; lists, text and booleans are left to the record itself, and so is how
            intervals were drawn, which is the same for all runs.
    """
    told = {name: value for name, value in measured.items() if name not in _NOT_METRICS}
    return {
        f"{stage}/{name}": float(value)
        for name, value in flatten(told, joint="/").items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
