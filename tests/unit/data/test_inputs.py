import gzip
import os
import shutil

import pytest
from unit.data.tasks import source_of, task_of
from unit.made_records import write_made

from sparsetune.config.backbone import Backbone, HubText, TextFiles
from sparsetune.data import inputs
from sparsetune.data.inputs import contents_digest, next_fetch, planned_files
from sparsetune.records import sha256_of


def named(thing, folder):
    return [str(path.relative_to(folder)) for path in planned_files(thing)]


def backbone_of(source, tokenizer_source=None):
    return Backbone.model_construct(
        id="own", architecture="bert", source=source, tokenizer_source=tokenizer_source
    )


def mirrored(folder):
    return source_of("mirror", path=str(folder))


def fill(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


def test_planned_files_are_those_that_the_layout_reads(tmp_path):
    fill(tmp_path, "train.tsv", "dev.tsv.gz", "test.tsv", "notes.md", "other.csv", "mirror.json")
    task = task_of("sst2", source={"kind": "mirror", "path": str(tmp_path)})
    assert named(task, tmp_path) == ["train.tsv", "dev.tsv.gz", "test.tsv", "mirror.json"]
    columns, splits = {"texts": ["a"], "label": "b"}, {"train": "one", "dev": "two"}
    fill(tmp_path, "one.csv", "two/0000.parquet", "two/0001.parquet")
    task = task_of("table", columns=columns, splits=splits,
                   source={"kind": "mirror", "path": str(tmp_path)})  # fmt: skip
    assert named(task, tmp_path)[:3] == ["one.csv", "two/0000.parquet", "two/0001.parquet"]
    # A file that is taken before another is another plan.
    fill(tmp_path, "two.jsonl")
    assert named(task, tmp_path)[:2] == ["one.csv", "two.jsonl"]


def test_planned_files_of_what_is_missing_name_it(tmp_path):
    task = task_of("sst2", source={"kind": "mirror", "path": str(tmp_path / "none")})
    assert planned_files(task) == [tmp_path / "none"]
    fill(tmp_path / "half", "train.tsv", "notes.md")
    task = task_of("sst2", source={"kind": "mirror", "path": str(tmp_path / "half")})
    assert named(task, tmp_path) == ["half/train.tsv"]
    assert planned_files(backbone_of(mirrored(tmp_path / "none"))) == [tmp_path / "none"]
    texts = TextFiles(kind="text", seed=0, paths=("none.*", "b.txt"))
    assert list(map(str, planned_files(backbone_of(texts)))) == ["none.*", "b.txt"]


def test_planned_files_of_generated_and_fetched_things_are_none():
    world = source_of("world", seed=0, sizes={"train": 1, "evaluation": 1})
    hub = source_of("hub", repository="a/b", revision="main")
    assert planned_files(task_of("sst2").model_copy(update={"source": world})) == []
    assert planned_files(backbone_of(hub)) == []


def test_planned_files_of_a_backbone_are_weights_vocabulary_and_a_lent_tokenizer(tmp_path):
    weights = ("config.json", "model-00001-of-00002.safetensors", "model.safetensors.index.json")
    own = fill(tmp_path / "own", *weights, "vocab.txt", "README.md")
    lent = fill(tmp_path / "lent", "config.json", "tokenizer.json", "model.safetensors")
    text = fill(tmp_path / "text", "a.txt", "b.txt")
    assert named(backbone_of(mirrored(own)), own) == sorted([*weights, "vocab.txt"])
    texts = TextFiles(kind="text", seed=0, paths=(str(text / "*.txt"),))
    found = named(backbone_of(texts, mirrored(lent)), tmp_path)
    assert found == ["text/a.txt", "text/b.txt", "lent/config.json", "lent/tokenizer.json"]


def test_home_and_links_are_followed(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    fill(tmp_path / "real", "train.tsv", "dev.tsv", "a.txt")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    task = task_of("sst2", source={"kind": "mirror", "path": "~/link"})
    assert named(task, tmp_path) == ["link/train.tsv", "link/dev.tsv"]
    texts = TextFiles(kind="text", seed=0, paths=("~/link/*.txt",))
    assert named(backbone_of(texts), tmp_path) == ["link/a.txt"]


@pytest.fixture
def digest(tmp_path):
    """Digest of a file, as a second planning would find it, with old times."""
    path = tmp_path / "data.tsv"

    def found():
        return contents_digest([path], tmp_path / "known" / "sums.json")

    path.write_text("one")
    return path, found


def test_contents_count_and_times_do_not(digest):
    path, found = digest
    first = found()
    os.utime(path, (2e9, 2e9))
    assert found() == first
    path.write_text("two")
    os.utime(path, (1e9, 1e9))  # older than what was made of it
    assert found() != first
    path.write_text("one")
    assert found() == first
    path.rename(path.with_suffix(".old"))
    assert found() not in (first, None)


def test_contents_of_a_copy_with_the_old_time_and_size_are_seen(digest, tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "_SETTLED_SECONDS", -1.0)  # as if every file were old
    path, found = digest
    first = found()
    stat = path.stat()
    other = tmp_path / "other"
    other.write_text("two")
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    shutil.copy2(other, path)
    assert path.stat().st_mtime_ns == stat.st_mtime_ns
    assert found() != first


def test_contents_are_read_once_for_as_long_as_files_stay_as_they_are(digest, monkeypatch):
    path, found = digest
    reads = []

    def counted(one):
        reads.append(one)
        return sha256_of(one)

    monkeypatch.setattr(inputs, "sha256_of", counted)
    found()
    found()
    assert len(reads) == 2  # so young that it may still change within its time stamp
    monkeypatch.setattr(inputs, "_SETTLED_SECONDS", -1.0)
    first = found()
    assert [found(), found()] == [first, first]
    assert len(reads) == 3
    with gzip.open(path, "wb") as file:
        file.write(b"x")
    assert found() != first
    assert len(reads) == 4


@pytest.mark.parametrize("damage", ["", "[]", '{"a": 1}', "\x00"])
def test_damaged_memory_of_sums_is_no_obstacle(digest, tmp_path, damage):
    _, found = digest
    first = found()
    (tmp_path / "known").mkdir(exist_ok=True)
    (tmp_path / "known" / "sums.json").write_text(damage)
    assert found() == first


def test_no_files_have_no_digest(tmp_path):
    assert contents_digest([], tmp_path / "known.json") is None
    assert not (tmp_path / "known.json").exists()


HUB = {"kind": "hub", "repository": "owner/set", "revision": "main"}
LOCKED = "datasets: {owner/set@main: %s}\nmodels: {owner/set@main: %s}\n"


def test_commit_of_the_lock_file_that_became_another_names_another_fetch(tmp_path):
    lock = tmp_path / "lock.yaml"
    cases = {
        "dataset": (task_of("sst2", source=HUB), {}),
        "backbone": (backbone_of(source_of(**HUB)), {"parameters_stored": 1}),
    }
    for stage, (thing, more) in cases.items():
        record = tmp_path / stage / "record.json"
        assert next_fetch(thing, record, lock) is None  # the first
        made = {"measured": {**more, "revision": "a" * 40}}
        write_made(record, stage, **made)
        lock.write_text(LOCKED % ("a" * 40, "a" * 40))
        assert next_fetch(thing, record, lock) is None
        for text in (LOCKED % ("b" * 40, "b" * 40), "models: {}\n"):  # edited, deleted
            lock.write_text(text)
            assert next_fetch(thing, record, lock) == "after 2026-01-01T00:01:00Z"
        made["measured"] |= {"revision": "b" * 40, "fetch": "after 2026-01-01T00:01:00Z"}
        write_made(record, stage, **made, where={"ended": "2027-01-01T00:00:00Z"})
        lock.write_text(LOCKED % ("b" * 40, "b" * 40))
        assert next_fetch(thing, record, lock) == "after 2026-01-01T00:01:00Z"
        lock.unlink()
        assert next_fetch(thing, record, lock) == "after 2027-01-01T00:00:00Z"


def test_commit_of_texts_on_the_hub(tmp_path):
    text = HubText(kind="hub-text", seed=0, repository="owner/set", revision="main", files=["a"])
    record, lock = tmp_path / "record.json", tmp_path / "lock.yaml"
    corpus = {"documents": 1, "revision": "a" * 40, "sha256": "f" * 64, "stored_bytes": 1}
    write_made(record, "backbone", measured={"corpus": corpus})
    lock.write_text(LOCKED % ("a" * 40, "b" * 40))
    assert next_fetch(backbone_of(text), record, lock) is None
    lock.write_text(LOCKED % ("b" * 40, "a" * 40))
    assert next_fetch(backbone_of(text), record, lock) == "after 2026-01-01T00:01:00Z"


def test_what_has_no_commit_in_the_lock_file_is_fetched_once(tmp_path):
    record, lock = tmp_path / "record.json", tmp_path / "lock.yaml"
    pinned = task_of("sst2", source={**HUB, "revision": "a" * 40})
    write_made(record, "dataset", measured={"revision": "a" * 40})
    assert next_fetch(pinned, record, lock) is None
    own = task_of("sst2", source={"kind": "mirror", "path": str(tmp_path)})
    assert next_fetch(own, record, lock) is None
    lock.write_text("models: [1]")
    assert next_fetch(task_of("sst2", source=HUB), record, lock) is None
