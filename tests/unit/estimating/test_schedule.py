import random

import pytest

from sparsetune.estimating.schedule import TimedJob, makespan


def test_a_schedule_by_hand():
    # One core: 1 + 2 + 3. Two: a and b side by side, then c after a: 1 + 3.
    tasks = {"a": TimedJob(1), "b": TimedJob(2), "c": TimedJob(3, ["a"])}
    assert makespan(tasks, {"core": 1}) == 6
    assert makespan(tasks, {"core": 2}) == 4


def test_the_longest_remaining_path_starts_first():
    # Begun with the short ones, the chain of 2 + 2 would end at 5.
    tasks = {
        "x": TimedJob(1),
        "y": TimedJob(1),
        "z": TimedJob(1),
        "a": TimedJob(2),
        "b": TimedJob(2, ["a"]),
    }
    assert makespan(tasks, {"core": 2}) == 4


def test_a_gpu_s_jobs_wait_for_it_and_the_others_do_not():
    tasks = {"a": TimedJob(4, (), "gpu"), "b": TimedJob(4, (), "gpu"), "c": TimedJob(5)}
    assert makespan(tasks, {"core": 1, "gpu": 1}) == 8
    assert makespan(tasks, {"core": 1, "gpu": 2}) == 5


def test_what_is_not_in_the_set_is_done_already():
    assert makespan({"a": TimedJob(2, ["made before"])}, {"core": 1}) == 2
    assert makespan({}, {"core": 1}) == 0


@pytest.mark.parametrize("seed", range(20))
def test_graham_s_bounds_hold(seed):
    generator = random.Random(seed)
    tasks, path = {}, {}
    for number in range(40):
        needs = generator.sample(sorted(tasks), min(len(tasks), generator.randint(0, 3)))
        seconds = generator.choice([0, 1, 2, 5, 9])
        tasks[f"{number:02}"] = TimedJob(seconds, needs)
        path[f"{number:02}"] = seconds + max((path[need] for need in needs), default=0)
    total, longest = sum(task.seconds for task in tasks.values()), max(path.values())
    for cores in (1, 2, 3, 40):
        length = makespan(tasks, {"core": cores})
        assert max(longest, total / cores) <= length <= total / cores + longest
    assert makespan(tasks, {"core": 1}) == total
    assert makespan(tasks, {"core": 40}) == longest


@pytest.mark.parametrize(
    ("tasks", "message"),
    [({"a": TimedJob(1, ["b"]), "b": TimedJob(1)}, "a comes before b"),
     ({"a": TimedJob(1, ["b"]), "b": TimedJob(1, ["a"])}, "a comes before b"),
     ({"a": TimedJob(1, (), "gpu")}, "a: no gpu")],
)  # fmt: skip
def test_what_cannot_be_scheduled_is_refused(tasks, message):
    with pytest.raises(ValueError, match=message):
        makespan(tasks, {"core": 1})
