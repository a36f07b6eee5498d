rule dataset:
    """A checked local copy of a task's files in their published layout."""
    output:
        "resources/datasets/{task}/record.json",
    log:
        "logs/dataset/{task}.log",
    benchmark:
        "logs/dataset/{task}.tsv"
    retries: 2
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        version=STAGES["dataset"],
        digest=task_digest,
        options=SOURCE_OPTIONS,
        folder=subpath(output[0], parent=True),
    shell:
        "sparsetune dataset --task {wildcards.task} --digest {params.digest} {params.options}"
        " --output {params.folder} &> {log}"
