from collections import Counter
from pathlib import Path

import pytest

from sparsetune.config.files import read_yaml
from sparsetune.config.load import Catalogue
from sparsetune.errors import ConfigError
from sparsetune.estimating.sizes import TaskSize, backbone_shapes, task_size
from sparsetune.estimating.workload import Sizes, jobs_of, passes
from sparsetune.training.plan import make_plan

CONFIG = Path(__file__).resolve().parents[3] / "config"
CATALOGUE = Catalogue(CONFIG)


def jobs(name="config.yaml", **changes):
    suite = CATALOGUE.suite({**read_yaml(CONFIG / name), **changes}, origin=name)
    keys = {(run.backbone.id, run.task.id): run for run in suite.runs}
    tasks = {key: task_size(run.task, folder=None, tokens=None)[0] for key, run in keys.items()}
    shapes = {
        run.backbone.id: backbone_shapes(run.backbone, CATALOGUE, folder=None) for run in suite.runs
    }
    return {job.id: job for job in jobs_of(suite, Sizes(tasks, shapes))}


def one(method, *, backbone="mini-bert", task="mini-sst2", **changes):
    block = {"backbones": [backbone], "tasks": [task], "methods": [method]}
    return jobs(runs=[block], **changes)


# mini-bert: D 96, L 3, F 384; mini-sst2: 1,600 examples of 12 tokens. For one of them
# projections 3 x 12 x (4 x 96^2 + 2 x 96 x 384) = 3,981,312, attention 3 x 2 x 12^2 x 96 =
# 82,944, pooler 96^2 = 9,216, head 2 x 96 = 192.
FORWARD = 3_981_312 + 82_944 + 9_216 + 192
# Embeddings (1,100 + 128 + 2) x 96; layers 3 x (110,592 weights + 5 x 96 + 384 biases); 7 norms
# of 2 x 96; pooler 96^2 + 96; head 2 x 96 + 2.
PARAMETERS = 118_080 + 3 * 111_456 + 1_344 + 9_312 + 194


def test_a_full_run_by_hand():
    found = one("full")["tune/mini-bert/mini-sst2/full/seed-1"]
    # 3 epochs of 50 batches of 32.
    assert (found.steps, found.tokens) == (150, 3 * 1600 * 12)
    assert found.work.batches == 150
    assert found.work.macs == 3 * FORWARD * 4800
    assert found.work.updates == 150 * PARAMETERS
    assert found.disk_bytes == 4 * PARAMETERS
    assert found.peak_bytes == 2 * 3 * 4 * PARAMETERS


def test_an_evaluation_by_hand():
    found = one("full")["evaluate/mini-bert/mini-sst2/full/seed-1"]
    assert (found.work.batches, found.work.macs) == (8, 500 * FORWARD)  # 500 / 64, rounded up
    assert found.needs == ("tune/mini-bert/mini-sst2/full/seed-1",)


def test_generation_counts_a_pass_for_each_token_and_every_beam():
    found = one("full", backbone="mini-gpt2", task="mini-e2e")
    work = found["evaluate/mini-gpt2/mini-e2e/full/seed-1"].work
    assert work.batches == 1 * 40  # 60 prompts, 40 new tokens


def test_a_search_comes_before_its_run_and_is_counted_on_the_dense_model():
    found = one("earlybert")
    search = found["ticket/mini-bert/mini-sst2/earlybert/seed-1"]
    # 1 epoch of 50 steps.
    assert (search.steps, search.work.macs) == (50, 3 * FORWARD * 1600)
    run = found["tune/mini-bert/mini-sst2/earlybert/seed-1"]
    assert search.id in run.needs
    # 8 of 12 heads and 691 of 1,152 neurons are left, for 2 epochs.
    layers = 12 * (3 * 4 * 96 * 64 + 2 * 96 * 691) + 3 * 2 * 144 * 64
    assert run.work.macs == 3 * (layers + 9_216 + 192) * 3200


def test_every_phase_of_iterative_pruning_counts():
    once, again = one("full"), one("imp")
    run = "tune/mini-bert/mini-sst2/{}/seed-1"
    phases = CATALOGUE.method("imp", backbone_id="mini-bert", task_id="mini-sst2").phases
    trained = [phase for phase in phases if phase["kind"] == "train"]
    steps = sum(round(phase["epochs"] * 50) for phase in trained)
    assert len(trained) == 6
    assert again[run.format("imp")].steps == steps > once[run.format("full")].steps
    # A bit for each of the 331,776 projection weights.
    assert again[run.format("imp")].disk_bytes == 4 * PARAMETERS + 331_776 // 8


