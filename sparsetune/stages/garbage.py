"""How often Python looks for garbage, for jobs that read thousands of records and keep them."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

# Objects made before the young are looked through, then how many times before the older are.
_SELDOM = (50_000, 10, 100)


@contextmanager
def seldom_collected() -> Iterator[None]:
    """Look for unreachable cycles seldom: records live to the end, and drawing makes few cycles.

    With the usual thresholds a third of the time of a large suite's figures goes into looking
    through the same records again and again. What was set before is set again afterwards.
    """
    before = gc.get_threshold()
    gc.set_threshold(*_SELDOM)
    try:
        yield
    finally:
        gc.set_threshold(*before)
