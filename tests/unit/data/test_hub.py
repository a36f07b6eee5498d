import errno
import hashlib
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from unit.data.hub_server import COMMIT, hub  # noqa: F401

from sparsetune.data.hub import NothingArrivesError, hub_snapshot
from sparsetune.data.sources import fetch_dataset
from sparsetune.errors import DataError
from sparsetune.records import sha256_of

NAME = "owner/set"
BODY = b"some rows\n" * 200


@pytest.fixture
def snapshot(hub, tmp_path):  # noqa: F811
    hub.repositories["dataset", NAME] = {"a/x.tsv": BODY, "a/y.parquet": BODY[:90], "b/x.tsv": b"z"}

    def run(revision="main", patterns=("a/*",), name=NAME):
        source = {"repository": name, "revision": revision}
        lock = tmp_path / "config" / "lock.yaml"
        return hub_snapshot(
            source, kind="dataset", patterns=patterns, lock_file=lock, advice="use a mirror"
        )

    run.hub = hub
    return run


def files(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if
            p.is_file()}  # fmt: skip


def test_wanted_files_come_once_and_then_without_network(snapshot, monkeypatch):
    commit, folder = snapshot()
    assert (commit, files(folder)) == (COMMIT, {"a/x.tsv": BODY, "a/y.parquet": BODY[:90]})
    asked = [path for path, _ in snapshot.hub.asked if NAME in path]
    assert len(asked) == 4  # the branch, the listing, two files
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert snapshot() == (commit, folder)
    assert [path for path, _ in snapshot.hub.asked if NAME in path] == asked


def test_a_hub_that_is_busy_is_asked_again(snapshot):
    for path in (f"datasets/{NAME}/revision/main", f"datasets/{NAME}/tree/{COMMIT}", "a/x.tsv"):
        snapshot.hub.faults[path] = [503, 502]
    assert files(snapshot()[1])["a/x.tsv"] == BODY
    snapshot.hub.faults[f"datasets/{NAME}/revision/dev"] = [503] * 9
    with pytest.raises(DataError, match=r"^hub source owner/set: the hub refused: .*503"):
        snapshot(revision="dev")


def test_a_stored_file_that_was_damaged_is_fetched_again(snapshot):
    _, folder = snapshot()
    for damage in (BODY[:-1], BODY[:-1] + b"!", b""):
        (folder / "a" / "x.tsv").write_bytes(damage)
        before = len(snapshot.hub.asked)
        snapshot()
        assert files(folder)["a/x.tsv"] == BODY
        assert len(snapshot.hub.asked) == before + 1


def test_a_damaged_listing_is_asked_for_again(snapshot):
    _, folder = snapshot()
    for content in ("{", "[1]", "[{}]", "3"):
        (folder.parent / "listing.json").write_text(content)
        assert files(snapshot()[1])["a/x.tsv"] == BODY


def test_whole_files_of_the_libraries_own_cache_are_used_and_others_are_not(snapshot, tmp_path):
    cache = tmp_path / "cache" / "datasets--owner--set" / "snapshots" / COMMIT / "a"
    cache.mkdir(parents=True)
    (cache / "x.tsv").write_bytes(BODY)
    (cache / "y.parquet").write_bytes(b"half")
    _, folder = snapshot()
    assert files(folder) == {"a/x.tsv": BODY, "a/y.parquet": BODY[:90]}
    assert [path for path, _ in snapshot.hub.downloads()] == ["a/y.parquet"]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("GatedRepo", "its owner asks for terms to be accepted on the hub first"),
        ("RepoNotFound", "no such repository on the hub, or it is private"),
        ("RevisionNotFound", "the hub has no such revision"),
        (None, "no such repository on the hub, or it is private"),  # 401 without a reason
    ],
)
def test_a_repository_that_is_not_given_out_is_told_in_one_line(snapshot, code, message):
    snapshot.hub.codes[NAME] = code
    with pytest.raises(DataError) as caught:
        snapshot()
    assert str(caught.value).startswith(f"hub source {NAME}: {message}")
    assert "\n" not in str(caught.value)
    assert not isinstance(caught.value, NothingArrivesError)


@pytest.mark.parametrize("name", ["owner/a--b", "owner/-a", "owner/a.git"])
def test_a_name_that_the_hub_cannot_have_is_told_in_one_line(snapshot, name):
    for revision in ("main", COMMIT):
        with pytest.raises(DataError, match=rf"^hub source {name}: no name of a repository: "):
            snapshot(name=name, revision=revision)


@pytest.mark.parametrize("status", [403, 404, 410, 500, 503])
def test_a_refused_file_is_named(snapshot, status):
    snapshot.hub.faults["a/y.parquet"] = [status] * 9
    with pytest.raises(DataError, match=rf"owner/set: the hub refused: a/y\.parquet: .*{status}"):
        snapshot()


def test_wrong_bytes_name_source_and_file(snapshot):
    snapshot.hub.faults["a/y.parquet"] = ["wrong"] * 9
    with pytest.raises(DataError, match=r"^hub source owner/set: a/y\.parquet: what arrives is"):
        snapshot()


def test_a_hub_that_is_not_there_ends_with_the_advice(snapshot):
    snapshot.hub.close()
    with pytest.raises(NothingArrivesError, match=r"no network for hub source owner/set: .*mirror"):
        snapshot()


def test_a_full_disk_is_told_as_such(snapshot, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("huggingface_hub.file_download.http_get", full)
    with pytest.raises(NothingArrivesError, match=r"owner/set: cannot be stored: .*No space left"):
        snapshot()


@pytest.mark.parametrize("path", ["a/../../x", "/a/x"])
def test_a_path_that_leads_out_of_the_folder_is_refused(snapshot, path, tmp_path):
    snapshot.hub.repositories["dataset", NAME][path] = b"evil"
    with pytest.raises(DataError, match=f"unsafe path '{path}'"):
        snapshot()
    assert not list(Path(tmp_path).rglob("x"))


def test_a_hub_that_fails_in_every_way_still_gives_the_right_files(hub, tmp_path):  # noqa: F811
    splits = {
        f"sst2/{split}.tsv": b"sentence\tlabel\n" + b"fine\t1\n" * 200 for split in ("train", "dev")
    }
    hub.repositories["dataset", "nyu-mll/glue"] = splits
    hub.faults["sst2/train.tsv"] = [503, ("cut", 700), ("cut", 10), "wrong", ("cut", 900)]
    hub.faults["sst2/dev.tsv"] = [404]
    source = {"kind": "hub", "repository": "nyu-mll/glue", "revision": "main"}
    task = SimpleNamespace(
        id="sst2", layout="sst2", kind="classification", labels=("0", "1"),
        evaluation_split="dev", source=source,
    )  # fmt: skip
    lock, out = tmp_path / "config" / "lock.yaml", tmp_path / "out" / "sst2"
    with pytest.raises(DataError, match=r"the hub refused: sst2/dev\.tsv: .*404"):
        fetch_dataset(task, out, lock_file=lock)
    assert list((tmp_path / "out").iterdir()) == []
    measured = fetch_dataset(task, out, lock_file=lock)
    expected = {Path(name).name: hashlib.sha256(body).hexdigest() for name, body in splits.items()}
    assert measured["files"] == expected
    assert {path.name: sha256_of(path) for path in out.iterdir()} == expected
    assert measured["train_examples"] == 200
