rule cost:
    """Parameters, multiply-adds and bytes of one run, counted without running it."""
    input:
        "resources/backbones/{backbone}/record.json",
        f"{RESULTS}/runs/{RUN}/model.safetensors",
        f"{RESULTS}/runs/{RUN}/tune.json",
        f"{RESULTS}/runs/{RUN}/evaluate.json",
        ticket_file,
    output:
        f"{RESULTS}/runs/{RUN}/cost.json",
    log:
        f"logs/{SUITE.id}/cost/{RUN}.log",
    benchmark:
        f"logs/{SUITE.id}/cost/{RUN}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        version=STAGES["cost"],
        run=run_options,
        ticket=ticket_option,
        folder=subpath(output[0], parent=True),
    shell:
        "sparsetune cost {params.run}"
        " --backbone-dir resources/backbones/{wildcards.backbone} {params.ticket}"
        " --run-dir {params.folder} --output {params.folder} &> {log}"
