from collections import Counter
from pathlib import Path

import pytest
from unit.made_records import PHASE, write_made
from unit.reporting.runs import write_run

from sparsetune.config.load import Catalogue
from sparsetune.config.reading import read_yaml
from sparsetune.errors import ConfigError, DataError
from sparsetune.stages.workload import finished_jobs, frame_of, jobs_of

CONFIG = Path(__file__).resolve().parents[3] / "config"
CATALOGUE = Catalogue(CONFIG)
NONE = frame_of([])
RUN = "mini-bert/mini-sst2/{}/seed-1"
# mini-bert: D 96, L 3, F 384; mini-sst2: 1,600 examples of 12 tokens. For one of them
# projections 3 x 12 x (4 x 96^2 + 2 x 96 x 384) = 3,981,312, attention 3 x 2 x 12^2 x 96 =
# 82,944, head 2 x 96 = 192, and no pooler: the head stands for it.
FORWARD = 3_981_312 + 82_944 + 192
# Embeddings (1,100 + 128 + 2) x 96; layers 3 x (110,592 weights + 5 x 96 + 384 biases); 7 norms
# of 2 x 96; head 2 x 96 + 2.
PARAMETERS = 118_080 + 3 * 111_456 + 1_344 + 194


def jobs(name="config.yaml", **changes):
    suite = CATALOGUE.suite({**read_yaml(CONFIG / name), **changes}, origin=name)
    return jobs_of(suite, CATALOGUE, (), NONE)[0].set_index("id")


def one(method, *, backbone="mini-bert", task="mini-sst2", **changes):
    block = {"backbones": [backbone], "tasks": [task], "methods": [method]}
    return jobs(runs=[block], **changes)


def test_a_full_run_and_its_evaluation_by_hand():
    found = one("full")
    tune, evaluate = (found.loc[f"{stage}/{RUN.format('full')}"] for stage in ("tune", "evaluate"))
    # 3 epochs of 50 batches of 32.
    assert (tune.passes, tune.macs) == (150, 3 * FORWARD * 4800)
    assert tune.disk_bytes == 4 * PARAMETERS
    assert (evaluate.passes, evaluate.macs) == (8, 500 * FORWARD)  # 500 / 64, rounded up
    assert evaluate.needs == [tune.name]


def test_generation_counts_a_pass_for_each_token():
    found = one("full", backbone="mini-gpt2", task="mini-e2e")
    # 60 prompts, 40 new tokens.
    assert found.loc["evaluate/mini-gpt2/mini-e2e/full/seed-1"].passes == 1 * 40


def test_a_search_comes_before_its_run_and_is_counted_on_the_dense_model():
    found = one("earlybert")
    search = found.loc["ticket/mini-bert/mini-sst2/earlybert/seed-1"]
    assert (search.passes, search.macs) == (50, 3 * FORWARD * 1600)  # 1 epoch of 50 steps
    run = found.loc[f"tune/{RUN.format('earlybert')}"]
    assert search.name in run.needs
    # 8 of 12 heads and 230 of 384 neurons are left in each layer, for 2 epochs.
    layers = 12 * 3 * (4 * 96 * 64 + 2 * 96 * 230) + 3 * 2 * 144 * 64
    assert run.macs == 3 * (layers + 192) * 3200


def test_every_phase_of_iterative_pruning_counts():
    phases = CATALOGUE.method("imp", backbone_id="mini-bert", task_id="mini-sst2").phases
    trained = [phase for phase in phases if phase.kind == "train"]
    steps = sum(round(phase.epochs * 50) for phase in trained)
    assert len(trained) == 6
    assert one("imp").loc[f"tune/{RUN.format('imp')}"].passes == steps


def test_heads_that_go_in_between_are_paid_for_before_and_not_after():
    names = ("dsee-unstructured", "dsee-structured-delta")
    whole, smaller = (one(name).loc[f"tune/{RUN.format(name)}"].macs for name in names)
    assert 0.5 < smaller / whole < 1


def test_a_frozen_backbone_needs_no_gradients_of_its_weights():
    full, lora = (one(name).loc[f"tune/{RUN.format(name)}"] for name in ("full", "lora"))
    assert lora.macs / lora.passes == pytest.approx(full.macs / full.passes * 2 / 3)


def test_limits_cut_the_work_and_not_the_data_set():
    limits = {"train_examples": 320, "evaluation_examples": 64}
    whole, cut = one("full"), one("full", limits=limits)
    assert cut.loc[f"tune/{RUN.format('full')}"].passes == 30
    assert cut.loc[f"evaluate/{RUN.format('full')}"].passes == 1
    data = "dataset/mini-sst2"
    assert whole.loc[data].disk_bytes == cut.loc[data].disk_bytes == 2100 * 12 * 4


def test_pre_training_by_hand():
    found = one("full").loc["backbone/mini-bert"]
    # 3.2 epochs of 8,000 documents in batches of 16.
    assert found.passes == 1600
    early = one("full", backbone="mini-bert-early").loc["backbone/mini-bert-early"]
    assert early.passes == 75 + 0.8 * 1600
    assert early.macs < found.macs


def test_the_suite_has_the_jobs_of_the_workflow_each_after_what_it_needs():
    found = jobs()
    # As `snakemake -n` counts them, all and the tables of each group apart.
    assert Counter(found["stage"]) == {
        "backbone": 4, "dataset": 6, "support": 3, "ticket": 22, "tune": 74, "evaluate": 74,
        "cost": 74, "tables": 11, "claims": 1, "figures": 1, "track": 1,
    }  # fmt: skip
    met = set()
    for name, needs in found["needs"].items():
        assert met.issuperset(needs), name
        met.add(name)


