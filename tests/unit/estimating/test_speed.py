import math

import numpy as np
import pytest

from sparsetune.errors import ConfigError
from sparsetune.estimating.observed import Sample
from sparsetune.estimating.speed import (
    ASSUMED_FACTOR,
    START_UP_SECONDS,
    Rate,
    assumed_rate,
    fit_rate,
    speed_of,
    spread,
    uncertainty,
)
from sparsetune.estimating.workload import Job, Work

TRUE = (0.02, 1 / 17e9, 3e-9)


def works(count=40, seed=0):
    draw = np.random.default_rng(seed)
    return [
        Work(*row)
        for row in zip(draw.uniform(50, 900, count), draw.uniform(1e10, 3e12, count),
                       draw.uniform(1e6, 5e9, count), strict=True)
    ]  # fmt: skip


def seconds(work, rate=TRUE):
    return rate[0] * work.batches + rate[1] * work.macs + rate[2] * work.updates


def sample(work, took, *, task="t", backbone="b", stage="tune", start=4.0, device="Fast CPU"):
    return Sample(f"{stage}/{backbone}/{task}/{took}", stage, "s", took + start, work, took,
                  device=device, device_kind="cpu", backbone=backbone, task=task)  # fmt: skip


def test_a_rate_that_jobs_follow_is_found():
    # 0.5 s a batch, 1e-9 s a MAC: 1 batch of 1e9 MACs takes 1.5 s, and so on.
    jobs = [Work(1, 1e9), Work(2, 1e9), Work(1, 3e9)]
    rate = fit_rate(jobs, [1.5, 2.0, 3.5])
    assert (rate.batch, rate.mac, rate.update) == pytest.approx((0.5, 1e-9, 0.0))
    assert rate.seconds(Work(4, 2e9)) == pytest.approx(4.0)


def test_the_fit_is_numpy_s_least_squares_of_relative_errors():
    jobs = works()
    noise = np.random.default_rng(1).choice([0.97, 1.03], len(jobs))  # none far off: no weights
    took = np.array([seconds(job) for job in jobs]) * noise
    table = np.array([[job.batches, job.macs, job.updates] for job in jobs])
    expected = np.linalg.lstsq(table / took[:, None], np.ones(len(jobs)), rcond=None)[0]
    found = fit_rate(jobs, took.tolist())
    assert (expected > 0).all()
    assert (found.batch, found.mac, found.update) == pytest.approx(expected, rel=0.02)


def test_one_job_on_a_busy_machine_changes_little():
    jobs = works()
    took = [seconds(job) for job in jobs]
    took[3] *= 10
    found = fit_rate(jobs, took)
    assert (found.batch, found.mac, found.update) == pytest.approx(TRUE, rel=1e-3)


def test_no_part_of_a_rate_is_negative():
    # Larger batches that took less: least squares would make MACs pay back.
    rate = fit_rate([Work(10, 1e9), Work(10, 2e9), Work(20, 1e9)], [2.0, 1.5, 4.0])
    assert rate.mac == 0
    assert rate.batch > 0


def test_what_jobs_cannot_tell_apart_is_shared_as_assumed():
    # 1e6 parameters in each step of one batch: 0.9 s a step, of which 0.1 and 0.2 were assumed.
    # In a ridge each part moves by the square of its own deviation: 0.1^2 and 0.2^2 as 1 to 4.
    draw = np.random.default_rng(3).choice([0.999, 1.001], 30)
    jobs = [Work(n, 0.0, n * 1e6) for n in range(1, 31)]
    took = [0.9 * n * one for n, one in zip(range(1, 31), draw, strict=True)]
    rate = fit_rate(jobs, took, prior=Rate(0.1, 1e-9, 2e-7))
    assert rate.batch == pytest.approx(0.1 + 0.6 / 5, rel=0.01)
    assert rate.update * 1e6 == pytest.approx(0.2 + 0.6 * 4 / 5, rel=0.01)


@pytest.mark.parametrize(("jobs", "took"), [([], [1.0]), ([Work(1)], [0.0])])
def test_a_fit_needs_jobs_that_took_time(jobs, took):
    with pytest.raises(ValueError, match="need jobs that took time"):
        fit_rate(jobs, took)


def test_four_of_five_ratios_lie_within_the_spread():
    # |log|: 1.1, 1.25 (as 0.8), 1.5, 2 (as 0.5), 4: the fourth of five.
    assert spread([1.1, 0.8, 1.5, 0.5, 4.0]) == pytest.approx(2.0)
    assert spread([1.0] * 5) == 1.0
    assert spread([1.0, 1.0]) == ASSUMED_FACTOR


def test_start_up_is_the_median_of_what_is_not_work():
    samples = [sample(job, seconds(job), start=start) for job, start in
               zip(works(3), (1.0, 4.0, 90.0), strict=True)]  # fmt: skip
    speed = speed_of(samples, "fast")
    assert speed.start_up == {"tune": pytest.approx(4.0)}
    job = Job("tune/x", "tune", work=Work(10, 1e10))
    assert speed.seconds(job) == pytest.approx(4.0 + seconds(Work(10, 1e10)), rel=1e-3)
    never = Job("cost/x", "cost")
    assert speed.seconds(never) == START_UP_SECONDS["cost"]


def test_another_device_s_records_tell_nothing_about_this_one():
    samples = [sample(job, seconds(job)) for job in works(5)]
    assert speed_of(samples, "h100").fitted == (0, 0)
    assert speed_of(samples, "h100").training == assumed_rate("h100")
    assert speed_of(samples, "h100").host.mac == pytest.approx(TRUE[1])  # supports run on a core
    assert speed_of(samples, "cpu").fitted == (5, 0)


def test_an_unknown_device_is_refused_with_what_is_known():
    with pytest.raises(ConfigError, match=r"--device: got 'tpu'; .* cpu, t4, .*h200"):
        speed_of([], "tpu")


def test_uncertainty_is_of_jobs_that_had_no_part_in_the_fit():
    # Task a runs at the true speed, task b twice as long: each is off by 2 for the other's fit.
    slow = [sample(job, 2 * seconds(job), task="b") for job in works(5, seed=2)]
    fast = [sample(job, seconds(job), task="a") for job in works(5)]
    known, unknown = uncertainty(slow + fast, "cpu")
    assert known == pytest.approx(2.0, rel=1e-3)
    assert unknown == ASSUMED_FACTOR  # one backbone: nothing to hold out
    assert math.isfinite(known)