def test_heads_that_go_in_between_are_paid_for_before_and_not_after():
    macs = {
        method: one(method)[f"tune/mini-bert/mini-sst2/{method}/seed-1"].work.macs
        for method in ("dsee-unstructured", "dsee-structured-delta")
    }
    assert 0.5 < macs["dsee-structured-delta"] / macs["dsee-unstructured"] < 1


def test_limits_cut_the_work_and_not_the_data_set():
    limits = {"train_examples": 320, "evaluation_examples": 64}
    whole, cut = one("full"), one("full", limits=limits)
    assert cut["tune/mini-bert/mini-sst2/full/seed-1"].steps == 30
    assert cut["evaluate/mini-bert/mini-sst2/full/seed-1"].work.batches == 1
    assert cut["dataset/mini-sst2"].disk_bytes == whole["dataset/mini-sst2"].disk_bytes


def test_the_default_suite_s_jobs_are_those_of_the_workflow():
    found = jobs()
    # As `snakemake -n` counts them, all and the tables of each group apart.
    assert Counter(job.stage for job in found.values()) == {
        "backbone": 4, "dataset": 6, "support": 3, "ticket": 22, "tune": 74, "evaluate": 74,
        "cost": 74, "tables": 11, "claims": 1, "figures": 1, "track": 1,
    }  # fmt: skip


def test_a_job_comes_after_what_it_needs():
    met = set()
    for name, job in jobs().items():
        assert met.issuperset(job.needs), name
        met.add(name)


def test_pre_training_by_hand():
    found = one("full")["backbone/mini-bert"]
    # 3.2 epochs of 8,000 documents in batches of 16.
    assert (found.steps, found.tokens, found.download_bytes) == (1600, 1600 * 16 * 28, 0)
    early = one("full", backbone="mini-bert-early")["backbone/mini-bert-early"]
    assert early.steps == 75 + 0.8 * 1600
    assert early.work.macs < found.work.macs


def test_seeds_share_backbones_and_not_tickets():
    found = one("earlybert", seeds=[1, 2])
    stages = Counter(job.stage for job in found.values())
    assert (stages["backbone"], stages["ticket"], stages["tune"]) == (1, 2, 2)
    first, second = (found[f"tune/mini-bert/mini-sst2/earlybert/seed-{n}"] for n in (1, 2))
    assert first.work == second.work


@pytest.mark.parametrize(("steps", "accumulation"), [(4, 1), (2, 2), (8, 1), (6, 4)])
def test_sequences_of_whole_epochs_are_those_of_the_plan(steps, accumulation):
    plan = make_plan([5] * 100, batch_size=32, gradient_accumulation=accumulation,
                     epochs=steps * accumulation / 4, seed=0)  # fmt: skip
    assert plan.steps == steps
    assert passes(100, steps, 32, accumulation) == (len(plan), plan.examples_seen)


def test_a_corpus_of_unknown_length_is_refused(tmp_path):
    text = (CONFIG / "backbones" / "mini-bert.yaml").read_text()
    (tmp_path / "backbones").mkdir()
    source = "source: {kind: world, seed: 0, documents: 8000}"
    assert source in text
    changed = text.replace(source, "source: {kind: text, seed: 0, paths: [a.txt]}")
    for room in ("tasks", "methods"):
        (tmp_path / room).symlink_to(CONFIG / room)
    for path in (CONFIG / "backbones").glob("*.yaml"):
        (tmp_path / "backbones" / path.name).write_text(path.read_text())
    (tmp_path / "backbones" / "mini-bert.yaml").write_text(changed)
    catalogue = Catalogue(tmp_path)
    limits = {"train_examples": None, "evaluation_examples": None}
    run = catalogue.run(("mini-bert", "mini-sst2", "full", 1), suite="s", limits=limits)
    shapes = {"mini-bert": backbone_shapes(run.backbone, catalogue, folder=None)}
    sizes = Sizes({("mini-bert", "mini-sst2"): TaskSize(10, 10, 5.0)}, shapes)
    suite = CATALOGUE.suite(read_yaml(CONFIG / "config.yaml"), origin="config.yaml")
    with pytest.raises(ConfigError, match=r"mini-bert: phase pretraining: .* unknown length"):
        jobs_of(type(suite)("s", "cpu", None, (run,)), sizes)
