# Which files on this machine data sets and backbones are read from, and what is in them; and which
# commits of the hub.
from sparsetune.cli import LOCK_FILE
from sparsetune.data.inputs import contents_digest, next_fetch, planned_files

KNOWN_SUMS = Path(".snakemake", "contents.json")
COMMITS = CATALOGUE.root / LOCK_FILE


def task_files(wildcards):
    return [str(path) for path in planned_files(CATALOGUE.task(wildcards.task))]


def backbone_files(wildcards):
    """What is missing stands for itself: Snakemake then names it."""
    return [str(path) for path in planned_files(CATALOGUE.backbone(wildcards.backbone))]


def task_contents(wildcards):
    return contents_digest(planned_files(CATALOGUE.task(wildcards.task)), KNOWN_SUMS)


def backbone_contents(wildcards):
    return contents_digest(planned_files(CATALOGUE.backbone(wildcards.backbone)), KNOWN_SUMS)


def task_fetch(wildcards):
    """Option that is another one after a commit in the lock file became another."""
    record = Path(f"resources/datasets/{wildcards.task}/record.json")
    return options(fetch=next_fetch(CATALOGUE.task(wildcards.task), record, COMMITS))


def backbone_fetch(wildcards):
    record = Path(f"resources/backbones/{wildcards.backbone}/record.json")
    return options(fetch=next_fetch(CATALOGUE.backbone(wildcards.backbone), record, COMMITS))
