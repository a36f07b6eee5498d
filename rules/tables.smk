rule group_table:
    """One backbone and task: every method beside the dense run."""
    input:
        group_records,
    output:
        in_report(
            expand(f"{RESULTS}/tables/{{{{backbone}}}}/{{{{task}}}}.{{form}}", form=TABLE_FORMS)
        ),
    log:
        f"logs/{SUITE.id}/tables/{{backbone}}/{{task}}.log",
    benchmark:
        f"logs/{SUITE.id}/tables/{{backbone}}/{{task}}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        version=STAGES["tables"],
    shell:
        f"sparsetune tables {SUITE_OPTION} --results {RESULTS} --output {RESULTS}/tables"
        " --group {wildcards.backbone}/{wildcards.task} &> {log}"


rule tables:
    """The suite's tables: headline, paired tests, savings, costs, tickets; timings stand apart."""
    input:
        records_of(SUITE.runs),
        predictions_of_suite(),
        tickets_of_suite(),
    output:
        in_report(
            expand(f"{RESULTS}/tables/{{name}}.{{form}}", name=SUITE_TABLES, form=TABLE_FORMS)
        ),
        in_report(
            expand(
                f"{RESULTS}/tables/published/{{name}}.{{form}}",
                name=PUBLISHED,
                form=TABLE_FORMS,
            )
        ),
    log:
        f"logs/{SUITE.id}/tables/suite.log",
    benchmark:
        f"logs/{SUITE.id}/tables/suite.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        version=STAGES["tables"],
        published=published_digest,
    shell:
        f"sparsetune tables {SUITE_OPTION} --results {RESULTS} --output {RESULTS}/tables"
        " &> {log}"
