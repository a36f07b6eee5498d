"""A small suite through the real workflow: from nothing to tables, and what reruns."""

import asyncio
import re

import pytest
from e2e.browser import CHROMIUM, opened
from mlflow.tracking import MlflowClient
from unit.made_records import measured_of

from sparsetune.reporting.contents import TABLE_FORMS

METHODS = ("full", "dsee-unstructured", "earlybert")
TABLES = (
    "headline",
    "paired",
    "savings",
    "savings-time",
    "timings",
    "costs",
    "costs-by-module",
    "tickets",
    "mini-bert/mini-sst2",
)
RUN = "results/small/runs/mini-bert/mini-sst2"


@pytest.fixture(scope="module")
def built(project):
    done = project.snakemake()
    logs = "\n".join(path.read_text() for path in (project.folder / "logs").rglob("*.log"))
    assert done.returncode == 0, done.stdout + logs
    return project


def jobs_of(output):
    """Rule -> number of jobs, from Snakemake's own table."""
    table = output.partition("Job stats:")[2].partition("\n\n")[0]
    return {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE)}


def records(folder):
    """Every record where its stage wrote it; MLflow keeps copies of its own."""
    names = {"record.json", "tune.json", "evaluate.json", "cost.json", "claims.json", "track.json"}
    return sorted(
        path
        for room in ("resources", "results/small")
        for path in (folder / room).rglob("*.json")
        if path.name in names
    )


def tables(folder):
    """Bytes of every table but the timings and HTML's MLflow runs, which no two trainings share."""
    return {
        path.name: path.read_bytes()
        for path in (folder / "results" / "small" / "tables").rglob("*.*")
        if path.stem not in ("timings", "savings-time") and path.suffix != ".html"
    }


def finished_names(folder):
    client = MlflowClient(f"sqlite:///{folder / 'results' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("small").experiment_id
    runs = client.search_runs([experiment], max_results=1000)
    assert {run.info.status for run in runs} == {"FINISHED"}
    return [run.info.run_name for run in runs]


def test_every_record_is_valid(built):
    found = records(built.folder)
    # Data set, backbone, support and ticket; three records a run; claims and tracking.
    assert len(found) == 4 + 3 * len(METHODS) + 2
    for path in found:
        assert measured_of(path), path


def test_every_table_is_there_in_every_form(built):
    for table in TABLES:
        for form in TABLE_FORMS:
            path = built.folder / "results" / "small" / "tables" / f"{table}.{form}"
            assert path.stat().st_size > 0
    text = (built.folder / "results/small/tables/mini-bert/mini-sst2.md").read_text()
    assert all(method in text for method in METHODS)


def test_mlflow_has_exactly_one_finished_run_for_each_run(built):
    names = finished_names(built.folder)
    for method in METHODS:
        assert names.count(f"mini-bert/mini-sst2/{method}/seed-1") == 1
    assert len(names) == len(set(names))


def test_nothing_is_left_over(built):
    assert not list(built.folder.rglob("*.partial"))
    assert not list((built.folder / "results" / "small").glob("checkpoints/**/*.safetensors"))
    pickles = {".pt", ".pth", ".bin", ".pkl"}
    assert not [path for path in (built.folder / "results").rglob("*") if path.suffix in pickles]


def test_a_second_run_finds_nothing_to_do(built):
    before = tables(built.folder)
    done = built.snakemake()
    assert done.returncode == 0, done.stdout
    assert "Nothing to be done" in done.stdout
    assert tables(built.folder) == before


def test_report_is_one_file_that_asks_nothing_of_the_network(built):
    path = built.folder / "results" / "small" / "report.html"
    done = built.snakemake("--report", path)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "ERROR" not in done.stdout
    page = path.read_text(encoding="utf-8")
    for told in ("Suite small", "3 Pareto view", "Point at a run", "4 Training saved"):
        assert told in page
    # Quotes are escaped where a page lies in another's text.
    asked = r"""<(?:script|link|img|iframe)[^>]*?\s(?:src|href)=\\?["']?https?:"""
    assert re.findall(asked, page) == []


@pytest.mark.browser
@pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no browser at {CHROMIUM}")
def test_report_opens_on_the_headline_and_the_trade_offs(built, tmp_path):
    path = built.folder / "results" / "small" / "report.html"
    if not path.exists():
        built.snakemake("--report", path)

    async def visit():
        async with opened(path, tmp_path / "profile") as browser:
            await browser.until("!!document.querySelector('.prose svg, .prose iframe')")
            return await browser.value("document.querySelector('.prose').innerText")

    shown = asyncio.run(visit())
    headings = [shown.index(told) for told in ("Suite small", "Headline", "Pareto view")]
    assert headings == sorted(headings)


def test_a_lost_record_reruns_that_run_alone_and_no_table_changes(built):
    before = tables(built.folder)
    ages = {path: path.stat().st_mtime_ns for path in records(built.folder)}
    lost = built.folder / RUN / "earlybert" / "seed-1" / "tune.json"
    model = (lost.parent / "model.safetensors").read_bytes()
    lost.unlink()
    done = built.snakemake()
    assert done.returncode == 0, done.stdout
    jobs = jobs_of(done.stdout)
    assert (jobs["tune"], jobs["evaluate"], jobs["cost"]) == (1, 1, 1)
    assert not jobs.keys() & {"dataset", "backbone", "support", "ticket"}
    renewed = {path for path, age in ages.items() if path.stat().st_mtime_ns != age}
    own = {lost.parent / f"{stage}.json" for stage in ("tune", "evaluate", "cost")}
    suite = built.folder / "results" / "small"
    assert renewed == own | {suite / "track.json", suite / "claims.json"}
    assert (lost.parent / "model.safetensors").read_bytes() == model
    assert tables(built.folder) == before
    names = finished_names(built.folder)
    assert names.count("mini-bert/mini-sst2/earlybert/seed-1") == 1
