# Which files on this machine data sets and backbones are read from, and what is in them.
from sparsetune.data.inputs import contents_digest, planned_files

KNOWN_SUMS = Path(".snakemake", "contents.json")


def task_files(wildcards):
    return [str(path) for path in planned_files(CATALOGUE.task(wildcards.task))]


def backbone_files(wildcards):
    """What is missing stands for itself: Snakemake then names it."""
    return [str(path) for path in planned_files(CATALOGUE.backbone(wildcards.backbone))]


def task_contents(wildcards):
    return contents_digest(planned_files(CATALOGUE.task(wildcards.task)), KNOWN_SUMS)


def backbone_contents(wildcards):
    return contents_digest(planned_files(CATALOGUE.backbone(wildcards.backbone)), KNOWN_SUMS)
