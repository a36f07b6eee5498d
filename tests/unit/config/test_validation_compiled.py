import copy

import jsonschema
import pytest
from unit.reporting.runs import MEASURED, WHERE

from sparsetune.validation import _COMPILED, _is_plainly_right, _schema

RECORD = {
    "asked": {
        "stage": "cost", "stage_version": 1, "suite": "mini", "backbone": "mini-bert", "seed": 0,
        "digest": "a" * 16, "settings": {},
    },
    "inputs": {"model.safetensors": "b" * 64},
    "measured": {**MEASURED["cost"], "absent": None, "told": "text", "flag": True, "list": [1]},
    "where": {**WHERE, "tracking": {"mlflow_run_id": None}},
}  # fmt: skip
OTHERS = (None, True, -1, 0, 1.0, 2.5, "", "text", "B" * 16, "a" * 99, [], ["x"], {}, {"x": 1})


def places(value, at=()):
    yield at
    for key, one in value.items() if isinstance(value, dict) else ():
        yield from places(one, (*at, key))


def changed(at, change):
    """The record with ``change`` applied to the mapping that holds the key ``at[-1]``."""
    record = copy.deepcopy(RECORD)
    holder = record
    for key in at[:-1]:
        holder = holder[key]
    change(holder, at[-1])
    return record


def variants():
    for at in (at for at in places(RECORD) if at):
        yield changed(at, lambda holder, key: holder.pop(key))
        yield changed(at, lambda holder, key: holder.update({f"{key}x": holder[key]}))
        for other in OTHERS:
            yield changed(at, lambda holder, key, other=other: holder.update({key: other}))


def test_compiled_check_and_library_agree():
    library = jsonschema.Draft202012Validator(_schema("record"))
    verdicts = [
        (_is_plainly_right("record", one), library.is_valid(one)) for one in [RECORD, *variants()]
    ]
    assert verdicts[0] == (True, True)
    assert [one for one in verdicts if len(set(one)) == 2] == []
    assert verdicts.count((True, True)) > 200
    assert verdicts.count((False, False)) > 300


def words(schema):
    """Every keyword of a schema, at any depth."""
    yield from schema
    for part in (*schema.get("properties", {}).values(), schema.get("additionalProperties")):
        if isinstance(part, dict):
            yield from words(part)


@pytest.mark.parametrize("name", _COMPILED)
def test_compiled_schemas_have_no_word_that_is_later_than_draft_7(name):
    assert set(words(_schema(name))) <= {
        "$schema", "title", "description", "type", "enum", "pattern", "minimum", "maxLength",
        "required", "properties", "additionalProperties",
    }  # fmt: skip
