import subprocess
import sys

import pytest
from unit.reporting.runs import changing, scoring, suite_of, write_run

from sparsetune.errors import DataError
from sparsetune.reporting import load
from sparsetune.reporting.load import collect, mean_of


def keys(runs):
    return list(zip(runs["method"], runs["seed"], strict=True))


def test_records_of_a_run_are_joined_each_read_once_and_runs_sorted(tmp_path, monkeypatch):
    read, reader = [], load.read_record
    monkeypatch.setattr(load, "read_record", lambda *one: read.append(one[0]) or reader(*one))
    late, early = (write_run(tmp_path, "lora", seed=seed) for seed in (10, 2))
    records = [late / "cost.json", early / "tune.json", early / "evaluate.json"]
    runs = collect([*records, write_run(tmp_path)]).runs
    assert keys(runs) == [("full", 0), ("lora", 2), ("lora", 10)]
    assert (runs["parameters_trained"][0], runs["metric"][0]) == (12_345, "accuracy_fraction")
    assert len(read) == len(set(read)) == 9


def test_groups_follow_the_given_order_and_sort_seeds(tmp_path):
    folders = [write_run(tmp_path, *run) for run in (["full"], ["lora"])]
    folders.append(write_run(tmp_path, "lora", seed=3))
    groups = suite_of(folders, ("lora", "full", "dsee")).groups
    found = [(key[2], list(group["seed"])) for key, group in groups.items()]
    assert found == [("lora", [0, 3]), ("full", [0])]


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
        (lambda records: records["tune"]["measured"].pop("loading_seconds"),
         r"tune\.json: measured: missing key 'loading_seconds'"),
        (scoring(0.5, headline_metric="matthews_correlation"),
         r"evaluate\.json: measured.metrics.matthews_correlation: missing"),
    ],
)  # fmt: skip
def test_records_that_do_not_belong_together_or_lack_a_value_are_refused(tmp_path, edit, message):
    with pytest.raises(DataError, match=message):
        collect([write_run(tmp_path, edit=edit)])


def test_runs_that_do_not_fit_together_are_refused_by_name(tmp_path):
    folders = [write_run(tmp_path)]
    folders.append(write_run(tmp_path, "lora", edit=change("evaluate", "asked", stage_version=2)))
    message = r"lora/seed-0/evaluate\.json: stage_version is 2, .*full/seed-0/evaluate\.json has 1"
    with pytest.raises(DataError, match=message):
        collect(folders)
    with pytest.raises(DataError, match="hold the same run"):
        collect([folders[0], write_run(tmp_path / "b")])
    with pytest.raises(DataError, match="mini-bert/mini-sst2/full is not in the suite"):
        suite_of(folders[:1], ("lora",))
    with pytest.raises(DataError, match="received none"):
        collect([])
    with pytest.raises(DataError, match="not the folder of a run"):
        collect([tmp_path / "tune.json"])


def test_the_frame_keeps_counts_whole_and_what_is_undefined_none(tmp_path):
    folders = [
        write_run(tmp_path, "lora", seed=1, edit=scoring(None)),
        write_run(tmp_path, edit=changing("cost", stored_bytes=2**60 + 1)),
    ]
    runs = suite_of(folders).runs
    assert list(runs["score"]) == [0.8, None]
    assert runs["stored_bytes"].iloc[0] == 2**60 + 1


def test_a_part_of_a_suite_has_its_own_order_and_refusals(tmp_path):
    order = [("mini-bert", "mini-sst2", "full"), ("mini-bert", "mini-rte", "full")]
    refusals = {("mini-bert", "mini-rte", "supra"): "no", ("bert", "rte", "supra"): "no"}
    whole = suite_of([write_run(tmp_path), write_run(tmp_path, task="mini-rte")], order, refusals)
    part = whole.only("mini-bert", "mini-rte")
    assert (list(part.groups), part.order) == (order[1:], order[1:])
    assert list(part.refusals) == [("mini-bert", "mini-rte", "supra")]


def test_mean_is_exact_where_all_agree_and_undefined_with_a_gap():
    assert mean_of([2**60 + 1] * 3) == 2**60 + 1
    assert mean_of([1, 2]) == 1.5
    assert mean_of([1, None]) is mean_of([]) is None


def test_reporting_imports_no_torch():
    names = ", ".join(f"sparsetune.reporting.{name}" for name in ("tables", "claims", "page"))
    code = f"import sys, {names}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
