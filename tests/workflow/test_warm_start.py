"""When Snakemake starts the process that jobs are forked from; the stub's one ends at once."""

import pytest


def test_workflow_starts_one_warm_process_and_does_without_it(workplace):
    done = workplace.snakemake(SPARSETUNE_WARM="on")
    assert done.returncode == 0, done.stderr
    commands = [call[0] for call in workplace.calls()]
    assert commands.count("warm") == 1
    assert commands.count("tune") == 12
    assert workplace.snakemake(SPARSETUNE_WARM="on").returncode == 0
    assert workplace.calls() == []


@pytest.mark.parametrize("what", [["--dry-run"], ["--list-rules"], ["--summary"], ["--touch"]])
def test_looking_at_a_workflow_starts_no_warm_process(workplace, what):
    workplace.snakemake(*what, SPARSETUNE_WARM="on")
    assert workplace.calls() == []


def test_jobs_that_import_little_start_no_warm_process(workplace):
    target = "resources/datasets/mini-sst2/record.json"
    done = workplace.snakemake(target, SPARSETUNE_WARM="on")
    assert done.returncode == 0, done.stderr
    assert [call[0] for call in workplace.calls()] == ["dataset"]


def test_unknown_switch_stops_snakemake_in_one_line(workplace):
    done = workplace.snakemake(SPARSETUNE_WARM="false")
    assert done.returncode == 2
    assert "sparsetune: SPARSETUNE_WARM: received 'false'; allowed: on, off" in done.stderr
    assert workplace.calls() == []
