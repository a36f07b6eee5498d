import csv
import dataclasses
import json
import shutil

import numpy as np
import pyarrow.parquet
import pytest
from mlflow.tracking import MlflowClient
from unit.made_records import measured_of
from unit.stages.tiny_catalogue import small_catalogue, suite_config
from unit.stages.tiny_project import TinyProject

from sparsetune.cli import main
from sparsetune.config.load import Refusal
from sparsetune.earlybert.ticket import Ticket
from sparsetune.errors import DataError
from sparsetune.records import read_any_record, read_json, sha256_of, write_json
from sparsetune.records.parts import ResamplingAsked
from sparsetune.reporting.contents import TABLE_FORMS
from sparsetune.stages.context import Context
from sparsetune.stages.figures import figure_names, make_figures
from sparsetune.stages.tables import make_tables
from sparsetune.stages.track import prepare_store, track_suite
from sparsetune.tracking.client import as_finals

pytestmark = pytest.mark.slow

METHODS = (
    "full", "lora", "adalora", "supra", "dsee-unstructured", "dsee-structured-delta", "magnitude",
    "earlybert",
)  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    made = TinyProject(root, small_catalogue(root / "config"))
    made.suite = made.suite_of(*METHODS, score_epochs=True)
    prepare_store(made.suite, results=made.results)
    for spec in made.suite.runs:
        made.finish(spec, results=made.results)
    return made


def spec_of(world, method):
    return next(run for run in world.suite.runs if run.method.id == method)


@pytest.mark.parametrize("method", METHODS)
def test_every_record_of_a_run_is_valid_and_fits_the_others(world, method):
    folder = world.run(method)
    tune, evaluate, cost = (
        read_any_record(folder / f"{stage}.json") for stage in ("tune", "evaluate", "cost")
    )
    model = sha256_of(folder / "model.safetensors")
    assert tune.measured.model_sha256 == model
    for record in (evaluate, cost):
        assert record.inputs[str(folder / "model.safetensors")] == model
        assert record.asked == tune.asked.model_copy(
            update={"stage": record.stage, "stage_version": record.version()}
        )
    assert cost.measured.parameters_trained_with_head == tune.measured.parameters_trained
    assert evaluate.measured.n_examples == 30
    assert len(pyarrow.parquet.read_table(folder / "predictions.parquet")) == 30
    low, high = evaluate.measured.intervals["accuracy_fraction"]
    assert 0 <= low <= evaluate.measured.metrics["accuracy_fraction"] <= high <= 1
    assert evaluate.measured.intervals_from == ResamplingAsked(resamples=1000, level=0.95, seed=0)


def test_a_run_that_loses_heads_costs_less_from_then_on(world):
    folder = world.run("dsee-structured-delta")
    phases = measured_of(folder / "tune.json")["phases"]
    cost = measured_of(folder / "cost.json")
    # A quarter of 4 heads in each of 2 layers; both phases see every example once.
    assert [phase.get("heads_removed") for phase in phases] == [None, 2, None]
    assert phases[0]["examples_seen"] == phases[2]["examples_seen"]
    life = cost["breakdown"]["whole_life"]
    # The first phase is that of dsee-unstructured: the whole model, the whole update.
    unstructured = measured_of(world.run("dsee-unstructured") / "cost.json")
    assert life["train"] == unstructured["breakdown"]["whole_life"]["train"]
    assert unstructured["breakdown"]["whole_life"]["recover"] == life["train"]
    assert life["recover"] < life["train"]
    assert cost["macs_executed_per_example"] == cost["macs_effective_per_example"]


def test_magnitude_pruning_ends_at_its_sparsity_and_costs_both_trainings(world):
    cost = measured_of(world.run("magnitude") / "cost.json")
    dense = measured_of(world.run("full") / "cost.json")
    assert cost["sparsity"] == pytest.approx(0.5, abs=1e-3)
    life = cost["breakdown"]["whole_life"]
    assert life["train"] == life["recover"] == dense["breakdown"]["whole_life"]["train"]
    assert cost["macs_executed_per_example"] == dense["macs_executed_per_example"]
    assert cost["macs_effective_per_example"] < dense["macs_effective_per_example"]


