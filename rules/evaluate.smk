rule evaluate:
    """Predictions and official metrics of one run."""
    input:
        "resources/datasets/{task}/record.json",
        "resources/backbones/{backbone}/record.json",
        f"{RESULTS}/runs/{RUN}/model.safetensors",
    output:
        predictions=f"{RESULTS}/runs/{RUN}/predictions.parquet",
        record=f"{RESULTS}/runs/{RUN}/evaluate.json",
    log:
        f"logs/{SUITE.id}/evaluate/{RUN}.log",
    benchmark:
        f"logs/{SUITE.id}/evaluate/{RUN}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=4000,
        runtime=240,
        gpu=GPUS,
    params:
        version=STAGES["evaluate"],
        digest=run_digest,
    shell:
        "sparsetune evaluate --run " + RUN_WILDCARDS + " --digest {params.digest} {RUN_OPTIONS}"
        " --dataset-dir resources/datasets/{wildcards.task}"
        " --backbone-dir resources/backbones/{wildcards.backbone}"
        " --run-dir {RESULTS}/runs/" + RUN_WILDCARDS + " --device {SUITE.device}"
        " --threads {threads} --output {RESULTS}/runs/" + RUN_WILDCARDS + " &> {log}"
