"""What config/README.md promises is true."""

import re

import pytest
import yaml

from sparsetune.config.load import Catalogue
from sparsetune.config.method import UpdateSettings
from sparsetune.config.reading import read_yaml
from sparsetune.config.schema import THINGS


@pytest.fixture
def readme(repository):
    return (repository / "config" / "README.md").read_text(encoding="utf-8")


def test_every_folder_and_every_kind_of_mask_is_told(repository, readme):
    folders = {path.name for path in (repository / "config").iterdir() if path.is_dir()}
    assert folders == set(re.findall(r"^\| `([a-z]+)/` \|", readme, flags=re.M))
    assert {"none", "unstructured", "n-of-m", "heads", "ticket"} <= set(
        re.findall(r"^\| `([a-z-]+)` \|", readme, flags=re.M)
    )


def test_files_and_modules_that_it_names_are_there(repository, readme):
    for name in re.findall(r"`((?:sparsetune|config)/[a-z_/]+(?:\.py)?)/?`", readme):
        assert (repository / name).exists(), name
    for thing in THINGS:
        assert (repository / "sparsetune" / "config" / f"{thing}.py").exists()


def test_its_examples_of_variants_are_the_catalogues(repository, readme):
    (block,) = re.findall(r"```yaml\n(variants:.*?)```", readme, flags=re.S)
    there = {}
    for path in (repository / "config" / "methods").glob("*.yaml"):
        there |= read_yaml(path).get("variants", {})
    for variant, told in yaml.safe_load(block)["variants"].items():
        assert there[variant] == told


def test_its_examples_of_sources_are_read(catalogue, readme):
    path = catalogue / "backbones" / "mini-bert.yaml"
    sources = re.findall(r"^source: \{kind: (?:world|text|hub-text).*\}", readme, flags=re.M)
    assert len(sources) == 3
    for line in sources:
        path.write_text(yaml.safe_dump({**read_yaml(path), **yaml.safe_load(line)}))
        assert Catalogue(catalogue).backbone("mini-bert").source.kind in line


def test_every_yaml_of_the_tree_is_loaded_by_a_test(repository):
    catalogue = Catalogue(repository / "config")
    ids = {thing: catalogue.known(thing) for thing in ("backbone", "task", "support")}
    for thing, known in ids.items():
        for one in known:
            assert getattr(catalogue, thing)(one).id == one
    places = [(b, t) for b in ids["backbone"] for t in ids["task"]]
    for thing in ("method", "ticket"):
        for one in catalogue.known(thing):
            for backbone, task in places:
                found = getattr(catalogue, thing)(one, backbone_id=backbone, task_id=task)
                assert found.id == one
    used = {
        catalogue.method(one, backbone_id="bert-base", task_id="rte").update.kind
        for one in catalogue.known("method")
    }
    assert used == {kind for kind, _ in UpdateSettings.known}
