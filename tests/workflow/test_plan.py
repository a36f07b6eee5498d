import json
import re
from argparse import Namespace
from collections import Counter

import pytest

from sparsetune import cli
from sparsetune.config.load import Catalogue
from sparsetune.config.reading import read_yaml
from sparsetune.records import digest_of
from sparsetune.stages.needs import Needs

SUITES = (
    "config",
    "minilm",
    "minilm-earlybert",
    "e2e",
    "dsee",
    "earlybert-ablations",
    "earlybert-seeds",
    "evidence",
    "minilm-evidence",
    "paper",
    "study-low-rank",
    "study-sparse-part",
)
LARGE = {"evidence", "minilm-evidence", "paper"}
STATS = re.compile(r"^(\w+) +(\d+)$", re.MULTILINE)


def jobs_expected(suite):
    """Jobs of each rule, counted from the suite alone."""
    runs = suite.runs
    counts = {
        "dataset": {run.task.id for run in runs},
        "backbone": {run.backbone.id for run in runs if run.backbone.pretraining},
        "fetched_backbone": {run.backbone.id for run in runs if not run.backbone.pretraining},
        "support": {(run.backbone.id, run.support.id) for run in runs if run.support},
        "ticket": {
            (run.backbone.id, run.task.id, run.ticket.id, run.seed) for run in runs if run.ticket
        },
        **{rule: {run.path for run in runs} for rule in ("tune", "evaluate", "cost")},
        "group_table": {(run.backbone.id, run.task.id) for run in runs},
        **{rule: {1} for rule in ("tables", "claims", "figures", "track", "all")},
    }
    return {name: len(things) for name, things in counts.items() if things}


def suite_in(work, name):
    path = work.config / f"{name}.yaml"
    return Catalogue(work.config).suite(read_yaml(path), origin=str(path))


@pytest.mark.parametrize("name", SUITES)
def test_shipped_suite_plans_one_job_for_each_thing(workplace, edit, name):
    if name in LARGE:  # thousands of jobs; a seed more only multiplies
        edit(workplace.config / f"{name}.yaml", "seeds: [1, 2, 3, 4, 5]", "seeds: [1, 2]")
    done = workplace.snakemake("--dry-run", "--quiet", "rules", suite=f"config/{name}.yaml")
    assert done.returncode == 0, done.stderr
    found = {rule: int(count) for rule, count in STATS.findall(done.stdout + done.stderr)}
    expected = jobs_expected(suite_in(workplace, name))
    assert found == {**expected, "total": sum(expected.values())}


PRETRAINED = ["mini-bert-early", "bert-base-pretrained", "bert-base-early"]


def suite_of_pretrained(work, **changes):
    """A suite file of the backbones that are pre-trained here, but in no shipped suite."""
    raw = read_yaml(work.config / "small.yaml")
    block = {"backbones": PRETRAINED, "tasks": ["mini-rte"], "methods": ["full", "dsee"]}
    (work.config / "pre.yaml").write_text(json.dumps({**raw, "runs": [block], **changes}))
    return "config/pre.yaml"


def test_pretrained_backbones_are_planned_like_any_other(workplace):
    jobs = workplace.planned(suite=suite_of_pretrained(workplace))
    made = sorted(wildcards["backbone"] for rule, wildcards in jobs if rule == "backbone")
    assert made == sorted(PRETRAINED)
    counts = Counter(rule for rule, _ in jobs)
    assert (counts["tune"], counts["support"], counts["ticket"]) == (6, 3, 0)


def test_local_text_is_an_input_whose_absence_is_told_before_anything_runs(workplace, tmp_path):
    suite = suite_of_pretrained(workplace, mirror=str(tmp_path / "mirror"))
    done = workplace.snakemake("--dry-run", suite=suite)
    assert done.returncode != 0
    wanted = tmp_path / "mirror" / "datasets" / "wikipedia" / "20231101.en" / "0.parquet"
    assert f"{wanted.parent}/*.parquet" in done.stdout + done.stderr
    wanted.parent.mkdir(parents=True)
    wanted.touch()
    (tmp_path / "mirror" / "backbones" / "bert-base").mkdir(parents=True)  # lends its tokenizer
    done = workplace.snakemake("--dry-run", suite=suite)
    assert done.returncode == 0, done.stderr
    assert str(wanted) in done.stdout + done.stderr


