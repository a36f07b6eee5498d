"""Combinations that a suite asks for and that cannot run, and the rules of PEFT's updates."""

import pytest

from sparsetune.cli import main
from sparsetune.config.load import Catalogue, Refusal
from sparsetune.config.method import Method
from sparsetune.config.reading import read_yaml, validated
from sparsetune.errors import ConfigError

REASON = "PEFT's Super-Tuning takes nn.Linear only, and GPT-2's matrices are Conv1D"
RUNS = [
    {"backbones": ["mini-bert"], "tasks": ["mini-rte"], "methods": ["lora", "supra"]},
    {"backbones": ["mini-gpt2"], "tasks": ["mini-e2e"], "methods": ["lora", "supra"]},
]
LIMITS = {"train_examples": None, "evaluation_examples": None}


def suite_with(catalogue, runs, **changes):
    content = read_yaml(catalogue / "config.yaml")
    return Catalogue(catalogue).suite({**content, "runs": runs, **changes}, origin="it")


def test_a_suite_runs_everything_else_and_keeps_refusals_apart(catalogue):
    suite = suite_with(catalogue, RUNS, seeds=[1, 2])
    assert [f"{run.backbone.id}/{run.method.id}" for run in suite.runs] == [
        "mini-bert/lora", "mini-bert/lora", "mini-bert/supra", "mini-bert/supra",
        "mini-gpt2/lora", "mini-gpt2/lora",
    ]  # fmt: skip
    assert suite.refusals == (Refusal("mini-gpt2", "mini-e2e", "supra", REASON),)


def test_a_suite_of_which_nothing_can_run_is_an_error(catalogue):
    with pytest.raises(ConfigError, match=r"it: runs: none can run; PEFT's Super-Tuning"):
        suite_with(catalogue, [{**RUNS[1], "methods": ["supra"]}])


def test_a_refused_combination_must_still_make_sense(catalogue):
    with pytest.raises(ConfigError, match="kind classification does not fit backbone mini-gpt2"):
        suite_with(catalogue, [{**RUNS[1], "tasks": ["mini-rte"], "methods": ["supra"]}])


def test_a_refused_run_asked_for_by_name_is_one_line(catalogue):
    ids = ("mini-gpt2", "mini-e2e", "supra", 1)
    with pytest.raises(ConfigError, match=r"supra\.yaml: does not run on backbone mini-gpt2: PEFT"):
        Catalogue(catalogue).run(ids, suite="a", limits=LIMITS)


def test_check_tells_what_will_not_run(catalogue, edit, capsys):
    edit(catalogue / "config.yaml", "[full, lora, dsee, ", "[full, lora, supra, dsee, ")
    path = catalogue / "config.yaml"
    assert main(["check", "--config", str(path), "--catalogue", str(catalogue)]) == 0
    out = capsys.readouterr().out
    assert "74 runs" in out
    assert f"supra on mini-gpt2/mini-e2e: not run: {REASON}" in out


def test_a_refusal_is_no_setting(catalogue, edit):
    def digest():
        ids = ("mini-bert", "mini-rte", "supra", 1)
        return Catalogue(catalogue).run(ids, suite="a", limits=LIMITS).digest

    before = digest()
    edit(catalogue / "methods" / "supra.yaml", REASON, "another text")
    assert digest() == before


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "[gpt2]",
            "[t5]",
            "not_for.0.architectures.0: received 't5'; allowed: bert, roberta, gpt2",
        ),
        ("reason:", "raeson:", "not_for.0: unknown key 'raeson'; allowed: architectures, reason"),
        ("n_sparse: 64", "sparsity: 0.9", "update: unknown key 'sparsity'; allowed: alpha,"),
        ("type: supra", "type: shira", "received 'shira'; allowed: lora, ia3, adalora, supra"),
        ("n_sparse: 64", "n_sparse: 0", "update.n_sparse: received 0; allowed: a number >= 1"),
    ],
)
def test_a_misspelt_method_is_one_line_that_names_the_key(catalogue, edit, old, new, message):
    edit(catalogue / "methods" / "supra.yaml", old, new)
    with pytest.raises(ConfigError) as caught:
        suite_with(catalogue, RUNS)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("method", "change", "message"),
    [
        (
            "adalora",
            {"initial_rank": 16},
            "update.initial_rank: received 16; allowed: more than rank, 16",
        ),
        ("adalora", {"final_fraction": 0.85}, "sum must be below 1, received 0.15 and 0.85"),
        (
            "adalora",
            {"targets": ["query", "query"]},
            "update.targets: received ['query', 'query']; allowed: each only once",
        ),
        ("ia3", {"targets": ["key"]}, "feedforward: ffn_out must be in update.targets too"),
    ],
)
def test_settings_of_an_update_must_fit_each_other(repository, method, change, message):
    raw = method_file(repository, method)
    validated(Method, raw, origin="it", id=method)
    raw["update"] = {**raw["update"], **change}
    with pytest.raises(ConfigError) as caught:
        validated(Method, raw, origin="it", id=method)
    assert message in str(caught.value)


def test_adalora_needs_one_training(repository):
    raw = method_file(repository, "adalora")
    raw["phases"] = [*raw["phases"], {**raw["phases"][0], "name": "again"}]
    with pytest.raises(ConfigError, match=r"phases: .* exactly one train phase, received 2"):
        validated(Method, raw, origin="it", id="adalora")


def method_file(repository, method):
    raw = dict(read_yaml(repository / "config" / "methods" / f"{method}.yaml"))
    raw.pop("overrides", None)
    return raw
