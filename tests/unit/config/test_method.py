"""Methods: what cannot run and why; rules of updates, masks and phases."""

from itertools import product

import pytest
from unit.config.asking import refused, rewritten, run_of, suite_of

from sparsetune.cli import main
from sparsetune.config.load import Catalogue, Refusal
from sparsetune.config.method import Method
from sparsetune.config.reading import read_yaml, validated

REASON = "PEFT's Super-Tuning takes nn.Linear only, and GPT-2's matrices are Conv1D"
RUNS = [
    {"backbones": ["mini-bert"], "tasks": ["mini-rte"], "methods": ["lora", "supra"]},
    {"backbones": ["mini-gpt2"], "tasks": ["mini-e2e"], "methods": ["lora", "supra"]},
]


def test_a_suite_runs_everything_else_and_keeps_refusals_apart(catalogue):
    suite = suite_of(catalogue, runs=RUNS, seeds=[1, 2])
    assert [f"{run.backbone.id}/{run.method.id}" for run in suite.runs] == [
        "mini-bert/lora", "mini-bert/lora", "mini-bert/supra", "mini-bert/supra",
        "mini-gpt2/lora", "mini-gpt2/lora",
    ]  # fmt: skip
    assert suite.refusals == (Refusal("mini-gpt2", "mini-e2e", "supra", REASON),)


def test_what_cannot_run_is_one_line_where_nothing_else_is_left_and_must_make_sense(catalogue):
    with refused("config.yaml: runs: none can run; PEFT's Super-Tuning"):
        suite_of(catalogue, runs=[{**RUNS[1], "methods": ["supra"]}])
    with refused("kind generation does not fit backbone mini-bert, whose architecture bert has no"):
        suite_of(catalogue, runs=[{**RUNS[1], "backbones": ["mini-bert"], "methods": ["supra"]}])
    with refused("supra.yaml: does not run on backbone mini-gpt2: PEFT"):
        run_of(catalogue, "mini-gpt2", "mini-e2e", "supra")


def test_check_tells_what_will_not_run(catalogue, edit, capsys):
    edit(catalogue / "config.yaml", "[full, lora, dsee, ", "[full, lora, supra, dsee, ")
    path = catalogue / "config.yaml"
    assert main(["check", "--config", str(path), "--catalogue", str(catalogue)]) == 0
    out = capsys.readouterr().out
    assert "74 runs" in out
    assert f"supra on mini-gpt2/mini-e2e: not run: {REASON}" in out


def test_a_refusal_is_no_setting(catalogue, edit):
    before = run_of(catalogue, "mini-bert", "mini-rte", "supra").digest
    edit(catalogue / "methods" / "supra.yaml", REASON, "another text")
    assert run_of(catalogue, "mini-bert", "mini-rte", "supra").digest == before


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "[gpt2]",
            "[t5]",
            "not_for.0.architectures.0: received 't5'; allowed: bert, roberta, xlm-roberta,",
        ),
        ("reason:", "raeson:", "not_for.0: unknown key 'raeson'; allowed: architectures, reason"),
        ("n_sparse: 64", "sparsity: 0.9", "update: unknown key 'sparsity'; allowed: alpha,"),
        ("type: supra", "type: shira", "received 'shira'; allowed: lora, ia3, adalora, supra"),
        ("n_sparse: 64", "n_sparse: 0", "update.n_sparse: received 0; allowed: a number >= 1"),
    ],
)
def test_a_misspelt_method_is_one_line_that_names_the_key(catalogue, edit, old, new, message):
    edit(catalogue / "methods" / "supra.yaml", old, new)
    with refused(message):
        suite_of(catalogue, runs=RUNS)


@pytest.mark.parametrize(
    ("method", "change", "message"),
    [
        ("adalora", {"initial_rank": 16}, "initial_rank: received 16; allowed: more than rank, 16"),
        ("adalora", {"final_fraction": 0.85}, "sum must be below 1, received 0.15 and 0.85"),
        ("adalora", {"targets": ["query", "query"]},
         "update.targets: received ['query', 'query']; allowed: each only once"),
        ("ia3", {"targets": ["key"]}, "feedforward: ffn_out must be in update.targets too"),
    ],
)  # fmt: skip
def test_settings_of_an_update_must_fit_each_other(repository, method, change, message):
    raw = method_file(repository, method)
    validated(Method, raw, origin="it", id=method)
    with refused(message):
        update = {**raw["update"], **change}
        validated(Method, {**raw, "update": update}, origin="it", id=method)


def test_adalora_needs_one_training(repository):
    raw = method_file(repository, "adalora")
    phases = [*raw["phases"], {**raw["phases"][0], "name": "again"}]
    with refused("it: phases: ", "exactly one train phase, received 2"):
        validated(Method, {**raw, "phases": phases}, origin="it", id="adalora")


def method_file(repository, method):
    raw = read_yaml(repository / "config" / "methods" / f"{method}.yaml")
    return {key: value for key, value in raw.items() if key not in ("overrides", "variants")}


TRAIN = {
    "name": "recover", "kind": "train", "epochs": 1, "learning_rate": 1e-3, "batch_size": 8,
    "gradient_accumulation": 1, "weight_decay": 0, "warmup_fraction": 0, "schedule": "linear",
    "maximum_gradient_norm": 1,
}  # fmt: skip


