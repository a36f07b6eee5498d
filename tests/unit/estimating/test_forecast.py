import pytest

from sparsetune.config.load import Suite
from sparsetune.estimating.forecast import Capacity, Forecast, compare, device_of
from sparsetune.estimating.observed import Sample, busy_seconds
from sparsetune.estimating.speed import ASSUMED_FACTOR, Rate, Speed
from sparsetune.estimating.workload import Job, Work

SUITE = Suite("s", "auto", None, ())
ONE_CORE = Capacity(1)


def job(task, macs=1e10, method="full", **others):
    name = f"tune/b/{task}/{method}/seed-1"
    return Job(name, "tune", work=Work(10, macs), backbone="b", task=task, digest="d", **others)


def done(one, work_seconds, *, suite="s", start=4.0, ended=100.0, digest="d"):
    return Sample(
        one.id, "tune", suite, work_seconds + start, one.work, work_seconds, ended, "CPU", "cpu",
        one.backbone, one.task, 9.0, digest,
    )  # fmt: skip


def true(one, rate=1.0):
    return rate * (0.01 * one.work.batches + one.work.macs / 1e10)


def measured(tasks, *, rate=1.0, suite="s"):
    jobs = [job(task, macs, f"m{number}") for task in tasks
            for number, macs in enumerate((1e10, 2e10, 5e10, 9e10))]  # fmt: skip
    return jobs, [done(one, true(one, rate), suite=suite) for one in jobs]


def test_no_job_is_predicted_with_records_of_its_own_task():
    jobs, samples = measured(["a", "b"])
    slow, odd = measured(["c"], rate=3.0)
    found = compare(SUITE, jobs + slow, samples + odd, "cpu", ONE_CORE)["held_out"]
    only = compare(SUITE, slow, samples + odd, "cpu", ONE_CORE)["held_out"]
    # Task c, three times as slow, is foreseen by a and b: work of 1 + 2 + 5 + 9 s, 4 x 0.1 s of
    # batches, and 4 x 4 s of start-up, against three times the work.
    row = only["job_seconds"]
    assert row["predicted"] == pytest.approx(17.4 + 16, rel=1e-3)
    assert row["measured"] == pytest.approx(3 * 17.4 + 16)
    assert row["ratio"] == row["measured"] / row["predicted"]
    assert found["stages"][0]["jobs"] == 12


def test_other_suites_foresee_this_one_alone():
    jobs, samples = measured(["a", "b"], rate=2.0)
    _, others = measured(["c", "d"], suite="other")
    found = compare(SUITE, jobs, samples + others, "cpu", ONE_CORE)["other_suites"]
    assert found["job_seconds"]["predicted"] == pytest.approx(2 * 17.4 + 32, rel=1e-3)
    assert found["job_seconds"]["measured"] == pytest.approx(4 * 17.4 + 32)


def test_records_of_other_settings_are_not_compared():
    jobs, samples = measured(["a"])
    stale = [done(one, 5.0, digest="old") for one in jobs]
    assert compare(SUITE, jobs, stale, "cpu", ONE_CORE) is None
    assert compare(SUITE, jobs, [], "cpu", ONE_CORE) is None
    assert compare(SUITE, jobs, samples, "cpu", ONE_CORE)["held_out"]["stages"][0]["jobs"] == 4


def test_bounds_grow_with_what_is_not_known():
    rate = Rate(0.0, 1e-10)
    speed = Speed("CPU", rate, rate, rate, {"tune": 0.0}, (9, 9), frozenset({"b"}))
    told = Forecast(SUITE, [job("a")], speed, ONE_CORE, (2.0, 5.0))
    assert told.factor(job("a")) == pytest.approx(2.0)
    assert told.factor(Job("tune/x", "tune", work=Work(1), backbone="new")) == pytest.approx(5.0)
    # exp(sqrt(ln(2)^2 + ln(1.25)^2)) = exp(0.7282)
    assert told.factor(job("a", tokens_measured=False)) == pytest.approx(2.0714, rel=1e-4)
    assert told.wall() == pytest.approx({"seconds": 1.0, "seconds_low": 0.5, "seconds_high": 2.0})
    guess = Speed("CPU", rate, rate, rate)
    assert Forecast(SUITE, [], guess, ONE_CORE, (1.1, 1.1)).factor(job("a")) == pytest.approx(
        ASSUMED_FACTOR
    )


def test_checkpoints_are_those_of_the_jobs_at_once():
    rate = Rate(0.0, 1e-10)
    jobs = [job(name, peak_bytes=size) for name, size in (("a", 5), ("b", 7), ("c", 1))]
    speed = Speed("CPU", rate, rate, rate)
    assert Forecast(SUITE, jobs, speed, Capacity(2), (1, 1)).totals()["checkpoint_bytes"] == 12
    on_gpu = Forecast(SUITE, jobs, speed, Capacity(8, gpus=1), (1, 1)).totals()
    assert (on_gpu["checkpoint_bytes"], on_gpu["gpu_seconds"]["seconds"] > 0) == (7, True)


def test_the_commonest_device_of_the_kind_is_meant():
    _, samples = measured(["a"])
    assert device_of("auto", samples) == "CPU"
    assert device_of("cuda", samples) == "a100"
    assert device_of("auto", []) == "cpu"


def test_time_is_counted_once_where_jobs_run_side_by_side_and_pauses_not():
    # 0 to 10, 5 to 12, and 20 to 21; a benchmark without a record has no place.
    spans = [(10, 10.0), (7, 12.0), (1, 21.0), (50, None)]
    samples = [Sample(f"x/{end}", "cost", "s", length, ended=end) for length, end in spans]
    assert busy_seconds(samples) == 13
    assert busy_seconds([]) == 0
