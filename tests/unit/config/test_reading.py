import pytest
import yaml
from unit.config.asking import refused, rewritten

from sparsetune.config.load import Catalogue
from sparsetune.config.reading import merged, read_yaml

PHASES = [{"name": "train", "epochs": 1, "rate": 0.1}, {"name": "prune"}]


def write(folder, content, name="thing"):
    path = folder / f"{name}.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_numbers_in_exponent_form_are_numbers_not_text(tmp_path):
    # Plain YAML 1.1 reads 2e-5 as text because it has no decimal point.
    content = "a: 2e-5\nb: 1E3\nc: -4e+2\nd: 1.5\ne: 3\nf: 2e-5x\n"
    read = read_yaml(write(tmp_path, content))
    assert read == {"a": 2e-5, "b": 1000.0, "c": -400.0, "d": 1.5, "e": 3, "f": "2e-5x"}
    assert type(read["e"]) is int


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "line 3: key 'a' twice"),
        ("a:\n  b: 1\n  b: 1\n", "line 3: key 'b' twice"),
        ("a: [1\n", "line 2: did not find expected"),
        ("? [1]\n: 2\n", "line 1: a key must be text"),
        ("a: 1\nb: .nan\n", "line 2: received .nan; allowed: a finite number"),
        ("a: -.inf\n", "line 1: received -.inf; allowed: a finite number"),
        ("a: 1e999\n", "line 1: received 1e999; allowed: a finite number"),
        ("a: !!python/object:os.system x\n", "could not determine a constructor"),
        (b"a: \xff\n", "not UTF-8 at byte 3"),
    ],
)
def test_bad_yaml_is_one_line_with_file_and_line(tmp_path, content, message):
    path = write(tmp_path, content)
    with refused(message, start=f"{path}:"):
        read_yaml(path)


def test_missing_file_and_folder_are_named(tmp_path):
    with refused("no.yaml: no such file"):
        read_yaml(tmp_path / "no.yaml")
    with refused("cannot be read", start=tmp_path):
        read_yaml(tmp_path)


def test_merge_is_deep_and_leaves_its_arguments_alone():
    base = {"a": {"b": 1, "c": 2}, "d": [1], "phases": PHASES}
    change = {"a": {"c": 3}, "d": [2], "phases": {"train": {"rate": 0.2}}}
    result = merged(base, change, origin="x")
    assert result["a"] == {"b": 1, "c": 3}
    assert result["d"] == [2]
    assert result["phases"] == [{"name": "train", "epochs": 1, "rate": 0.2}, {"name": "prune"}]
    assert base == {"a": {"b": 1, "c": 2}, "d": [1], "phases": PHASES}
    assert PHASES[0]["rate"] == 0.1
    assert merged(base, {}, origin="x") == base


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trian": {}}, "no phase 'trian'; phases: train, prune; did you mean 'train'?"),
        ([{"name": "train"}], "phases: need a mapping from phase names"),
        ({"train": 3}, "phases: need a mapping from phase names"),
        ("train", "phases: need a mapping from phase names"),
    ],
)
def test_phases_are_changed_by_name(change, message):
    with refused(start=f"here: {message}"):
        merged({"phases": PHASES}, {"phases": change}, origin="here")


def test_a_mapping_of_another_kind_replaces_the_old_one():
    base = {"mask": {"kind": "unstructured", "pools": "two"}}
    assert merged(base, {"mask": {"kind": "none"}}, origin="x") == {"mask": {"kind": "none"}}
    same = merged(base, {"mask": {"kind": "unstructured", "pools": "one"}}, origin="x")
    assert same == {"mask": {"kind": "unstructured", "pools": "one"}}


SUPPORT = "description: x\nrecipe: random\nn_sparse: 4\nseed: 0\ntargets: [query]\n"


@pytest.fixture
def support(tmp_path):
    """Read a support from this text, beside one that is whole and one that has a base."""
    folder = tmp_path / "supports"
    folder.mkdir()
    write(folder, SUPPORT, "one")
    write(folder, "description: z\nbase: one\n", "two")

    def support(content):
        write(folder, content)
        return Catalogue(tmp_path).support("thing")

    return support


