# What all rules share: the validated suite, wildcard patterns, and where files are.
import json
import os
import re
import shlex
import sys
from pathlib import Path

from sparsetune.config.load import Catalogue
from sparsetune.config.suite import read_suite
from sparsetune.errors import SparsetuneError
from sparsetune.records import STAGES, digest_of
from sparsetune.stages.check import check_sources
from sparsetune.stages.devices import visible_devices
from sparsetune.stages.figures import figure_names
from sparsetune.stages.needs import Needs
from sparsetune.stages.tables import published_tables, record_paths, ticket_paths
from sparsetune.tracking.publish import FIRST_ATTEMPT, next_attempt

ENVIRONMENT = "../environment.yml"
CATALOGUE = Catalogue(Path("config"), mirror=config.get("mirror"))
SUITE_FILE = (workflow.config_settings.configfiles or workflow.configfiles)[-1]
try:
    # Snakemake lays the file over the default suite and lets keys repeat: a suite stands alone.
    given = {**read_suite(Path(SUITE_FILE)), **workflow.config_settings.config}
    for inherited in config.keys() - given.keys():
        del config[inherited]
    SUITE = CATALOGUE.suite(config, origin=str(SUITE_FILE))
    if not workflow.remote_exec:  # a cluster's jobs were planned by who looked
        check_sources(SUITE, CATALOGUE)
    # auto: as the jobs will find it, so that they do not wait for a GPU while they hold cores. On a
    # cluster the machine that submits decides; its jobs are told by the resource that they hold.
    if workflow.remote_exec:
        GPUS = int(bool(workflow.global_resources.get("gpu").value))
    else:
        GPUS = int(SUITE.device == "cuda" or (SUITE.device == "auto" and bool(visible_devices())))
except SparsetuneError as error:
    # One line and the exit code of a user's mistake, before anything is locked or started.
    print(f"sparsetune: {error}", file=sys.stderr, flush=True)
    os._exit(error.exit_code)

# Known before the executor is: jobs are counted for a queue, cores for this machine.
CLUSTER = workflow.remote_exec or workflow.resource_settings.nodes is not None
RESULTS = f"results/{SUITE.id}"
RUN = "{backbone}/{task}/{method}/seed-{seed}"
# Part of the command and not a param: what a job depends on is in its digest and its inputs.
# Doubled braces, because Snakemake formats commands.
SUITE_OPTION = f"--config {shlex.quote(json.dumps(config))}".translate({123: "{{", 125: "}}"})
if not CLUSTER and workflow.global_resources.get("gpu").value is None:
    # Here and in no profile: profiles/default is read beside any other, and wins.
    workflow.register_resource("gpu", 1)
# Jobs at once on GPUs: more than devices share them, and each job must know in how many parts.
# What a cluster gives to a job is that job's alone.
GPU_JOBS = 1 if CLUSTER else workflow.global_resources.get("gpu").value
DEVICE = ("cpu", "cuda")[GPUS] if CLUSTER and SUITE.device == "auto" else SUITE.device
NEEDS = Needs(SUITE, CATALOGUE, gpu=bool(GPUS))
TAILS = {
    "backbone": "{backbone}",
    "support": "{backbone}/{support}",
    "ticket": "{backbone}/{task}/{ticket}/seed-{seed}",
    "tune": RUN,
    "evaluate": RUN,
}


def any_of(ids):
    return "|".join(re.escape(str(name)) for name in dict.fromkeys(ids)) or "(?!)"


def recipes(kind):
    return [getattr(run, kind).id for run in SUITE.runs if getattr(run, kind)]


wildcard_constraints:
    backbone=any_of(run.backbone.id for run in SUITE.runs),
    task=any_of(run.task.id for run in SUITE.runs),
    method=any_of(run.method.id for run in SUITE.runs),
    support=any_of(recipes("support")),
    ticket=any_of(recipes("ticket")),
    seed=any_of(run.seed for run in SUITE.runs),


def options(**given):
    """Command-line options for the values that are set."""
    return " ".join(
        f"--{name.replace('_', '-')} {shlex.quote(str(value))}"
        for name, value in given.items()
        if value is not None
    )


# Where and how a job computes: resources, since another device alone reruns nothing.
COMPUTING = options(device=DEVICE, gpu_jobs=GPU_JOBS)
# Apart, since a group's jobs must agree on each resource that is a text.
TRAINING_STEPS = options(steps=SUITE.steps)
SOURCE_OPTIONS = options(mirror=SUITE.mirror)
RUN_OPTIONS = options(suite=SUITE.id, mirror=SUITE.mirror, **config["limits"])
# A mirror's folder is there, or no second attempt finds it.
DOWNLOAD_RETRIES = 0 if SUITE.mirror else 2
SCORING_OPTION = " --score-epochs" if SUITE.score_epochs else ""


def need_of(stage, quantity):
    """The input function of a stage's ``mem_mb`` (memory_mb) or ``runtime`` (minutes)."""

    def needed(wildcards, attempt):
        name = f"{stage}/{TAILS[stage].format(**wildcards)}"
        return getattr(NEEDS.of(name, attempt), quantity)

    return needed


def gpus_of_backbone(wildcards):
    """A GPU for what is pre-trained here, none for what is fetched."""
    return GPUS if CATALOGUE.backbone(wildcards.backbone).pretraining else 0


def run_of(wildcards):
    return SUITE.by_path[RUN.format(**wildcards)]


def run_checkpoints(wildcards):
    return f"{RESULTS}/checkpoints/{run_of(wildcards).path}"


def ticket_checkpoints(wildcards):
    group = f"{wildcards.backbone}/{wildcards.task}"
    return f"{RESULTS}/checkpoints/{group}/ticket-{wildcards.ticket}/seed-{wildcards.seed}"


def run_options(wildcards):
    """What names a run, and the digest of the settings it was planned with."""
    run = run_of(wildcards)
    return f"--run {run.path} --digest {run.digest} {RUN_OPTIONS}{SCORING_OPTION}"


def run_metrics(wildcards):
    return digest_of(run_of(wildcards).task.metrics)


def task_digest(wildcards):
    return digest_of(CATALOGUE.task(wildcards.task).settings())


def backbone_digest(wildcards):
    return digest_of(CATALOGUE.backbone(wildcards.backbone).settings())


def support_digest(wildcards):
    return digest_of(CATALOGUE.support(wildcards.support).settings())


def ticket_digest(wildcards):
    for run in SUITE.runs:
        ids = (run.backbone.id, run.task.id, str(run.seed), run.ticket and run.ticket.id)
        if ids == (wildcards.backbone, wildcards.task, wildcards.seed, wildcards.ticket):
            return run.ticket_digest
    raise ValueError(f"no run of suite {SUITE.id} uses ticket {wildcards.ticket}")


def support_file(wildcards):
    """The run's support, as a list that is empty for methods without one."""
    recipe = run_of(wildcards).support
    folder = f"{RESULTS}/support/{wildcards.backbone}"
    return [f"{folder}/{recipe.id}/support.safetensors"] if recipe else []


def ticket_file(wildcards):
    """The run's ticket, as a list that is empty for methods without one."""
    place = run_of(wildcards).ticket_path
    return [f"{RESULTS}/tickets/{place}/ticket.json"] if place else []


def option_for(name, files):
    return f"--{name} {files[0]}" if files else ""


def recipe_options(wildcards):
    support = option_for("support-file", support_file(wildcards))
    return f"{support} {ticket_option(wildcards)}"


def ticket_option(wildcards):
    return option_for("ticket-file", ticket_file(wildcards))
