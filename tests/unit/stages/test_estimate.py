import json
import os
import random
import resource
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from unit.made_records import made_record
from unit.reporting.runs import write_run

from sparsetune.cli import main
from sparsetune.config.load import Catalogue
from sparsetune.config.reading import read_yaml
from sparsetune.cost.parameters import dense_parameters
from sparsetune.errors import ConfigError, DataError
from sparsetune.stages.estimate import (
    PEAK_MACS_PER_SECOND,
    START_UP_SECONDS,
    _compare,
    _finished_jobs,
    _frame_of,
    _jobs_of,
    _predict,
    _wall_seconds,
    shape_of,
)

CONFIG = Path(__file__).resolve().parents[3] / "config"
CATALOGUE = Catalogue(CONFIG)
RUN = "mini-bert/mini-sst2/{}/seed-1"
# mini-bert: D 96, L 3, F 384; mini-sst2: 1,600 examples of 12 tokens. For one of them
# projections 3 x 12 x (4 x 96^2 + 2 x 96 x 384) = 3,981,312, attention 3 x 2 x 12^2 x 96 =
# 82,944, head 2 x 96 = 192, and no pooler: the head stands for it.
FORWARD = 3_981_312 + 82_944 + 192


def ran(count=20, *, task="a", rate=1.0, kind="full/none", start=4.0, stage="tune", **more):
    """Jobs that take ``rate`` times what is assumed of a core: 0.02 s a pass, 20e9 MACs/s."""
    rows = [
        {"id": f"{stage}/b/{task}/{kind}/{n}", "stage": stage, "kind": kind, "task": task,
         "passes": 50 * n, "macs": 1e10 * n**2, "device": "Fast CPU", "device_kind": "cpu",
         "work_seconds": rate * (n + n**2 / 2), **more}
        for n in range(1, count + 1)
    ]  # fmt: skip
    return _frame_of({**row, "job_seconds": row["work_seconds"] + start} for row in rows)


def test_measured_speed_is_found_and_start_up_is_what_is_not_work():
    jobs = pd.concat([ran(rate=1.5), ran(rate=3.0, kind="dsee/unstructured")])
    assert _predict(jobs, jobs, "cpu").tolist() == pytest.approx(jobs["job_seconds"].tolist())
    never = _frame_of([{"stage": "cost"}])
    assert _predict(never, jobs, "cpu").tolist() == [START_UP_SECONDS["cost"]]


def test_kind_that_never_ran_takes_the_ratio_of_its_stage_and_then_of_all():
    finished = pd.concat([ran(9, rate=2.0), ran(5, rate=5.0, stage="evaluate", kind="answers")])
    new = _frame_of({"stage": s, "kind": "new", "passes": 50} for s in ("evaluate", "ticket"))
    # 1 s is assumed; the middle of nine 2s and five 5s is 2.
    assert _predict(new, finished, "cpu").tolist() == [5 + 4, 2 + START_UP_SECONDS["ticket"]]


def test_jobs_of_one_gpu_tell_of_another_by_their_peaks():
    done = _frame_of([{"id": "x", "stage": "tune", "kind": "k", "macs": 0.2 * 156e12, "passes": 25,
                      "work_seconds": 4.0, "job_seconds": 4.0, "device": "NVIDIA A100-SXM4",
                      "device_kind": "cuda"}])  # fmt: skip
    # 1 + 1 s are assumed of an A100, and it took twice that; an H100 needs 156 / 494.5 of the 1.
    assert _predict(done, done, "h100").tolist() == pytest.approx([2 * (1 + 156 / 494.5)])
    assert _predict(done, _frame_of([]), "a100").tolist() == [2 + START_UP_SECONDS["tune"]]
    assert _predict(done, done.assign(device="Some GPU"), "some gpu").tolist() == [4]
    with pytest.raises(ConfigError, match=r"--device: name: received 'tpu'; allowed: cpu, t4, "):
        _predict(done, _frame_of([]), "tpu")
    assert max(PEAK_MACS_PER_SECOND.values()) < 1e15


def test_no_job_is_predicted_with_records_of_its_own_task():
    # Task a at the assumed speed, task b twice as slow: each is off by 2 for the other's.
    finished = pd.concat([ran(start=0.0), ran(task="b", rate=2.0, start=0.0)])
    told = _compare(finished, finished, "cpu")
    assert told["off"].to_dict() == pytest.approx({"a": 0.5, "b": 2.0, "all": 1.0})
    assert told.loc["all", "measured"] == pytest.approx(finished["job_seconds"].sum())
    assert told["jobs"].to_dict() == {"a": 20, "b": 20, "all": 40}
    # What was planned is judged, if the settings are still those that ran.
    planned = finished.assign(passes=finished["passes"] * 2, macs=finished["macs"] * 2)
    assert _compare(planned, finished, "cpu").loc["b", "off"] == pytest.approx(1.0)
    assert _compare(planned.assign(digest="new"), finished, "cpu")["off"]["b"] == pytest.approx(2)
    assert _compare(planned, ran(), "cpu").empty  # one task: nothing to hold out


