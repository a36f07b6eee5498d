from pathlib import Path

import pytest
from unit.reporting.runs import claim

from sparsetune.config.claim import read_claims
from sparsetune.config.load import Catalogue
from sparsetune.config.suite import read_suite
from sparsetune.reporting.untested import Missing, can_test, missing_of

CONFIG = Path(__file__).resolve().parents[3] / "config"


def suite_of(*methods, backbones=("mini-bert",), tasks=("mini-sst2",), name="one"):
    blocks = [{"backbones": list(backbones), "tasks": list(tasks), "methods": list(methods)}]
    config = {**read_suite(CONFIG / "config.yaml"), "suite": name, "runs": blocks}
    return Catalogue(CONFIG).suite(config, origin="test")


RANDOM = claim(right="earlybert-random")


def test_a_missing_method_and_the_suites_that_run_it():
    own = suite_of("full", "earlybert")
    other = suite_of("earlybert", "earlybert-random", name="other")
    apart = suite_of("earlybert-random", name="apart")
    found = missing_of(RANDOM, own, [own, other, apart])
    assert found == Missing(("earlybert-random",), (), ("other",))
    assert missing_of(RANDOM, other, [own, other]) == Missing()


def test_methods_on_other_places_do_not_count_together():
    first = suite_of("earlybert")
    assert not can_test(RANDOM, first)
    assert can_test(RANDOM, suite_of("earlybert", "earlybert-random"))


def test_a_cost_against_the_dense_run_needs_the_dense_run():
    about = claim(quantity="training-macs-saved", right=35.0, relation="at-least",
                  tolerance=0, because="c")  # fmt: skip
    assert not can_test(about, suite_of("earlybert"))
    assert can_test(about, suite_of("earlybert", "full"))


def test_what_only_the_published_scale_decides_names_its_backbones():
    about = claim(quantity="trained-share", left="dsee", right=1.0, relation="at-most",
                  tolerance=0, because="c", only_there="small is other")  # fmt: skip
    small = suite_of("dsee", "full")
    large = suite_of("dsee", "full", backbones=("bert-base",), tasks=("qnli",), name="large")
    assert missing_of(about, small, [small, large]) == Missing((), ("bert-base",), ("large",))


def test_twins_are_named_where_the_suite_has_neither():
    about = claim(left="full", right="full", twins={"mini-bert-early": "mini-bert"})
    found = missing_of(about, suite_of("full", backbones=("mini-roberta",)), [])
    assert found == Missing((), ("mini-bert-early", "mini-bert"), ())


def test_tickets_are_compared_between_tasks():
    about = claim(quantity="heads-in-common", right=0.0)
    assert not can_test(about, suite_of("earlybert"))
    assert can_test(about, suite_of("earlybert", tasks=("mini-sst2", "mini-rte")))


def test_a_run_that_is_not_what_is_claimed_does_not_test_it():
    need = {"method": "earlybert", "setting": "ticket.search.stop_epochs", "value": 17,
            "otherwise": "too long"}  # fmt: skip
    about = claim(right="full", requires=[need])
    suite = suite_of("earlybert", "full")
    (run,) = (run for run in suite.runs if run.method.id == "earlybert")
    assert not can_test(about, suite)
    kept = run.settings()["ticket"]["search"]["stop_epochs"]
    assert can_test(claim(right="full", requires=[{**need, "value": kept}]), suite)


@pytest.mark.parametrize("twin", ["mini-bert", None])
def test_pre_training_needs_both_backbones(twin):
    about = claim(quantity="pretraining-macs-saved", left="full", right=30.0, relation="at-least",
                  tolerance=0, because="c", backbones=("mini-bert-early",),
                  twins={"mini-bert-early": "mini-bert"})  # fmt: skip
    backbones = ["mini-bert-early", *filter(None, [twin])]
    assert can_test(about, suite_of("full", backbones=backbones)) == bool(twin)


def test_all_but_few_shipped_claims_can_be_tested_by_a_shipped_suite():
    catalogue = Catalogue(CONFIG)
    files = [path for path in CONFIG.glob("*.yaml") if "suite" in path.read_text("utf-8")]
    files = [path for path in files if path.name not in ("claims.yaml", "revisions.lock.yaml")]
    suites = [catalogue.suite(read_suite(path), origin=path.name) for path in sorted(files)]
    untested = {
        one.id
        for one in read_claims(CONFIG / "claims.yaml", catalogue)
        if not any(can_test(one, suite) for suite in suites)
    }
    assert untested <= {
        "earlybert-short-search-suffices",
        "early-pretraining-80-percent-suffice",
        "early-pretraining-60-percent-do-not",
    }
