"""How long a set of jobs takes on so many cores or GPUs, one job on each at a time."""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class TimedJob:
    """A job to be placed.

    Attributes:
        seconds: it takes, >= 0.
        needs: ids of the jobs before it; those that are not in the set are done already.
        place: which kind of resource it holds.
    """

    seconds: float
    needs: Sequence[str] = ()
    place: str = "core"


def makespan(tasks: Mapping[str, TimedJob], capacity: Mapping[str, int]) -> float:
    """Length of a list schedule: whatever can start does, longest remaining path first.

    Args:
        tasks: id -> job; every job comes after those that it needs.
        capacity: resource -> how many jobs may hold it at once, >= 1.

    Returns:
        Seconds until the last job ends: with one resource at least the longest path and at least
        total / capacity, and at most their sum.

    Raises:
        ValueError: a job that comes before one it needs, or a resource that is not there.

    Source:
        Graham 1969 (bounds of list scheduling).

    Example:
        >>> makespan({"a": TimedJob(2), "b": TimedJob(2), "c": TimedJob(3, ["a"])}, {"core": 2})
        5.0
    """
    tail = _longest_paths(tasks, capacity)
    waiting = {name: sum(need in tasks for need in task.needs) for name, task in tasks.items()}
    after: dict[str, list[str]] = {name: [] for name in tasks}
    for name, task in tasks.items():
        for need in task.needs:
            if need in tasks:
                after[need].append(name)
    ready: dict[str, list[tuple[float, str]]] = {place: [] for place in capacity}
    for name, count in waiting.items():
        if count == 0:
            heapq.heappush(ready[tasks[name].place], (-tail[name], name))
    free, running, now = dict(capacity), [], 0.0
    while running or any(ready.values()):
        for place, queue in ready.items():
            while queue and free[place]:
                _, name = heapq.heappop(queue)
                free[place] -= 1
                heapq.heappush(running, (now + tasks[name].seconds, name))
        now, done = heapq.heappop(running)
        free[tasks[done].place] += 1
        for name in after[done]:
            waiting[name] -= 1
            if waiting[name] == 0:
                heapq.heappush(ready[tasks[name].place], (-tail[name], name))
    return float(now)


def _longest_paths(tasks: Mapping[str, TimedJob], capacity: Mapping[str, int]) -> dict[str, float]:
    """Seconds from the start of each job to the end of the last that waits for it."""
    tail = {name: task.seconds for name, task in tasks.items()}
    met: set[str] = set()
    for name in reversed(tasks):
        task = tasks[name]
        if not capacity.get(task.place):
            raise ValueError(f"job {name}: no {task.place}")
        met.add(name)
        for need in task.needs:
            if need in met:
                raise ValueError(f"job {name} comes before {need}, which it needs")
            if need in tasks:
                tail[need] = max(tail[need], tasks[need].seconds + tail[name])
    return tail
