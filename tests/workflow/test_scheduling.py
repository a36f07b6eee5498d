"""How often Snakemake looks for what it can run next."""


def test_scheduler_looks_once_for_each_job_that_ended(finished_calls):
    _, calls, printed = finished_calls
    assert printed.count("Ready jobs:") <= len(calls) + 1