def planned(*rows):
    names = ("id", "seconds", "needs", "stage")
    return pd.DataFrame([dict(zip(names, (*row, (), "cost")[:4], strict=True)) for row in rows])


def timed(name, seconds, needs=(), stage="cost"):
    return name, seconds, needs, stage


def test_a_schedule_by_hand():
    # One core: 1 + 2 + 3. Two: a and b side by side, then c after a: 1 + 3.
    jobs = planned(timed("a", 1), timed("b", 2), timed("c", 3, ["a", "made before"]))
    assert _wall_seconds(jobs, {"core": 1, "gpu": 0}) == 6
    assert _wall_seconds(jobs, {"core": 2, "gpu": 0}) == 4


def test_jobs_of_a_gpu_wait_for_it_and_the_others_do_not():
    jobs = planned(timed("a", 4, (), "tune"), timed("b", 4, (), "tune"), timed("c", 5))
    assert _wall_seconds(jobs, {"core": 1, "gpu": 1}) == 8
    assert _wall_seconds(jobs, {"core": 1, "gpu": 2}) == 5


@pytest.mark.parametrize("seed", range(5))
def test_bounds_of_list_scheduling_hold(seed):
    generator, rows, path = random.Random(seed), [], {}
    for number in range(40):
        needs = generator.sample(sorted(path), min(len(path), generator.randint(0, 3)))
        seconds = generator.choice([0, 1, 2, 5, 9])
        rows.append(timed(f"{number:02}", seconds, needs))
        path[f"{number:02}"] = seconds + max((path[need] for need in needs), default=0)
    total, longest = sum(row[1] for row in rows), max(path.values())
    for cores in (1, 2, 3, 40):
        length = _wall_seconds(planned(*rows), {"core": cores, "gpu": 0})
        assert max(longest, total / cores) <= length <= total / cores + longest


def jobs(name="config.yaml", **changes):
    suite = CATALOGUE.suite({**read_yaml(CONFIG / name), **changes}, origin=name)
    return _jobs_of(suite, CATALOGUE).set_index("id")


def one(method, *, backbone="mini-bert", task="mini-sst2", **changes):
    block = {"backbones": [backbone], "tasks": [task], "methods": [method]}
    return jobs(runs=[block], **changes)


SHORT = {"limits": {"train_examples": 320, "evaluation_examples": 64}}
GPT2 = {"backbone": "mini-gpt2", "task": "mini-e2e"}


@pytest.mark.parametrize(
    ("method", "asked", "job", "passes"),
    [
        ("full", {}, f"tune/{RUN.format('full')}", 3 * 50),  # epochs, batches of 32
        ("full", {}, f"evaluate/{RUN.format('full')}", 63),  # 4,000 / 64, rounded up
        ("full", SHORT, f"tune/{RUN.format('full')}", 3 * 10),
        ("full", SHORT, f"evaluate/{RUN.format('full')}", 1),
        # 120 prompts, 40 new tokens.
        ("full", GPT2, "evaluate/mini-gpt2/mini-e2e/full/seed-1", 1 * 40),
        # 3.2 epochs of 16,000 documents in batches of 16.
        ("full", {}, "backbone/mini-bert", 3200),
        ("full", {"backbone": "mini-bert-early"}, "backbone/mini-bert-early", 150 + 0.8 * 3200),
        ("earlybert", {}, "ticket/mini-bert/mini-sst2/earlybert/seed-1", 50),  # an epoch
    ],
)
def test_passes_by_hand(method, asked, job, passes):
    assert one(method, **asked).loc[job].passes == passes


def test_multiply_adds_by_hand():
    found = one("full")
    tune, evaluate = (found.loc[f"{stage}/{RUN.format('full')}"] for stage in ("tune", "evaluate"))
    assert (tune.macs, evaluate.macs) == (3 * FORWARD * 4800, 4000 * FORWARD)
    assert evaluate.needs == [tune.name]
    early = one("full", backbone="mini-bert-early").loc["backbone/mini-bert-early"]
    assert early.macs < found.loc["backbone/mini-bert"].macs


