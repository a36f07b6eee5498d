rule backbone:
    """A Hugging Face folder: fetched, mirrored, or pre-trained here."""
    input:
        # Their contents count, as a param has it; their times do not.
        ancient(backbone_files),
    output:
        "resources/backbones/{backbone}/record.json",
    log:
        "logs/backbone/{backbone}.log",
    benchmark:
        "logs/backbone/{backbone}.tsv"
    priority: 10
    retries: 2
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory_of("backbone"),
        runtime=minutes_of("backbone"),
        gpu=gpus_of_backbone,
        computing=TRAINING,
    params:
        version=STAGES["backbone"],
        digest=backbone_digest,
        contents=backbone_contents,
        options=SOURCE_OPTIONS,
        folder=subpath(output[0], parent=True),
    shell:
        "sparsetune backbone --backbone {wildcards.backbone} --digest {params.digest}"
        " {params.options} {resources.computing} --threads {threads}"
        " --checkpoints resources/checkpoints/{wildcards.backbone}"
        " --output {params.folder} &> {log}"
