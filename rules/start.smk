# What happens once, before the first job.
onstart:
    # Eight jobs on a fresh SQLite store break each other, so it is made before they start.
    # A store that cannot be made is told, never fatal: records are the truth.
    shell(
        f"sparsetune track --prepare {SUITE_OPTION} --results results"
        " || echo 'MLflow store not ready; runs go on without it' >&2"
    )
    # Snakemake 9 limits the jobs it starts in a second, and for that looks at all that are ready
    # once a second for every job that has ended: after 200 jobs this took a fifth of a core.
    if workflow.local_exec:
        workflow.scheduler.job_rate_limiter = None
