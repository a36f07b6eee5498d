"""The sub-command ``mirror``: its options, and what it prints."""

import argparse
import shlex
from collections.abc import Iterator
from pathlib import Path

from sparsetune.config.files import suite_content
from sparsetune.config.load import Catalogue


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the options that no other sub-command has."""
    which = command.add_mutually_exclusive_group(required=True)
    which.add_argument("--config", help="suite file (YAML), or its content as JSON")
    which.add_argument("--suite", help="id of a suite of the catalogue")
    command.add_argument("--to", type=Path, required=True, help="folder of the mirror")
    command.add_argument("--only", choices=["datasets", "backbones"], help="leave the rest out")
    command.add_argument("--dry-run", action="store_true", help="list files and sizes only")


def mirror_lines(arguments: argparse.Namespace, *, lock_file: Path) -> Iterator[str]:
    """Mirror what the arguments ask for.

    Args:
        arguments: of the command line.
        lock_file: YAML file that keeps the commits of hub branches.

    Yields:
        What to print, as soon as it is known.

    Raises:
        SparsetuneError: from the catalogue or from the hub.
    """
    from sparsetune.stages.mirror import mirror_suite, parts_of, plan_mirror, suite_file

    given = arguments.config or str(suite_file(arguments.catalogue, arguments.suite))
    content, origin = suite_content(given)
    # Without the suite's own mirror: what matters is what would come from the hub.
    catalogue = Catalogue(arguments.catalogue)
    suite = catalogue.suite(content, origin=origin)
    parts = parts_of(catalogue, suite, only=arguments.only)
    if arguments.dry_run:
        yield from plan_mirror(parts, arguments.to, lock_file=lock_file)
        return
    use = f"snakemake --cores all --configfile {shlex.quote(given)}"
    yield from mirror_suite(parts, arguments.to, lock_file=lock_file, use=use)
