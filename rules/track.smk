rule track:
    """MLflow completed from records: what live logging missed, final metrics, artifacts."""
    input:
        records_of(SUITE.runs),
        # Attached to the suite's own MLflow run.
        suite_tables(),
        rules.claims.output,
        rules.figures.output,
    output:
        f"{RESULTS}/track.json",
    log:
        f"logs/{SUITE.id}/track.log",
    benchmark:
        f"logs/{SUITE.id}/track.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        version=STAGES["track"],
        # Changes when the last attempt left something out: MLflow was down, for one.
        attempt=next_attempt(Path(RESULTS, "track.json")),
    shell:
        f"sparsetune track {SUITE_OPTION} --results results --resources resources"
        " --attempt {params.attempt:q} &> {log}"


onsuccess:
    # Nothing stops for MLflow, so this is where its trouble is told.
    if next_attempt(Path(RESULTS, "track.json")) not in (
        FIRST_ATTEMPT,
        rules.track.params.attempt,
    ):
        print(
            "MLflow lacks some of the runs; the same command completes it once it answers:"
            f" see {rules.track.log[0]}",
            file=sys.stderr,
        )
