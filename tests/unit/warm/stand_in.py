"""Stand-ins for Snakemake and for the ``sparsetune`` command, each a process of its own.

    python stand_in.py workflow LOG      starts the warm process and prints the jobs' environment;
                                         ends with its standard input
    python stand_in.py warm --listener N imports nothing and forks jobs
    python stand_in.py JOB ...           hands itself over, or runs here

A job prints one line of JSON that tells where it runs, and reads one line before it goes on.
"""

import atexit
import json
import os
import sys
import tempfile
from pathlib import Path

from sparsetune.warm.client import hand_over
from sparsetune.warm.launch import as_of_jobs, launch
from sparsetune.warm.server import serve

KEPT = []  # to the end of the process


def prepare():
    """Stands in for imports: one makes a folder and asks for something at the end."""
    KEPT.append(tempfile.TemporaryDirectory())
    atexit.register(sys.stdout.write, "not a job's\n")


def run(arguments):
    """What the command line's ``main`` is: one job."""
    os.umask(umask := os.umask(0))
    told = {
        "process": os.getpid(), "parent": os.getppid(), "session": os.getsid(0), "umask": umask,
        "folder": str(Path.cwd()), "arguments": list(arguments), "argv": sys.argv,
        "pwd": os.environ.get("PWD"), "name": os.environ.get("NAME"),
    }  # fmt: skip
    sys.stdout.write(f"{json.dumps(told)}\n")
    sys.stdout.flush()
    words = sys.stdin.readline().split()
    match words:
        case ["code", code]:
            return int(code)
        case ["exit", code]:
            sys.exit(int(code))
        case ["complain", text]:
            sys.exit(text)
        case ["raise", text]:
            raise ValueError(text)
        case ["buffered", text]:
            sys.stdout.write(f"{text}\n")
        case ["temporary"]:
            KEPT.insert(0, tempfile.TemporaryDirectory())
            atexit.register(sys.stdout.write, "own\n")
            sys.stdout.write(f"{KEPT[0].name}\n")
        case ["child"]:
            if os.fork() == 0:
                sys.stdin.readline()  # goes on when the job does not
                os._exit(0)
    return 0


def workflow(log):
    started = launch([1, 1, 2, 1], log=Path(log))
    sys.stdout.write(f"{json.dumps({**os.environ, **as_of_jobs(1)} if started else None)}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["workflow", log]:
            workflow(log)
        case ["warm", "--listener", descriptor]:
            sys.exit(serve(run, int(descriptor), prepare=prepare))
        case arguments:
            code = hand_over(sys.argv)
            sys.exit(run(arguments) if code is None else code)
