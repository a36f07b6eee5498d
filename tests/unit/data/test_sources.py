import gzip
import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pyarrow
import pyarrow.parquet
import pytest
import yaml

from sparsetune.data.hub import hub_snapshot, locked_commit
from sparsetune.data.sources import fetch_dataset, replaced_directory
from sparsetune.errors import DataError
from sparsetune.records import sha256_of

ROOT = Path(__file__).resolve().parents[3]
COMMIT = "0123456789" * 4
GOOD = b"sentence\tlabel\ngood\t1\nbad\t0\n"


def task_of(**source):
    return SimpleNamespace(
        id="sst2",
        layout="sst2",
        kind="classification",
        labels=("0", "1"),
        evaluation_split="dev",
        source=source,
    )


def hub_task(revision="main"):
    return task_of(kind="hub", repository="nyu-mll/glue", revision=revision)


@pytest.fixture
def mirror(tmp_path):
    folder = tmp_path / "mirror" / "datasets" / "sst2"
    folder.mkdir(parents=True)
    (folder / "train.tsv.gz").write_bytes(gzip.compress(GOOD, mtime=0))
    (folder / "dev.tsv").write_bytes(GOOD)
    (folder / "notes.txt").write_text("not part of the task")
    return folder


def test_mirror_files_are_copied_verbatim_and_counted(tmp_path, mirror):
    task = task_of(kind="mirror", path=str(mirror))
    measured = fetch_dataset(task, tmp_path / "out" / "sst2", lock_file=tmp_path / "lock.yaml")
    copied = {path.name: sha256_of(path) for path in (tmp_path / "out" / "sst2").iterdir()}
    expected = {name: sha256_of(mirror / name) for name in ("train.tsv.gz", "dev.tsv")}
    assert copied == measured["files"] == expected
    assert (measured["train_examples"], measured["evaluation_examples"]) == (2, 2)
    assert measured["train_label_counts"] == {"0": 1, "1": 1}
    assert measured["stored_bytes"] == sum((mirror / name).stat().st_size for name in expected)
    assert measured["revision"] is None
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["sst2"]
    assert not (tmp_path / "lock.yaml").exists()


def test_unlabelled_test_file_comes_along_and_is_not_checked_as_a_split(tmp_path, mirror):
    (mirror / "test.tsv").write_text("index\tsentence\n0\tfine\n", encoding="utf-8")
    out = tmp_path / "sst2"
    measured = fetch_dataset(
        task_of(kind="mirror", path=str(mirror)), out, lock_file=tmp_path / "lock.yaml"
    )
    assert set(measured["files"]) == {"train.tsv.gz", "dev.tsv", "test.tsv"}
    assert (out / "test.tsv").read_bytes() == (mirror / "test.tsv").read_bytes()


def test_a_failed_fetch_keeps_the_older_copy_and_names_the_source(tmp_path, mirror):
    task, out = task_of(kind="mirror", path=str(mirror)), tmp_path / "out" / "sst2"
    fetch_dataset(task, out, lock_file=tmp_path / "lock.yaml")
    (mirror / "dev.tsv").write_bytes(GOOD + b"fine\t7\n")
    with pytest.raises(DataError) as caught:
        fetch_dataset(task, out, lock_file=tmp_path / "lock.yaml")
    assert str(caught.value) == f"{mirror}/dev.tsv: row 4: label: got '7'; allowed: 0, 1"
    assert (out / "dev.tsv").read_bytes() == GOOD
    assert [path.name for path in out.parent.iterdir()] == ["sst2"]


def test_a_second_fetch_replaces_the_copy_as_a_whole(tmp_path, mirror):
    task, out = task_of(kind="mirror", path=str(mirror)), tmp_path / "sst2"
    fetch_dataset(task, out, lock_file=tmp_path / "lock.yaml")
    (mirror / "train.tsv.gz").unlink()
    (mirror / "train.tsv").write_bytes(GOOD + b"more\t1\n")
    measured = fetch_dataset(task, out, lock_file=tmp_path / "lock.yaml")
    assert sorted(path.name for path in out.iterdir()) == ["dev.tsv", "train.tsv"]
    assert measured["train_examples"] == 3


def test_missing_mirror_parts_are_named(tmp_path, mirror):
    lock, out = tmp_path / "lock.yaml", tmp_path / "out"
    (mirror / "dev.tsv").unlink()
    with pytest.raises(DataError, match=r"datasets/sst2/dev\.tsv: no such file .*notes\.txt"):
        fetch_dataset(task_of(kind="mirror", path=str(mirror)), out, lock_file=lock)
    with pytest.raises(DataError, match=r"nowhere: no such folder; it must hold train\.tsv"):
        fetch_dataset(task_of(kind="mirror", path=str(tmp_path / "nowhere")), out, lock_file=lock)
    assert not out.exists()


