"""Slots of GPUs with devices that are only names, and real processes that hold them."""

import os
import signal
import subprocess
import sys
import tempfile

import pytest

from sparsetune.errors import ConfigError, TrainingError
from sparsetune.stages import devices
from sparsetune.stages.context import Context
from sparsetune.stages.devices import claim_slot, memory_share, take_device, visible_devices

LIMIT_SECONDS = 60
GIB = 2**30
# Claims a slot, tells of it, and holds it until its standard input ends.
HOLDER = """
import os, sys
from sparsetune.stages.devices import claim_slot
names, jobs = sys.argv[1].split(","), int(sys.argv[2])
slot = claim_slot(jobs, devices=names, wait_seconds=float(sys.argv[3]))
print(slot.device, slot.slots, os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def machine(monkeypatch, tmp_path):
    """A machine of our own: torch with CUDA, no device, and a folder for locks."""
    monkeypatch.setattr(devices, "_torch_has_cuda", lambda: True)
    monkeypatch.setattr(devices, "_DRIVER", tmp_path / "driver")
    monkeypatch.setattr(devices, "_NODES", tmp_path / "nodes")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    # Set first, so that what a claim writes is taken back as well.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for name in devices.SCHEDULER_JOBS:
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def holders():
    """Start processes that hold slots; they end with the test."""
    started = []

    def start(names, jobs, wait_seconds=LIMIT_SECONDS):
        command = [sys.executable, "-c", HOLDER, names, str(jobs), str(wait_seconds)]
        started.append(
            subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate(timeout=LIMIT_SECONDS)


def told(process):
    """What a holder printed: device, slots, and what it made visible."""
    device, slots, visible = process.stdout.readline().split()
    assert visible == device
    return device, int(slots)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("0", ["0"]),
        ("2, 0", ["2", "0"]),
        ("GPU-8932f937-d72c,MIG-GPU-8932f937/1/0", ["GPU-8932f937-d72c", "MIG-GPU-8932f937/1/0"]),
        ("", []),
        (" ", []),
        ("-1", []),
        ("1,-1,0", ["1"]),  # CUDA ignores what follows a number that is no device
        ("NoDevFiles", []),  # as SLURM says that a job has none
    ],
)
def test_visible_devices_are_what_the_variable_names(monkeypatch, given, found):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert visible_devices() == found


@pytest.mark.parametrize("given", ["all", "0,", "0,0", "0 1", "gpu0", "GPU-a,GPU-a", "0;1"])
def test_a_variable_that_names_no_devices_is_refused(monkeypatch, given):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    with pytest.raises(ConfigError, match=f"CUDA_VISIBLE_DEVICES: received '{given}'; allowed: "):
        visible_devices()


@pytest.mark.parametrize(
    ("told", "nodes", "found"),
    # The driver tells of all cards of a machine, also where a container was given some.
    [(0, 0, []), (0, 2, ["0", "1"]), (3, 0, ["0", "1", "2"]), (8, 1, ["0"])],
)
def test_without_the_variable_the_devices_of_the_machine_count(
    monkeypatch, machine, told, nodes, found
):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    for number in range(told):
        (machine / "driver" / f"0000:{number:02}:00.0").mkdir(parents=True)
    for name in ("nvidiactl", "nvidia-uvm", *(f"nvidia{number}" for number in range(nodes))):
        (machine / "nodes").mkdir(exist_ok=True)
        (machine / "nodes" / name).touch()
    assert visible_devices() == found


def test_a_torch_without_cuda_sees_no_device(monkeypatch):
    monkeypatch.setattr(devices, "_torch_has_cuda", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert visible_devices() == []


def test_what_the_files_of_torch_tell_is_what_torch_tells(monkeypatch):
    import torch

    monkeypatch.undo()
    assert devices._torch_has_cuda() == (torch.version.cuda is not None)


def test_jobs_take_the_least_loaded_device_and_share_when_all_are_in_use(holders):
    # Five jobs on two devices: three slots each, as five halves are more than two.
    taken = [told(holders("GPU-a,GPU-b", 5)) for _ in range(5)]
    assert taken == [("GPU-a", 3), ("GPU-b", 3), ("GPU-a", 3), ("GPU-b", 3), ("GPU-a", 3)]


def test_up_to_as_many_jobs_as_devices_have_one_each(holders):
    assert [told(holders("0,1,2", 2)) for _ in range(3)] == [("0", 1), ("1", 1), ("2", 1)]


def test_a_killed_holder_frees_its_slot_for_the_job_that_waits(holders):
    first = holders("0,1", 2)
    assert told(first) == ("0", 1)
    assert told(holders("0,1", 2)) == ("1", 1)
    second = holders("0,1", 2)
    first.send_signal(signal.SIGKILL)
    assert first.wait(LIMIT_SECONDS) == -signal.SIGKILL
    assert told(second) == ("0", 1)


def test_a_job_that_ends_frees_its_slot_for_the_job_that_waits(holders):
    first = holders("3", 1)
    assert told(first) == ("3", 1)
    second = holders("3", 1)
    first.communicate(timeout=LIMIT_SECONDS)
    assert told(second) == ("3", 1)


def test_a_job_that_waits_too_long_fails_and_says_so(holders):
    assert told(holders("GPU-a", 1)) == ("GPU-a", 1)
    with pytest.raises(TrainingError, match=r"GPU GPU-a: all 1 slots .* --gpu-jobs \(Snakemake"):
        claim_slot(1, devices=["GPU-a"], wait_seconds=0)


def test_jobs_with_other_counts_see_each_other(holders):
    # Three of four slots are held: too many for one that wants the device for itself.
    for _ in range(3):
        assert told(holders("0", 4)) == ("0", 4)
    with pytest.raises(TrainingError, match="all 1 slots"):
        claim_slot(1, devices=["0"], wait_seconds=0)
    slot = claim_slot(4, devices=["0"], wait_seconds=0)
    assert slot.slots == 4
    slot.release()


def test_a_released_slot_is_free_again():
    for _ in range(3):
        slot = claim_slot(1, devices=["5"], wait_seconds=0)
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "5"
        slot.release()


def test_a_cluster_allotment_has_locks_of_its_own(monkeypatch, holders):
    # Device 0 of one allotment is another card than device 0 of the next.
    assert told(holders("0", 1)) == ("0", 1)
    monkeypatch.setenv("SLURM_JOB_ID", "12/../345")
    slot = claim_slot(1, devices=["0"], wait_seconds=0)
    assert slot.device == "0"
    slot.release()


def test_a_folder_of_locks_that_another_user_made_is_refused(monkeypatch, machine):
    other = os.getuid() + 1
    (machine / f"sparsetune-gpus-{other}").mkdir()
    monkeypatch.setattr(os, "getuid", lambda: other)
    with pytest.raises(ConfigError, match="belongs to another user; set TMPDIR"):
        claim_slot(1, devices=["0"], wait_seconds=0)


def test_no_device_is_no_slot():
    assert claim_slot(4) is None


@pytest.mark.parametrize(
    ("slots", "gib", "share"),
    # By hand: CUDA's 0.625 GiB for each process is 0.625 / 80 = 0.0078125 of 80 GiB.
    [(1, 80, 1.0), (2, 80, 0.4921875), (4, 80, 0.2421875), (4, 16, 0.2109375)],
)
def test_memory_is_shared_equally_without_what_cuda_takes(slots, gib, share):
    assert memory_share(slots, gib * GIB) == share


def test_more_jobs_than_fit_beside_each_other_are_refused():
    told = r"--gpu-jobs: received 32 jobs on one GPU of 16 GiB; allowed: fewer than 25,"
    with pytest.raises(ConfigError, match=told):
        memory_share(32, 16 * GIB)


class FakeCuda:
    """What is asked of ``torch.cuda``, on a device of 80 GiB."""

    def __init__(self, monkeypatch, *, there):
        import torch

        self.share = None
        monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
        monkeypatch.setattr(
            torch.cuda, "get_device_properties",
            lambda _: type("Properties", (), {"total_memory": 80 * GIB}),
        )  # fmt: skip
        monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", self.bound)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Some GPU")

    def bound(self, share):
        self.share = share


def test_a_job_that_shares_is_bound_to_its_share_and_the_device_tells_of_both(monkeypatch):
    cuda = FakeCuda(monkeypatch, there=True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b")
    device, slot = take_device("auto", 8)
    assert (device, slot.device, cuda.share) == ("cuda", "GPU-a", 0.2421875)
    described = devices.describe_device(device, slot).model_dump()
    assert (described["id"], described["slots"]) == ("GPU-a", 4)
    slot.release()


def test_a_job_that_is_alone_is_not_bound(monkeypatch):
    cuda = FakeCuda(monkeypatch, there=True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    device, slot = take_device("cuda")
    assert (device, slot.device, slot.slots, cuda.share) == ("cuda", "1", 1, None)
    slot.release()


def test_a_job_on_the_cpu_takes_no_slot(monkeypatch, machine):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert take_device("cpu", 4) == ("cpu", None)
    assert not list(machine.glob("sparsetune-gpus-*"))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"


def test_a_device_that_torch_cannot_use_is_given_back(monkeypatch, caplog):
    FakeCuda(monkeypatch, there=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    with pytest.raises(TrainingError, match="cuda was asked for"):
        take_device("cuda")
    assert take_device("auto") == ("cpu", None)
    assert "GPU 7 is there, but torch cannot use it" in caplog.text
    claim_slot(1, devices=["7"], wait_seconds=0).release()


def test_a_job_without_a_device_fails_if_it_asked_for_one(monkeypatch):
    FakeCuda(monkeypatch, there=False)
    with pytest.raises(TrainingError, match="device: cuda was asked for"):
        take_device("cuda")
    assert take_device("auto") == ("cpu", None)


def test_a_context_takes_one_slot_and_keeps_it(monkeypatch, machine):
    FakeCuda(monkeypatch, there=True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    context = Context("cuda", gpu_jobs=2)
    assert not list(machine.glob("sparsetune-gpus-*/*.lock"))
    assert (context.device, context.device) == ("cuda", "cuda")
    assert [path.name for path in machine.glob("sparsetune-gpus-*/0.*")] == ["0.0.lock"]
    with pytest.raises(TrainingError, match="all 1 slots"):
        claim_slot(1, devices=["0"], wait_seconds=0)
