"""What a job and the process that it is forked from must have in common, or it runs cold."""

import os
import resource
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any

VARIABLE = "SPARSETUNE_WARM_SOCKET"
"""Names the socket; the workflow sets it in its own process, and jobs inherit it."""

FREE_VARIABLES = ("PWD", "OLDPWD", "SHLVL", "_", VARIABLE)
"""Set anew by every shell, and read by no library when it is imported: a fork takes the job's."""

_PACKAGE = Path(__file__).resolve().parents[1]


def situation() -> dict[str, Any]:
    """Code, interpreter, environment, limits and place of this process, before heavy imports.

    Two processes for which this is equal have imported the same, with the same effect: libraries
    read variables of the environment, and the number of processors, when they are imported.

    Returns:
        JSON data: strings, numbers, and lists and dicts of them.
    """
    return {
        "code": [_state(path) for path in sorted(_PACKAGE.rglob("*.py"))],
        "interpreter": [sys.executable, sys.version, sys.prefix, str(sys.flags), *sys.path],
        "libraries": _state(Path(sysconfig.get_path("purelib"))),
        "environment": {k: v for k, v in os.environ.items() if k not in FREE_VARIABLES},
        "processors": sorted(os.sched_getaffinity(0)),
        "niceness": os.nice(0),
        "limits": {
            name: list(resource.getrlimit(getattr(resource, name)))
            for name in dir(resource)
            if name.startswith("RLIMIT_")
        },
        "control group": Path("/proc/self/cgroup").read_text(),
        "name spaces": [str(Path(f"/proc/self/ns/{name}").readlink()) for name in ("mnt", "pid")],
    }


def difference(mine: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """The first thing in which two situations differ, with the variables' names; None = nothing.

    Example:
        >>> difference({"environment": {"A": "1", "B": "2"}}, {"environment": {"A": "1"}})
        'environment: B'
    """
    for name in sorted(mine.keys() | other.keys()):
        one, two = mine.get(name), other.get(name)
        if one != two:
            if name != "environment":
                return name
            one, two = one or {}, two or {}
            unequal = sorted(key for key in one.keys() | two if one.get(key) != two.get(key))
            return f"environment: {', '.join(unequal)}"
    return None


def _state(path: Path) -> list[str | int]:
    found = path.stat()
    return [str(path), found.st_size, found.st_mtime_ns]
