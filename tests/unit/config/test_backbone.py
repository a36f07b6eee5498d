"""Backbones that are pre-trained here: what the catalogue demands of them."""

import pytest
import yaml
from unit.config.asking import refused, rewritten, run_of

from sparsetune.architectures.families import FAMILIES, WORKFLOW
from sparsetune.config.load import Catalogue
from sparsetune.config.reading import read_yaml
from sparsetune.cost.parameters import dense_parameters
from sparsetune.stages.estimate import shape_of

PRETRAINED = ("bert-base-pretrained", "bert-base-early")


@pytest.mark.parametrize(("dense", "early"), [("mini-bert", "mini-bert-early"), PRETRAINED])
def test_early_backbones_differ_from_their_dense_twins_in_one_section(repository, dense, early):
    catalogue = Catalogue(repository / "config")
    smaller = catalogue.backbone(early)
    recipe, section = smaller.pretraining, smaller.pretraining.early
    assert recipe.model_copy(update={"early": None}) == catalogue.backbone(dense).pretraining
    assert smaller.source == catalogue.backbone(dense).source
    assert (section.steps_share, section.neuron_sparsity) == (0.8, 0.3)
    for method in ("full", "lora", "dsee", "dsee-unstructured"):
        one, other = (
            catalogue.method(method, backbone_id=backbone, task_id="mini-sst2")
            for backbone in (early, smaller.tuned_as)
        )
        assert one == other


def test_published_pretraining_has_the_papers_steps_samples_and_tokens(repository):
    phases = Catalogue(repository / "config").backbone("bert-base-early").pretraining.phases
    batches = [phase.batch_size * phase.gradient_accumulation for phase in phases]
    assert batches == [65536, 32768]
    assert sum(phase.steps for phase in phases) == 8601
    samples = [phase.steps * batch for phase, batch in zip(phases, batches, strict=True)]
    assert samples[0] / sum(samples) == pytest.approx(0.9, abs=0.001)


@pytest.mark.parametrize(("percent", "steps"), [(80, 6880), (60, 5161), (40, 3440)])
def test_shorter_pretraining_is_that_share_of_the_papers_steps(repository, percent, steps):
    catalogue = Catalogue(repository / "config")
    recipe = catalogue.backbone(f"bert-base-pretrained-{percent}").pretraining
    assert sum(phase.steps for phase in recipe.phases) == steps
    assert steps == pytest.approx(percent / 100 * 8601, abs=1)
    for number, phase in enumerate(recipe.phases):
        whole = catalogue.backbone("bert-base-pretrained").pretraining.phases[number]
        assert phase.model_copy(update={"steps": whole.steps}) == whole
    early = "bert-base-early" + ("" if percent == 80 else f"-{percent}")
    assert catalogue.backbone(early).pretraining.early.steps_share == percent / 100


def test_mirror_serves_running_text_and_lent_tokenizers(catalogue):
    mirrored = Catalogue(catalogue, mirror="/files").backbone("bert-base-early")
    folder = "/files/datasets/wikipedia/20231101.en"
    assert mirrored.source.resolved() == {
        "kind": "text", "paths": [f"{folder}/*.parquet"], "seed": 0
    }  # fmt: skip
    lent = mirrored.settings()["tokenizer_source"]
    assert lent == {"kind": "mirror", "path": "/files/backbones/bert-base"}
    told = {"kind": "text", "seed": 0, "documents": 9, "paths": ["wiki/*.gz", "/a.txt"]}
    rewritten(catalogue / "backbones" / "mini-bert.yaml", source=told)
    source = Catalogue(catalogue, mirror="/files").backbone("mini-bert").source.resolved()
    assert source == {**told, "paths": ["/files/datasets/wiki/*.gz", "/a.txt"]}
    assert Catalogue(catalogue).backbone("mini-bert").source.resolved() == told


def test_a_ticket_on_a_backbone_made_smaller_is_refused(repository):
    with refused("mask.ticket does not fit backbone mini-bert-early, whose heads and neurons were"):
        run_of(repository / "config", "mini-bert-early", "mini-rte", "earlybert")


