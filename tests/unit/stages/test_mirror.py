import fcntl
import gc
import json
import os
from types import SimpleNamespace

import pytest
import yaml
from unit.data.hub_server import COMMIT, hub  # noqa: F401
from unit.data.tasks import files_below, parquet

from sparsetune.cli import main
from sparsetune.config.load import Catalogue
from sparsetune.config.reading import read_yaml
from sparsetune.data.sources import ORIGIN
from sparsetune.records import RECORDS, read_record, sha256_of
from sparsetune.stages.mirror import parts_of

GLUE, MINILM = "nyu-mll/glue", "sentence-transformers/all-MiniLM-L6-v2"
SUITE = {
    "suite": "small", "description": "Two tasks.", "device": "cpu", "mirror": None, "seeds": [1],
    "limits": {"train_examples": None, "evaluation_examples": None},
    "runs": [{"backbones": ["minilm"], "tasks": ["sst2", "rte"], "methods": ["full"]}],
}  # fmt: skip
PLACES = ["datasets/sst2", "datasets/rte", "backbones/minilm"]


SINGLE = parquet(sentence=["good", "bad"], label=[1, 0])
PAIR = parquet(sentence1=["a", "b"], sentence2=["c", "d"], label=[0, 1])
MODEL = {
    "config.json": json.dumps({"model_type": "bert"}).encode(),
    "vocab.txt": b"[PAD]\n",
    "model.safetensors": (2).to_bytes(8, "little") + b"{}",
}


@pytest.fixture
def mirror(hub, catalogue, tmp_path, capsys, monkeypatch):  # noqa: F811
    """Run the command on a suite of two tasks and a backbone; gives code, lines and the error."""
    splits = [f"{split}-00000-of-00001.parquet" for split in ("train", "validation")]
    rows = {"sst2": SINGLE, "rte": PAIR}
    hub.repositories["dataset", GLUE] = {
        f"{task}/{name}": rows[task] for task in rows for name in splits
    }
    hub.repositories["model", MINILM] = {**MODEL, "pytorch_model.bin": b"never"}
    (catalogue / "small.yaml").write_text(yaml.safe_dump(SUITE))
    monkeypatch.setattr(gc, "disable", lambda: None)

    def run(*options):
        argv = ["mirror", "--to", str(run.to), "--catalogue", str(catalogue), *options]
        argv += [] if "--suite" in options or "--config" in options else ["--suite", "small"]
        try:
            code = main(argv)
        except SystemExit as stop:
            code = stop.code
        told = capsys.readouterr()
        return SimpleNamespace(code=code, lines=told.out.splitlines(), error=told.err)

    run.hub, run.to, run.catalogue = hub, tmp_path / "my mirror", catalogue
    return run


def refused(done):
    assert done.code == 2
    assert len(done.error.splitlines()) == 1, done.error
    return done.error


def test_a_mirror_has_each_folder_in_its_place_with_a_note(mirror):
    done = mirror()
    assert (done.code, done.error) == (0, "")
    splits = ("train-00000-of-00001.parquet", "validation-00000-of-00001.parquet")
    assert sorted(files_below(mirror.to)) == sorted(
        [f"datasets/{task}/{name}" for task in ("sst2", "rte") for name in (*splits, ORIGIN)]
        + [f"backbones/minilm/{name}" for name in (*MODEL, ORIGIN)]
    )
    told = json.loads((mirror.to / "datasets" / "sst2" / ORIGIN).read_text())
    assert (told["repository"], told["commit"]) == (GLUE, COMMIT)
    sums = {name: sha256_of(mirror.to / "datasets" / "sst2" / name) for name in splits}
    assert told["files"] == sums
    told = f"2 files, {2 * len(SINGLE):,} bytes, {GLUE}@{COMMIT}: fetched"
    assert done.lines[0] == f"datasets/sst2: {told}"
    assert done.lines[-1].endswith(f"small.yaml --config mirror='{mirror.to}'")
    lock = yaml.safe_load((mirror.catalogue / "revisions.lock.yaml").read_text())
    assert lock["models"] == {f"{MINILM}@main": COMMIT}


def test_a_second_call_verifies_and_needs_no_network(mirror):
    mirror()
    before, asked = files_below(mirror.to), len(mirror.hub.asked)
    mirror.hub.close()
    done = mirror()
    assert done.code == 0
    assert [line.rpartition(": ")[2] for line in done.lines[:3]] == ["verified"] * 3
    assert (files_below(mirror.to), len(mirror.hub.asked)) == (before, asked)


