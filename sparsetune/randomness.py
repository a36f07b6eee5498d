"""The one source of seeds: every stream of random numbers has a name. Imports nothing heavy.

The streams of a run's seed: ``weights`` (in place of a checkpoint's), ``head``, ``update``,
``random ticket``; ``search`` with ``order``, ``dropout`` or ``hidden tokens``; ``phase`` with its
index, its name and ``order``, ``dropout``, ``masks`` or ``hidden tokens``. Of a support's seed:
``support`` with the key of the site. Of hidden tokens: ``item`` with its number. Generated data
sets, and intervals, have seeds of their own.
"""

import hashlib


def derive(seed: int, *names: str | int) -> int:
    """Derive the seed of one named stream from a run's seed.

    Two streams never share their numbers unless all their names agree: adding a stream, or a phase,
    leaves every other stream as it was.

    Args:
        seed: of the run, at least 0.
        *names: what the stream is for, from the general to the particular, such as
            ``"phase", 1, "dropout"``; at least one.

    Returns:
        A seed in ``[0, 2**63)``, the same on every machine.

    Raises:
        ValueError: without a name, or with a negative seed.

    Source:
        Ours: the first 63 bits of the sha256 of seed and names.
    Differs:
        The released codes seed one global generator with the run's seed.

    Example:
        >>> derive(1, "phase", 0) == derive(1, "phase", 0)
        True
        >>> derive(1, "phase", 0) == derive(1, "head")
        False
    """
    if seed < 0 or not names:
        raise ValueError(f"derive: received seed {seed}, names {names}; need seed >= 0 and a name")
    text = "\0".join([str(seed), *(f"{type(name).__name__}:{name}" for name in names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1
