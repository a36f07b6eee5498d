import json
from typing import Literal

import jsonschema
import pytest
from unit.config.asking import refused

from sparsetune.cli import main
from sparsetune.config.method import UpdateSettings
from sparsetune.config.reading import read_yaml, validated
from sparsetune.config.schema import THINGS, schema_of
from sparsetune.config.suite import SuiteFile
from sparsetune.config.table import PublishedTable, read_tables
from sparsetune.errors import nearest

SUITE = {
    "suite": "small",
    "description": "two runs",
    "device": "cpu",
    "mirror": None,
    "limits": {"train_examples": None, "evaluation_examples": 8},
    "seeds": [1],
    "runs": [{"backbones": ["mini-bert"], "tasks": ["mini-rte"], "methods": ["full"]}],
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sedes": [1]}, "top level: unknown key 'sedes'; allowed: description, device, "),
        ({"device": "gpu"}, "device: received 'gpu'; allowed: auto, cpu, cuda"),
        ({"seeds": [1.5]}, "seeds.0: received 1.5; allowed: an integer"),
        ({"seeds": [True]}, "seeds.0: received True; allowed: an integer"),
        ({"seeds": ["1"]}, "seeds.0: received '1'; allowed: an integer"),
        ({"seeds": [-1]}, "seeds.0: received -1; allowed: a number >= 0"),
        ({"seeds": [2**31]}, "seeds.0: received 2147483648; allowed: a number <= 2147483647"),
        ({"seeds": [1, 1]}, "seeds: received [1, 1]; allowed: each only once"),
        ({"seeds": []}, "seeds: received []; allowed: 1 items or more"),
        ({"seeds": 1}, "seeds: received 1; allowed: a list"),
        ({"suite": "a/b"}, "suite: received 'a/b'; allowed: text matching ^[a-z0-9]"),
        ({"limits": {"train_examples": 1}}, "limits: missing key 'evaluation_examples'"),
        ({"limits": 3}, "limits: received 3; allowed: a mapping"),
        ({"score_epochs": "yes"}, "score_epochs: received 'yes'; allowed: true or false"),
        ({"score_epochs": 1}, "score_epochs: received 1; allowed: true or false"),
    ],
)
def test_a_violation_names_key_value_and_what_is_allowed(change, message):
    with refused(start=f"it: {message}"):
        validated(SuiteFile, {**SUITE, **change}, origin="it")


def test_a_key_misspelt_is_told_before_the_one_that_it_leaves_missing_and_long_values_are_cut():
    wrong = {("sedes" if key == "seeds" else key): value for key, value in SUITE.items()}
    with refused("; did you mean 'seeds'?"):
        validated(SuiteFile, wrong, origin="it")
    with refused(f"seeds: received '{'x' * 56}...; allowed: a list"):
        validated(SuiteFile, {**SUITE, "seeds": "x" * 1000}, origin="it")


@pytest.mark.parametrize(
    ("word", "said"),
    [("mini-brt", "; did you mean 'mini-bert'?"), ("zzzz", ""), (5, "")],
)
def test_nearest_names_a_near_word_or_nothing(word, said):
    assert nearest(word, ["mini-bert", "minilm"]) == said


def test_settings_are_frozen():
    suite = validated(SuiteFile, SUITE, origin="it")
    with pytest.raises(ValueError, match="frozen"):
        suite.device = "cuda"


def test_a_kind_of_update_has_one_class():
    assert UpdateSettings.classes()  # as they are known from then on
    with pytest.raises(TypeError, match=r"both .*DseeUpdate and .*OtherUpdate"):

        class OtherUpdate(UpdateSettings):
            kind: Literal["dsee"]


def test_every_shipped_table_is_valid(repository):
    assert len(read_tables(repository / "config" / "tables")) > 10


def test_a_table_has_a_cell_for_each_column():
    columns = [{"heading": "a", "tasks": ["rte"], "value": "score"}] * 2
    row = {"label": "x", "backbone": "bert-base", "method": "full", "published": [1]}
    table = {"title": "t", "source": "s", "columns": columns, "rows": [row], "notes": []}
    with refused("rows.0.published: received 1 cells; allowed: one for each of 2 columns"):
        validated(PublishedTable, table, origin="it")


@pytest.mark.parametrize("thing", THINGS)
def test_every_thing_has_a_schema_of_its_keys(capsys, thing):
    assert main(["schema", "--thing", thing]) == 0
    schema = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["additionalProperties"] is False
    assert "id" not in schema["properties"] or thing == "claim"


def test_shipped_files_satisfy_their_schema(repository):
    for thing in ("backbone", "task", "method", "support", "ticket", "table"):
        validator = jsonschema.Draft202012Validator(schema_of(thing))
        for path in (repository / "config" / f"{thing}s").glob("*.yaml"):
            content = read_yaml(path)
            if "base" not in content:  # half a recipe would be told to lack the rest
                assert [error.message for error in validator.iter_errors(content)] == [], path


def test_an_unknown_thing_has_no_schema(capsys):
    assert main(["schema", "--thing", "metod"]) == 2
    assert "received 'metod'; allowed: backbone, task, method" in capsys.readouterr().err