@pytest.mark.parametrize("layout", ["sst2", "cola", "rte", "stsb", "squad", "e2e"])
def test_a_generated_task_is_fetched_like_a_published_one(tmp_path, layout):
    kinds = {"stsb": "regression", "squad": "span", "e2e": "generation"}
    kind = kinds.get(layout, "classification")
    labels = ("entailment", "not_entailment") if layout == "rte" else ("0", "1")
    task = task_of(kind="world", seed=3, sizes={"train": 12, "evaluation": 5, "test": 4})
    task.layout, task.kind, task.labels = layout, kind, labels
    one = fetch_dataset(task, tmp_path / "one", lock_file=tmp_path / "lock.yaml")
    two = fetch_dataset(task, tmp_path / "two", lock_file=tmp_path / "lock.yaml")
    assert (one["train_examples"], one["evaluation_examples"]) == (12, 5)
    assert one == two


def test_replaced_directory_leaves_nothing_after_an_error(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()

    def fail():
        with replaced_directory(tmp_path / "kept") as partial:
            (partial / "half").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert [str(p.relative_to(tmp_path)) for p in sorted(tmp_path.rglob("*"))] == [
        "kept",
        "kept/file",
    ]


def test_a_damaged_lock_file_is_named(tmp_path):
    lock = tmp_path / "lock.yaml"
    lock.write_text("datasets: {nyu-mll/glue@main: newest}\n")
    with pytest.raises(DataError, match=r"datasets\.nyu-mll/glue@main: got 'newest', need 40"):
        locked_commit(lock, "datasets", "nyu-mll/glue@main")
    lock.write_text("- a list\n")
    with pytest.raises(DataError, match="need sections datasets and models"):
        locked_commit(lock, "datasets", "nyu-mll/glue@main")


def test_parallel_fetches_resolve_each_branch_once(tmp_path, monkeypatch):
    asked = []

    class Api:
        def dataset_info(self, repository, *, revision):
            asked.append(repository)
            return SimpleNamespace(sha=hashlib.sha1(repository.encode()).hexdigest())

        def list_repo_tree(self, repository, **_):
            return []

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    monkeypatch.setattr("huggingface_hub.utils._cache_assets.HF_ASSETS_CACHE", str(tmp_path))

    def fetch(repository):
        source = {"repository": repository, "revision": "main"}
        lock = tmp_path / "config" / "lock.yaml"
        options = {"kind": "dataset", "patterns": ["*"], "lock_file": lock, "advice": ""}
        return hub_snapshot(source, **options)[0]

    names = ["a/one", "a/two", "a/three"] * 4
    with ThreadPoolExecutor(8) as pool:
        commits = dict(zip(names, pool.map(fetch, names), strict=True))
    assert sorted(asked) == ["a/one", "a/three", "a/two"]
    lock = yaml.safe_load((tmp_path / "config" / "lock.yaml").read_text())
    assert lock == {"datasets": {f"{name}@main": commit for name, commit in commits.items()}}


@pytest.mark.parametrize(("subset", "folder"), [(None, "plain_text"), ("other", "other")])
def test_hub_squad_is_read_from_its_folder(tmp_path, monkeypatch, subset, folder):
    table = pyarrow.table(
        {
            "id": ["q"],
            "question": ["Where?"],
            "context": ["In Oslo."],
            "answers": [{"text": ["Oslo"], "answer_start": [3]}],
        }
    )
    (tmp_path / "cache" / folder).mkdir(parents=True)
    for split in ("train", "validation"):
        name = f"{split}-00000-of-00001.parquet"
        pyarrow.parquet.write_table(table, tmp_path / "cache" / folder / name)
    found = COMMIT, tmp_path / "cache"
    monkeypatch.setattr("sparsetune.data.sources.hub_snapshot", lambda *_, **__: found)
    source = {"kind": "hub", "repository": "rajpurkar/squad", "revision": COMMIT}
    task = task_of(**source, **({"subset": subset} if subset else {}))
    task.layout, task.kind = "squad", "span"
    measured = fetch_dataset(task, tmp_path / "out", lock_file=tmp_path / "lock.yaml")
    assert (measured["train_examples"], measured["revision"]) == (1, COMMIT)


@pytest.mark.parametrize("revision", ["main", COMMIT])
def test_offline_hub_source_names_the_mirror_option(tmp_path, revision):
    script = (
        "import sys; sys.path[:0] = sys.argv[1:3]\n"
        "from test_sources import *\n"
        f"fetch_dataset(hub_task({revision!r}), Path('out'), lock_file=Path('lock.yaml'))\n"
    )
    done = run_apart(tmp_path, script, HF_HUB_OFFLINE="1")
    message = done.stderr.strip().splitlines()[-1]
    assert "no network for hub source nyu-mll/glue" in message
    assert "use a mirror: --config mirror=PATH" in message
    assert "PATH/datasets/sst2/" in message
    assert list(tmp_path.iterdir()) == [tmp_path / "hub"]


def run_apart(folder, script, **environment):
    """Run a script in its own process: the hub library reads its settings when imported."""
    paths = [str(ROOT), str(Path(__file__).parent)]
    (folder / "hub").mkdir(exist_ok=True)
    settings = {**os.environ, "HF_HOME": str(folder / "hub"), **environment}
    return subprocess.run(
        [sys.executable, "-c", script, *paths],
        cwd=folder, env=settings, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


SERVED = """
import sys; sys.path[:0] = sys.argv[1:3]
import hashlib, json, os, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from test_sources import *

FILES = {str(p.relative_to("served")): p.read_bytes() for p in Path("served").rglob("*.parquet")}
ASKED = []

def git_sha1(content):
    return hashlib.sha1(b"blob %d\\0" % len(content) + content).hexdigest()

class Hub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def answer(self):
        path, body, status = self.path.split("?")[0], b"{}", 200
        ASKED.append(path)
        base = "/api/datasets/nyu-mll/glue/"
        if path == base + "revision/main":
            body = json.dumps({"id": "nyu-mll/glue", "sha": COMMIT}).encode()
        elif path == base + "tree/" + COMMIT:
            body = json.dumps([
                {"type": "file", "path": n, "size": len(b), "oid": git_sha1(b)}
                for n, b in FILES.items()]).encode()
        elif path.startswith("/datasets/nyu-mll/glue/resolve/" + COMMIT + "/"):
            body = FILES[path.split(COMMIT + "/")[1]]
        else:
            status = 404
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"' + hashlib.sha1(body).hexdigest() + '"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)
    do_GET = do_HEAD = answer
    def log_message(self, *arguments):
        pass

server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
threading.Thread(target=server.serve_forever, daemon=True).start()
os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{server.server_port}"
lock = Path("config/revisions.lock.yaml")
first = fetch_dataset(hub_task(), Path("out"), lock_file=lock)
resolved = [path for path in ASKED if "/revision/" in path]
second = fetch_dataset(hub_task(), Path("out"), lock_file=lock)
assert first == second
later = [path for path in ASKED if "/revision/" in path]
missing = None
try:
    fetch_dataset(hub_task("f" * 40), Path("out"), lock_file=lock)
except DataError as error:
    missing = str(error)
print(json.dumps({"first": first, "resolved": [len(resolved), len(later)], "missing": missing,
                  "asked": sorted(path for path in ASKED if "/resolve/" in path)}))
"""


def test_hub_files_come_at_the_commit_that_the_branch_first_stood_for(tmp_path):
    for subset in ("sst2", "cola"):
        (tmp_path / "served" / subset).mkdir(parents=True)
        for split, size in (("train", 3), ("validation", 2)):
            table = pyarrow.table({"sentence": ["a"] * size, "label": [1] * size})
            path = tmp_path / "served" / subset / f"{split}-00000-of-00001.parquet"
            pyarrow.parquet.write_table(table, path)
    done = run_apart(tmp_path, SERVED, HF_HUB_OFFLINE="0", HF_HUB_DISABLE_XET="1")
    assert done.returncode == 0, done.stderr
    told = yaml.safe_load(done.stdout)
    assert told["first"]["revision"] == COMMIT
    assert (told["first"]["train_examples"], told["first"]["evaluation_examples"]) == (3, 2)
    assert told["resolved"] == [1, 1]
    assert all("/sst2/" in path for path in told["asked"])
    assert "hub source nyu-mll/glue: the hub refused" in told["missing"]
    lock = yaml.safe_load((tmp_path / "config" / "revisions.lock.yaml").read_text())
    assert lock == {"datasets": {"nyu-mll/glue@main": COMMIT}}
    copied = tmp_path / "out" / "train-00000-of-00001.parquet"
    served = tmp_path / "served" / "sst2" / copied.name
    assert copied.read_bytes() == served.read_bytes()
    assert not copied.is_symlink()
