"""Which of the papers' claims a suite of evidence can decide: all that a claim names is there."""

from itertools import combinations

import pytest

from sparsetune.config.claim import read_claims
from sparsetune.config.load import Catalogue
from sparsetune.config.reading import read_yaml

ONLY_AT_PUBLISHED_SIZE = {
    "dsee-structured-saves-a-quarter", "dsee-trains-half-a-percent",
    "dsee-trains-less-than-a-percent",
}  # fmt: skip
OTHER_PRETRAININGS = {"early-pretraining-80-percent-suffice", "early-pretraining-60-percent-do-not"}
ANY_PRETRAINING = {"early-pretraining-saves", "early-pretraining-comparable", *OTHER_PRETRAININGS}
OTHER_SEARCHES = {
    "earlybert-early-ticket-equals-late", "earlybert-global-neurons-beat-layer-wise",
    "earlybert-half-the-neurons-are-too-many", "earlybert-heads-need-layers",
    "earlybert-lambda-1e-2-is-no-worse", "earlybert-lambda-1e-3-is-no-worse",
    "earlybert-larger-rate-compensates", "earlybert-one-epoch-is-too-short",
    "earlybert-short-search-suffices", "earlybert-six-heads-are-too-many",
    "earlybert-tickets-belong-to-tasks", "earlybert-too-early-is-worse",
    "earlybert-40-percent-of-neurons-are-free",
}  # fmt: skip
"""EarlyBERT's ablations."""


@pytest.fixture(scope="module")
def shipped(repository):
    return Catalogue(repository / "config")


@pytest.fixture(scope="module")
def claims(repository, shipped):
    return read_claims(repository / "config" / "claims.yaml", shipped)


def suite_named(shipped, name):
    path = shipped.root / f"{name}.yaml"
    return shipped.suite(read_yaml(path), origin=str(path))


def meets(claim, runs):
    """Whether the settings that a claim requires are those of the runs."""
    for need in claim.requires:
        found = runs[need.method].settings()
        for part in need.setting.split("."):
            found = found[part]
        if found != need.value:
            return False
    return True


def places_of(claim, suite):
    """The backbones and tasks where every method of a claim runs, as it requires."""
    runs = {run.key: run for run in suite.runs}
    places = []
    for backbone, task in suite.groups():
        methods = dict.fromkeys((claim.left, *claim.methods), backbone)
        keys = {method: (backbone, task, method) for method in methods}
        if claim.measure.to_reference:
            keys["full"] = (backbone, task, "full")
        there = {method: runs[key] for method, key in keys.items() if key in runs}
        if there.keys() != keys.keys():
            continue
        kind = there[claim.left].backbone.architecture
        if claim.architectures and kind not in claim.architectures:
            continue
        if claim.twins is not None:
            twin = claim.twins.get(backbone)
            if twin is None or (twin, task, claim.left) not in runs:
                continue
        if meets(claim, there):
            places.append((backbone, task))
    return places


def decidable(claims, suite):
    """Claim -> its places, of the claims that can be decided below the published size."""
    found = {one.id: places_of(one, suite) for one in claims if not one.only_there}
    for one in claims:
        if one.measure.group == "tickets":  # pairs of tasks on one backbone
            pairs = [a for a, b in combinations(found[one.id], 2) if a[0] == b[0]]
            found[one.id] = found[one.id] if pairs else []
    return {name: places for name, places in found.items() if places}


def test_the_suite_of_generated_tasks_can_decide_all_that_is_decided_in_small(claims, shipped):
    suite = suite_named(shipped, "evidence")
    found = decidable(claims, suite)
    everything = {one.id for one in claims}
    assert len(everything) == 47
    assert everything - found.keys() == ONLY_AT_PUBLISHED_SIZE | OTHER_PRETRAININGS
    assert len(found) == 42
    assert {run.seed for run in suite.runs} == {1, 2, 3, 4, 5}
    # Claims about scores have the task with every method, unless they require the published search.
    complete = ("mini-bert", "mini-squad")
    for one in claims:
        if one.id in found and one.quantity == "score" and one.twins is None and not one.requires:
            assert complete in found[one.id], one.id


def test_the_suite_of_real_tasks_can_decide_the_claims_of_its_methods(claims, shipped):
    suite = suite_named(shipped, "minilm-evidence")
    found = decidable(claims, suite)
    everything = {one.id for one in claims}
    missing = ONLY_AT_PUBLISHED_SIZE | ANY_PRETRAINING | OTHER_SEARCHES
    assert everything - found.keys() == missing
    assert len(found) == 27
    assert all(len(places) == 5 for places in found.values())
    assert {run.limits.train_examples for run in suite.runs} == {3668}


def test_every_method_that_a_claim_names_runs_in_the_suite_of_generated_tasks(claims, shipped):
    named = {method for one in claims for method in one.methods}
    assert named <= {run.method.id for run in suite_named(shipped, "evidence").runs}