def changed_backbone(catalogue, change):
    """Ask for an early backbone in whose file ``change`` has changed something."""
    path = catalogue / "backbones" / "mini-bert-early.yaml"
    dense, early = read_yaml(catalogue / "backbones" / "mini-bert.yaml"), read_yaml(path)
    recipe = {**dense["pretraining"], **early["pretraining"]}
    raw = {**dense, "tuned_as": "mini-bert", "pretraining": recipe}
    change(raw)
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    return Catalogue(catalogue).backbone("mini-bert-early")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw.update(source={"kind": "hub", "repository": "a/b", "revision": "main"}),
         "pretraining: needed by source.kind world, text, hub-text, and only there"),
        (lambda raw: raw.update(tuned_as="mini-brt"), "unknown backbone 'mini-brt'"),
        (lambda raw: raw["pretraining"]["phases"][0].update(steps=9),
         "pretraining.phases.0: needs steps or epochs, not both"),
        (lambda raw: raw["pretraining"]["phases"][0].update(steps=74, epochs=None),
         "early.stop_steps: received 150; allowed: up to the first phase"),
        (lambda raw: raw["pretraining"]["phases"][0].update(block_tokens=129),
         "phases.0.block_tokens: received 129; allowed: up to shape.maximum_positions, 128"),
        (lambda raw: raw["pretraining"]["phases"].append(raw["pretraining"]["phases"][0]),
         "pretraining.phases: names must differ, received pretraining, pretraining"),
        (lambda raw: raw["pretraining"]["early"].update(head_sparsity=0.96),
         "pretraining.early.head_sparsity: received 0.96, which leaves none of 12 heads"),
        (lambda raw: raw["pretraining"].update(optimizer="sgd"), "sgd"),
        (lambda raw: raw["pretraining"]["tokenizer"].update(kind="published"),
         "pretraining.tokenizer: unknown key 'vocabulary_size'; allowed: backbone, kind"),
        (lambda raw: raw["pretraining"].update(tokenizer={"kind": "published"}),
         "pretraining.tokenizer: missing key 'backbone'"),
        (lambda raw: raw["pretraining"].update(tokenizer={"kind": "wordpiec"}),
         "tokenizer.kind: received 'wordpiec'; allowed: wordpiece, byte-bpe, published; did you"),
        (lambda raw: raw["pretraining"].pop("masked_fraction"),
         "pretraining.masked_fraction: needed by objective masked, and only there"),
        (lambda raw: raw["pretraining"].update(objective="causal", masked_fraction=None),
         "pretraining.objective: received 'causal'; allowed for bert: masked"),
        (lambda raw: raw.update(id="another"), "top level: unknown key 'id'; allowed: arch"),
        (lambda raw: raw["pretraining"].update(
            tokenizer={"kind": "published", "backbone": "mini-bert"}),
         "mini-bert.yaml: its tokenizer cannot be lent to bert: source.kind world, arch"),
        (lambda raw: raw["pretraining"].update(
            tokenizer={"kind": "published", "backbone": "gpt2"}),
         "gpt2.yaml: its tokenizer cannot be lent to bert: source.kind hub, architecture gpt2"),
    ],
)  # fmt: skip
def test_a_pretraining_that_cannot_be_is_refused_in_one_line(catalogue, change, message):
    with refused(message):
        changed_backbone(catalogue, change)


@pytest.mark.parametrize(
    ("method", "epochs", "rate"),
    [
        ("full", 2, 3e-5), ("layerdrop", 2, 3e-5), ("full-2ep", 2, 3e-5),
        ("full-budget", 1.45, 3e-5),
        ("earlybert", 2, 3e-5), ("earlybert-random", 2, 3e-5), ("earlybert-heads", 2, 3e-5),
        ("earlybert-1ep", 1, 3e-5), ("earlybert-3ep", 3, 3e-5),
        ("earlybert-rate-half", 2, 1.5e-5), ("earlybert-rate-double", 2, 6e-5),
    ],
)  # fmt: skip
def test_squad_is_trained_as_published(repository, method, epochs, rate):
    catalogue = Catalogue(repository / "config")
    (phase,) = catalogue.method(method, backbone_id="bert-base", task_id="squad").phases
    assert (phase.epochs, phase.learning_rate) == (epochs, rate)
    assert (phase.batch_size, phase.gradient_accumulation) == (12, 4)


