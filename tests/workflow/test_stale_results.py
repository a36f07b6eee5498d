"""Every file that a stage reads is an input of its rule: what changes there reruns it, once."""

import os
import shutil
from pathlib import Path

import pytest
import yaml
from unit.made_records import write_made
from workflow.conftest import Workplace, make_workplace, named

OWN = {"kind": "mirror", "path": "own/task"}
RECORDS = [
    "resources/datasets/own-task/record.json",
    "resources/backbones/own-bert/record.json",
    "resources/backbones/own-text/record.json",
]


def write_yaml(path, content):
    path.write_text(yaml.safe_dump(content), encoding="utf-8")


def fill(work):
    """A task, weights and a corpus of the user's own; the corpus takes the weights' tokenizer."""
    own = work.folder / "own"
    for name in ("task", "bert", "text"):
        (own / name).mkdir(parents=True)
    for name in ("train.csv", "dev.csv"):
        (own / "task" / name).write_text("text,label\ngood,1\nbad,0\n", encoding="utf-8")
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (own / "bert" / name).write_text("x" * 9, encoding="utf-8")
    (own / "text" / "a.txt").write_text("One document.\n", encoding="utf-8")
    catalogue = work.config
    task = yaml.safe_load((catalogue / "tasks" / "ag-news.yaml").read_text(encoding="utf-8"))
    task |= {"source": OWN, "splits": {"train": "train", "dev": "dev"}, "labels": ["0", "1"]}
    write_yaml(catalogue / "tasks" / "own-task.yaml", task | {"evaluation_split": "dev"})
    bert = {"description": "Own.", "architecture": "bert"}
    source = {"kind": "mirror", "path": "own/bert"}
    write_yaml(catalogue / "backbones" / "own-bert.yaml", bert | {"source": source})
    text = {"kind": "text", "paths": ["own/text/*.txt"], "seed": 0}
    change = {"base": "mini-bert", "description": "Own text.", "source": text}
    lent = {"tokenizer": {"kind": "published", "backbone": "own-bert"}}
    write_yaml(catalogue / "backbones" / "own-text.yaml", change | {"pretraining": lent})
    suite = yaml.safe_load((catalogue / "small.yaml").read_text(encoding="utf-8"))
    block = {"backbones": ["own-bert", "own-text"], "tasks": ["own-task"], "methods": ["full"]}
    write_yaml(catalogue / "own.yaml", suite | {"suite": "own", "runs": [block]})


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, repository):
    work = make_workplace(tmp_path_factory.mktemp("stale") / "work", repository)
    fill(work)
    done = work.snakemake(*RECORDS, suite="config/own.yaml")
    assert done.returncode == 0, done.stderr[-3000:]
    work.calls()
    return work


@pytest.fixture
def work(prepared, tmp_path, repository):
    """A copy, with its times, of a workplace where everything was fetched."""
    folder = tmp_path / "work"
    shutil.copytree(prepared.folder, folder, copy_function=shutil.copy2)
    return Workplace(folder, repository)


def rerun(work):
    done = work.snakemake(*RECORDS, suite="config/own.yaml")
    assert done.returncode == 0, done.stderr[-3000:]
    return sorted(named(call) for call in work.calls())


def older(path: Path, text: str):
    """Other content with an older time, as ``cp -p`` and ``git checkout`` of old files leave it."""
    path.write_text(text, encoding="utf-8")
    os.utime(path, (1e9, 1e9))


DATASET, BACKBONE, PRETRAINED = "dataset own-task", "backbone own-bert", "backbone own-text"
# What changes, one after the other, and what reads it.
CHANGES = {
    "task/dev.csv": [DATASET],  # a label
    "task/train.jsonl": [DATASET],  # a file that is taken before another
    "bert/model.safetensors": [BACKBONE],
    "bert/vocab.txt": [BACKBONE, PRETRAINED],  # one that comes, and is lent
    "text/b.txt": [PRETRAINED],  # likewise
}


