import subprocess
import sys

import pytest
from unit.reporting.runs import changing, scoring, suite_of, write_run

from sparsetune.errors import DataError
from sparsetune.reporting import load
from sparsetune.reporting.load import collect, mean_of


def test_records_of_a_run_are_joined_and_runs_sorted(tmp_path):
    late = write_run(tmp_path, "lora", seed=10)
    early = write_run(tmp_path, "lora", seed=2)
    dense = write_run(tmp_path, "full", seed=0)
    runs = collect([late / "cost.json", early / "tune.json", early / "evaluate.json", dense]).runs
    found = list(zip(runs["method"], runs["seed"], strict=True))
    assert found == [("full", 0), ("lora", 2), ("lora", 10)]
    assert (runs["parameters_trained"][0], runs["metric"][0]) == (12_345, "accuracy_fraction")


def test_each_record_is_read_once_however_many_runs(tmp_path, monkeypatch):
    read = []
    reader = load.read_record
    monkeypatch.setattr(
        load, "read_record", lambda path, stage: read.append(path) or reader(path, stage)
    )
    folders = [write_run(tmp_path, seed=seed) for seed in range(12)]
    collect([folder / f"{stage}.json" for folder in folders for stage in ("tune", "evaluate")])
    assert len(read) == len(set(read)) == 3 * len(folders)


def change(record, part, **values):
    return lambda records: records[record][part].update(values)


@pytest.mark.parametrize("stage", ["evaluate", "cost", "tune"])
def test_missing_record_is_named(tmp_path, stage):
    folder = write_run(tmp_path)
    (folder / f"{stage}.json").unlink()
    with pytest.raises(DataError, match=rf"seed-0/{stage}\.json: no such record"):
        collect([folder])


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (change("evaluate", "asked", digest="b" * 16), r"evaluate\.json: asked.digest is 'bbb"),
        (change("cost", "asked", suite="paper"), r"cost\.json: asked.suite is 'paper'"),
        (change("cost", "asked", seed=3), r"cost\.json: asked.seed is 3, its folder says 0"),
        (change("tune", "asked", task="mini-rte"), r"tune\.json: asked.task is 'mini-rte'"),
        (change("tune", "asked", stage="cost"), r"asked.stage: received 'cost'; allowed: tune"),
        (change("tune", "measured", model_sha256="d" * 64), "rerun stage 'evaluate'"),
    ],
)
def test_records_that_do_not_belong_together_are_refused(tmp_path, edit, message):
    folder = write_run(tmp_path, edit=edit)
    with pytest.raises(DataError, match=message):
        collect([folder])


def test_mixed_stage_versions_are_refused_by_name(tmp_path):
    old = write_run(tmp_path, "full")
    new = write_run(tmp_path, "lora", edit=change("evaluate", "asked", stage_version=2))
    message = r"lora/seed-0/evaluate\.json: stage_version is 2, .*full/seed-0/evaluate\.json has 1"
    with pytest.raises(DataError, match=message):
        collect([old, new])


def test_one_run_in_two_folders_is_refused(tmp_path):
    folders = [write_run(tmp_path / name) for name in ("a", "b")]
    with pytest.raises(DataError, match="hold the same run"):
        collect(folders)


def test_folders_that_are_no_run_are_refused(tmp_path):
    with pytest.raises(DataError, match="received none"):
        collect([])
    with pytest.raises(DataError, match="not the folder of a run"):
        collect([tmp_path / "tune.json"])


def test_a_record_without_a_value_is_named(tmp_path):
    edit = lambda records: records["tune"]["measured"].pop("loading_seconds")  # noqa: E731
    with pytest.raises(DataError, match=r"tune\.json: measured: missing key 'loading_seconds'"):
        collect([write_run(tmp_path, edit=edit)])
    edit = scoring(0.5, headline_metric="matthews_correlation")
    with pytest.raises(DataError, match=r"evaluate\.json: measured.metrics.matthews_correlation"):
        collect([write_run(tmp_path, seed=1, edit=edit)])


def test_groups_follow_the_given_order_and_sort_seeds(tmp_path):
    folders = [write_run(tmp_path, "lora", seed=seed) for seed in (3, 1)]
    folders.append(write_run(tmp_path, "full"))
    groups = suite_of(folders, ("lora", "full", "dsee")).groups
    found = [(key[2], list(group["seed"])) for key, group in groups.items()]
    assert found == [("lora", [1, 3]), ("full", [0])]
    with pytest.raises(DataError, match="mini-bert/mini-sst2/full is not in the suite"):
        suite_of(folders, ("lora",))


def test_the_frame_keeps_counts_whole_and_what_is_undefined_none(tmp_path):
    folders = [
        write_run(tmp_path, "lora", seed=1, edit=scoring(None)),
        write_run(tmp_path, edit=changing("cost", stored_bytes=2**60 + 1)),
    ]
    runs = suite_of(folders).runs
    assert list(runs["method"]) == ["full", "lora"]
    assert list(runs["score"]) == [0.8, None]
    assert runs["stored_bytes"].iloc[0] == 2**60 + 1


def test_a_part_of_a_suite_has_its_own_order_and_refusals(tmp_path):
    keys = [("mini-bert", "mini-sst2", "full"), ("mini-bert", "mini-rte", "full")]
    refusals = {("mini-bert", "mini-rte", "supra"): "no", ("bert", "rte", "supra"): "no"}
    whole = suite_of([write_run(tmp_path), write_run(tmp_path, task="mini-rte")], keys, refusals)
    part = whole.only("mini-bert", "mini-rte")
    assert (list(part.groups), part.order) == (keys[1:], keys[1:])
    assert list(part.refusals) == [("mini-bert", "mini-rte", "supra")]


def test_mean_is_exact_where_all_agree_and_undefined_with_a_gap():
    assert mean_of([2**60 + 1] * 3) == 2**60 + 1
    assert mean_of([1, 2]) == 1.5
    assert mean_of([1, None]) is mean_of([]) is None


def test_reporting_imports_no_torch():
    names = ", ".join(f"sparsetune.reporting.{name}" for name in ("tables", "claims", "page"))
    code = f"import sys, {names}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
