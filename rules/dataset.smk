rule dataset:
    """A checked local copy of a task's files in their published layout."""
    input:
        # Their contents count, as a param has it; their times do not.
        ancient(task_files),
    output:
        "resources/datasets/{task}/record.json",
    log:
        "logs/dataset/{task}.log",
    benchmark:
        "logs/dataset/{task}.tsv"
    retries: DOWNLOAD_RETRIES
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        version=STAGES["dataset"],
        digest=task_digest,
        contents=task_contents,
        fetch=task_fetch,
        options=SOURCE_OPTIONS,
        folder=subpath(output[0], parent=True),
    shell:
        "sparsetune dataset --task {wildcards.task} --digest {params.digest} {params.options}"
        " {params.fetch} --output {params.folder} &> {log}"