@pytest.mark.parametrize("method", METHODS)
def test_costs_are_told_by_layer_and_by_operator(world, method):
    cost = measured_of(world.run(method) / "cost.json")
    total = cost["macs_effective_per_example"]
    # Each number is rounded on its own.
    assert sum(one["effective"] for one in cost["macs_by_operator"]) == pytest.approx(total, abs=9)
    outside = sum(cost["breakdown"]["effective"][name] for name in ("pooler", "head"))
    layers = cost["macs_by_layer"]["effective"].values()
    assert sum(map(sum, layers)) + outside == pytest.approx(total, abs=20)
    told = measured_of(world.run(method) / "evaluate.json")
    assert told["latency_seconds_batch_1"] > 0
    assert told["speed"][1]["sequences"] == 30
    numbers = as_finals("cost", cost).keys() | as_finals("evaluate", told).keys()
    # What MLflow shows of both; the detail stays in the records.
    assert len(numbers) < 80
    assert not any(name.startswith(("macs_by", "token_lengths", "speed")) for name in numbers)


@pytest.mark.parametrize("method", METHODS)
def test_costs_are_expected_over_the_real_lengths(world, method):
    cost = measured_of(world.run(method) / "cost.json")
    told = measured_of(world.run(method) / "evaluate.json")
    training, evaluation, padded = cost["macs_over_lengths"]
    assert training["tokens_mean"] == pytest.approx(cost["tokens_per_example_mean"])
    # Only attention grows with the square of the length, so it alone costs more than at the mean.
    lengths = [n for n, count in told["token_lengths"]["training"] for _ in range(count)]
    growth = sum(n * n for n in lengths) / len(lengths) / training["tokens_mean"] ** 2
    attention = cost["macs_by_operator"][1]["effective"]
    more = training["effective"] - cost["macs_effective_per_example"]
    assert more == pytest.approx(attention * (growth - 1), abs=20)
    at_mean = cost["breakdown"]["whole_life"]
    phases = {one["phase"]: one["macs"] for one in cost["macs_training_over_lengths"]}
    assert phases.keys() == at_mean.keys() - {"inference", "total"}
    phases.pop("search", None)  # half an epoch, whose mean is its own
    assert all(1 < macs / at_mean[name] < growth for name, macs in phases.items())
    assert evaluation["sequences"] == padded["sequences"] == told["n_examples"]
    # All 30 are one batch, as long as its longest.
    assert padded["tokens_mean"] == told["token_lengths"]["evaluation"][-1][0]
    assert evaluation["executed"] <= padded["executed"] < cost["macs_at_128_tokens"]["executed"]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda told: told.pop("token_lengths"), r"evaluate\.json: measured: missing key 'tok"),
        (lambda told: told["weights_multiplied"].append(["adapter", 7]),
         "adapter: counted 0 multiplied weights, the evaluated model has 7"),
    ],
)  # fmt: skip
def test_a_cost_that_does_not_fit_the_evaluated_model_is_refused(world, tmp_path, edit, message):
    for name in ("model.safetensors", "tune.json"):
        shutil.copy(world.run("full") / name, tmp_path)
    record = read_json(world.run("full") / "evaluate.json")
    edit(record["measured"])
    write_json(tmp_path / "evaluate.json", record)
    spec = spec_of(world, "full")
    with pytest.raises(DataError, match=message):
        world.count(spec, run=tmp_path)
    assert not (tmp_path / "cost.json").exists()


