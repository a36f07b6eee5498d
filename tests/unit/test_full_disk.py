import errno
from pathlib import Path

import pytest
import torch

from sparsetune import cli
from sparsetune.errors import DataError, DiskError, is_full_disk, is_full_memory
from sparsetune.records import replacing, write_json

NO_ROOM = OSError(errno.ENOSPC, "No space left on device")
# safetensors has no number, only the system's words.
IN_WORDS = RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
QUOTA = OSError(errno.EDQUOT, "Disk quota exceeded")


def write_half(path, error):
    with replacing(path) as partial:
        partial.write_text("half")
        raise error


@pytest.mark.parametrize("error", [NO_ROOM, IN_WORDS, QUOTA])
def test_full_disk_names_the_file_keeps_the_old_one_and_leaves_no_part(tmp_path, error):
    path = tmp_path / "record.json"
    write_json(path, {"a": 1})
    with pytest.raises(DiskError, match=r"record\.json: no room to write it"):
        write_half(path, error)
    assert [file.name for file in tmp_path.iterdir()] == ["record.json"]
    assert path.read_text() == '{\n "a": 1\n}\n'


def test_other_trouble_is_not_taken_for_a_full_disk(tmp_path):
    assert not is_full_disk(DataError("a.json: no such record"))
    assert not is_full_disk(PermissionError(errno.EACCES, "Permission denied"))
    with pytest.raises(PermissionError):
        write_half(tmp_path / "x", PermissionError(errno.EACCES, "Permission denied"))


@pytest.mark.parametrize("error", [NO_ROOM, IN_WORDS, DiskError("a/b: no room to write it")])
def test_command_line_tells_a_full_disk_in_one_line(monkeypatch, capsys, error):
    def fail(_):
        raise error

    call = cli.Command(fail, *cli.COMMANDS["show"][1:])
    monkeypatch.setitem(cli.COMMANDS, "show", call)
    assert cli.main(["show", "--results", str(Path())]) == 3
    assert capsys.readouterr().err == f"sparsetune show: {error}\n"


def test_command_line_tells_a_full_gpu_in_one_line_with_what_helps(monkeypatch, capsys):
    def fail(_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\n More.")

    monkeypatch.setitem(cli.COMMANDS, "show", cli.Command(fail, *cli.COMMANDS["show"][1:]))
    assert cli.main(["show", "--results", str(Path())]) == 3
    told = capsys.readouterr().err
    assert told.startswith(
        "sparsetune show: CUDA out of memory. Tried to allocate 2.00 GiB. More.; "
    )
    assert "--resources gpu=N" in told
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"
        ),
        OSError(12, "Cannot allocate memory"),
        SystemError("import"),
    ],
)
def test_command_line_tells_that_no_memory_is_left_in_one_line(monkeypatch, capsys, error):
    def fail(_):
        if isinstance(error, SystemError):  # a library's own, told on the way up
            raise error from MemoryError()
        raise error

    monkeypatch.setitem(cli.COMMANDS, "show", cli.Command(fail, *cli.COMMANDS["show"][1:]))
    assert cli.main(["show", "--results", str(Path())]) == 3
    told = capsys.readouterr().err
    assert told.startswith("sparsetune show: no memory is left; run fewer jobs at once")
    assert told.count("\n") == 1


def test_an_error_raised_from_itself_is_looked_at_once():
    error = ValueError("round and round")
    error.__cause__ = error
    assert not is_full_memory(error)
