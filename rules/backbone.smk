rule backbone:
    """A Hugging Face folder: fetched, mirrored, or pre-trained here."""
    output:
        "resources/backbones/{backbone}/record.json",
    log:
        "logs/backbone/{backbone}.log",
    benchmark:
        "logs/backbone/{backbone}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
        gpu=GPUS,
    params:
        version=STAGES["backbone"],
        digest=backbone_digest,
    priority: 10
    retries: 2
    shell:
        "sparsetune backbone --backbone {wildcards.backbone} --digest {params.digest}"
        " {SOURCE_OPTIONS} --device {SUITE.device} --threads {threads}"
        " --checkpoints resources/checkpoints/{wildcards.backbone}"
        " --output resources/backbones/{wildcards.backbone} &> {log}"
