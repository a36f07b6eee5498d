rule dataset:
    """A checked local copy of a task's files in their published layout."""
    output:
        "resources/datasets/{task}/record.json",
    log:
        "logs/dataset/{task}.log",
    benchmark:
        "logs/dataset/{task}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        version=STAGES["dataset"],
        digest=task_digest,
    retries: 2
    shell:
        "sparsetune dataset --task {wildcards.task} --digest {params.digest} {SOURCE_OPTIONS}"
        " --output resources/datasets/{wildcards.task} &> {log}"