def phases_of(*prunes):
    """A phase that trains, and then these prune phases."""
    made = [{"name": f"prune-{n}", "kind": "prune", **prune} for n, prune in enumerate(prunes)]
    return [TRAIN, *made]


HEADS = {"kind": "heads", "head_sparsity": 0.25, "score": "delta"}
N_OF_M = {"kind": "n-of-m", "n": 2, "m": 4, "score": "delta"}
POOLS = {"kind": "unstructured", "pools": "two", "adapted_sparsity": 0.5, "rest_sparsity": 0.2,
         "score": "delta"}  # fmt: skip
FULL = {"kind": "full"}
# Case -> what is changed in dsee-unstructured.yaml, what the one line must say.
BAD_METHODS = {
    "share missing": ({"phases": phases_of({"share": 0.5}, {})},
                      "each of several prune phases needs a share, received 0.5, none"),
    "shares equal": ({"phases": phases_of({"share": 0.5}, {"share": 0.5}, {"share": 1})},
                     "shares must increase from prune phase to prune phase, received 0.5, 0.5, 1"),
    "shares fall": ({"phases": phases_of({"share": 1}, {"share": 0.5})}, "shares must increase"),
    "last share": ({"phases": phases_of({"share": 0.2}, {"share": 0.9})},
                   "the share of the last prune phase must be 1, received 0.2, 0.9"),
    "only share": ({"phases": phases_of({"share": 0.5})}, "prune phase must be 1, received 0.5"),
    "share of zero": ({"phases": phases_of({"share": 0})}, "phases.1.share: received 0; allowed"),
    "share above one": ({"phases": phases_of({"share": 1.5})}, "phases.1.share: received 1.5;"),
    "rewind not boolean": ({"phases": phases_of({"rewind": 1})},
                           "phases.1.rewind: received 1; allowed: true or false"),
    "share of a training": ({"phases": [{**phases_of()[0], "share": 1}]}, "unknown key 'share'"),
    "heads twice": ({"mask": HEADS, "phases": phases_of({"share": 0.5}, {"share": 1})},
                    "mask.kind heads needs exactly one prune phase, received 2"),
    "heads rewound": ({"mask": HEADS, "phases": phases_of({"rewind": True})},
                      "rewind does not go with mask.kind heads"),
    "heads not pruned": ({"mask": HEADS, "phases": phases_of()}, "received 0 with mask.kind heads"),
    "heads all gone": ({"mask": {**HEADS, "head_sparsity": 1}},
                       "mask.head_sparsity: received 1; allowed: a number < 1"),
    "heads by weight": ({"mask": {**HEADS, "score": "weight"}},
                        "mask.score: received 'weight'; allowed: delta, weight+delta, random"),
    "heads of full": ({"mask": HEADS, "update": FULL},
                      "mask.kind: heads with update.kind full; it needs dsee"),
    "more than the group": ({"mask": {**N_OF_M, "n": 5}}, "mask.n: received 5; allowed: up to"),
    "none of a group": ({"mask": {**N_OF_M, "n": 0}}, "mask.n: received 0; allowed: a number >= 1"),
    "group of one": ({"mask": {**N_OF_M, "m": 1}}, "mask.m: received 1; allowed: a number >= 2"),
    "full by update": ({"mask": POOLS, "update": FULL},
                       "mask.score: received delta; update.kind full has no update"),
    "one pool, two ratios": ({"mask": {**POOLS, "pools": "one"}}, "equal, received 0.5 and 0.2"),
    "unknown pools": ({"mask": {**POOLS, "pools": "layer"}}, "allowed: two, one, matrix"),
    "prune without mask": ({"mask": {"kind": "none"}}, "received 1 with mask.kind none"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_METHODS)
def test_masks_and_prune_phases_that_do_not_fit_are_one_line(catalogue, case):
    change, message = BAD_METHODS[case]
    path = catalogue / "methods" / "dsee-unstructured.yaml"
    rewritten(path, ["overrides"], **change)
    with refused(message, start=f"{path}: "):
        Catalogue(catalogue).method(path.stem, backbone_id="bert-base", task_id="rte")


@pytest.mark.parametrize("mask", [HEADS, N_OF_M, POOLS, {**POOLS, "pools": "matrix"}])
def test_every_kind_of_mask_can_be_asked_for(catalogue, mask):
    path = catalogue / "methods" / "dsee-unstructured.yaml"
    rewritten(path, mask=mask)
    method = Catalogue(catalogue).method(path.stem, backbone_id="bert-base", task_id="rte")
    assert method.mask.resolved() == mask


@pytest.mark.parametrize(
    ("method", "variant", "setting", "factor"),
    [
        ("full", "full-long", "epochs", 3), ("lora", "lora-long", "epochs", 3),
        ("lora", "lora-rate-double", "learning_rate", 2),
    ],
)  # fmt: skip
def test_longer_and_faster_variants_are_so_everywhere(repository, method, variant, setting, factor):
    catalogue = Catalogue(repository / "config")
    for backbone, task in product(catalogue.known("backbone"), catalogue.known("task")):
        own, changed = (
            catalogue.method(name, backbone_id=backbone, task_id=task).phases[0]
            for name in (method, variant)
        )
        expected = own.model_copy(update={setting: factor * getattr(own, setting)})
        assert changed == expected, f"{backbone}/{task}"
