# sparsetune: EarlyBERT tickets and DSEE sparse fine-tuning, from data sets to tables.
# This file is the table of contents: settings, rules by stage, and what can be asked for.
from snakemake.utils import min_version

min_version("9.18")


configfile: "config/config.yaml"


include: "rules/common.smk"
include: "rules/targets.smk"
include: "rules/report.smk"
include: "rules/start.smk"
include: "rules/inputs.smk"
include: "rules/dataset.smk"
include: "rules/backbone.smk"
include: "rules/support.smk"
include: "rules/ticket.smk"
include: "rules/tune.smk"
include: "rules/evaluate.smk"
include: "rules/cost.smk"
include: "rules/tables.smk"
include: "rules/claims.smk"
include: "rules/figures.smk"
include: "rules/track.smk"


# Downloads need a network, and what reads records is done sooner than a queue is waited for.
localrules:
    all,
    dataset,
    fetched_backbone,
    group_table,
    tables,
    claims,
    figures,
    track,


rule all:
    default_target: True
    input:
        # Asked for by name, or a lost record would go unnoticed while its tables are there.
        records_of(SUITE.runs),
        suite_tables(),
        rules.claims.output,
        rules.figures.output,
        f"{RESULTS}/track.json",
