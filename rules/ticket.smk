rule ticket:
    """Heads and neurons to keep: EarlyBERT's search, or a random draw of equal size."""
    input:
        "resources/datasets/{task}/record.json",
        "resources/backbones/{backbone}/record.json",
    output:
        ticket=f"{RESULTS}/tickets/{{backbone}}/{{task}}/{{ticket}}/seed-{{seed}}/ticket.json",
        gates=f"{RESULTS}/tickets/{{backbone}}/{{task}}/{{ticket}}/seed-{{seed}}/gates.npz",
        record=f"{RESULTS}/tickets/{{backbone}}/{{task}}/{{ticket}}/seed-{{seed}}/record.json",
    log:
        f"logs/{SUITE.id}/ticket/{{backbone}}/{{task}}/{{ticket}}/seed-{{seed}}.log",
    benchmark:
        f"logs/{SUITE.id}/ticket/{{backbone}}/{{task}}/{{ticket}}/seed-{{seed}}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=need_of("ticket", "memory_mb"),
        runtime=need_of("ticket", "minutes"),
        gpu=GPUS,
        computing=COMPUTING,
        steps=TRAINING_STEPS,
    params:
        version=STAGES["ticket"],
        digest=ticket_digest,
        options=RUN_OPTIONS,
        checkpoints=ticket_checkpoints,
        folder=subpath(output.record, parent=True),
    shell:
        "sparsetune ticket --ticket {wildcards.ticket} --backbone {wildcards.backbone}"
        " --task {wildcards.task} --seed {wildcards.seed} --digest {params.digest}"
        " {params.options} --dataset-dir resources/datasets/{wildcards.task}"
        " --backbone-dir resources/backbones/{wildcards.backbone}"
        " --checkpoints {params.checkpoints} {resources.computing} {resources.steps}"
        " --threads {threads} --output {params.folder} &> {log}"
