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
        mem_mb=need_of("evaluate", "memory_mb"),
        runtime=need_of("evaluate", "minutes"),
        gpu=GPUS,
        computing=COMPUTING,
    params:
        version=STAGES["evaluate"],
        run=run_options,
        # Of this stage alone: to correct one trains nothing again.
        metrics=run_metrics,
        folder=subpath(output.record, parent=True),
    shell:
        "sparsetune evaluate {params.run}"
        " --dataset-dir resources/datasets/{wildcards.task}"
        " --backbone-dir resources/backbones/{wildcards.backbone} --run-dir {params.folder}"
        " {resources.computing} --threads {threads} --output {params.folder} &> {log}"
