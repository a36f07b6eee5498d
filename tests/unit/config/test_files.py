import shutil

import pytest
import yaml

from sparsetune.config.files import check_places, merged, read_checked, read_yaml
from sparsetune.errors import ConfigError

PHASES = [{"name": "train", "epochs": 1, "rate": 0.1}, {"name": "prune"}]


def write(tmp_path, content):
    path = tmp_path / "thing.yaml"
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
        ("a: [1\n", "line 2: expected"),
        ("? [1]\n: 2\n", "line 1: a key must be text"),
        ("a: 1\nb: .nan\n", "line 2: got .nan, need a finite number"),
        ("a: -.inf\n", "line 1: got -.inf, need a finite number"),
        ("a: 1e999\n", "line 1: got 1e999, need a finite number"),
        ("a: !!python/object:os.system x\n", "could not determine a constructor"),
        (b"a: \xff\n", "not UTF-8 at byte 3"),
    ],
)
def test_bad_yaml_is_one_line_with_file_and_line(tmp_path, content, message):
    path = write(tmp_path, content)
    with pytest.raises(ConfigError) as caught:
        read_yaml(path)
    told = str(caught.value)
    assert told.startswith(f"{path}:")
    assert message in told
    assert "\n" not in told


def test_missing_file_and_folder_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"no\.yaml: no such file"):
        read_yaml(tmp_path / "no.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_yaml(tmp_path)


def test_schema_violation_names_the_file(tmp_path):
    path = write(tmp_path, "description: x\nrecipe: grebsmo\n")
    with pytest.raises(ConfigError, match=r"thing\.yaml: top level: missing key"):
        read_checked(path, "support")


def test_merge_is_deep_and_leaves_its_arguments_alone():
    base = {"a": {"b": 1, "c": 2}, "d": [1], "phases": PHASES}
    change = {"a": {"c": 3}, "d": [2], "phases": {"train": {"rate": 0.2}}}
    result = merged(base, change, origin="x")
    assert result["a"] == {"b": 1, "c": 3}
    assert result["d"] == [2]
    assert result["phases"] == [{"name": "train", "epochs": 1, "rate": 0.2}, {"name": "prune"}]
    assert base == {"a": {"b": 1, "c": 2}, "d": [1], "phases": PHASES}
    assert PHASES[0]["rate"] == 0.1


def test_merging_nothing_changes_nothing():
    base = {"a": {"b": 1}, "phases": PHASES}
    assert merged(base, {}, origin="x") == base


def test_override_of_an_unknown_phase_is_refused_with_the_nearest():
    with pytest.raises(
        ConfigError, match=r"here: no phase 'trian'; phases: train, prune; did you mean 'train'\?"
    ):
        merged({"phases": PHASES}, {"phases": {"trian": {}}}, origin="here")


def test_override_for_an_unknown_id_is_refused_with_the_nearest():
    overrides = [{"where": {"tasks": ["rte"]}}, {"where": {"tasks": ["rte", "sst3"]}}]
    known = {"tasks": ["rte", "sst2"], "backbones": []}
    message = (
        r"x: overrides\.1\.where\.tasks: unknown id 'sst3'; known: rte, sst2; did you mean 'sst2'"
    )
    with pytest.raises(ConfigError, match=message):
        check_places(overrides, known, origin="x")
    assert check_places(overrides[:1], known, origin="x") is None


SUPPORT = "description: x\nrecipe: random\nn_sparse: 4\nseed: 0\ntargets: [query]\n"


def test_a_file_with_a_base_is_the_base_with_its_own_keys_laid_over(tmp_path):
    (tmp_path / "one.yaml").write_text(SUPPORT)
    path = write(tmp_path, "description: y\nbase: one\nn_sparse: 8\n")
    read = read_checked(path, "support")
    assert read == {**read_checked(tmp_path / "one.yaml", "support"), "description": "y",
                    "n_sparse": 8}  # fmt: skip


def test_overrides_of_a_base_come_first_so_that_own_ones_win(repository, tmp_path):
    shutil.copy(repository / "config" / "methods" / "dsee.yaml", tmp_path)
    own = {"where": {"tasks": ["rte"]}, "phases": {"train": {"epochs": 1.0}}}
    path = write(tmp_path, yaml.safe_dump({"description": "y", "base": "dsee", "overrides": [own]}))
    base = read_checked(tmp_path / "dsee.yaml", "method")
    read = read_checked(path, "method")
    assert read["overrides"] == [*base["overrides"], own]
    assert read["phases"] == base["phases"]
    assert "base" not in read


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("description: y\nbase: onne\n", "base: got 'onne'; known: one, two; did you mean 'one'?"),
        ("description: y\nbase: [one]\n", "base: got ['one']; known: one, two"),
        ("description: y\nbase: thing\n", "base: got 'thing'; known: one, two"),
        ("description: y\nbase: two\n", "base: 'two' has a base itself; allowed: one level"),
        ("base: one\n", "top level: missing key 'description'"),
        ("description: y\nbase: one\nn_spars: 8\n", "top level: unknown key 'n_spars'"),
        ("description: y\nbase: one\nn_sparse: x\n", "n_sparse: got 'x', need integer"),
    ],
)
def test_a_base_that_cannot_be_used_is_one_line(tmp_path, content, message):
    (tmp_path / "one.yaml").write_text(SUPPORT)
    (tmp_path / "two.yaml").write_text("description: z\nbase: one\n")
    with pytest.raises(ConfigError) as caught:
        read_checked(write(tmp_path, content), "support")
    assert str(caught.value).startswith(f"{tmp_path / 'thing.yaml'}: {message}")
    assert "\n" not in str(caught.value)


def test_a_mapping_of_another_kind_replaces_the_old_one():
    base = {"mask": {"kind": "unstructured", "pools": "two"}}
    assert merged(base, {"mask": {"kind": "none"}}, origin="x") == {"mask": {"kind": "none"}}
    same = merged(base, {"mask": {"kind": "unstructured", "pools": "one"}}, origin="x")
    assert same == {"mask": {"kind": "unstructured", "pools": "one"}}


@pytest.mark.parametrize("change", [[{"name": "train"}], {"train": 3}, "train"])
def test_phases_are_changed_by_name(change):
    with pytest.raises(ConfigError, match=r"here: phases: need a mapping from phase names"):
        merged({"phases": PHASES}, {"phases": change}, origin="here")
