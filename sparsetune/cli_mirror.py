"""The sub-command ``mirror``: its options, and what it prints."""

import argparse
from collections.abc import Iterator
from pathlib import Path


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the options that no other sub-command has."""
    which = command.add_mutually_exclusive_group(required=True)
    which.add_argument("--config", help="suite file (YAML), or its content as JSON")
    which.add_argument("--suite", help="id of a suite of the catalogue")
    command.add_argument("--to", type=Path, required=True, help="folder of the mirror")
    command.add_argument("--only", choices=["datasets", "backbones"], help="leave the rest out")
    command.add_argument("--dry-run", action="store_true", help="list files and sizes only")


def mirror_lines(arguments: argparse.Namespace, *, lock_file: Path) -> Iterator[str]:
    """See :func:`sparsetune.stages.mirror.mirror_lines`, which is imported only when asked for."""
    from sparsetune.stages import mirror

    yield from mirror.mirror_lines(arguments, lock_file=lock_file)
