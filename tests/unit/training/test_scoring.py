"""Scores at the end of each epoch: when, of which model, and what they leave as it was."""

import time
from dataclasses import replace

import pytest
import torch
from unit.tiny import tiny_model
from unit.training.test_phases import CASES, run
from unit.training.tiny_jobs import (
    Interrupted,
    build_tiny,
    features,
    interrupt,
    phase_job,
    save_backbone,
    stop_at,
    train,
    workplace,
)

from sparsetune.errors import DataError, TrainingError
from sparsetune.evaluation.predict import _forward_all
from sparsetune.training.checkpoints import Checkpoint, checkpoint_step
from sparsetune.training.plan import make_plan
from sparsetune.training.scoring import EpochScores, EpochScoring, score_point

pytestmark = pytest.mark.slow

HELD_OUT = features(9, seed=1)


def margin(model):
    """A score that any change of the weights, or dropout, would change."""
    outputs, _ = _forward_all(model, HELD_OUT, batch_size=4, pad_token_id=0, device="cpu")
    logits = torch.stack([logits for (logits,) in outputs])
    return {"accuracy_fraction": float(logits.std()), "f1_fraction": None}


SCORING = EpochScoring("accuracy_fraction", margin)


def without_times(result):
    return {k: v for k, v in result.items() if "seconds" not in k and k != "resumed_at_step"}


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """The result and parameters of a phase, and its state after steps 4 and 8."""
    states, model = {}, tiny_model("bert", scale=1.0)

    def keep(step):
        states[step] = {name: p.detach().clone() for name, p in model.named_parameters()}

    job = phase_job(tmp_path_factory.mktemp("scored"), scoring=SCORING, on_step=keep)
    return *train(job, model), states


@pytest.mark.parametrize(
    ("epochs", "expected"),
    # 20 examples in batches of 3, two a step: 4 steps an epoch.
    [(2.0, {4: 1.0, 8: 2.0}), (2.5, {4: 1.0, 8: 2.0, 10: 2.5}), (0.5, {2: 0.5})],
)
def test_every_epoch_ends_once_and_the_last_one_with_training(epochs, expected):
    sizes = {"batch_size": 3, "gradient_accumulation": 2, "epochs": epochs, "seed": 1}
    plan = make_plan([5] * 20, **sizes)
    scores = EpochScores(EpochScoring("m", lambda _model: {"m": 0.5}), plan)
    for step in range(1, plan.steps + 1):
        if scores.due(step):
            scores.take(torch.nn.Identity(), step)
    assert {entry["step"]: entry["epoch"] for entry in scores.entries} == expected
    assert not any(EpochScores(None, plan).due(step) for step in range(1, plan.steps + 1))


@pytest.mark.parametrize("fails", [False, True])
def test_scoring_leaves_modes_and_random_numbers(fails):
    model = tiny_model("bert").train()
    frozen = next(part for part in model.modules() if isinstance(part, torch.nn.Dropout))
    frozen.eval()
    modes = [part.training for part in model.modules()]
    plan = make_plan([5], batch_size=1, epochs=1.0, seed=1)
    before = torch.random.get_rng_state()

    def score(given):
        result = margin(given)
        assert not any(part.training for part in given.modules())
        if fails:
            raise Interrupted
        return result

    scores = EpochScores(EpochScoring("accuracy_fraction", score), plan)
    if fails:
        with pytest.raises(Interrupted):
            scores.take(model, 1)
    else:
        scores.take(model, 1)
    assert [part.training for part in model.modules()] == modes
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_scored_phase_trains_as_one_that_is_not(tmp_path, scored):
    result, parameters, _ = scored
    bare, expected = train(phase_job(tmp_path))  # dropout is on
    assert all(torch.equal(parameters[name], expected[name]) for name in expected)
    extra = {"epoch_scores", "scoring_seconds"}
    assert result.keys() - bare.keys() == extra
    assert {k: v for k, v in without_times(result).items() if k not in extra} == without_times(bare)


