"""What lies on this machine and does not fit, or is not there: told before the first job."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file
from unit.config.asking import rewritten, suite_of

from sparsetune.cli import main
from sparsetune.config.load import Catalogue
from sparsetune.errors import ConfigError, SparsetuneError
from sparsetune.stages.check import check_sources

LABELS = ["entailment", "not_entailment"]
NAMED = {"0": "ENTAILMENT", "1": "not entailment"}
SWAPPED = {"0": "not_entailment", "1": "entailment"}
UNNAMED = {"0": "LABEL_0", "1": "LABEL_1"}


@pytest.fixture
def own(catalogue, tmp_path):
    """A task in a table and a fine-tuned backbone of the user's own; gives how to change them."""
    folder = tmp_path / "own"
    for name in ("task", "bert"):
        (folder / name).mkdir(parents=True)
    for name in ("train", "dev"):
        text = "text,label\na,entailment\nb,not_entailment\n"
        (folder / "task" / f"{name}.csv").write_text(text, encoding="utf-8")
    task = yaml.safe_load((catalogue / "tasks" / "ag-news.yaml").read_text(encoding="utf-8"))
    task |= {
        "source": {"kind": "mirror", "path": str(folder / "task")}, "labels": LABELS,
        "splits": {"train": "train", "dev": "dev"}, "evaluation_split": "dev",
    }  # fmt: skip
    (catalogue / "tasks" / "own-task.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")
    return Own(catalogue, folder)


class Own:
    def __init__(self, catalogue, folder):
        self.catalogue, self.folder = catalogue, folder
        self.backbone(head="keep")
        self.bert(NAMED)

    def backbone(self, **told):
        source = {"kind": "mirror", "path": str(self.folder / "bert")}
        told = {"description": "Own.", "architecture": "bert", "source": source, **told}
        path = self.catalogue / "backbones" / "own-bert.yaml"
        path.write_text(yaml.safe_dump(told), encoding="utf-8")

    def task(self, **changes):
        rewritten(self.catalogue / "tasks" / "own-task.yaml", **changes)

    def bert(self, id2label=None, *, outputs=2, module="classifier", **config):
        told = {"model_type": "bert", "vocab_size": 4, "id2label": id2label, **config}
        (self.folder / "bert" / "config.json").write_text(json.dumps(told), encoding="utf-8")
        self.vocabulary(4)
        tensors = {"bert.embeddings.word_embeddings.weight": np.zeros((4, 2), np.float32)}
        if module:
            tensors[f"{module}.weight"] = np.zeros((outputs, 2), np.float32)
        save_file(tensors, self.folder / "bert" / "model.safetensors")

    def vocabulary(self, size):
        vocabulary = {f"token-{number}": number for number in range(size)}
        told = {"model": {"vocab": vocabulary}, "added_tokens": [{"id": 0}]}
        path = self.folder / "bert" / "tokenizer.json"
        path.write_text(json.dumps(told), encoding="utf-8")

    def check(self, tasks=("own-task",)):
        block = {"backbones": ["own-bert"], "tasks": list(tasks), "methods": ["full"]}
        check_sources(suite_of(self.catalogue, runs=[block]), Catalogue(self.catalogue))

    def refused(self, *said, **asked):
        with pytest.raises(SparsetuneError) as caught:
            self.check(**asked)
        told = str(caught.value)
        assert caught.value.exit_code == 2
        assert [text for text in said if text not in told] == [], told
        assert "\n" not in told


def test_what_is_there_and_fits_is_accepted(own):
    own.check()


def test_kept_head_and_the_order_of_labels(own):
    own.bert(SWAPPED)
    own.refused(
        "config.json: id2label: head: keep does not fit task own-task",
        "received labels not_entailment, entailment; allowed: entailment, not_entailment",
    )
    own.task(labels=LABELS[::-1])
    own.check()


@pytest.mark.parametrize("names", [{"0": "negative", "1": "positive"}, {"0": "a", "1": "LABEL_1"}])
def test_kept_head_and_other_labels(own, names):
    own.bert(names)
    own.refused(f"received labels {', '.join(names.values())}; allowed: ")


@pytest.mark.parametrize("names", [UNNAMED, None, {}, {"a": "b"}, [1]])
def test_kept_head_without_names_has_no_order_to_compare(own, names):
    own.bert(names)
    own.check()


def test_labels_that_are_numbers_have_no_order_to_compare(own):
    own.task(labels=["0", "1"])
    own.bert(SWAPPED)
    own.check()


def test_order_is_that_of_numbers_and_not_of_the_file(own):
    labels = [f"kind-{number}" for number in range(11)]
    own.task(labels=labels)
    own.bert({str(n): labels[n] for n in (10, *range(10))}, outputs=11)
    own.check()


def test_kept_head_and_the_count_of_labels(own):
    own.bert(UNNAMED, outputs=3)
    own.refused("does not fit task own-task: classifier.weight: received 3 outputs; allowed: 2")


