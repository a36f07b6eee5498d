"""Errors that a user can cause, each one line: where, what was received, what is allowed.

The CLI prints the message and exits with the class's code; everything else is a defect of ours.
"""


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
