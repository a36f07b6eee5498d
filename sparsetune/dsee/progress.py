"""How far the choice of S2's places has come, for a person who waits."""

import logging
import sys
from typing import Any

logger = logging.getLogger(__name__)

_LINES = 10


class Progress:
    """Tells how far the choice has come: a bar on a terminal, a few lines in a log."""

    def __init__(self) -> None:
        self._bar: Any = None

    def __call__(self, done: int, total: int, key: str) -> None:
        """Show one more matrix.

        Args:
            done: matrices done, from 1.
            total: of how many.
            key: the last one's site.
        """
        if not sys.stderr.isatty():
            if done * _LINES // total > (done - 1) * _LINES // total:
                logger.info("%d of %d matrices, last %s", done, total, key)
            return
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(total=total, desc="support", unit="matrix", file=sys.stderr)
        self._bar.set_postfix_str(key, refresh=False)
        self._bar.update(done - self._bar.n)
        if done == total:
            self._bar.close()
