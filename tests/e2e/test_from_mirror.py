"""A whole small run from a mirror, in a process that cannot reach the network and must not try."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from transformers import BertTokenizerFast
from unit.data.hub_server import COMMIT, hub  # noqa: F401
from unit.made_records import measured_of
from unit.tiny import tiny_model

from sparsetune.cli import main

ROOT = Path(__file__).resolve().parents[2]
ROWS = "sentence\tlabel\n" + "".join(f"a{' b' * (n % 5)}\t{n % 2}\n" for n in range(20))
SUITE = {
    "suite": "small", "description": "One run.", "device": "cpu", "mirror": None, "seeds": [1],
    "limits": {"train_examples": 8, "evaluation_examples": 6},
    "runs": [{"backbones": ["minilm"], "tasks": ["sst2"], "methods": ["full"]}],
}  # fmt: skip

# Every stage as the rules call it; whatever looks up a name or connects is noted and fails.
SCRIPT = """
import json, socket, sys
asked = []
def noted(*arguments, **_):
    asked.append(repr(arguments[-2:]))
    raise OSError("no network")
for name in ("connect", "connect_ex"):
    setattr(socket.socket, name, noted)
for name in ("getaddrinfo", "create_connection", "gethostbyname"):
    setattr(socket, name, noted)
from sparsetune.cli import main
runs, control = json.load(sys.stdin)
told = {"codes": [main(argv) for argv in runs], "asked": list(asked)}
told["control"] = main(control), bool(asked)
print(json.dumps(told))
"""


@pytest.fixture
def mirrored(hub, catalogue, tmp_path):  # noqa: F811
    """A catalogue and a mirror of its suite, filled from a hub that is gone afterwards."""
    folder = tmp_path / "model"
    tiny_model("bert", task="bare").save_pretrained(folder)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"]
    vocabulary = {word: number for number, word in enumerate(words)}
    BertTokenizerFast(vocab=vocabulary).save_pretrained(folder)
    model = {path.name: path.read_bytes() for path in folder.iterdir()}
    hub.repositories["model", "sentence-transformers/all-MiniLM-L6-v2"] = model
    splits = {f"sst2/{split}.tsv": ROWS.encode() for split in ("train", "dev")}
    hub.repositories["dataset", "nyu-mll/glue"] = splits
    # The model is far shorter than the one whose name it has.
    task = catalogue / "tasks" / "sst2.yaml"
    task.write_text(task.read_text().replace("maximum_tokens: 128", "maximum_tokens: 32"))
    (catalogue / "small.yaml").write_text(yaml.safe_dump(SUITE))
    to = tmp_path / "mirror"
    assert main(["mirror", "--suite", "small", "--to", str(to), "--catalogue", str(catalogue)]) == 0
    return catalogue, to


def stages(catalogue, mirror):
    """The command line of each stage."""
    source = ["--catalogue", str(catalogue), "--mirror", str(mirror)]
    limits = ["--train-examples", "8", "--evaluation-examples", "6"]
    run = [*source, *limits, "--run", "minilm/sst2/full/seed-1", "--suite", "small"]
    folder = "results/small/runs/minilm/sst2/full/seed-1"
    inputs = ["--dataset-dir", "data/sst2", "--backbone-dir", "data/minilm"]
    place = ["--device", "cpu", "--threads", "1"]
    suite = ["--config", str(catalogue / "small.yaml"), "--catalogue", str(catalogue)]
    return [
        ["dataset", "--task", "sst2", *source, "--output", "data/sst2"],
        ["backbone", "--backbone", "minilm", *source, *place, "--checkpoints", "work/b",
         "--output", "data/minilm"],
        ["tune", *run, *inputs, *place, "--checkpoints", "work/t", "--results", "results",
         "--output", folder],
        ["evaluate", *run, *inputs, *place, "--run-dir", folder, "--output", folder],
        ["cost", *run, "--backbone-dir", "data/minilm", "--run-dir", folder, "--output", folder],
        ["tables", *suite, "--results", "results/small", "--output", "results/small/tables"],
    ]  # fmt: skip


def test_a_run_from_a_mirror_never_tries_the_network(mirrored, tmp_path):
    environment = {name: value for name, value in os.environ.items()
                   if name not in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")}  # fmt: skip
    environment |= {"HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT),
                    "MLFLOW_DISABLE_TELEMETRY": "true"}  # fmt: skip
    # The same without the mirror: it does try, and fails.
    control = ["dataset", "--task", "sst2", "--catalogue", str(mirrored[0]), "--output", "other"]
    (mirrored[0] / "revisions.lock.yaml").unlink()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=tmp_path, env=environment, text=True,
        input=json.dumps([stages(*mirrored), control]), capture_output=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told == {"codes": [0] * 6, "asked": [], "control": [2, True]}, done.stderr
    assert measured_of(tmp_path / "data/minilm/record.json")["revision"] == COMMIT
    folder = tmp_path / "results/small/runs/minilm/sst2/full/seed-1"
    assert measured_of(folder / "evaluate.json")["n_examples"] == 6
    assert (tmp_path / "results/small/tables/headline.md").is_file()
