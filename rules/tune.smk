rule tune:
    """Train one run's parameters, phase by phase; a killed job resumes."""
    input:
        "resources/datasets/{task}/record.json",
        "resources/backbones/{backbone}/record.json",
        support_file,
        ticket_file,
    output:
        model=f"{RESULTS}/runs/{RUN}/model.safetensors",
        history=f"{RESULTS}/runs/{RUN}/history.csv",
        record=f"{RESULTS}/runs/{RUN}/tune.json",
    log:
        f"logs/{SUITE.id}/tune/{RUN}.log",
    benchmark:
        f"logs/{SUITE.id}/tune/{RUN}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=need_of("tune", "memory_mb"),
        runtime=need_of("tune", "minutes"),
        gpu=GPUS,
        computing=COMPUTING,
        steps=TRAINING_STEPS,
    params:
        version=STAGES["tune"],
        run=run_options,
        recipes=recipe_options,
        checkpoints=run_checkpoints,
        folder=subpath(output.record, parent=True),
    shell:
        "sparsetune tune {params.run} --dataset-dir resources/datasets/{wildcards.task}"
        " --backbone-dir resources/backbones/{wildcards.backbone} {params.recipes}"
        " --checkpoints {params.checkpoints} --results results {resources.computing} {resources.steps}"
        " --threads {threads} --output {params.folder} &> {log}"
