# Which files on this machine a backbone is pre-trained on.
from sparsetune.data.sources import planned_inputs


def corpus_files(wildcards):
    """For most backbones none; a pattern without a file stands for itself, and is then missing."""
    return planned_inputs(CATALOGUE.backbone(wildcards.backbone).source)
