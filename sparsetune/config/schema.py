"""JSON Schema of the catalogue's files and of suites, for editors; nothing here validates."""

from typing import Any

from sparsetune.config.backbone import Backbone
from sparsetune.config.claim import Claim
from sparsetune.config.folder import Place
from sparsetune.config.method import Method, UpdateSettings
from sparsetune.config.settings import Settings
from sparsetune.config.study import Study
from sparsetune.config.suite import SuiteFile
from sparsetune.config.support import SUPPORTS
from sparsetune.config.table import PublishedTable
from sparsetune.config.task import Task
from sparsetune.config.ticket import TICKETS
from sparsetune.errors import ConfigError, refusal

_CATALOGUE: dict[str, tuple[type[Settings], ...]] = {
    "backbone": (Backbone,),
    "task": (Task,),
    "method": (Method,),
    "support": tuple(SUPPORTS.values()),
    "ticket": tuple(TICKETS.values()),
}
_OTHERS: dict[str, type[Settings]] = {
    "suite": SuiteFile,
    "table": PublishedTable,
    "claim": Claim,
    "study": Study,
}
THINGS = (*_CATALOGUE, *_OTHERS)
"""What there are schemas of; ``claim`` is one entry of ``claims.yaml``."""


def schema_of(thing: str) -> dict[str, Any]:
    """The JSON Schema of a file.

    A file with a base, a variant and what an override changes hold a part of the keys, so that no
    key of the catalogue is required by the schema; ``sparsetune check`` finds what is missing.

    Args:
        thing: one of :data:`THINGS`.

    Raises:
        ConfigError: another name.

    Example:
        >>> schema_of("suite")["properties"]["device"]["enum"]
        ['auto', 'cpu', 'cuda']
    """
    if thing in _OTHERS:
        return _OTHERS[thing].model_json_schema()
    if thing not in _CATALOGUE:
        raise ConfigError(refusal("schema", "THING", thing, THINGS))
    updates = UpdateSettings.classes() if thing == "method" else []
    properties: dict[str, Any] = {}
    definitions: dict[str, Any] = {}
    models: list[type[Settings]] = [*_CATALOGUE[thing], *updates, Place]
    for model in models:
        own = model.model_json_schema()
        definitions |= own.pop("$defs", {})
        if model in _CATALOGUE[thing]:
            left_out = model.not_written
            properties |= {k: v for k, v in own["properties"].items() if k not in left_out}
        else:
            definitions[model.__name__] = own
    if thing == "method":
        kinds = [{"$ref": f"#/$defs/{model.__name__}"} for model in updates]
        properties["update"] = {"anyOf": kinds}
        phases = properties["phases"]["items"]
        phases["anyOf"] = [*phases.pop("oneOf"), {"required": ["name", "as"]}]
        phases.pop("discriminator")
    for key, classes in (("origin", TICKETS), ("recipe", SUPPORTS)):
        if key in properties:
            properties[key] = {"enum": list(classes)}
    where = {"where": {"$ref": "#/$defs/Place"}}
    return {
        "title": thing,
        "type": "object",
        "additionalProperties": False,
        "properties": {
            **properties,
            "base": {"type": "string", "description": "file that this one is laid over"},
            "overrides": {
                "type": "array",
                "items": {"type": "object", "properties": where, "required": ["where"]},
            },
            "variants": {"type": "object", "description": "id -> description and what differs"},
        },
        "$defs": definitions,
    }