@pytest.mark.parametrize("damage", [b"{}", None])
def test_a_damaged_folder_is_filled_again_from_the_librarys_cache(mirror, damage):
    mirror()
    before = files_below(mirror.to)
    path = mirror.to / "backbones" / "minilm" / "config.json"
    path.unlink()
    if damage is not None:
        path.write_bytes(damage)
    mirror.hub.asked.clear()
    done = mirror()
    assert done.lines[2].endswith(": fetched")
    assert (files_below(mirror.to), mirror.hub.downloads()) == (before, [])


def test_a_dry_run_lists_sizes_and_leaves_nothing(mirror):
    done = mirror("--dry-run")
    assert done.code == 0, done.error
    assert done.lines[0] == f"datasets/sst2: {GLUE}@{COMMIT[:12]}"
    assert done.lines[1] == f"  train-00000-of-00001.parquet: {len(SINGLE):,} bytes, to fetch"
    total = 2 * len(SINGLE) + 2 * len(PAIR) + sum(map(len, MODEL.values()))
    assert done.lines[-1] == f"{total:,} bytes to fetch"
    assert mirror.hub.downloads() == []
    assert not mirror.to.exists()
    assert not (mirror.catalogue / "revisions.lock.yaml").exists()
    mirror("--only", "datasets")
    done = mirror("--dry-run")
    assert done.lines[:2] == ["datasets/sst2: there", "datasets/rte: there"]
    assert done.lines[-1] == f"{sum(map(len, MODEL.values()))} bytes to fetch"


@pytest.mark.parametrize("only", ["datasets", "backbones"])
def test_one_kind_may_be_left_out(mirror, only):
    assert mirror("--only", only).code == 0
    assert [path.name for path in mirror.to.iterdir()] == [only]


def test_a_folder_that_could_not_be_filled_is_completed_by_the_next_call(mirror):
    # Both splits have the same bytes here, and the library's cache keeps them once.
    names = [f"rte/{split}-00000-of-00001.parquet" for split in ("train", "validation")]
    mirror.hub.faults |= {name: [404] * 9 for name in names}
    done = mirror()
    assert f"{mirror.to}: 1 of 3 folders lack: datasets/rte" in refused(done)
    assert f"datasets/rte: NOT MIRRORED: hub source {GLUE}: the hub refused: " in done.lines[1]
    assert [path.name for path in (mirror.to / "datasets").iterdir()] == ["sst2"]
    mirror.hub.faults.clear()
    mirror.hub.asked.clear()
    assert mirror().code == 0
    assert set(mirror.hub.downloads()) <= set(names)
    assert sorted(path.name for path in (mirror.to / "datasets").iterdir()) == ["rte", "sst2"]


def test_files_that_cannot_be_used_are_not_put_in_place(mirror):
    del mirror.hub.repositories["model", MINILM]["vocab.txt"]
    del mirror.hub.repositories["dataset", GLUE]["rte/train-00000-of-00001.parquet"]
    mirror.hub.repositories["dataset", GLUE]["rte/notes.json"] = b"{}"
    done = mirror()
    assert "2 of 3 folders lack: datasets/rte, backbones/minilm" in refused(done)
    assert f"{GLUE}@{COMMIT[:12]}/train.tsv: no such file" in done.lines[1]
    assert f"{MINILM}@{COMMIT[:12]}: no tokenizer" in done.lines[2]
    assert not (mirror.to / "backbones" / "minilm").exists()


def test_another_commit_replaces_the_folder(mirror):
    mirror()
    (mirror.catalogue / "revisions.lock.yaml").unlink()
    mirror.hub.commit = "ab" * 20
    mirror.hub.repositories["model", MINILM]["vocab.txt"] = b"[PAD]\n[UNK]\n"
    assert mirror().code == 0
    folder = mirror.to / "backbones" / "minilm"
    assert (folder / "vocab.txt").read_bytes() == b"[PAD]\n[UNK]\n"
    assert json.loads((folder / ORIGIN).read_text())["commit"] == "ab" * 20
    assert [path.name for path in (mirror.to / "backbones").iterdir()] == ["minilm"]


def test_files_of_the_user_are_never_deleted(mirror):
    by_hand = mirror.to / "backbones" / "minilm"
    by_hand.mkdir(parents=True)
    for name, content in MODEL.items():
        (by_hand / name).write_bytes(content)
    done = mirror()
    assert done.lines[2] == f"backbones/minilm: there without {ORIGIN}: left as it is"
    assert sorted(files_below(by_hand)) == sorted(MODEL)
    (mirror.to / "datasets" / "sst2" / "my.tsv").write_text("mine")
    assert mirror().code == 0
    (mirror.catalogue / "revisions.lock.yaml").unlink()
    mirror.hub.commit = "ab" * 20
    done = mirror()
    assert "my.tsv: not from the hub, and its folder is to be replaced" in done.lines[0]
    assert (mirror.to / "datasets" / "sst2" / "my.tsv").read_text() == "mine"


