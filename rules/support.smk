rule support:
    """The positions of the sparse residual S2, once per backbone and recipe."""
    input:
        "resources/backbones/{backbone}/record.json",
    output:
        positions=f"{RESULTS}/support/{{backbone}}/{{support}}/support.safetensors",
        record=f"{RESULTS}/support/{{backbone}}/{{support}}/record.json",
    log:
        f"logs/{SUITE.id}/support/{{backbone}}/{{support}}.log",
    benchmark:
        f"logs/{SUITE.id}/support/{{backbone}}/{{support}}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=need_of("support", "memory_mb"),
        runtime=need_of("support", "minutes"),
    params:
        version=STAGES["support"],
        digest=support_digest,
        suite=SUITE.id,
        options=SOURCE_OPTIONS,
        folder=subpath(output.record, parent=True),
    shell:
        "sparsetune support --support {wildcards.support} --backbone {wildcards.backbone}"
        " --suite {params.suite} --digest {params.digest} {params.options} --threads {threads}"
        " --backbone-dir resources/backbones/{wildcards.backbone}"
        " --output {params.folder} &> {log}"
