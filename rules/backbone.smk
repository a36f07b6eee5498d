# Nodes of a cluster often have no network: what is fetched is fetched where Snakemake runs.
FETCHED = {run.backbone.id for run in SUITE.runs if run.backbone.pretraining is None}
PRETRAINED = {run.backbone.id for run in SUITE.runs} - FETCHED


rule backbone:
    """A Hugging Face folder, pre-trained here; the rule below: fetched or mirrored."""
    input:
        # Their contents count, as a param has it; their times do not.
        ancient(backbone_files),
    output:
        "resources/backbones/{backbone}/record.json",
    log:
        "logs/backbone/{backbone}.log",
    benchmark:
        "logs/backbone/{backbone}.tsv"
    wildcard_constraints:
        backbone=any_of(sorted(PRETRAINED)),
    priority: 10
    retries: DOWNLOAD_RETRIES
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=need_of("backbone", "memory_mb"),
        runtime=need_of("backbone", "minutes"),
        gpu=gpus_of_backbone,
        computing=COMPUTING,
        steps=TRAINING_STEPS,
    params:
        version=STAGES["backbone"],
        digest=backbone_digest,
        contents=backbone_contents,
        fetch=backbone_fetch,
        options=SOURCE_OPTIONS,
        folder=subpath(output[0], parent=True),
    shell:
        "sparsetune backbone --backbone {wildcards.backbone} --digest {params.digest}"
        " {params.options} {params.fetch} {resources.computing} {resources.steps} --threads {threads}"
        " --checkpoints resources/checkpoints/{wildcards.backbone} --output {params.folder} &> {log}"


use rule backbone as fetched_backbone with:
    wildcard_constraints:
        backbone=any_of(sorted(FETCHED)),
