import json

import jsonschema
import pytest

from sparsetune.errors import nearest
from sparsetune.validation import first_violation

GOOD_SUITE = {
    "suite": "small",
    "description": "two runs",
    "device": "cpu",
    "mirror": None,
    "limits": {"train_examples": None, "evaluation_examples": 8},
    "seeds": [1],
    "runs": [{"backbones": ["mini-bert"], "tasks": ["mini-rte"], "methods": ["full"]}],
}


def schemas(repository):
    return sorted((repository / "workflow" / "schemas").glob("*.schema.json"))


def objects_of(schema):
    if isinstance(schema, dict):
        if schema.get("type") == "object" and "properties" in schema:
            yield schema
        for value in schema.values():
            yield from objects_of(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from objects_of(value)


def test_good_suite_has_no_violation():
    assert first_violation("suite", GOOD_SUITE) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sedes": [1]}, "top level: unknown key 'sedes'; allowed: description, device, "),
        ({"device": "gpu"}, "device: got 'gpu'; allowed: auto, cpu, cuda"),
        ({"seeds": [1.5]}, "seeds.0: got 1.5, need integer"),
        ({"seeds": [-1]}, "seeds.0: got -1, need a number >= 0"),
        ({"seeds": [2**31]}, "seeds.0: got 2147483648, need a number <= 2147483647"),
        ({"suite": "a/b"}, "suite: got 'a/b', need text matching ^[a-z0-9]"),
        ({"limits": {"train_examples": 1}}, "limits: missing key 'evaluation_examples'"),
        ({"seeds": []}, "seeds: got []: "),
        ({"score_epochs": "yes"}, "score_epochs: got 'yes', need boolean"),
    ],
)
def test_violation_names_key_value_and_what_is_allowed(change, message):
    told = first_violation("suite", {**GOOD_SUITE, **change})
    assert told.startswith(message)
    assert "\n" not in told


def test_long_values_are_cut_in_the_message():
    told = first_violation("suite", {**GOOD_SUITE, "seeds": "x" * 1000})
    assert len(told) < 200


@pytest.mark.parametrize(
    ("word", "told"),
    [("mini-brt", "; did you mean 'mini-bert'?"), ("zzzz", ""), (5, "")],
)
def test_nearest_names_a_near_word_or_nothing(word, told):
    assert nearest(word, ["mini-bert", "minilm"]) == told


def test_every_schema_is_itself_valid_and_described(repository):
    for path in schemas(repository):
        schema = json.loads(path.read_text(encoding="utf-8"))
        jsonschema.Draft202012Validator.check_schema(schema)
        for part in objects_of(schema):
            assert all("description" in p or "type" in p or "allOf" in p or "enum" in p
                       for p in part["properties"].values()), path.name  # fmt: skip


def test_every_object_in_a_schema_is_closed(repository):
    for path in schemas(repository):
        for part in objects_of(json.loads(path.read_text(encoding="utf-8"))):
            # An object whose kind chooses its keys is closed in each branch.
            chosen = "allOf" in part or set(part["properties"]) == {"kind"}
            closed = part.get("additionalProperties") is False
            assert closed or chosen, (path.name, sorted(part["properties"]))
