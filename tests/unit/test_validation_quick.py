import copy

import jsonschema
import pytest
from unit.reporting.runs import MEASURED, WHERE

from sparsetune.validation import _schema, first_violation
from sparsetune.validation_quick import quick_check

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


def test_what_the_library_refuses_is_never_accepted():
    quick = quick_check(_schema("record"))
    library = jsonschema.Draft202012Validator(_schema("record"))
    verdicts = [(quick(one), library.is_valid(one)) for one in [RECORD, *variants()]]
    assert verdicts[0] == (True, True)
    assert (True, False) not in verdicts
    assert verdicts.count((True, True)) > 200
    assert verdicts.count((False, False)) > 300


def test_what_is_not_plain_is_left_to_the_library():
    whole = {**RECORD, "asked": {**RECORD["asked"], "stage_version": 1.0}}
    assert not quick_check(_schema("record"))(whole)
    assert first_violation("record", whole) is None


@pytest.mark.parametrize(
    "schema",
    [
        {"anyOf": [{"type": "string"}]},
        {"properties": {"a": {"$ref": "#/x"}}},
        {"enum": [1]},
        {"properties": {"a": True}},
    ],
)
def test_schemas_with_other_keywords_have_no_quick_check(schema):
    assert quick_check(schema) is None
