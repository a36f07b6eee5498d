"""What jobs ask for: enough for all that was measured, growing with every size, within bounds."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sparsetune.config.load import Catalogue
from sparsetune.config.suite import read_suite
from sparsetune.cost.shapes import LayerShape, ModelShape
from sparsetune.stages import needs
from sparsetune.stages.needs import Needs, Size, memory_bytes

CATALOGUE = Path(__file__).resolve().parents[3] / "config"
# Of the default suite on two cores: (job, peak of its process, seconds of its process).
MEASURED = json.loads(Path(__file__).with_name("measured_jobs.json").read_text(encoding="utf-8"))
LAYER = LayerShape(12, 64, 3072)
BERT_BASE = ModelShape("bert", 768, (LAYER,) * 12, 30522, 512, 2, "classification", 2, True)


def needs_of(name, *, gpu=False, **changed):
    catalogue = Catalogue(CATALOGUE)
    suite = catalogue.suite(read_suite(CATALOGUE / f"{name}.yaml") | changed, origin=name)
    return Needs(suite, catalogue, gpu=gpu)


@pytest.fixture(scope="module")
def mini():
    return needs_of("config")


@pytest.fixture(scope="module")
def paper():
    return needs_of("paper", gpu=True)


@pytest.mark.parametrize("row", MEASURED, ids=lambda row: row["job"])
def test_every_measured_job_gets_more_than_it_took(mini, row):
    assert mini.of(row["job"]).memory_mb >= 1.5 * row["peak_mb"]
    assert 60 * mini.of(row["job"]).minutes >= 2 * row["seconds"]


def test_a_formula_without_headroom_covers_what_was_measured(mini, monkeypatch):
    monkeypatch.setattr(needs, "MEMORY_HEADROOM", 1.0)
    monkeypatch.setattr(needs, "LEAST_MB", 0)
    for row in MEASURED:
        assert mini.of(row["job"]).memory_mb >= row["peak_mb"], row


@pytest.mark.parametrize(
    "larger",
    [
        {"shape": replace(BERT_BASE, layers=(LAYER,) * 24)},
        {"shape": replace(BERT_BASE, vocabulary_size=50265)},
        {"shape": replace(BERT_BASE, layers=(LayerShape(12, 64, 4096),) * 12)},
        {"sequences": 64},
        {"tokens": 256},
        {"stored_tokens": 2e7},
        {"planned_sequences": 1e7},
    ],
    ids=lambda larger: next(iter(larger)),
)
@pytest.mark.parametrize("trains", [True, False])
@pytest.mark.parametrize("gpu", [True, False])
def test_memory_grows_with_every_size(larger, trains, gpu):
    size = Size(BERT_BASE, 32, 128, trains, 1e7, 1e6)
    more, less = (memory_bytes(one, gpu=gpu) for one in (replace(size, **larger), size))
    # A GPU holds the activations itself.
    assert more == less if gpu and larger.keys() & {"sequences", "tokens"} else more > less


def test_memory_of_a_training_is_the_sum_of_its_parts():
    size = Size(replace(BERT_BASE, layers=(LAYER,)), 8, 128, trains=True)
    # By hand: embeddings (30522 + 512 + 2) x 768, layer norms 2 x 768 x 3, four matrices of
    # 768 x 768 and two of 768 x 3072 with biases, pooler, classifier with two outputs.
    parameters = 31036 * 768 + 6 * 768 + 4 * (768**2 + 768) + 2 * 768 * 3072 + 3072 + 768
    parameters += 768**2 + 768 + 2 * 768 + 2
    activations = 3 * (18 * 768 + 4 * 3072 + 5 * 12 * 128) * 8 * 128
    assert memory_bytes(size, gpu=False) == 0.7e9 + 24 * parameters + activations


def test_a_language_model_pays_for_its_vocabulary():
    size = Size(BERT_BASE, 8, 128, trains=True)
    head = replace(size, shape=replace(BERT_BASE, head="masked_lm", pooler=False))
    assert memory_bytes(head, gpu=False) > memory_bytes(size, gpu=False) + 3 * 4 * 1024 * 30000


@pytest.mark.parametrize(
    ("sequences", "tokens", "layers", "peak_mb"),
    # Peaks of a process that trained a whole BERT of this width for one step on a CPU, docs/log.md.
    [(8, 128, 12, 2490), (1, 8, 12, 2365), (4, 384, 4, 1881)],
)
def test_formula_covers_a_measured_step_of_a_large_model(sequences, tokens, layers, peak_mb):
    shape = replace(BERT_BASE, layers=(LAYER,) * layers)
    told = memory_bytes(Size(shape, sequences, tokens, trains=True), gpu=False) / 1e6
    assert peak_mb < told < 2.5 * peak_mb


def test_needs_of_bert_base_are_what_a_cluster_can_give(paper):
    for job, memory, minutes in (
        ("backbone/bert-base", (2000, 8000), (60, 60)),
        ("support/bert-base/grebsmo-64", (2000, 8000), (15, 30)),
        ("ticket/bert-base/mnli/earlybert/seed-1", (8000, 24000), (15, 240)),
        ("tune/bert-base/mnli/full/seed-1", (8000, 24000), (60, 720)),
        ("tune/bert-base/rte/dsee/seed-3", (8000, 24000), (15, 60)),
        ("evaluate/bert-base/squad/full/seed-1", (8000, 24000), (15, 120)),
    ):
        assert memory[0] <= paper.of(job).memory_mb <= memory[1], job
        assert minutes[0] <= paper.of(job).minutes <= minutes[1], job


def test_a_larger_backbone_a_larger_task_and_more_epochs_ask_for_more(paper):
    def asked(path):
        return paper.of(f"tune/{path}/seed-1")

    small = asked("roberta-base/mnli/lora")
    assert all(a > b for a, b in zip(asked("roberta-large/mnli/lora"), small, strict=True))
    assert asked("roberta-base/rte/lora")[1] < small[1]
    # Iterative pruning trains once more each round.
    assert asked("roberta-large/mnli/imp")[1] > asked("roberta-large/mnli/full")[1]


def test_each_attempt_asks_for_twice_as_much(mini, paper):
    for asked, name in (
        (mini, "tune/mini-bert/mini-rte/dsee/seed-1"),
        (paper, "backbone/bert-base"),
    ):
        first = asked.of(name)
        for attempt, times in ((1, 1), (2, 2), (3, 4)):
            assert asked.of(name, attempt) == (times * first.memory_mb, times * first.minutes)


def test_on_a_gpu_a_training_is_shorter_and_its_libraries_larger():
    job = "tune/minilm/mrpc/full/seed-1"
    on_cpu, on_gpu = needs_of("minilm"), needs_of("minilm", gpu=True)
    assert on_gpu.of(job).minutes < on_cpu.of(job).minutes
    assert on_gpu.of(job).memory_mb > on_cpu.of(job).memory_mb
    fetched = "backbone/minilm"  # nothing is computed
    assert on_gpu.of(fetched).memory_mb == on_cpu.of(fetched).memory_mb


def test_sizes_that_the_catalogue_does_not_tell_get_fixed_values(tmp_path):
    import shutil

    import yaml

    shutil.copytree(CATALOGUE, tmp_path / "config")
    path = tmp_path / "config" / "tasks" / "sst2.yaml"
    task = yaml.safe_load(path.read_text(encoding="utf-8"))
    del task["expected"]
    path.write_text(yaml.safe_dump(task), encoding="utf-8")
    catalogue = Catalogue(tmp_path / "config")
    suite = catalogue.suite(read_suite(CATALOGUE / "minilm.yaml"), origin="minilm")
    asked = Needs(suite, catalogue, gpu=True)
    assert asked.of("tune/minilm/sst2/full/seed-1").memory_mb == needs.UNKNOWN_MB
    assert asked.of("tune/minilm/sst2/full/seed-1", 2).minutes == 2 * needs.UNKNOWN_MINUTES["tune"]
    assert asked.of("tune/minilm/mrpc/full/seed-1").minutes < needs.UNKNOWN_MINUTES["tune"]