def test_a_search_comes_before_its_run_and_is_counted_on_the_dense_model():
    found = one("earlybert")
    search = found.loc["ticket/mini-bert/mini-sst2/earlybert/seed-1"]
    assert search.macs == 3 * FORWARD * 1600
    run = found.loc[f"tune/{RUN.format('earlybert')}"]
    assert search.name in run.needs
    # 8 of 12 heads and 230 of 384 neurons are left in each layer, for 2 epochs.
    layers = 12 * 3 * (4 * 96 * 64 + 2 * 96 * 230) + 3 * 2 * 144 * 64
    assert run.macs == 3 * (layers + 192) * 3200


def test_every_phase_of_iterative_pruning_counts():
    phases = CATALOGUE.method("imp", backbone_id="mini-bert", task_id="mini-sst2").phases
    trained = [phase for phase in phases if phase.kind == "train"]
    steps = sum(round(phase.epochs * 50) for phase in trained)
    assert len(trained) == 6
    assert one("imp").loc[f"tune/{RUN.format('imp')}"].passes == steps


def test_heads_that_go_in_between_are_paid_for_before_and_not_after():
    names = ("dsee-unstructured", "dsee-structured-delta")
    whole, smaller = (one(name).loc[f"tune/{RUN.format(name)}"].macs for name in names)
    assert 0.5 < smaller / whole < 1


def test_a_frozen_backbone_needs_no_gradients_of_its_weights():
    full, lora = (one(name).loc[f"tune/{RUN.format(name)}"] for name in ("full", "lora"))
    assert lora.macs / lora.passes == pytest.approx(full.macs / full.passes * 2 / 3)


def test_the_suite_has_the_jobs_of_the_workflow_each_after_what_it_needs():
    found = jobs()
    # As `snakemake -n` counts them, all and the tables of each group apart.
    assert Counter(found["stage"]) == {
        "backbone": 4, "dataset": 6, "support": 3, "ticket": 22, "tune": 74, "evaluate": 74,
        "cost": 74, "tables": 11, "claims": 1, "figures": 1, "track": 1,
    }  # fmt: skip
    met = set()
    for name, needs in found["needs"].items():
        assert met.issuperset(needs), name
        met.add(name)


def test_seeds_share_backbones_and_not_tickets():
    stages = Counter(one("earlybert", seeds=[1, 2])["stage"])
    assert (stages["backbone"], stages["ticket"], stages["tune"]) == (1, 2, 2)


@pytest.mark.parametrize(
    ("name", "millions"),
    # As their papers and model cards give them, without the pooler of BERT.
    [("bert-base", 109), ("bert-large", 334), ("roberta-base", 125), ("roberta-large", 356),
     ("gpt2", 124), ("gpt2-medium", 355), ("minilm", 22.6)],
)  # fmt: skip
def test_published_sizes_give_the_published_parameters(name, millions):
    shape = shape_of(CATALOGUE.backbone(name), CATALOGUE)
    assert dense_parameters(shape) / 1e6 == pytest.approx(millions, rel=0.01)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("backbones/mini-bert", "source: {kind: world, seed: 0, documents: 16000}",
         "source: {kind: text, seed: 0, paths: [a.txt]}",
         r"mini-bert: phase pretraining: .* unknown length"),
        ("tasks/mini-sst2", "expected: {tokens: 12}", "",
         r"task mini-sst2: expected.tokens: missing"),
    ],
)  # fmt: skip
def test_what_nobody_knows_is_refused(
    catalogue, edit, file, old, new, message, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)  # where nothing was made
    edit(catalogue / f"{file}.yaml", old, new)
    changed = Catalogue(catalogue)
    suite = changed.suite(read_yaml(CONFIG / "config.yaml"), origin="config.yaml")
    with pytest.raises(ConfigError, match=message):
        _jobs_of(suite, changed)


