"""How long one call takes. The caller supplies the call; nothing heavy is imported.

Timings go to the timings table only, since no two runs agree on them.
"""

import math
import statistics
import time
from collections.abc import Callable

from sparsetune.errors import ConfigError


def measure_latency(
    run: Callable[[], None], *, repeats: int, warmup: int
) -> dict[str, float | int]:
    """Time a call, after letting it warm up.

    Args:
        run: the call; on an accelerator it must wait for the device before it returns.
        repeats: timed calls, >= 1.
        warmup: untimed calls before them, >= 0.

    Returns:
        ``latency_median_seconds``, ``latency_p90_seconds`` (the smallest time that at least
        90 % of the calls kept to), ``latency_minimum_seconds``, ``repeats`` and ``warmup``.

    Raises:
        ConfigError: a count out of range.
    """
    if repeats < 1 or warmup < 0:
        raise ConfigError(f"repeats, warmup: got {repeats}, {warmup}; need >= 1 and >= 0")
    for _ in range(warmup):
        run()
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    seconds.sort()
    return {
        "latency_median_seconds": statistics.median(seconds),
        "latency_p90_seconds": seconds[math.ceil(0.9 * repeats) - 1],
        "latency_minimum_seconds": seconds[0],
        "repeats": repeats,
        "warmup": warmup,
    }
