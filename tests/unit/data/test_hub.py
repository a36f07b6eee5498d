import errno
import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from huggingface_hub import constants
from unit.data.hub_server import COMMIT
from unit.data.tasks import files_below

from sparsetune.data.hub import HubFiles, NothingArrivesError
from sparsetune.errors import DataError

NAME = "owner/set"
BODY = b"some rows\n" * 200
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def snapshot(hub, tmp_path):
    hub.repositories["dataset", NAME] = {"a/x.tsv": BODY, "a/y.parquet": BODY[:90], "b/x.tsv": b"z"}

    def run(revision="main", patterns=("a/*",), name=NAME):
        files = HubFiles("datasets/set", "dataset", name, revision, patterns)
        folder, _, commit = files.bring(tmp_path / "config" / "lock.yaml")
        return commit, folder

    run.hub = hub
    return run


def test_wanted_files_come_once_and_then_without_network(snapshot, monkeypatch, tmp_path):
    commit, folder = snapshot()
    assert (commit, files_below(folder)) == (COMMIT, {"a/x.tsv": BODY, "a/y.parquet": BODY[:90]})
    asked = list(snapshot.hub.asked)
    assert len(asked) == 4  # the branch, the listing, two files
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert snapshot() == snapshot(revision=COMMIT) == (commit, folder)
    assert snapshot.hub.asked == asked
    lock = yaml.safe_load((tmp_path / "config" / "lock.yaml").read_text())
    assert lock == {"datasets": {f"{NAME}@main": COMMIT}}


@pytest.mark.parametrize(("patterns", "revision"), [(("b/*",), COMMIT), (("a/*",), "f" * 40)])
def test_what_is_not_all_in_the_cache_is_missing_without_network(
    snapshot, monkeypatch, patterns, revision
):
    snapshot()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        NothingArrivesError, match=r"^no network for hub source owner/set: .*mirror"
    ):
        snapshot(patterns=patterns, revision=revision)


def test_a_branch_stands_for_the_commit_that_it_first_stood_for(snapshot):
    snapshot()
    snapshot.hub.commit = "ab" * 20
    assert snapshot()[0] == COMMIT


def test_a_download_that_was_cut_goes_on_and_one_refused_is_left_to_the_next_call(snapshot):
    snapshot.hub.faults["a/x.tsv"] = [("cut", 700), ("cut", 10), 503]
    with pytest.raises(DataError, match=r"the hub refused: .*503"):
        snapshot()
    assert files_below(snapshot()[1])["a/x.tsv"] == BODY


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("GatedRepo", "its owner asks for terms to be accepted on the hub first"),
        ("RepoNotFound", "no such repository on the hub, or it is private"),
        ("RevisionNotFound", "the hub has no such revision"),
        (None, "no such repository on the hub, or it is private"),  # 401 without a reason
    ],
)
@pytest.mark.parametrize("revision", ["main", COMMIT])
def test_a_repository_that_is_not_given_out_is_told_in_one_line(snapshot, code, message, revision):
    snapshot.hub.codes[NAME] = code
    with pytest.raises(DataError) as caught:
        snapshot(revision=revision)
    assert str(caught.value).startswith(f"hub source {NAME}: {message}")
    assert "\n" not in str(caught.value)
    assert not isinstance(caught.value, NothingArrivesError)


@pytest.mark.parametrize("revision", ["main", COMMIT])
@pytest.mark.parametrize("name", ["owner/a--b", "owner/-a", "owner/a.git"])
def test_a_name_that_the_hub_cannot_have_is_told_in_one_line(snapshot, name, revision):
    with pytest.raises(DataError, match=rf"^hub source {name}: no name of a repository: "):
        snapshot(name=name, revision=revision)


@pytest.mark.parametrize("status", [403, 404, 500])
def test_a_refused_file_is_told(snapshot, status):
    snapshot.hub.faults["a/y.parquet"] = [status] * 9
    with pytest.raises(DataError, match=rf"^hub source owner/set: the hub refused: .*{status}"):
        snapshot()


def test_a_commit_without_such_files_is_told(snapshot):
    with pytest.raises(DataError, match=r"owner/set@012345678901: has no file c/\* or d\.tsv$"):
        snapshot(patterns=("c/*", "d.tsv"))


def test_a_hub_that_is_not_there_ends_with_the_advice(snapshot):
    snapshot.hub.close()
    for revision in ("main", COMMIT):
        with pytest.raises(
            NothingArrivesError, match=r"no network for hub source owner/set: .*mir"
        ):
            snapshot(revision=revision)


def test_a_full_disk_is_told_as_such(snapshot, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("huggingface_hub.file_download.http_get", full)
    with pytest.raises(NothingArrivesError, match=r"owner/set: cannot be stored: .*No space left"):
        snapshot()


@pytest.mark.parametrize("path", ["a/../../x", "/a/x"])
def test_a_path_that_leads_out_of_the_folder_is_refused(snapshot, path, tmp_path):
    snapshot.hub.repositories["dataset", NAME][path] = b"evil"
    with pytest.raises(DataError):
        snapshot(patterns=("*",))
    assert not list(Path(tmp_path).rglob("x"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            f"datasets: {{{NAME}@main: newest}}",
            rf"datasets\.{NAME}@main: received 'newest'; allowed: 40",
        ),
        ("- a list", "need sections datasets and models"),
        ("a: [", "not YAML"),
    ],
)
def test_a_damaged_lock_file_is_named(snapshot, tmp_path, text, told):
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "lock.yaml").write_text(text)
    with pytest.raises(DataError, match=rf"lock\.yaml: {told}"):
        snapshot()


def test_parallel_jobs_resolve_each_branch_once(tmp_path, monkeypatch):
    asked = []

    class Api:
        def repo_info(self, repository, **_):
            asked.append(repository)
            return SimpleNamespace(sha=hashlib.sha1(repository.encode()).hexdigest())

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    lock_file = tmp_path / "config" / "lock.yaml"

    def resolve(name):
        return HubFiles("", "dataset", name, "main", ()).commit(lock_file)

    names = ["a/one", "a/two", "a/three"] * 4
    with ThreadPoolExecutor(8) as pool:
        commits = dict(zip(names, pool.map(resolve, names), strict=True))
    assert sorted(asked) == ["a/one", "a/three", "a/two"]
    lock = yaml.safe_load(lock_file.read_text())
    assert lock == {"datasets": {f"{name}@main": commit for name, commit in commits.items()}}


@pytest.mark.parametrize("revision", ["main", COMMIT])
def test_offline_mode_of_the_library_names_the_mirror_option(tmp_path, revision):
    script = (
        "from pathlib import Path; from unit.data.tasks import task_of\n"
        "from sparsetune.data.sources import published_files\n"
        f"source = dict(kind='hub', repository='nyu-mll/glue', revision={revision!r})\n"
        "task = task_of('sst2', source=source)\n"
        "published_files(task, task.source, lock_file=Path('lock.yaml'))\n"
    )
    environment = {
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "hub"),
        "PYTHONPATH": f"{ROOT}:{ROOT}/tests",
    }
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env={**os.environ, **environment},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    message = done.stderr.strip().splitlines()[-1]
    assert "no network for hub source nyu-mll/glue" in message
    assert "use the mirror: --config mirror=PATH with the files in" in message
    assert "PATH/datasets/sst2/" in message