@pytest.mark.parametrize("method", METHODS)
def test_history_has_the_curves_of_all_phases(world, method):
    with (world.run(method) / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    measured = measured_of(world.run(method) / "tune.json")
    assert [int(row["step"]) for row in rows] == list(range(1, measured["steps"] + 1))
    assert float(rows[-1]["loss"]) == measured["final_loss"]
    phases = [phase["name"] for phase in measured["phases"] if phase["kind"] == "train"]
    assert list(dict.fromkeys(row["phase"] for row in rows)) == phases


def test_nothing_is_left_to_resume_after_a_run(world):
    for name in ("checkpoints", "pretraining", "search"):
        assert not list((world.root / name).glob("*"))


def test_a_run_tuned_again_has_the_same_bytes(world, tmp_path):
    spec = spec_of(world, "dsee-unstructured")
    context = Context("cpu", checkpoints=tmp_path / "work", checkpoint_seconds=0)
    world.tune(spec, output=tmp_path / "run", context=context)
    first = world.run("dsee-unstructured")
    for name in ("model.safetensors", "history.csv"):
        assert (tmp_path / "run" / name).read_bytes() == (first / name).read_bytes()


@pytest.mark.parametrize("method", ["full", "adalora", "dsee-structured-delta", "earlybert"])
def test_scoring_epochs_changes_no_weight_and_no_curve(world, tmp_path, method):
    spec = spec_of(world, method)
    bare = dataclasses.replace(spec, score_epochs=False)
    assert bare.digest != spec.digest
    context = Context("cpu", checkpoints=tmp_path / "work")
    world.tune(bare, output=tmp_path / "run", context=context)
    model = (tmp_path / "run" / "model.safetensors").read_bytes()
    assert model == (world.run(method) / "model.safetensors").read_bytes()
    measured = measured_of(tmp_path / "run" / "tune.json")
    scored = measured_of(world.run(method) / "tune.json")
    assert scored.keys() - measured.keys() == {"epoch_scores", "scoring_seconds"}
    with (tmp_path / "run" / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    with (world.run(method) / "history.csv").open() as file:
        scored_rows = list(csv.DictReader(file))
    last = [row.pop("evaluation_accuracy_fraction") for row in scored_rows][-1]
    assert rows == scored_rows
    assert float(last) == scored["epoch_scores"][-1]["metrics"]["accuracy_fraction"]


@pytest.mark.parametrize("method", METHODS)
def test_the_last_epoch_s_score_is_what_evaluate_measures(world, method):
    tuned = measured_of(world.run(method) / "tune.json")
    evaluated = measured_of(world.run(method) / "evaluate.json")
    last = tuned["epoch_scores"][-1]
    assert (last["epoch"], last["step"]) == (1.0, tuned["steps"])
    # The saved model is the scored one; AdaLoRA's lost ranks were zeros until it was saved.
    assert last["metrics"] == pytest.approx(evaluated["metrics"], abs=1e-9)


def write_tables(suite, results, output):
    for group in (None, "mini-bert/mini-sst2"):
        make_tables(suite, results=results, group=group, output=output, definitions=output / "none")


def test_tables_are_written_from_the_records(world, tmp_path):
    write_tables(world.suite, world.folder, tmp_path)
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    stems = ("headline", "paired", "timings", "savings", "savings-time", "tickets")
    names = (*stems, "costs", "costs-by-module", "mini-bert/mini-sst2")
    assert found == {f"{name}.{form}" for name in names for form in TABLE_FORMS}
    for name in ("mini-bert/mini-sst2", "paired"):
        text = (tmp_path / f"{name}.md").read_text()
        assert all(method in text for method in METHODS)


def test_submission_has_a_line_for_every_test_example(world, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("gc.disable", lambda: None)  # the command line turns it off for good
    spec = spec_of(world, "full")
    code = main([
        "submit", "--catalogue", str(world.catalogue.root), "--run", spec.path,
        "--dataset-dir", str(world.dataset), "--backbone-dir", str(world.backbone),
        "--run-dir", str(world.run("full")), "--output", str(tmp_path), "--device", "cpu",
    ])  # fmt: skip
    assert code == 0
    lines = (tmp_path / "SST-2.tsv").read_text().splitlines()
    assert lines[0] == "index\tprediction"
    assert [line.split("\t")[0] for line in lines[1:]] == ["0", "1"]
    assert {line.split("\t")[1] for line in lines[1:]} <= {"0", "1"}
    told = capsys.readouterr().out
    assert f"{tmp_path / 'SST-2.tsv'}: 2 predictions; GLUE's test file has 1821" in told


@pytest.fixture
def judging(world, tmp_path, monkeypatch):
    """The command that judges a suite of these methods, in a folder without runs of its own."""
    monkeypatch.setattr("gc.disable", lambda: None)  # the command line turns it off for good
    results = tmp_path / "tiny"
    results.mkdir()

    def command(*methods):
        given = ["--config", json.dumps(suite_config(*methods)), "--results", results]
        folders = ["--catalogue", world.catalogue.root, "--resources", world.root / "resources"]
        return ["claims", *map(str, (*given, *folders))]

    return command, results


def with_runs(results, world):
    for room in ("runs", "tickets"):
        (results / room).symlink_to(world.folder / room)


def test_claims_are_judged_from_the_records(world, judging):
    command, results = judging
    with_runs(results, world)
    assert main(command(*METHODS)) == 0
    measured = measured_of(results / "claims.json")
    assert measured["runs_count"] == len(METHODS)
    assert sum(measured["verdicts"].values()) == len(measured["claims"])
    found = {one["id"]: one for one in measured["claims"]}
    # One pair of runs on generated data; and a method that this suite does not run.
    assert found["dsee-unstructured-beside-lora"]["scale"] == "generated"
    assert found["dsee-unstructured-beside-lora"]["pairs_count"] == 1
    assert found["earlybert-beats-layerdrop"]["reason"] == "no run of layerdrop in this suite"
    assert (results / "claims.md").read_text().startswith("# Claims of the papers")


def test_claims_of_a_suite_that_is_run_in_parts(world, judging, capsys):
    command, results = judging
    given = command(*METHODS, "layerdrop")
    assert main([*given, "--part"]) == 2
    told = f"--part: {results}: received no finished run of suite tiny; allowed: one or more"
    assert told in capsys.readouterr().err
    with_runs(results, world)
    assert main(given) != 0
    assert "layerdrop" in capsys.readouterr().err
    assert main([*given, "--part"]) == 0
    assert measured_of(results / "claims.json")["runs_count"] == len(METHODS)


def test_figures_are_drawn_from_records_and_searches(world, tmp_path):
    make_figures(world.suite, results=world.folder, output=tmp_path)
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    search = "mini-bert/mini-sst2/earlybert/seed-1"
    assert found == set(figure_names(world.suite))
    assert {"pareto.html", f"masks/{search}.svg"} <= found
    ticket = Ticket.load(world.folder / "tickets" / search / "ticket.json")
    with np.load(world.folder / "tickets" / search / "gates.npz") as gates:
        for name, mask in zip(("head_masks", "neuron_masks"), ticket.masks(), strict=True):
            assert np.array_equal(gates[name][-1], mask)


def test_tables_tell_what_a_suite_could_not_have(world, tmp_path):
    refusal = Refusal("mini-bert", "mini-sst2", "other", "the library does not take it")
    suite = dataclasses.replace(world.suite, refusals=(refusal,))
    write_tables(suite, world.folder, tmp_path)
    for name in ("headline", "timings", "mini-bert/mini-sst2"):
        text = (tmp_path / f"{name}.md").read_text()
        assert "other on mini-bert: not run: the library does not take it." in text


def test_mlflow_holds_every_run_once_however_often_it_is_completed(world):
    for _ in range(2):
        report = track_suite(world.suite, results=world.results, resources=world.root / "resources")
        assert report.problems == ()
    client = MlflowClient(f"sqlite:///{world.results / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tiny")
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    names = [run.info.run_name for run in runs]
    for method in METHODS:
        assert names.count(f"mini-bert/mini-sst2/{method}/seed-1") == 1
    assert len(names) == len(set(names))
    assert {run.info.status for run in runs} == {"FINISHED"}
    full = next(run for run in runs if run.info.run_name.endswith("/full/seed-1"))
    points = client.get_metric_history(full.info.run_id, "evaluation_accuracy_fraction")
    scores = measured_of(world.run("full") / "tune.json")["epoch_scores"]
    assert [(point.step, point.value) for point in points] == [
        (entry["step"], entry["metrics"]["accuracy_fraction"]) for entry in scores
    ]
    assert measured_of(world.folder / "track.json")["problems"] == []


def test_a_ticket_of_another_backbone_is_refused_before_training(
    world, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("gc.disable", lambda: None)  # the command line turns it off for good
    spec = spec_of(world, "earlybert")
    ticket = tmp_path / "ticket.json"
    content = json.loads(world.ticket_file(spec).read_text())
    write_json(ticket, {**content, "backbone": "bert-base"})
    code = main([
        "tune", "--catalogue", str(world.catalogue.root), "--run", spec.path, "--suite", "tiny",
        "--dataset-dir", str(world.dataset), "--backbone-dir", str(world.backbone),
        "--ticket-file", str(ticket), "--output", str(tmp_path / "run"),
        "--checkpoints", str(tmp_path / "work"), "--results", str(tmp_path), "--device", "cpu",
    ])  # fmt: skip
    message = capsys.readouterr().err.splitlines()[-1]
    assert code == 2
    assert f"{ticket}: made for backbone bert-base, the run uses mini-bert" in message
    assert not (tmp_path / "work").exists()
    assert not (tmp_path / "run").exists()


def test_cost_refuses_a_run_that_trained_other_parameters(world, tmp_path):
    spec = spec_of(world, "lora")
    shutil.copytree(world.run("lora"), tmp_path / "run")
    record = read_json(tmp_path / "run" / "tune.json")
    record["measured"]["parameters_trained"] += 1
    write_json(tmp_path / "run" / "tune.json", record)
    with pytest.raises(DataError, match=r"counted \d+ trained parameters, the run trained \d+"):
        world.count(spec, run=tmp_path / "run", output=tmp_path)


def test_adalora_is_counted_at_its_last_ranks_and_trained_at_its_first(world):
    cost = measured_of(world.run("adalora") / "cost.json")
    lora = measured_of(world.run("lora") / "cost.json")
    # Two layers, query and value of 24 x 24: rank 16 on average in the end, 24 at first.
    assert lora["parameters_trained"] == 4 * 16 * 48
    assert cost["parameters_trained"] == 4 * 24 * 49
    head = cost["parameters_trained_with_head"] - cost["parameters_trained"]
    assert cost["stored_bytes"] == 4 * (4 * 16 * 49 + head)
    assert cost["macs_executed_per_example"] == lora["macs_executed_per_example"]
    training = [one["breakdown"]["whole_life"]["train"] for one in (cost, lora)]
    assert training[0] > training[1]


def test_a_pruned_run_costs_what_its_masks_leave(world):
    dense = measured_of(world.run("full") / "cost.json")
    pruned = measured_of(world.run("dsee-unstructured") / "cost.json")
    smaller = measured_of(world.run("earlybert") / "cost.json")
    assert pruned["sparsity"] == pytest.approx(0.5, abs=0.01)
    assert pruned["macs_effective_per_example"] < dense["macs_effective_per_example"]
    assert pruned["macs_executed_per_example"] > dense["macs_executed_per_example"]
    assert smaller["macs_executed_per_example"] < dense["macs_executed_per_example"]
    search = smaller["breakdown"]["whole_life"]
    assert search["total"] > 0