def test_stages_take_the_mirror_record_its_commit_and_refuse_damage(mirror, tmp_path, capsys):
    mirror()
    mirror.hub.close()
    common = ["--mirror", str(mirror.to), "--catalogue", str(mirror.catalogue), "--output"]
    stages = {
        "dataset": ["dataset", "--task", "rte", *common, str(tmp_path / "rte")],
        "backbone": ["backbone", "--backbone", "minilm", "--checkpoints", "c", *common,
                     str(tmp_path / "minilm")],
    }  # fmt: skip
    for stage, argv in stages.items():
        assert main(argv) == 0
        record = read_record(tmp_path / argv[-1] / "record.json", RECORDS[stage])
        assert record.measured.revision == COMMIT
    assert ORIGIN not in record.measured.files
    (mirror.to / "backbones" / "minilm" / "vocab.txt").write_bytes(b"[PAD]!")
    (mirror.to / "datasets" / "rte" / "train-00000-of-00001.parquet").write_bytes(b"PAR1")
    capsys.readouterr()
    for argv, name in ((stages["dataset"], "train-0"), (stages["backbone"], "vocab.txt")):
        assert main(argv) == 2
        told = capsys.readouterr().err
        assert name in told
        assert "damaged: its sha256 is not" in told
        assert "run sparsetune mirror again" in told


def test_no_network_stops_the_command(mirror):
    mirror.hub.close()
    assert f"no network for hub source {GLUE}" in refused(mirror())
    assert f"no network for hub source {GLUE}" in refused(mirror("--dry-run"))


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_a_damaged_note_is_named(mirror, content):
    mirror()
    path = mirror.to / "datasets" / "sst2" / ORIGIN
    path.write_text(content)
    done = mirror()
    assert f"{path}: " in done.lines[0]
    assert "1 of 3 folders lack: datasets/sst2" in refused(done)


def test_two_commands_do_not_fill_one_folder(mirror):
    mirror.to.mkdir()
    handle = os.open(mirror.to, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    assert "another sparsetune mirror is at work there" in refused(mirror())
    os.close(handle)
    assert mirror().code == 0


@pytest.mark.parametrize(
    ("options", "needles"),
    [
        (["--suite", "smal"], ["--suite", "'smal'", "did you mean 'small'"]),
        (["--suite", "small", "--config", "x.yaml"], ["--config", "not allowed"]),
        (["--config", "x.yaml"], ["x.yaml: no such file"]),
        (["--only", "tasks"], ["--only", "'tasks'", "backbones"]),
    ],
)
def test_bad_options_are_refused_in_one_line(mirror, options, needles):
    told = refused(mirror(*options))
    assert [needle for needle in needles if needle not in told] == []
    assert not mirror.to.exists()


def test_a_place_that_cannot_be_written_is_refused(mirror):
    mirror.to.write_text("a file")
    assert f"--to: {mirror.to}: cannot be used: File exists" in refused(mirror())
    mirror.to.unlink()
    mirror.to.mkdir()
    (mirror.to / "datasets").write_text("a file")
    assert f"--to: {mirror.to}/datasets/sst2: cannot be used: " in refused(mirror())


def test_a_generated_suite_needs_no_mirror(mirror):
    done = mirror("--suite", "mini")
    assert (done.code, done.lines) == (
        0,
        ["nothing to fetch: the suite takes nothing from the hub"],
    )
    assert not mirror.to.exists()


def places(catalogue, content):
    parts = parts_of(catalogue, catalogue.suite(content, origin="test"))
    return {part.files.place: part.files for part in parts}


def test_the_papers_grid_needs_every_task_and_backbone_once(repository):
    catalogue = Catalogue(repository / "config")
    content = read_yaml(repository / "config" / "paper.yaml")
    found = places(catalogue, {**content, "seeds": [1]})
    rooms = [place.partition("/")[0] for place in found]
    assert rooms == ["datasets"] * 13 + ["backbones"] * 6
    assert found["datasets/mnli"].prefix == "mnli/"
    assert found["datasets/squad"].prefix == "plain_text/"


def test_pre_training_takes_its_text_and_the_lender_of_its_tokenizer(repository):
    catalogue = Catalogue(repository / "config")
    block = {**SUITE["runs"][0], "backbones": ["bert-base-early", "bert-base-pretrained"]}
    found = places(catalogue, {**SUITE, "runs": [block]})
    assert list(found) == [*PLACES[:2], "datasets/wikipedia", "backbones/bert-base"]
    assert found["datasets/wikipedia"].patterns == ("20231101.en/*.parquet",)