def test_every_shipped_suite_is_planned_above(repository):
    found = {path.stem for path in (repository / "config").glob("*.yaml")}
    assert found - {"revisions.lock", "claims"} - {"earlybert-seeds"} == {
        "config",
        "minilm",
        "minilm-earlybert",
        "e2e",
        "dsee",
        "earlybert-ablations",
        "evidence",
        "minilm-evidence",
        "paper",
        "study-low-rank",
        "study-sparse-part",
    }


def test_one_table_asks_only_for_its_backbone_and_task(workplace):
    jobs = workplace.planned(
        "results/mini/tables/mini-bert/mini-sst2.md", suite="config/config.yaml"
    )
    # 10 methods; 3 of them need a ticket, 5 share one support.
    assert Counter(rule for rule, _ in jobs) == {
        "dataset": 1, "backbone": 1, "support": 1, "ticket": 3,
        "tune": 10, "evaluate": 10, "cost": 10, "group_table": 1,
    }  # fmt: skip
    assert {wild.get("backbone", "mini-bert") for _, wild in jobs} == {"mini-bert"}
    assert {wild.get("task", "mini-sst2") for _, wild in jobs} == {"mini-sst2"}


def test_a_combination_that_cannot_run_is_left_out_of_the_plan(workplace, edit):
    edit(workplace.config / "config.yaml", "[full, lora, dsee, ", "[full, lora, supra, dsee, ")
    jobs = workplace.planned(
        "results/mini/tables/mini-gpt2/mini-e2e.md", suite="config/config.yaml"
    )
    tuned = {wild["method"] for rule, wild in jobs if rule == "tune"}
    assert tuned == {
        "full", "lora", "dsee", "dsee-unstructured", "dsee-structured", "scratch"
    }  # fmt: skip


def test_commands_of_the_rules_are_what_the_command_line_takes(finished_calls):
    work, calls, _ = finished_calls
    suite, catalogue = suite_in(work, "small"), Catalogue(work.config)
    tickets = {
        (run.backbone.id, run.task.id, run.seed): run.ticket_digest
        for run in suite.runs if run.ticket
    }  # fmt: skip
    for call in calls:
        asked = cli._parser().parse_args(call)
        match asked.command:
            case "tune" | "evaluate" | "cost":
                expected = suite.by_path[asked.run].digest
                assert asked.train_examples == 8
            case "ticket":
                expected = tickets[asked.backbone, asked.task, asked.seed]
            case "dataset":
                expected = digest_of(catalogue.task(asked.task).settings())
            case "backbone" | "support":
                thing = getattr(catalogue, asked.command)(getattr(asked, asked.command))
                expected = digest_of(thing.settings())
            case _:
                assert len(json.loads(asked.config)["runs"]) == 1
                continue
        assert asked.digest == expected
        assert_known_device(asked)


def assert_known_device(asked: Namespace) -> None:
    assert getattr(asked, "device", "cpu") == "cpu"
    assert getattr(asked, "threads", 1) == 1


def test_recipes_reach_exactly_the_runs_that_need_them(finished_calls):
    given = {
        call[call.index("--run") + 1].split("/")[2]: (
            "--support-file" in call, "--ticket-file" in call,
        )
        for call in finished_calls[1] if call[0] == "tune"
    }  # fmt: skip
    assert given == {"full": (False, False), "earlybert": (False, True), "dsee": (True, False)}