def test_other_content_reruns_what_reads_it_whatever_its_time(work):
    for name, expected in CHANGES.items():
        older(work.folder / "own" / name, "y" * 9)
        assert rerun(work) == expected, name
    assert rerun(work) == []


def test_content_behind_a_link_is_seen(work):
    folder = work.folder / "own"
    (folder / "bert").rename(folder / "elsewhere")
    (folder / "bert").symlink_to(folder / "elsewhere")
    assert rerun(work) == []
    older(folder / "elsewhere" / "model.safetensors", "z" * 9)
    assert rerun(work) == [BACKBONE]


def test_files_that_were_only_touched_or_are_not_read_rerun_nothing(work):
    for path in (work.folder / "own").rglob("*.*"):
        path.touch()
    (work.folder / "own" / "task" / "notes.csv").write_text("a,b\n", encoding="utf-8")
    (work.folder / "own" / "bert" / "README.md").write_text("Notes.", encoding="utf-8")
    assert rerun(work) == []


def test_a_folder_that_is_gone_is_named_before_anything_runs(work):
    shutil.rmtree(work.folder / "own" / "task")
    done = work.snakemake(*RECORDS, suite="config/own.yaml")
    assert done.returncode == 2
    told = "task own-task: source.path: received 'own/task', which is not there; allowed: a folder"
    assert told in done.stderr.splitlines()[-1]
    assert work.calls() == []


def test_line_of_the_lock_file_that_changes_or_goes_reruns_the_fetch_once(workplace):
    record = workplace.folder / "resources/datasets/mrpc/record.json"
    lock = workplace.config / "revisions.lock.yaml"

    def fetched(commit):
        """What ran, and afterwards what such a fetch leaves."""
        done = workplace.snakemake(
            "resources/datasets/mrpc/record.json", suite="config/minilm.yaml"
        )
        assert done.returncode == 0, done.stderr[-3000:]
        for call in workplace.calls():
            named_as = call[call.index("--fetch") + 1] if "--fetch" in call else None
            told = {"revision": commit, **({"fetch": named_as} if named_as else {})}
            ended = {"ended": f"2026-01-01T00:00:{len(fetches):02d}Z"}
            write_made(record, "dataset", measured=told, where=ended)
            fetches.append(named_as)
            lock.write_text(f"datasets: {{nyu-mll/glue@main: {commit}}}\n")
        return fetches

    fetches = []
    a, b = "a" * 40, "b" * 40
    assert fetched(a) == [None]
    assert fetched(a) == [None]
    lock.write_text(f"datasets: {{nyu-mll/glue@main: {b}}}\n")
    assert fetched(b) == [None, "after 2026-01-01T00:00:00Z"]
    assert len(fetched(b)) == 2
    lock.unlink()
    assert fetched(b)[2:] == ["after 2026-01-01T00:00:01Z"]
    assert len(fetched(b)) == 3


TABLE = """
title: "A table"
source: "a paper"
columns: [{heading: "SST-2", tasks: [mini-sst2], value: score}]
rows: [{label: "full", backbone: mini-bert, method: full, published: [90.1]}]
notes: []
"""


def test_number_of_a_published_table_reruns_the_tables_that_show_it(finished):
    path = finished.config / "tables" / "own.yaml"
    path.write_text(TABLE, encoding="utf-8")
    target = "results/small/tables/published/own.md"

    done = finished.snakemake(target)
    assert done.returncode == 0, done.stderr
    assert "tables suite" in [named(call) for call in finished.calls()]
    path.write_text(TABLE.replace("90.1", "90.2"), encoding="utf-8")
    done = finished.snakemake(target)
    assert done.returncode == 0, done.stderr
    assert [named(call) for call in finished.calls()] == ["tables suite"]


def test_bad_published_table_stops_snakemake_in_one_line(workplace):
    bad = TABLE.replace("heading:", "haeding:")
    (workplace.config / "tables" / "own.yaml").write_text(bad, encoding="utf-8")
    done = workplace.snakemake("--dry-run")
    assert done.returncode == 2
    assert "own.yaml: columns.0: unknown key 'haeding'" in done.stderr.splitlines()[-1]
