"""Errors that a user can cause, each one line: where, what was received, what is allowed.

The CLI prints the message and exits with the class's code; everything else is a defect of ours.
"""

import errno
import os


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