OTHERS = {
    "none": {"module": ""},
    "of questions": {"module": "qa_outputs"},
    "of tokens": {"architectures": ["BertForTokenClassification"]},
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_kept_head_of_another_kind_of_task(own, other):
    own.bert(UNNAMED, **other)
    own.refused("head: keep does not fit task own-task of kind classification: received a check")


def test_kept_head_of_a_classification_and_a_task_of_questions(own):
    own.refused("does not fit task mini-squad of kind span", tasks=["mini-squad"])
    own.bert(module="qa_outputs")
    own.check(tasks=["mini-squad"])


def test_head_of_which_nothing_is_said(own):
    own.backbone()
    own.refused("brings a task head (classifier.weight, shape (2, 2)); say in backbone own-bert")
    own.backbone(head="fresh")
    own.bert(SWAPPED, outputs=7)
    own.check()


PLACES = {
    "tokenizer.json": {"model": {"vocab": {"a": 4}}},
    "added": {"model": {"vocab": {"a": 0}}, "added_tokens": [{"id": 4, "content": "x"}]},
    "unigram": {"model": {"vocab": [["a", 0.0]] * 5}},
}


@pytest.mark.parametrize("told", PLACES.values(), ids=PLACES)
def test_token_numbers_and_embeddings(own, told):
    path = own.folder / "bert" / "tokenizer.json"
    path.write_text(json.dumps(told), encoding="utf-8")
    own.refused("tokenizer.json: received a token numbered 4; allowed: up to 3, as the vocab_size")


def test_token_numbers_of_other_forms_of_tokenizers(own):
    bert = own.folder / "bert"
    (bert / "tokenizer_config.json").write_text('{"added_tokens_decoder": {"9": {}}}')
    own.refused("tokenizer_config.json: received a token numbered 9")
    (bert / "tokenizer_config.json").unlink()
    (bert / "tokenizer.json").unlink()
    (bert / "vocab.txt").write_text("a\nb\nc\nd\n")
    own.check()
    (bert / "vocab.txt").write_text("a\nb\nc\nd\ne")
    own.refused("vocab.txt: received a token numbered 4")
    (bert / "vocab.txt").unlink()
    (bert / "vocab.json").write_text('{"a": 5}')
    own.refused("vocab.json: received a token numbered 5")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
@pytest.mark.parametrize("damage", ["", "[]", '{"model": 1, "added_tokens": 3}', "\x00"])
def test_damaged_files_are_left_to_the_stage_that_reads_them(own, name, damage):
    (own.folder / "bert" / name).write_text(damage, encoding="utf-8")
    own.check()


def test_folder_that_is_gone(own):
    gone = own.folder / "bert"
    shutil.move(gone, own.folder / "moved")
    own.refused(f"backbone own-bert: source.path: received '{gone}', which is not there")
    shutil.move(own.folder / "moved", gone)
    shutil.rmtree(own.folder / "task")
    own.refused("task own-task: source.path: received ")


def test_split_that_is_gone_or_empty(own):
    path = own.folder / "task" / "dev.csv"
    path.write_text("", encoding="utf-8")
    own.refused("dev.csv: the file is empty")
    path.unlink()
    own.refused("dev.parquet: no such file", "the folder holds: train.csv")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rank": 97}, "method dsee: update.rank: received 97; allowed on backbone mini-bert, "
         "whose query is 96 x 96: up to 96"),
        ({"n_sparse": 9217}, "support grebsmo-64: n_sparse: received 9217; allowed on backbone "),
    ],
)  # fmt: skip
def test_updates_and_the_matrices_of_a_backbone(catalogue, edit, change, said):
    def check():
        block = {"backbones": ["mini-bert"], "tasks": ["mini-rte"], "methods": ["dsee"]}
        check_sources(suite_of(catalogue, runs=[block]), Catalogue(catalogue))

    def set_to(rank=16, n_sparse=64):
        edit(catalogue / "methods" / "dsee.yaml", "  rank: 16 ", f"  rank: {rank} ")
        edit(catalogue / "supports" / "grebsmo-64.yaml", "n_sparse: 64", f"n_sparse: {n_sparse}")

    (name, value), = change.items()  # fmt: skip
    set_to(**change)
    with pytest.raises(ConfigError) as caught:
        check()
    assert said in str(caught.value)
    path = {"rank": "methods/dsee.yaml", "n_sparse": "supports/grebsmo-64.yaml"}[name]
    edit(catalogue / path, f"{name}: {value}", f"{name}: {value - 1}")
    check()


def test_check_tells_it_in_one_line(own, capsys):
    shutil.rmtree(own.folder / "task")
    config = own.catalogue / "config.yaml"
    block = {"backbones": ["own-bert"], "tasks": ["own-task"], "methods": ["full"]}
    rewritten(config, runs=[block])
    assert main(["check", "--config", str(config), "--catalogue", str(own.catalogue)]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert len(told.err.splitlines()) == 1
    assert "task own-task: source.path" in told.err


def test_nothing_heavy_is_imported(own):
    script = (
        "import sys\n"
        "import sparsetune.stages.check\n"
        "print(sorted({'torch', 'transformers', 'pyarrow', 'datasets'} & sys.modules.keys()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