def test_what_the_catalogue_does_not_tell_is_read_from_what_was_made(
    catalogue, edit, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    edit(catalogue / "tasks" / "mini-sst2.yaml", "expected: {tokens: 12}", "")
    path = catalogue / "backbones" / "own.yaml"
    path.write_text(
        "{description: Own., architecture: bert, source: {kind: mirror, path: own}}",
        encoding="utf-8",
    )
    changed = Catalogue(catalogue)
    block = {"backbones": ["own"], "tasks": ["mini-sst2"], "methods": ["full"]}
    content = {**read_yaml(CONFIG / "config.yaml"), "runs": [block]}
    suite = changed.suite(content, origin="own.yaml")
    with pytest.raises(ConfigError, match=r"expected\.tokens: missing"):
        _jobs_of(suite, changed)
    made = tmp_path / "resources"
    for folder in ("datasets/mini-sst2", "backbones/own"):
        (made / folder).mkdir(parents=True)
    record = made_record("dataset", task="mini-sst2", stage_version=1)
    (made / "datasets/mini-sst2/record.json").write_text(json.dumps(record))
    config = {
        "model_type": "bert", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 64, "max_position_embeddings": 128, "vocab_size": 1000,
        "type_vocab_size": 2,
    }  # fmt: skip
    (made / "backbones/own/config.json").write_text(json.dumps(config))
    jobs = _jobs_of(suite, changed)
    assert list(jobs[jobs["stage"] == "tune"]["macs"] > 0) == [True] * len(content["seeds"])


def test_work_is_read_from_records(tmp_path):
    def edit(records):
        phase = {"name": "train", "kind": "train", "gradient_accumulation": 4}
        method = {"update": {"kind": "full"}, "mask": {"kind": "none"}, "phases": [phase]}
        records["tune"]["asked"]["settings"] = {"method": method}
        records["tune"]["measured"]["phases"].append({"name": "cut", "kind": "prune"})
        records["evaluate"]["asked"]["settings"] = {"scoring": {"generation": None}}

    write_run(tmp_path / "mini", edit=edit)
    found = _frame_of(_finished_jobs(tmp_path)).set_index("stage")
    tune = found.loc["tune"]
    assert tune.id == "tune/mini-bert/mini-sst2/full/seed-0"
    # 100 steps of 4 batches, 300 examples; 60 s, and 4 s until it was ready.
    assert (tune.passes, tune.macs) == (400, 3 * 1007 * 300)
    assert (tune.work_seconds, tune.job_seconds, tune.kind) == (5.25, 64, "full/none")
    assert (found.loc["evaluate"].passes, found.loc["evaluate"].macs) == (7, 400 * 1007)
    (record,) = tmp_path.glob("mini/runs/*/*/*/*/tune.json")
    record.write_text("{")
    with pytest.raises(DataError, match=r"seed-0/tune\.json"):
        _frame_of(_finished_jobs(tmp_path))
    record.with_name("cost.json").unlink()
    assert list(_finished_jobs(tmp_path)) == []


@pytest.fixture
def estimated(monkeypatch, tmp_path, capsys):
    """Run the command where no results are; gives its exit code and what it told."""
    monkeypatch.chdir(tmp_path)

    def run(*options, suite="config.yaml"):
        place = ["--configfile", str(CONFIG / suite), "--catalogue", str(CONFIG)]
        try:
            code = main(["estimate", *place, *options])
        except SystemExit as stop:
            code = stop.code
        return code, capsys.readouterr()

    return run


def test_without_any_record_all_is_said_to_be_assumed_and_the_parts_add_up(estimated):
    code, told = estimated("--json", "--cores", "2")
    found = json.loads(told.out)
    assert (code, found["jobs"], found["place"]) == (0, 271, "2 x cpu")
    assert found["speed"] == "ASSUMED: no finished job tells of cpu"
    assert found["comparison"] == []
    total = found["job_seconds"]
    assert total / 2 <= found["wall_seconds"] <= total
    assert sum(row["seconds"] for row in found["stages"]) == pytest.approx(total)
    code, told = estimated("--cores", "2")
    assert code == 0
    for word in (*START_UP_SECONDS, "wall clock", "on 2 x cpu", "ASSUMED"):
        assert word in told.out


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--results", "nowhere"], "--results: received nowhere: no such folder"),
     (["--results", "."], "no finished job"),
     (["--gpus", "2", "--device", "cpu"], "--gpus: received 2, but --device 'cpu' is no GPU"),
     (["--device", "abacus"], "--device: name: received 'abacus'"),
     (["--gpus", "0"], "--gpus: received '0'; allowed: whole number >= 1")],
)  # fmt: skip
def test_a_mistake_is_one_line(estimated, options, message):
    code, told = estimated(*options)
    assert (code, told.out) == (2, "")
    assert message in told.err
    assert told.err.count("\n") == 1


def test_grid_of_the_papers_takes_seconds_and_no_torch(tmp_path):
    program = (
        "import sys; from sparsetune.cli import main\n"
        f"code = main(['estimate', '--configfile', {str(CONFIG / 'paper.yaml')!r}, '--catalogue', "
        f"{str(CONFIG)!r}])\n"
        "print(code, 'torch' in sys.modules, 'transformers' in sys.modules)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=dict(os.environ),
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert done.stdout.splitlines()[-1] == "0 False False"
    assert "on 1 x a100" in done.stdout
    # Of this process alone, so that a busy machine changes nothing.
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 10
