import pytest
from unit.made_records import PHASE as TRAINED
from unit.made_records import write_made
from unit.reporting.runs import write_run

from sparsetune.errors import DataError
from sparsetune.estimating.observed import read_samples
from sparsetune.estimating.workload import Work

PHASE = {"name": "train", "kind": "train", "gradient_accumulation": 4}


def edit(records):
    tune = records["tune"]
    tune["asked"]["settings"] = {"method": {"phases": [PHASE]}}
    tune["asked"]["ticket"] = "earlybert"
    tune["measured"] |= {
        "parameters_trained": 50, "tokens_seen": 3600,
        "phases": [TRAINED, {"name": "prune", "kind": "prune"}],
    }  # fmt: skip
    life = records["cost"]["measured"]["breakdown"]["whole_life"]
    life["search"] = 1234
    records["evaluate"]["asked"]["settings"] = {"scoring": {"generation": None}}


@pytest.fixture
def suite(tmp_path):
    write_run(tmp_path / "results" / "mini", edit=edit)
    return tmp_path


def samples(home):
    return {sample.stage: sample for sample in read_samples([home / "results"])}


def test_a_run_s_work_is_read_from_its_records(suite):
    found = samples(suite)
    tune, evaluate = found["tune"], found["evaluate"]
    assert tune.id == "tune/mini-bert/mini-sst2/full/seed-0"
    # 100 steps of 4 batches; the search and the inferences are not the run's training.
    assert tune.work == Work(400, 900_000, 5000)
    assert (tune.work_seconds, tune.tokens) == (5.25, 12.0)
    assert evaluate.work == Work(7, 400 * 1007)  # 400 examples in batches of 64
    assert evaluate.work_seconds == 0.5
    assert found["cost"].work is None


def test_a_job_s_time_is_snakemake_s_where_it_was_kept(suite):
    # Else what the record says: 60 s, and 4 s until it was ready.
    assert samples(suite)["tune"].job_seconds == 64
    benchmark = suite / "logs" / "mini" / "tune" / "mini-bert" / "mini-sst2" / "full"
    benchmark.mkdir(parents=True)
    (benchmark / "seed-0.tsv").write_text("s\th:m:s\n9.0\t0:00:09\n7.25\t0:00:07\n")
    assert samples(suite)["tune"].job_seconds == 7.25
    assert samples(suite)["tune"].start_up_seconds == 2.0


def test_a_run_whose_cost_is_not_counted_yet_tells_only_its_time(suite):
    (record,) = suite.glob("results/mini/runs/*/*/*/*/cost.json")
    record.unlink()
    found = samples(suite)
    assert set(found) == {"tune", "evaluate"}
    assert found["tune"].work is None


def test_a_search_is_counted_by_the_run_that_has_it(suite):
    folder = suite / "results/mini/tickets/mini-bert/mini-sst2/earlybert/seed-0"
    search = {**TRAINED, "steps": 25, "seconds": 3.5, "objective": "task"}
    settings = {"ticket": {"search": {"train": PHASE}}}
    write_made(folder / "record.json", "ticket", measured={"search": search}, settings=settings)
    assert samples(suite)["ticket"].work is None  # how many parameters it trained is not known
    backbone = suite / "resources" / "backbones" / "mini-bert"
    write_made(backbone / "record.json", "backbone", measured={"parameters": 70})
    found = samples(suite)["ticket"]
    assert (found.work, found.work_seconds) == (Work(100, 1234, 25 * 70), 3.5)


def test_tables_and_pictures_are_known_by_their_benchmarks(suite):
    logs = suite / "logs" / "mini"
    (logs / "tables" / "mini-bert").mkdir(parents=True)
    for name in ("tables/mini-bert/mini-sst2", "tables/suite", "figures", "track"):
        (logs / f"{name}.tsv").write_text("s\n3.0\n")
    (logs / "track.tsv").write_text("s\nNA\n")
    found = read_samples([suite / "results"])
    others = sorted(one.id for one in found if one.stage in ("tables", "figures", "track"))
    assert others == ["figures", "tables", "tables/mini-bert/mini-sst2"]


def test_a_job_in_two_folders_counts_once(suite):
    assert len(read_samples([suite / "results"] * 2)) == 3


def test_a_damaged_record_is_named(suite):
    (record,) = suite.glob("results/mini/runs/*/*/*/*/tune.json")
    record.write_text("{")
    with pytest.raises(DataError, match=r"seed-0/tune\.json"):
        read_samples([suite / "results"])
