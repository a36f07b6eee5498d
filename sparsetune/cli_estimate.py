"""The sub-command ``estimate``: its options, and what it prints."""

import argparse
import json
from pathlib import Path

from sparsetune.cli_options import at_least
from sparsetune.config.load import Catalogue, Suite


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the options that no other sub-command has."""
    results = "folder with finished suites to learn from (default: results); may be repeated"
    command.add_argument("--configfile", required=True, help="suite file (YAML)")
    command.add_argument("--results", type=Path, action="append", default=[], help=results)
    command.add_argument("--cores", type=at_least(1), help="jobs at once (default: all cores)")
    command.add_argument("--gpus", type=at_least(1), help="likewise, on GPUs")
    command.add_argument("--device", help="part of its name in records; or cpu, a100, h100, ...")
    command.add_argument("--json", action="store_true", help="print data instead of tables")


def estimate_text(arguments: argparse.Namespace, suite: Suite) -> str:
    """Estimate what the arguments ask for.

    Args:
        arguments: of the command line.
        suite: that they name.

    Returns:
        Tables, or JSON.

    Raises:
        SparsetuneError: from the catalogue, or a record is damaged.
    """
    from sparsetune.estimating.report import as_text
    from sparsetune.stages.estimate import estimate

    catalogue = Catalogue(arguments.catalogue, mirror=suite.mirror)
    limits = {"cores": arguments.cores, "gpus": arguments.gpus, "device": arguments.device}
    told = estimate(suite, catalogue, results=arguments.results, **limits)
    return json.dumps(told, indent=1) if arguments.json else as_text(told).rstrip()
