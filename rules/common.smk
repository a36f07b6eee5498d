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
    # auto: as the jobs will find it, so that they do not wait for a GPU while they hold cores.
    GPUS = int(SUITE.device == "cuda" or (SUITE.device == "auto" and bool(visible_devices())))
except SparsetuneError as error:
    # One line and the exit code of a user's mistake, before anything is locked or started.
    print(f"sparsetune: {error}", file=sys.stderr, flush=True)
    os._exit(error.exit_code)

RESULTS = f"results/{SUITE.id}"
RUN = "{backbone}/{task}/{method}/seed-{seed}"
# Part of the command and not a param: what a job depends on is in its digest and its inputs.
# Doubled braces, because Snakemake formats commands.
SUITE_OPTION = f"--config {shlex.quote(json.dumps(config))}".translate({123: "{{", 125: "}}"})
# Jobs at once on GPUs: more than devices share them, and each job must know in how many parts.
GPU_JOBS = workflow.global_resources.get("gpu").value or 1
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
COMPUTING = options(device=SUITE.device, gpu_jobs=GPU_JOBS)
TRAINING = f"{COMPUTING} {options(steps=SUITE.steps)}"
SOURCE_OPTIONS = options(mirror=SUITE.mirror)
RUN_OPTIONS = options(suite=SUITE.id, mirror=SUITE.mirror, **config["limits"])
SCORING_OPTION = " --score-epochs" if SUITE.score_epochs else ""


def memory_of(stage):
    """The input function of a stage's ``mem_mb``."""

    def needed(wildcards, attempt):
        return NEEDS.memory_mb(f"{stage}/{TAILS[stage].format(**wildcards)}", attempt)

    return needed


def minutes_of(stage):
    """The input function of a stage's ``runtime``."""

    def needed(wildcards, attempt):
        return NEEDS.minutes(f"{stage}/{TAILS[stage].format(**wildcards)}", attempt)

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
