import pytest

from sparsetune.cost import timing
from sparsetune.errors import ConfigError


def test_median_and_p90_of_known_times(monkeypatch):
    # Ten calls that take 1, 2, ... 10 s: median 5.5; nine of ten keep to 9 s.
    ticks = iter([t for seconds in range(1, 11) for t in (100.0, 100.0 + seconds)])
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(ticks))
    calls = []
    measured = timing.measure_latency(lambda: calls.append(1), repeats=10, warmup=3)
    assert len(calls) == 13
    assert measured == {
        "latency_median_seconds": 5.5,
        "latency_p90_seconds": 9.0,
        "latency_minimum_seconds": 1.0,
        "repeats": 10,
        "warmup": 3,
    }


@pytest.mark.parametrize(("repeats", "warmup"), [(0, 1), (1, -1)])
def test_counts_out_of_range_are_refused(repeats, warmup):
    with pytest.raises(ConfigError, match="repeats, warmup"):
        timing.measure_latency(lambda: None, repeats=repeats, warmup=warmup)
