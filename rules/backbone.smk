rule backbone:
    """A Hugging Face folder: fetched, mirrored, or pre-trained here."""
    input:
        corpus=corpus_files,
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
        gpu=GPUS,
        gpu_jobs=GPU_JOBS,
        steps=SUITE.steps,
        device=SUITE.device,  # a resource, since another device alone reruns nothing
    params:
        version=STAGES["backbone"],
        digest=backbone_digest,
        options=SOURCE_OPTIONS,
        folder=subpath(output[0], parent=True),
    shell:
        "sparsetune backbone --backbone {wildcards.backbone} --digest {params.digest}"
        " {params.options} --device {resources.device} --gpu-jobs {resources.gpu_jobs}"
        " --steps {resources.steps} --threads {threads}"
        " --checkpoints resources/checkpoints/{wildcards.backbone}"
        " --output {params.folder} &> {log}"
