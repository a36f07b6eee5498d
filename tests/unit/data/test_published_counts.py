"""The files of the shared data folder have the counts that its manifest tells for each."""

import json
from collections import Counter
from pathlib import Path

import pytest
from unit.data.tasks import task_of

from sparsetune.data.layouts import read_published

REAL = Path(__file__).resolve().parents[4] / "shared" / "data"
ENTAILMENT = ("entailment", "not_entailment")
NLI = ("entailment", "neutral", "contradiction")
BINARY = ("0", "1")

# File -> layout, split that it is read as, labels.
READ = {
    "glue/SST-2/train.tsv.gz": ("sst2", "train", BINARY),
    "glue/SST-2/dev.tsv.gz": ("sst2", "dev", BINARY),
    "glue/MRPC/train.tsv.gz": ("mrpc", "train", BINARY),
    "glue/MRPC/dev.tsv.gz": ("mrpc", "dev", BINARY),
    "glue/QNLI/dev.tsv.gz": ("qnli", "dev", ENTAILMENT),
    "glue/RTE/train.tsv.gz": ("rte", "train", ENTAILMENT),
    "glue/RTE/dev.tsv.gz": ("rte", "dev", ENTAILMENT),
    "glue/WNLI/train.tsv.gz": ("wnli", "train", BINARY),
    "glue/WNLI/dev.tsv.gz": ("wnli", "dev", BINARY),
    "glue/MNLI/dev_matched.jsonl.gz": ("mnli", "dev_matched", NLI),
    "nlg/e2e/trainset.csv.gz": ("e2e", "train", ()),
    "nlg/e2e/devset.csv.gz": ("e2e", "dev", ()),
    "nlg/e2e/testset_w_refs.csv.gz": ("e2e", "test", ()),
    "nlg/e2e_lora/train.txt.gz": ("e2e", "train", ()),
    "nlg/e2e_lora/valid.txt.gz": ("e2e", "dev", ()),
    "nlg/e2e_lora/test.txt.gz": ("e2e", "test", ()),
    "nlg/webnlg_challenge_2017/train.json.gz": ("webnlg", "train", ()),
    "nlg/webnlg_challenge_2017/dev.json.gz": ("webnlg", "dev", ()),
    "nlg/webnlg_challenge_2017/test.json.gz": ("webnlg", "test", ()),
    "squad/dev-v1.1.json.gz": ("squad", "dev", ()),
}
# Not read as examples: no labels or no references, or MRPC's text before GLUE split it.
NOT_READ = {
    *(f"glue/{name}/test.tsv.gz" for name in ("SST-2", "MRPC", "QNLI", "RTE", "WNLI")),
    *(f"glue/MRPC/msr_paraphrase_{name}.txt.gz" for name in ("train", "test")),
    "nlg/e2e/testset.csv.gz",
}


def manifest():
    if not REAL.is_dir():
        pytest.skip("the real data files are not beside the repository")
    return {entry["path"]: entry for entry in json.loads((REAL / "MANIFEST.json").read_text())}


@pytest.mark.parametrize("path", READ)
def test_a_real_file_has_its_published_counts(path):
    told, (layout, stem, labels) = manifest()[path], READ[path]
    kind = {"nlg": "generation", "squad": "span"}.get(path.partition("/")[0], "classification")
    task = task_of(layout, kind, labels, stem)
    split = "train" if stem == "train" else "evaluation"
    found = read_published((REAL / path).parent, task, split)
    # Each text of data to text is an example to train on, and a reference where scores are made.
    if kind == "generation":
        texts = sum(len(example.references) for example in found)
        assert texts == told.get("references", told["examples"])
    else:
        assert len(found) == told["examples"]
    if labels:
        counts = Counter(labels[example.label] for example in found)
        assert counts == told["labels"]


@pytest.mark.parametrize(
    ("path", "examples"),
    [
        ("nlg/e2e/devset.csv.gz", 547),
        ("nlg/e2e/testset_w_refs.csv.gz", 630),
        ("nlg/e2e_lora/valid.txt.gz", 547),
        ("nlg/e2e_lora/test.txt.gz", 630),
        ("nlg/webnlg_challenge_2017/dev.json.gz", 872),
        ("nlg/webnlg_challenge_2017/test.json.gz", 1862),
    ],
)
def test_references_are_grouped_as_the_publisher_counts_inputs(path, examples):
    manifest()
    layout, stem, _ = READ[path]
    task = task_of(layout, "generation", (), stem)
    assert len(read_published((REAL / path).parent, task, "evaluation")) == examples


def test_every_real_file_of_a_task_is_read_or_left_out_on_purpose():
    found = {path for path in manifest() if path.startswith(("glue/", "nlg/", "squad/"))}
    assert found == READ.keys() | NOT_READ