def test_seeds_share_backbones_and_not_tickets():
    stages = Counter(one("earlybert", seeds=[1, 2])["stage"])
    assert (stages["backbone"], stages["ticket"], stages["tune"]) == (1, 2, 2)


@pytest.mark.parametrize(
    ("name", "millions"),
    # As their papers and model cards give them, without the pooler of BERT.
    [("bert-base", 109), ("bert-large", 334), ("roberta-base", 125), ("roberta-large", 356),
     ("gpt2", 124), ("gpt2-medium", 355), ("minilm", 22.6)],
)  # fmt: skip
def test_published_sizes_give_the_published_parameters(name, millions):
    found = one("full", backbone=name, task="e2e" if "gpt2" in name else "sst2")
    assert found.loc[f"backbone/{name}"].disk_bytes / 4e6 == pytest.approx(millions, rel=0.01)


def changed(tmp_path, place, before, after):
    """A copy of the catalogue in which one file differs."""
    for folder in CONFIG.iterdir():
        if folder.is_dir():
            (tmp_path / folder.name).mkdir()
            for path in folder.iterdir():
                (tmp_path / folder.name / path.name).write_text(path.read_text())
    text = (CONFIG / place).read_text()
    assert before in text
    (tmp_path / place).write_text(text.replace(before, after))
    catalogue = Catalogue(tmp_path)
    config = read_yaml(CONFIG / "config.yaml")
    return catalogue.suite(config, origin="config.yaml"), catalogue


def test_what_nobody_knows_is_refused(tmp_path):
    source = "source: {kind: world, seed: 0, documents: 8000}"
    text = "source: {kind: text, seed: 0, paths: [a.txt]}"
    (tmp_path / "corpus").mkdir()
    suite, catalogue = changed(tmp_path / "corpus", "backbones/mini-bert.yaml", source, text)
    with pytest.raises(ConfigError, match=r"mini-bert: phase pretraining: .* unknown length"):
        jobs_of(suite, catalogue, (), NONE)
    suite, catalogue = changed(tmp_path, "tasks/mini-sst2.yaml", "expected: {tokens: 12}", "")
    with pytest.raises(ConfigError, match=r"task mini-sst2: expected.tokens: missing"):
        jobs_of(suite, catalogue, (), NONE)
    ran = frame_of([{"id": "tune/x", "task": "mini-sst2", "tokens": 12.5}])
    assert "mini-sst2" not in jobs_of(suite, catalogue, (), ran)[1]


def edit(records):
    phase = {"name": "train", "kind": "train", "gradient_accumulation": 4}
    method = {"update": {"kind": "full"}, "mask": {"kind": "none"}, "phases": [phase]}
    records["tune"]["asked"]["settings"] = {"method": method}
    records["tune"]["measured"]["phases"].append({"name": "cut", "kind": "prune"})
    records["evaluate"]["asked"]["settings"] = {"scoring": {"generation": None}}


def finished(home):
    return frame_of(finished_jobs(home / "results")).set_index("stage")


def test_work_is_read_from_records(tmp_path):
    write_run(tmp_path / "results" / "mini", edit=edit)
    write_made(tmp_path / "resources/datasets/mini-sst2/record.json", "dataset")
    train = {"search": {"train": {"gradient_accumulation": 2}}}
    place = tmp_path / "results/mini/tickets/mini-bert/mini-sst2/earlybert/seed-0/record.json"
    search = {**PHASE, "name": "search", "objective": "task"}
    write_made(place, "ticket", settings={"ticket": train}, measured={"search": search})
    found = finished(tmp_path)
    tune = found.loc["tune"]
    assert tune.id == "tune/mini-bert/mini-sst2/full/seed-0"
    # 100 steps of 4 batches, 300 examples of 10 tokens; 60 s, and 4 s until it was ready.
    assert (tune.passes, tune.macs, tune.tokens) == (400, 3 * 1007 * 300, 10)
    assert (tune.work_seconds, tune.job_seconds, tune.kind) == (5.25, 64, "full/none")
    assert (found.loc["evaluate"].passes, found.loc["evaluate"].macs) == (7, 400 * 1007)
    assert (found.loc["ticket"].passes, found.loc["ticket"].macs) == (200, 3 * 1000 * 300)
    assert found.loc["dataset"].job_seconds == 64
    (record,) = tmp_path.glob("results/mini/runs/*/*/*/*/tune.json")
    record.write_text("{")
    with pytest.raises(DataError, match=r"seed-0/tune\.json"):
        finished(tmp_path)
    record.with_name("cost.json").unlink()
    assert set(finished(tmp_path).index) == {"dataset", "ticket"}


def test_sizes_that_were_fetched_come_first(tmp_path):
    folder = tmp_path / "resources/datasets/mini-sst2"
    write_made(folder / "record.json", "dataset", measured={"train_examples": 64})
    suite = CATALOGUE.suite(read_yaml(CONFIG / "config.yaml"), origin="config.yaml")
    found = jobs_of(suite, CATALOGUE, [tmp_path / "results"], NONE)[0].set_index("id")
    assert found.loc[f"tune/{RUN.format('full')}"].passes == 6
    assert found.loc["dataset/mini-sst2"].disk_bytes == 77
