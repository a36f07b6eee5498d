# What happens once, before the first job.
from sparsetune.warm import WARM_STAGES
from sparsetune.warm.launch import launch, wanted

try:
    WARM = wanted() and not CLUSTER
except SparsetuneError as error:
    print(f"sparsetune: {error}", file=sys.stderr, flush=True)
    os._exit(error.exit_code)


onstart:
    # Jobs on this machine are forked from one process that imports meanwhile.
    if WARM and not workflow.touch:
        jobs = [job for job in workflow.dag.needrun_jobs() if job.rule.name in WARM_STAGES]
        launch([job.threads for job in jobs], log=Path("logs/warm.log"))
    if CLUSTER and SUITE.device == "auto" and not GPUS:
        print(
            "device: auto: this machine has no GPU, so jobs compute on CPUs and ask for none;"
            " --config device=cuda asks for one each",
            file=sys.stderr,
        )
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
