# What can be asked for: the files that a suite, or a part of it, ends in.
from sparsetune.reporting.contents import SUITE_TABLES, TABLE_FORMS


def records_of(runs):
    return [str(path) for run in runs for path in record_paths(Path(RESULTS), run)]


def predictions_of_suite():
    return [f"{RESULTS}/runs/{run.path}/predictions.parquet" for run in SUITE.runs]


def tickets_of_suite():
    return [str(path) for path in ticket_paths(Path(RESULTS), SUITE)]


def group_records(wildcards):
    group = (wildcards.backbone, wildcards.task)
    return records_of(run for run in SUITE.runs if (run.backbone.id, run.task.id) == group)


def suite_tables():
    groups = [f"{backbone}/{task}" for backbone, task in SUITE.groups()]
    return [
        f"{RESULTS}/tables/{stem}.{form}"
        for stem in (*groups, *SUITE_TABLES)
        for form in TABLE_FORMS
    ]


try:
    PUBLISHED = published_tables(SUITE, CATALOGUE.root / "tables")
except SparsetuneError as error:
    print(f"sparsetune: {error}", file=sys.stderr, flush=True)
    os._exit(error.exit_code)


def published_digest(wildcards):
    """Digest of the papers' numbers, which stand beside ours."""
    return digest_of({name: table.model_dump(mode="json") for name, table in PUBLISHED.items()})