def test_a_file_with_a_base_is_the_base_with_its_own_keys_laid_over(support):
    own, base = support("description: y\nbase: one\nn_sparse: 8\n"), support(SUPPORT)
    assert own == base.model_copy(update={"description": "y", "n_sparse": 8})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("description: y\nbase: onne\n",
         "base: received 'onne'; allowed: one, two; did you mean 'one'?"),
        ("description: y\nbase: [one]\n", "base: received ['one']; allowed: one, two"),
        ("description: y\nbase: thing\n", "base: received 'thing'; allowed: one, two"),
        ("description: y\nbase: two\n", "base: 'two' has a base itself; allowed: one level"),
        ("base: one\n", "top level: missing key 'description'"),
        ("description: y\nbase: one\nn_spars: 8\n", "top level: unknown key 'n_spars'"),
        ("description: y\nbase: one\nn_sparse: x\n", "n_sparse: received 'x'; allowed: an integer"),
        ("description: x\nrecipe: random\n", "top level: missing key 'n_sparse'"),
        ("description: x\nrecipe: omp\n", "recipe: received 'omp'; allowed: grebsmo, magnitude"),
        (SUPPORT + "id: one\n", "top level: unknown key 'id'; allowed: description, n_sparse"),
        ("3\n", "top level: received 3; allowed: a mapping"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_one_line(tmp_path, support, content, message):
    with refused(start=f"{tmp_path / 'supports' / 'thing.yaml'}: {message}"):
        support(content)


def test_overrides_of_a_base_come_first_so_that_own_ones_win(repository, catalogue):
    own = {"where": {"tasks": ["rte"]}, "phases": {"train": {"epochs": 1.0}}}
    content = {"description": "y", "base": "dsee", "overrides": [own]}
    write(catalogue / "methods", yaml.safe_dump(content), "mine")
    for backbone in ("bert-base", "mini-bert"):
        for task in ("rte", "mini-stsb"):
            at = {"backbone_id": backbone, "task_id": task}
            (mine,) = Catalogue(catalogue).method("mine", **at).phases
            (base,) = Catalogue(catalogue).method("dsee", **at).phases
            assert mine == base.model_copy(update={"epochs": 1.0 if task == "rte" else base.epochs})


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"where": {"tasks": ["rte", "sst3"]}, "start": "random"},
         "overrides.0.where.tasks: unknown task 'sst3'; known: "),
        ({"where": {}, "start": "random"}, "overrides.0.where: top level: needs backbones, tasks"),
        ({"where": {"task": ["rte"]}, "start": "random"},
         "overrides.0.where: top level: unknown key 'task'; allowed: backbones, tasks; did you"),
        ({"where": {"tasks": ["rte"]}}, "overrides.0: needs where, and what changes there"),
        ({"where": {"tasks": ["rte"]}, "phases": {"trian": {}}},
         "overrides: no phase 'trian'; phases: train; did you mean 'train'?"),
        ({"where": {"tasks": ["rte"]}, "phases": {"train": {"epochs": "x"}}},
         "overrides.0: phases.0.epochs: received 'x'; allowed: a number"),
        ({"where": {"tasks": ["rte"]}, "id": "x"}, "overrides.0: top level: unknown key 'id'"),
    ],
)  # fmt: skip
def test_an_override_that_cannot_be_laid_on_is_told_whatever_is_asked(catalogue, override, message):
    path = catalogue / "methods" / "dsee.yaml"
    rewritten(path, overrides=[override])
    with refused(start=f"{path}: {message}"):
        Catalogue(catalogue).method("dsee", backbone_id="minilm", task_id="mrpc")


def test_what_two_overrides_make_together_may_be_wrong_for_one_alone(catalogue):
    changes = ({"pools": "one", "adapted_sparsity": 0.1}, {"rest_sparsity": 0.1})
    overrides = [{"where": {"tasks": ["rte"]}, "mask": change} for change in changes]
    rewritten(catalogue / "methods" / "dsee-unstructured.yaml", overrides=overrides)
    at = {"backbone_id": "minilm", "task_id": "rte"}
    mask = Catalogue(catalogue).method("dsee-unstructured", **at).mask
    assert (mask.pools, mask.adapted_sparsity) == ("one", 0.1)
