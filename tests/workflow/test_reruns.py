import shutil
from collections import Counter

import pytest

from sparsetune.records import STAGES

BACKBONES, TASKS = ("mini-bert", "mini-roberta"), ("mini-sst2", "mini-rte")
METHODS = ("full", "earlybert", "dsee")
GROUPS = [f"{backbone}/{task}" for backbone in BACKBONES for task in TASKS]
RUNS = [f"{group}/{method}" for group in GROUPS for method in METHODS]
SUMMARY = ["tables suite", "claims", "figures", "track"]
RULE_OF_STAGE = {"tables": ("group_table", "tables")}


def tables_of(runs):
    return sorted({f"tables {run.rsplit('/', 1)[0]}" for run in runs}) + SUMMARY


def whole(runs, stages=("tune", "evaluate", "cost")):
    """What has to run again when ``stages`` of some runs do."""
    return sorted([f"{stage} {run}" for stage in stages for run in runs] + tables_of(runs))


def test_first_run_does_everything_once_and_the_second_nothing(finished_calls, finished):
    commands = Counter(call[0] for call in finished_calls[1])
    assert commands == {
        "dataset": 2, "backbone": 2, "support": 2, "ticket": 4, "tune": 12, "evaluate": 12,
        "cost": 12, "tables": 5, "claims": 1, "figures": 1, "track": 1,
    }  # fmt: skip
    assert finished.run() == []


def test_deleted_record_reruns_its_run_and_dependents(finished):
    (finished.folder / "results/small/runs/mini-bert/mini-rte/dsee/seed-1/tune.json").unlink()
    assert finished.run() == whole(["mini-bert/mini-rte/dsee"])
    assert finished.run() == []


def test_deleted_cost_reruns_no_training(finished):
    (finished.folder / "results/small/runs/mini-bert/mini-rte/full/seed-1/cost.json").unlink()
    assert finished.run() == whole(["mini-bert/mini-rte/full"], stages=["cost"])


def test_learning_rate_of_one_method_and_task_reruns_exactly_those_runs(finished, edit):
    override = "  - {where: {tasks: [mini-rte]}, phases: {train: {learning_rate: 4e-3}}}\n"
    edit(finished.config / "methods" / "dsee.yaml", "variants:", f"{override}variants:")
    runs = ["mini-bert/mini-rte/dsee", "mini-roberta/mini-rte/dsee"]
    assert finished.run() == whole(runs)
    assert finished.run() == []


def test_corrected_metric_scores_again_and_trains_nothing(finished, edit):
    edit(
        finished.config / "tasks" / "mini-rte.yaml", "[accuracy", "[matthews_correlation, accuracy"
    )
    runs = [run for run in RUNS if "/mini-rte/" in run]
    # The stub writes evaluate.json, from which costs are counted.
    assert finished.run() == whole(runs, stages=("evaluate", "cost"))
    assert finished.run() == []


def test_ticket_ratio_reruns_the_tickets_and_their_runs(finished, edit):
    path = finished.config / "tickets" / "earlybert.yaml"
    edit(path, "neuron_sparsity: 0.4", "neuron_sparsity: 0.5")
    tickets = [f"ticket {group}/earlybert" for group in GROUPS]
    assert finished.run() == sorted(tickets + whole([f"{group}/earlybert" for group in GROUPS]))


def test_comments_descriptions_and_device_rerun_nothing(finished, edit):
    for path in finished.config.rglob("*.yaml"):
        text = path.read_text(encoding="utf-8")
        path.write_text(f"# A comment.\n{text}\n# Another.\n", encoding="utf-8")
    edit(finished.config / "methods" / "full.yaml", "Every weight", "Each weight")
    edit(finished.config / "small.yaml", "For tests of reruns.", "Another text.")
    edit(finished.config / "small.yaml", "device: cpu", "device: auto")
    assert finished.run() == []


def test_other_counts_of_gpus_and_more_memory_rerun_nothing(finished):
    done = finished.snakemake("--resources", "gpu=8", "--set-resources", "tune:mem_mb=9000")
    assert done.returncode == 0, done.stderr
    assert finished.calls() == []


def test_added_method_runs_alone_and_the_tables_follow(finished, edit):
    edit(finished.config / "small.yaml", "  - dsee\n", "  - dsee\n  - lora\n")
    assert finished.run() == whole([f"{group}/lora" for group in GROUPS])


def test_removed_method_reruns_only_the_tables(finished, edit):
    edit(finished.config / "small.yaml", "  - dsee\n", "")
    assert finished.run() == sorted(tables_of(RUNS))


def expected_after_bump(stage):
    if stage in ("tables", "claims", "figures", "track"):
        # What they write is attached to the suite's MLflow run.
        return sorted(name for name in tables_of(RUNS) if name.startswith((stage, "track")))
    if stage in ("evaluate", "cost"):
        return whole(RUNS, stages=["cost"] if stage == "cost" else ["evaluate", "cost"])
    first = {
        "dataset": [f"dataset {task}" for task in TASKS],
        "backbone": [f"backbone {backbone}" for backbone in BACKBONES],
        "support": [f"support {backbone}/grebsmo-64" for backbone in BACKBONES],
        "ticket": [f"ticket {group}/earlybert" for group in GROUPS],
        "tune": [],
    }[stage]
    method = {"support": "dsee", "ticket": "earlybert"}.get(stage)
    runs = [run for run in RUNS if method in (None, run.split("/")[2])]
    if stage in ("dataset", "backbone"):
        first += [f"ticket {group}/earlybert" for group in GROUPS]
    if stage == "backbone":
        first += [f"support {backbone}/grebsmo-64" for backbone in BACKBONES]
    return sorted(first + whole(runs))


def told(jobs):
    """Planned jobs in the words of the stub's log."""
    names = []
    for rule, wild in jobs:
        run = "/".join(wild[key] for key in ("backbone", "task", "method") if key in wild)
        last = "/".join(wild[key] for key in ("support", "ticket") if key in wild)
        match rule:
            case "group_table":
                names.append(f"tables {run}")
            case "tables":
                names.append("tables suite")
            case "all":
                continue
            case _:
                names.append(f"{rule} {'/'.join(filter(None, (run, last)))}".strip())
    return sorted(names)


@pytest.mark.parametrize("stage", STAGES)
def test_raised_stage_number_reruns_that_stage_and_dependents(finished, repository, edit, stage):
    copy = finished.folder / "raised"
    for part in ("sparsetune", "workflow", "rules", "profiles"):
        shutil.copytree(repository / part, copy / part)
    shutil.copy(repository / "Snakefile", copy)
    edit(copy / "sparsetune" / "records" / "__init__.py", f'"{stage}": ', f'"{stage}": 9')
    raised = type(finished)(finished.folder, copy)
    assert told(raised.planned()) == expected_after_bump(stage)


def test_failed_run_stops_its_dependents_only_and_is_taken_up_again(workplace):
    done = workplace.snakemake(STUB_FAILS="tune mini-bert/mini-rte/full/seed-1")
    assert done.returncode == 1
    assert len(workplace.calls()) == 51 - 2 - 1 - 1 - 1 + 1
    run = workplace.folder / "results/small/runs/mini-bert/mini-rte/full/seed-1"
    assert not any(run.glob("*"))
    log = workplace.folder / "logs/small/tune/mini-bert/mini-rte/full/seed-1.log"
    assert log.read_text(encoding="utf-8") == "sparsetune tune: told to fail\n"
    assert workplace.run() == whole(["mini-bert/mini-rte/full"])
