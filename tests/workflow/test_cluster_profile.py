"""What the profiles really set, asked of Snakemake itself by dry runs; no cluster is needed."""

import importlib.util
import os
import re
import subprocess
import sys

import pytest
import yaml

# What counts is known when the rules have been read: profiles merged, defaults of ours laid in.
TOLD = """
include: "{snakefile}"
print(
    "told:", workflow.global_resources.get("gpu").value, GPU_JOBS, DEVICE,
    file=sys.stderr,
)
print("local:", *sorted(workflow._localrules), file=sys.stderr)
"""
BLOCK = re.compile(r"^ *rule (\w+):\n((?: +.*\n)*)", re.MULTILINE)
needs_plugin = pytest.mark.skipif(
    importlib.util.find_spec("snakemake_executor_plugin_slurm") is None,
    reason="needs snakemake-executor-plugin-slurm: pip install 'sparsetune[slurm]'",
)


def dry_run(repository, folder, *arguments, told=False):
    snakefile = repository / "Snakefile"
    if told:
        wrapper = folder / "Snakefile"
        wrapper.write_text(TOLD.format(snakefile=snakefile))
        snakefile = wrapper
    done = subprocess.run(
        [
            sys.executable, "-m", "snakemake", *arguments, "--dry-run", "--nocolor", "--cores", "2",
            "--snakefile", str(snakefile), "--directory", str(folder),
            "--configfile", str(repository / "config" / "paper.yaml"),
            "--config", "device=" + ("auto" if "auto" in folder.name else "cuda"),
        ],
        cwd=repository, capture_output=True, text=True, timeout=200,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "SPARSETUNE_WARM": "off"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def folder(tmp_path, repository):
    (tmp_path / "config").symlink_to(repository / "config")
    return tmp_path


ONE = "results/paper/runs/bert-base/rte/full/seed-1/evaluate.json"


@pytest.mark.parametrize("option", ["--profile", "--workflow-profile"])
@pytest.mark.parametrize(
    ("profile", "told"),
    [
        ("default", "told: 1 1 cuda"),
        ("gpu", "told: 4 4 cuda"),
        # As many jobs as the queue takes, each with a GPU of its own.
        pytest.param("slurm", "told: 100 1 cuda", marks=needs_plugin),
    ],
)
def test_a_profile_sets_the_number_of_gpu_jobs_whichever_way_it_is_named(
    repository, folder, option, profile, told
):
    printed = dry_run(repository, folder, ONE, option, f"profiles/{profile}", told=True)
    assert told in printed.splitlines()


def test_the_command_line_has_the_last_word_on_gpu_jobs(repository, folder):
    given = (ONE, "--profile", "profiles/gpu", "--resources", "gpu=7")
    assert "told: 7 7 cuda" in dry_run(repository, folder, *given, told=True).splitlines()


@needs_plugin
def test_on_a_cluster_auto_is_decided_where_jobs_are_submitted(repository, tmp_path):
    folder = tmp_path / "auto"
    folder.mkdir()
    (folder / "config").symlink_to(repository / "config")
    printed = dry_run(repository, folder, ONE, "--profile", "profiles/slurm", told=True)
    assert "told: 100 1 cpu" in printed.splitlines()


def test_downloads_and_what_reads_records_stay_where_snakemake_runs(repository, folder):
    printed = dry_run(repository, folder, ONE, "--profile", "profiles/default", told=True)
    local = "all claims dataset fetched_backbone figures group_table tables track"
    assert f"local: {local}" in printed.splitlines()
    # By hand, of the suite's data flow: what is fetched has no other rule.
    assert {name for name, _ in BLOCK.findall(printed)} == {
        "dataset", "fetched_backbone", "tune", "evaluate",
    }  # fmt: skip


def test_jobs_of_a_group_agree_on_every_resource_that_is_a_text(repository, folder):
    printed = dry_run(repository, folder, ONE.replace("evaluate", "cost"))
    texts = {}
    for name, body in BLOCK.findall(printed):
        if name in ("tune", "evaluate", "cost"):
            line = re.search(r"resources: (.*)", body)[1]
            for word in re.split(r", (?=\w+=)", line):
                key, _, value = word.partition("=")
                if key not in ("tmpdir", "mem", "disk") and not value.isdecimal():
                    texts.setdefault(key, set()).add(value)
    assert texts.keys() == {"computing", "steps"}
    assert all(len(values) == 1 for values in texts.values()), texts


def test_the_cluster_profile_keeps_results_and_retries_what_can_go_on(repository):
    path = repository / "profiles" / "slurm" / "config.yaml"
    profile = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert "set-threads" not in profile  # one thread, as everywhere: numbers depend on it
    assert profile["slurm-status-command"] == "squeue"
    assert profile["slurm-init-seconds-before-status-checks"] == 5
    assert profile["retries"] == 2
    assert profile["groups"] == dict.fromkeys(("tune", "evaluate", "cost"), "run")
