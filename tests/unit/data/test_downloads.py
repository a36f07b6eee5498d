import hashlib
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from huggingface_hub.errors import HfHubHTTPError
from unit.data.hub_server import COMMIT, environment, git_sha1, hub  # noqa: F401

from sparsetune.data.downloads import HubFile, download, is_whole
from sparsetune.errors import DataError

ROOT = Path(__file__).resolve().parents[3]
BODY = bytes(range(256)) * 40
FILE = HubFile("a/model.safetensors", len(BODY), hashlib.sha256(BODY).hexdigest(), "0" * 40)
PARTIAL = f".model.safetensors.{FILE.sha256[:12]}.partial"


@pytest.fixture
def fetch(hub, tmp_path):  # noqa: F811
    hub.repositories["model", "o/n"] = {FILE.path: BODY}
    url = f"{hub.url}/o/n/resolve/{COMMIT}/{FILE.path}"

    def run():
        download(FILE, tmp_path / "out" / "model.safetensors", url=url, headers={})
        return (tmp_path / "out" / "model.safetensors").read_bytes()

    (tmp_path / "out").mkdir()
    run.hub, run.out, run.partial = hub, tmp_path / "out", tmp_path / "out" / PARTIAL
    return run


def left(fetch):
    return sorted(path.name for path in fetch.out.iterdir())


def ranges(fetch):
    return [part for _, part in fetch.hub.downloads()]


def test_a_file_is_whole_if_its_length_and_checksum_are_the_listed_ones(tmp_path):
    # `printf 'hello\n' | git hash-object --stdin`, and the object every empty file is.
    hello = HubFile("x", 6, None, "ce013625030ba8dba906f756967f9e9ca394464a")
    empty = HubFile("x", 0, None, "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391")
    path = tmp_path / "x"
    assert not is_whole(path, empty)
    for content, whole in ((b"", empty), (b"hello\n", hello)):
        path.write_bytes(content)
        assert [is_whole(path, file) for file in (empty, hello)] == [whole is empty, whole is hello]
    path.write_bytes(b"hellO\n")
    assert not is_whole(path, hello)
    path.write_bytes(BODY)
    assert is_whole(path, FILE)
    assert is_whole(path, HubFile("x", len(BODY), None, git_sha1(BODY)))
    path.write_bytes(BODY[:-1] + b"x")
    assert not is_whole(path, FILE)


def test_a_cut_connection_is_taken_up_where_it_broke(fetch):
    fetch.hub.faults[FILE.path] = [("cut", 1000), ("cut", 500)]
    assert fetch() == BODY
    assert ranges(fetch) == [None, "bytes=1000-", "bytes=1500-"]
    assert left(fetch) == ["model.safetensors"]


def test_what_an_earlier_call_left_is_not_fetched_again(fetch):
    fetch.partial.write_bytes(BODY[:7000])
    assert fetch() == BODY
    assert ranges(fetch) == ["bytes=7000-"]
    assert left(fetch) == ["model.safetensors"]


def test_a_partial_file_with_everything_in_it_needs_no_request(fetch):
    fetch.partial.write_bytes(BODY)
    assert fetch() == BODY
    assert ranges(fetch) == []


@pytest.mark.parametrize("found", [b"x" * 7000, BODY + b"more", b"x" * len(BODY)])
def test_a_partial_file_of_other_bytes_is_thrown_away(fetch, found):
    fetch.partial.write_bytes(found)
    assert fetch() == BODY
    assert ranges(fetch)[-1] is None
    assert left(fetch) == ["model.safetensors"]


def test_a_server_that_ignores_the_range_is_understood(fetch):
    fetch.partial.write_bytes(BODY[:7000])
    fetch.hub.faults[FILE.path] = ["whole"]
    assert fetch() == BODY
    assert ranges(fetch) == ["bytes=7000-"]


def test_wrong_bytes_are_fetched_anew_once_and_never_kept(fetch):
    fetch.hub.faults[FILE.path] = ["wrong"]
    assert fetch() == BODY
    (fetch.out / "model.safetensors").write_bytes(b"older")
    fetch.hub.faults[FILE.path] = ["wrong", "wrong"]
    with pytest.raises(
        DataError, match=r"^a/model\.safetensors: what arrives is not.*\(10240 bytes, sha256 "
    ):
        fetch()
    assert (fetch.out / "model.safetensors").read_bytes() == b"older"
    assert left(fetch) == ["model.safetensors"]


def test_a_hub_that_is_busy_is_asked_again(fetch):
    fetch.hub.faults[FILE.path] = [503, ("cut", 4000), 500]
    assert fetch() == BODY
    assert ranges(fetch) == [None, None, "bytes=4000-", "bytes=4000-"]


@pytest.mark.parametrize(("status", "tries"), [(503, 4), (404, 1), (401, 1), (403, 1)])
def test_a_hub_that_refuses_leaves_what_has_arrived(fetch, status, tries):
    fetch.partial.write_bytes(BODY[:7000])
    fetch.hub.faults[FILE.path] = [status] * 9
    with pytest.raises(HfHubHTTPError):
        fetch()
    assert ranges(fetch) == ["bytes=7000-"] * tries
    assert left(fetch) == [PARTIAL]
    fetch.hub.faults.clear()
    assert fetch() == BODY


def test_of_two_calls_at_once_one_downloads(fetch):
    with ThreadPoolExecutor(4) as pool:
        done = [pool.submit(fetch) for _ in range(4)]
        assert all(one.result() == BODY for one in done)
    assert ranges(fetch) == [None]
    assert left(fetch) == ["model.safetensors"]


KILLED = """
import sys; sys.path.insert(0, sys.argv[1])
from pathlib import Path
from sparsetune.data.hub import hub_snapshot
source = {"repository": "o/n", "revision": "main"}
lock = Path("lock.yaml")
commit, folder = hub_snapshot(source, kind="model", patterns=["*"], lock_file=lock, advice="")
print(folder)
"""


def start(fetch, folder):
    return subprocess.Popen(
        [sys.executable, "-c", KILLED, str(ROOT)], cwd=folder, text=True,
        env=environment(fetch.hub, folder), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def arrived(folder):
    return sum(path.stat().st_size for path in folder.rglob("*.partial"))


def test_a_download_that_was_killed_goes_on_and_half_of_it_is_never_used(fetch, tmp_path):
    body = os.urandom(1 << 20) * 12  # the library writes pieces of 10 MB
    sha256 = hashlib.sha256(body).hexdigest()
    fetch.hub.repositories["model", "o/n"] = {FILE.path: body}
    fetch.hub.faults[FILE.path] = [("hold", 11 << 20)]
    process, limit = start(fetch, tmp_path), time.monotonic() + 30
    while not arrived(tmp_path) and time.monotonic() < limit:
        fetch.hub.over.wait(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    half = arrived(tmp_path)
    assert 0 < half < len(body)
    assert list(tmp_path.rglob("model.safetensors")) == []
    told, problem = start(fetch, tmp_path).communicate(timeout=60)
    assert problem == ""
    fetched = Path(told.strip()) / FILE.path
    assert hashlib.sha256(fetched.read_bytes()).hexdigest() == sha256
    assert ranges(fetch) == [None, f"bytes={half}-"]
    assert list(tmp_path.rglob("*.partial")) == []
