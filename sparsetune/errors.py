"""Errors that a user can cause, each one line: where, what was received, what is allowed.

The CLI prints the message and exits with the class's code; everything else is a defect of ours.
"""

import difflib
import errno
import os
from collections.abc import Iterable


class SparsetuneError(Exception):
    """Base of every expected error.

    ``exit_code`` is what the command line returns for it.
    """

    exit_code = 1


class ConfigError(SparsetuneError):
    """The catalogue, a suite or a command-line value is wrong (the user's mistake)."""

    exit_code = 2


class DataError(SparsetuneError):
    """A data file is missing, damaged or not in its published layout."""

    exit_code = 2


class ModelError(SparsetuneError):
    """A backbone, ticket, support or saved run is missing, unsafe or does not fit."""

    exit_code = 2


class TrainingError(SparsetuneError):
    """Training cannot go on: a loss that is not finite, a device that is not there."""

    exit_code = 3


class DiskError(SparsetuneError):
    """There is no room left to write to; what was written before is whole."""

    exit_code = 3


def is_full_disk(error: BaseException) -> bool:
    """Whether an exception says that a disk, or a quota of one, is full.

    Args:
        error: from Python or from a library that has only the system's words.
    """
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return os.strerror(errno.ENOSPC) in str(error)


def nearest(word: object, known: Iterable[object]) -> str:
    """Name the nearest known word, as a suffix for a message; empty if none is near.

    Args:
        word: what was received.
        known: what is allowed.

    Example:
        >>> nearest("quary", ["query", "value"])
        "; did you mean 'query'?"
    """
    match = difflib.get_close_matches(str(word), [str(one) for one in known], n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else ""


def refusal(where: object, key: str, received: object, known: Iterable[object]) -> str:
    """Tell a value that is none of the known ones, in the one form that all refusals have.

    Args:
        where: the file or object.
        key: the key or row in it.
        received: the value.
        known: the values that are allowed.

    Example:
        >>> refusal("dsee", "targets", "quary", ["query", "value"])
        "dsee: targets: received 'quary'; allowed: query, value; did you mean 'query'?"
    """
    allowed = [str(one) for one in known]
    told = f"{where}: {key}: received {received!r}; allowed: {', '.join(allowed) or 'none'}"
    return told + nearest(received, allowed)


def first_line(error: BaseException) -> str:
    """First line of an exception's text, cut to 200 characters, for one-line messages."""
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]


def shown(value: object) -> str:
    """``repr`` of a received value, cut to 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