def test_the_scores_are_those_of_the_weights_at_the_end_of_each_epoch(scored):
    result, _, states = scored
    model = tiny_model("bert", scale=1.0)
    expected = []
    for step, epoch in ((4, 1.0), (8, 2.0)):
        model.load_state_dict(states[step], strict=False)
        expected.append({"epoch": epoch, "step": step, "metrics": margin(model)})
    assert result["epoch_scores"] == expected
    assert len({entry["metrics"]["accuracy_fraction"] for entry in expected}) == 2


@pytest.mark.parametrize("stop", [3, 5, 8])
def test_an_interrupted_phase_has_the_same_scores(tmp_path, scored, stop):
    interrupt(tmp_path, scoring=SCORING, on_step=stop_at(stop))
    told = []
    watch = {"on_curve": lambda step, values: told.append((step, *values))}
    found, parameters = train(phase_job(tmp_path, scoring=SCORING, **watch))
    assert found["resumed_at_step"] == stop - 1
    assert without_times(found) == without_times(scored[0])
    assert all(torch.equal(parameters[name], p) for name, p in scored[1].items())
    # The watcher of the new process hears of the scores from before, too.
    assert [step for step, *names in told if names == ["evaluation_accuracy_fraction"]] == [4, 8]


def test_a_score_that_was_not_saved_is_taken_again_and_kept_once(tmp_path, scored):
    def killed(step, values):
        if step == 8 and "evaluation_accuracy_fraction" in values:
            raise Interrupted

    interrupt(tmp_path, scoring=SCORING, on_curve=killed)
    assert checkpoint_step(tmp_path) == 7
    found, _ = train(phase_job(tmp_path, scoring=SCORING))
    assert found["epoch_scores"] == scored[0]["epoch_scores"]


def test_the_time_of_scoring_is_not_training_time(tmp_path, monkeypatch):
    real, slow = time.perf_counter, {"seconds": 0.0}
    monkeypatch.setattr(time, "perf_counter", lambda: real() + slow["seconds"])

    def score(model):
        slow["seconds"] += 1000.0
        return margin(model)

    scoring = EpochScoring("accuracy_fraction", score)
    interrupt(tmp_path, on_step=stop_at(6), scoring=scoring)
    saved = Checkpoint.read(tmp_path).told
    assert saved["scoring_seconds"] == pytest.approx(1000, abs=100)
    result, _ = train(phase_job(tmp_path, scoring=scoring))
    assert result["scoring_seconds"] == pytest.approx(2000, abs=200)
    assert result["seconds"] < 100


def test_a_model_that_cannot_be_scored_is_a_failure_of_training(tmp_path):
    def score(_model):
        raise DataError("logits: row 1: got nan, need a finite number")

    job = phase_job(tmp_path, scoring=EpochScoring("accuracy_fraction", score))
    with pytest.raises(TrainingError, match="phase train: scoring after step 4: logits: row 1"):
        train(job)


def test_an_undefined_score_is_no_point_of_the_curve():
    entry = {"epoch": 1.0, "step": 4, "metrics": {"f1_fraction": None, "accuracy_fraction": 0.5}}
    assert score_point(entry, "f1_fraction") == {}
    assert score_point(entry, "accuracy_fraction") == {"evaluation_accuracy_fraction": 0.5}


@pytest.mark.parametrize(("case", "last"), [("full", 0), ("dsee", 2)])
def test_only_the_last_phase_that_trains_is_scored(tmp_path, case, last):
    update, phases, mask = CASES[case]
    backbone = save_backbone(tmp_path, "bert")
    told = []
    place = replace(
        workplace(tmp_path / "work", on_curve=lambda step, values: told.append((step, *values))),
        scoring=SCORING,
    )
    tuned = build_tiny(backbone, update)
    results = run(tuned, place, phases=phases, mask=mask)
    assert ["epoch_scores" in result for result in results] == [n == last for n in range(last + 1)]
    (entry,) = results[last]["epoch_scores"]
    assert entry["metrics"] == margin(tuned.model)
    # Steps are counted over all phases, when they are told again, too: 4 for each that trains.
    steps = 4 if case == "full" else 8
    again = list(told)
    told.clear()
    run(build_tiny(backbone, update), place, phases=phases, mask=mask)
    assert set(told) == set(again)
    assert (steps, "evaluation_accuracy_fraction") in told
