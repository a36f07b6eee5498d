"""A Slurm of one node in a folder of its own: Debian's daemons, run by whoever runs the tests.

No root and no accounting: munged, slurmctld and slurmd are children of the test, listen on this
machine only, and end with it. GPUs are empty files that Slurm hands out.
"""

import getpass
import os
import shutil
import socket
import subprocess
import time

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol")
_SEARCH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
_CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={controller_port}
SlurmdPort={node_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,sched_interval=1
MpiDefault=none
ReturnToService=2
KillWait=5
MessageTimeout=5
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={slots} RealMemory={memory_mb} Gres=gpu:{gpus}
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def missing_programs():
    """Those of Slurm's programs that this machine lacks."""
    return [name for name in PROGRAMS if shutil.which(name, path=_SEARCH) is None]


class Slurm:
    """One controller, one node, some slots.

    Args:
        folder: empty; its path must be short enough for a socket.
        slots: jobs at once. Slurm lets a node have no more processors than the machine has, so
            fewer than that if there are fewer.
        gpus: that Slurm believes in.
    """

    def __init__(self, folder, *, slots=2, gpus=8):
        self.folder = folder
        self.slots = min(slots, os.cpu_count())
        self._daemons = {}
        settings = {
            "host": socket.gethostname().split(".")[0],
            "user": getpass.getuser(),
            "folder": folder,
            "slots": self.slots,
            "memory_mb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20,
            "gpus": gpus,
        }
        ports = _free_ports(2)
        settings |= dict(zip(("controller_port", "node_port"), ports, strict=True))
        for name in ("state", "spool", "log"):
            (folder / name).mkdir(parents=True)
        (folder / "slurm.conf").write_text(_CONFIG.format(**settings))
        for number in range(gpus):
            (folder / f"gpu{number}").touch()
        gres = f"NodeName={settings['host']} Name=gpu File={folder}/gpu[0-{gpus - 1}]\n"
        (folder / "gres.conf").write_text(gres)
        (folder / "cgroup.conf").write_text("CgroupAutomount=no\n")
        # The plugin takes SLURM_CONF from the environment of what it starts inside a job.
        (folder / "bin").mkdir()
        srun = folder / "bin" / "srun"
        real = shutil.which("srun", path=_SEARCH)
        srun.write_text(f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {real} "$@"\n')
        srun.chmod(0o755)
        key = folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)

    @property
    def environment(self):
        """What finds this Slurm: beside the variables that are there."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_"))}
        path = f"{self.folder}/bin{os.pathsep}{_SEARCH}"
        return {**inherited, "SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": path}

    def __enter__(self):
        """Start all three daemons, and wait until the node can take a job."""
        try:
            self._start(
                "munged", "--foreground", "--force", f"--key-file={self.folder}/munge.key",
                f"--socket={self.folder}/munge.socket", f"--pid-file={self.folder}/munged.pid",
                f"--log-file={self.folder}/log/munged.log", f"--seed-file={self.folder}/seed",
            )  # fmt: skip
            self._until((self.folder / "munge.socket").exists, "munged")
            self.start_controller()
            self._start("slurmd", "-D")
            self._until(lambda: "idle" in self.ask("sinfo", "-h", "-o", "%T"), "slurmd")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        """Cancel what runs, and end the daemons."""
        if {"slurmctld", "slurmd"} <= self._daemons.keys():
            self.ask("scancel", "--user", getpass.getuser())
            self._until(lambda: not self.queue(), "scancel")
        for name in ("slurmd", "slurmctld", "munged"):
            self._stop(name)

    def start_controller(self):
        """Start slurmctld; it goes on with the jobs that it had."""
        self._start("slurmctld", "-D")
        self._until(lambda: self.ask("scontrol", "ping").count(" is UP"), "slurmctld")

    def stop_controller(self):
        """End slurmctld as for an upgrade; jobs that run live on."""
        self._stop("slurmctld")

    def partition(self, state):
        """Let queued jobs start (``UP``) or wait (``DOWN``)."""
        self.ask("scontrol", "update", "PartitionName=main", f"State={state}")

    def queue(self, form="%i"):
        """One line for each job that waits or runs, as ``squeue`` formats it."""
        return self.ask("squeue", "-h", "-o", form).splitlines()

    def gpus(self):
        """What each job that waits or runs asks for beside processors: ``gres:gpu:1``."""
        return self.ask("squeue", "-h", "-O", "tres-per-job:40").split()

    def ask(self, *command):
        """What one of Slurm's commands prints; nothing if it fails."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=60
        )
        return done.stdout if done.returncode == 0 else ""

    def _start(self, name, *arguments):
        program = shutil.which(name, path=_SEARCH)
        with (self.folder / "log" / f"{name}.log").open("ab") as log:
            self._daemons[name] = subprocess.Popen(
                [program, *arguments], env=self.environment, cwd=self.folder,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def _stop(self, name):
        daemon = self._daemons.pop(name, None)
        if daemon is None:
            return
        daemon.terminate()
        try:
            daemon.wait(15)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait(15)

    def _until(self, true, what, seconds=60):
        give_up = time.monotonic() + seconds
        while not true():
            if time.monotonic() > give_up:
                log = self.folder / "log" / f"{what}.log"
                told = log.read_text(errors="replace")[-2000:] if log.exists() else ""
                raise RuntimeError(f"{what}: nothing after {seconds} s\n{told}")
            time.sleep(0.1)


def _free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