def test_mirror_with_awkward_characters_reaches_the_command_whole(workplace, tmp_path):
    mirror = tmp_path / "it's here"
    (mirror / "backbones" / "minilm").mkdir(parents=True)
    for task in ("mrpc", "sst2"):
        (mirror / "datasets" / task).mkdir(parents=True)
        for split in ("train", "validation"):
            path = mirror / "datasets" / task / f"{split}-00000-of-00001.parquet"
            path.write_text("x", encoding="utf-8")
    done = workplace.snakemake(
        "resources/datasets/mrpc/record.json", "--dry-run", "--printshellcmds",
        "--config", f"mirror={mirror}",
        suite="config/minilm.yaml",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"--mirror '{tmp_path}/it'\"'\"'s here'" in done.stdout + done.stderr


def test_jobs_know_how_many_share_the_gpus_and_ask_for_memory_and_time_by_size(workplace):
    run = "bert-base/rte/full/seed-1"
    done = workplace.snakemake(
        f"results/paper/runs/{run}/evaluate.json", "--dry-run", "--printshellcmds",
        "--resources", "gpu=6",
        suite="config/paper.yaml",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = done.stdout + done.stderr
    commands = [line for line in told.splitlines() if " --device cuda " in line]
    assert [line.split("sparsetune ")[1].split()[0] for line in commands] == [
        "backbone", "tune", "evaluate",
    ]  # fmt: skip
    assert all(" --gpu-jobs 6 " in line for line in commands)
    catalogue = Catalogue(workplace.config)
    needs = Needs(suite_in(workplace, "paper"), catalogue, gpu=True)
    asked = [line for line in told.splitlines() if "computing=--device cuda --gpu-jobs 6" in line]
    names = ("backbone/bert-base", f"tune/{run}", f"evaluate/{run}")
    for line, name, gpus in zip(asked, names, (0, 1, 1), strict=True):
        assert f" gpu={gpus}," in line, name  # a fetch computes nothing
        assert f"mem_mb={needs.of(name).memory_mb}," in line, name
        assert f"runtime={needs.of(name).minutes}," in line, name


BAD = {
    "misspelt key": ("seeds:", "sedes:", "unknown key 'sedes'"),
    "key twice": ("device: cpu", "device: cpu\ndevice: cpu", "key 'device' twice"),
    "missing key, that the default suite has": ("device: cpu\n", "", "missing key 'device'"),
    "unknown id": ("mini-roberta", "mini-robreta", "did you mean 'mini-roberta'?"),
    "wrong value": (
        "device: cpu",
        "device: gpu",
        "device: received 'gpu'; allowed: auto, cpu, cuda",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_suite_stops_snakemake_in_one_line_before_anything_is_made(workplace, edit, case):
    old, new, message = BAD[case]
    edit(workplace.config / "small.yaml", old, new)
    done = workplace.snakemake()
    assert done.returncode == 2
    # Snakemake itself tells which profile and which file it took.
    notices = ("Using workflow", "Config file")
    ours = [line for line in done.stderr.splitlines() if not line.startswith(notices)]
    assert len(ours) == 1, done.stderr
    assert ours[0].startswith("sparsetune: ")
    assert message in ours[0]
    assert workplace.calls() == []
    assert {path.name for path in workplace.folder.iterdir()} <= {"config", "bin", ".snakemake"}


def test_bad_catalogue_file_and_bad_override_stop_snakemake_too(workplace, edit):
    done = workplace.snakemake("--config", "device=gpu")
    assert done.returncode == 2
    assert "device: received 'gpu'" in done.stderr
    edit(workplace.config / "methods" / "dsee.yaml", "rank: 16", "rank: 0")
    done = workplace.snakemake()
    assert done.returncode == 2
    assert "dsee.yaml: update.rank: received 0; allowed: a number >= 1" in done.stderr


def test_epochs_are_scored_in_the_runs_of_suites_that_ask_for_it_themselves(workplace, edit):
    edit(workplace.config / "config.yaml", "device: auto", "device: auto\nscore_epochs: true")
    for asks in (False, True):
        if asks:
            edit(workplace.config / "small.yaml", "device: cpu", "device: cpu\nscore_epochs: true")
        done = workplace.snakemake("--dry-run", "--printshellcmds")
        assert done.returncode == 0, done.stderr
        lines = (done.stdout + done.stderr).splitlines()
        scoring = {
            line.split("sparsetune ")[1].split()[0] for line in lines if " --score-epochs" in line
        }
        assert scoring == ({"tune", "evaluate", "cost"} if asks else set())


def test_bad_claim_stops_snakemake_before_anything_is_made(workplace):
    path = workplace.config / "claims.yaml"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("left: earlybert\n", "left: earlybird\n", 1), encoding="utf-8")
    done = workplace.snakemake()
    assert done.returncode == 2
    assert "claim earlybert-saves-time: left: unknown method 'earlybird'" in done.stderr
    assert workplace.calls() == []
