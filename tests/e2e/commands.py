"""Run ``sparsetune`` commands as a user would, each a process of its own."""

import os
import subprocess
import sys


class Commands:
    """Commands in one folder, one thread each, without network."""

    def __init__(self, folder):
        self.folder = folder

    def run(self, command, **options):
        """Run one command that must succeed; options are written as on the command line."""
        given = [text for key, value in options.items() for text in (f"--{key}", str(value))]
        done = subprocess.run(
            [sys.executable, "-m", "sparsetune.cli", command, *given],
            cwd=self.folder, env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
            capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