def own(catalogue, architecture, **changes):
    """Somebody's own folder, as a file of the catalogue."""
    told = {"description": "Own.", "architecture": architecture,
            "source": {"kind": "mirror", "path": "/own"}, **changes}  # fmt: skip
    path = catalogue / "backbones" / "own.yaml"
    path.write_text(yaml.safe_dump(told), encoding="utf-8")
    return Catalogue(catalogue).backbone("own")


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("rembert", "architecture: received 'rembert'; allowed: bert, roberta, "),
        ("qwen", "architecture: received 'qwen'; allowed: "),
        ("phi3", "architecture: received 'phi3': its query, key and value are one matrix, of"),
        ("deberta", "architecture: received 'deberta': its query, key and value stand head by"),
    ],
)
def test_an_architecture_that_cannot_run_is_refused_with_the_reason(
    catalogue, architecture, message
):
    with refused(message, start=catalogue / "backbones" / "own.yaml"):
        own(catalogue, architecture)


def test_a_run_takes_the_architectures_whose_costs_are_counted(catalogue, repository):
    assert set(FAMILIES) - set(WORKFLOW) == {"rembert"}
    for architecture in WORKFLOW:
        own(catalogue, architecture)
        run_of(catalogue, "own", "mini-rte", "lora")
    text = " ".join((repository / "docs" / "backbones.md").read_text(encoding="utf-8").split())
    assert f"on a tiny model at least: {', '.join(WORKFLOW)}. " in text


@pytest.mark.parametrize("task", ["mini-rte", "mini-squad", "mini-stsb", "mini-e2e"])
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "qwen3", "gemma", "deberta-v2"])
def test_a_run_needs_the_head_that_its_task_has(catalogue, architecture, task):
    own(catalogue, architecture)
    lacking = {("gemma", "mini-squad"), ("deberta-v2", "mini-e2e")}
    if (architecture, task) not in lacking:
        assert run_of(catalogue, "own", task, "lora").backbone.architecture == architecture
        return
    kind = "span" if task == "mini-squad" else "generation"
    with refused(f"{task}.yaml: kind {kind} does not fit backbone own, whose architecture "):
        run_of(catalogue, "own", task, "lora")


def test_only_what_is_made_here_can_be_pretrained(catalogue):
    recipe = read_yaml(catalogue / "backbones" / "mini-gpt2.yaml")
    with refused("own.yaml: pretraining: not for architecture llama; allowed with bert, roberta,"):
        own(catalogue, "llama", source=recipe["source"], pretraining=recipe["pretraining"])
    wrong = {**recipe["pretraining"], "tokenizer": {"kind": "wordpiece", "vocabulary_size": 99}}
    with refused("tokenizer.kind: received 'wordpiece'; allowed for gpt2: byte-bpe, published"):
        own(catalogue, "gpt2", source=recipe["source"], pretraining=wrong)


def test_a_search_by_masked_language_modelling_needs_such_a_model(catalogue):
    own(catalogue, "llama")
    with refused("search.objective: received mlm for a llama backbone, which has no masked"):
        run_of(catalogue, "own", "mini-rte", "earlybert-mlm")


def test_query_heads_are_shared_out_evenly(catalogue):
    sizes = read_yaml(catalogue / "backbones" / "smollm2-135m.yaml")["expected"]
    with refused("expected.key_value_heads: received 4; allowed: what divides heads, 9"):
        own(catalogue, "llama", expected={**sizes, "key_value_heads": 4})


# Published, in millions: what the catalogue's sizes come to, without a head.
PUBLISHED = {"modernbert-base": 149, "deberta-v3-base": 184, "distilbert-base": 67,
             "qwen3-0.6b": 596, "smollm2-135m": 135}  # fmt: skip


@pytest.mark.parametrize("backbone", PUBLISHED)
def test_sizes_in_the_catalogue_come_to_the_published_parameters(repository, backbone):
    catalogue = Catalogue(repository / "config")
    counted = dense_parameters(shape_of(catalogue.backbone(backbone), catalogue))
    assert round(counted / 1e6) == PUBLISHED[backbone]
