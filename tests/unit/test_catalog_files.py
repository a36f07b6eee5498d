import pytest

from sparsetune.catalog_files import check_places, merged, read_checked, read_yaml
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
