import json

import pytest
import torch
from unit.tiny import tiny_model
from unit.training.tiny_jobs import COLLATE, Interrupted, features, phase_job, stop_at

from sparsetune.errors import TrainingError
from sparsetune.training import trainer as module
from sparsetune.training.checkpoints import COMPLETE, newest_complete
from sparsetune.training.seeding import seed_everything
from sparsetune.training.trainer import PhaseTrainer, run_phase

pytestmark = pytest.mark.slow

PICKLES = (".pt", ".pth", ".bin", ".pkl", ".ckpt")


def trainer_of(job, model=None):
    model = model or tiny_model("bert", scale=1.0)
    seed_everything(job.seed)

    def load(state):
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(state[name])

    return PhaseTrainer(
        model,
        job,
        trained_state=lambda: {name: p.detach() for name, p in model.named_parameters()},
        load_trained_state=load,
    )


def train(job, model=None):
    trainer = trainer_of(job, model)
    return run_phase(trainer), dict(trainer.model.named_parameters())


def train_in_two_parts(folder, *, stop, **options):
    with pytest.raises(Interrupted):
        train(phase_job(folder, checkpoint_seconds=0, on_step=stop_at(stop), **options))
    return train(phase_job(folder, **options))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return train(phase_job(tmp_path_factory.mktemp("whole")))


@pytest.mark.parametrize("stop", [2, 4, 8])
def test_an_interrupted_phase_ends_bit_identical(tmp_path, uninterrupted, stop):
    # 20 examples in batches of 3, two a step: 4 steps an epoch, 8 in all; dropout is on.
    whole, expected = uninterrupted
    parts, found = train_in_two_parts(tmp_path, stop=stop)
    assert (whole["steps"], whole["resumed_at_step"]) == (8, 0)
    assert parts["resumed_at_step"] == stop - 1
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert parts["curve"] == whole["curve"]
    assert [point["step"] for point in whole["curve"]] == list(range(1, 9))
    assert parts["final_loss"] == whole["final_loss"]


def test_an_interrupted_phase_with_lamb_ends_bit_identical_and_differs_from_adamw(
    tmp_path, uninterrupted
):
    lamb = {"optimizer": "lamb"}
    _, expected = train(phase_job(tmp_path / "whole", changes=lamb))
    _, found = train_in_two_parts(tmp_path / "parts", stop=4, changes=lamb)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert any(not torch.equal(found[name], one) for name, one in uninterrupted[1].items())


def test_dropout_makes_the_random_state_matter(tmp_path, uninterrupted, monkeypatch):
    # The control of the test above: without the random states, resuming ends elsewhere.
    _, expected = uninterrupted
    monkeypatch.setattr(PhaseTrainer, "_load_rng_state", lambda self, checkpoint: None)
    _, found = train_in_two_parts(tmp_path, stop=6)
    assert any(not torch.equal(found[name], expected[name]) for name in expected)


def test_a_curve_point_that_spans_the_interruption_is_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_CURVE_POINTS", 2)  # a point every 4 steps
    whole, _ = train(phase_job(tmp_path / "whole"))
    parts, _ = train_in_two_parts(tmp_path / "parts", stop=4)
    assert [point["step"] for point in whole["curve"]] == [4, 8]
    assert parts["curve"] == whole["curve"]


def test_interrupted_twice_is_no_different(tmp_path, uninterrupted):
    _, expected = uninterrupted
    for stop in (3, 6):
        with pytest.raises(Interrupted):
            train(phase_job(tmp_path, checkpoint_seconds=0, on_step=stop_at(stop)))
    result, found = train(phase_job(tmp_path))
    assert result["resumed_at_step"] == 5
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_no_pickle_is_written(tmp_path):
    train(phase_job(tmp_path / "phase", checkpoint_seconds=0))
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert written
    assert {path.suffix for path in written} == {".safetensors", ".json"}
    assert not [path for path in written if path.suffix in PICKLES]


def test_an_incomplete_checkpoint_is_ignored_and_deleted(tmp_path):
    with pytest.raises(Interrupted):
        train(phase_job(tmp_path, checkpoint_seconds=0, on_step=stop_at(5)))
    (tmp_path / "checkpoint-4" / COMPLETE).unlink()
    (tmp_path / "checkpoint-9").mkdir()
    assert newest_complete(tmp_path).name == "checkpoint-3"
    result, _ = train(phase_job(tmp_path))
    assert result["resumed_at_step"] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-3"]


def test_the_optimizer_s_state_survives_exactly(tmp_path):
    first = trainer_of(phase_job(tmp_path, checkpoint_seconds=0, on_step=stop_at(4)))
    with pytest.raises(Interrupted):
        run_phase(first)
    second = trainer_of(phase_job(tmp_path))
    second.create_optimizer_and_scheduler(8)
    checkpoint = newest_complete(tmp_path)
    second._load_optimizer_and_scheduler(str(checkpoint))
    second._save_optimizer_and_scheduler(str(tmp_path))
    saved = (checkpoint / "optimizer.safetensors").read_bytes()
    assert (tmp_path / "optimizer.safetensors").read_bytes() == saved
    assert (tmp_path / "state.json").read_text() == (checkpoint / "state.json").read_text()
    state = second.optimizer.state_dict()["state"]
    assert {float(one["step"]) for one in state.values()} == {3.0}
    assert all(one["exp_avg"].abs().sum() > 0 for one in state.values())


def test_a_loss_that_is_not_finite_stops_training_and_keeps_the_last_good_checkpoint(tmp_path):
    bad = {"from": 5}
    steps = {"done": 0}

    def extra():
        return torch.tensor(float("nan") if steps["done"] + 1 >= bad["from"] else 0.0)

    job = phase_job(
        tmp_path, checkpoint_seconds=0, extra_loss=extra, name="recover",
        on_step=lambda step: steps.update(done=step),
    )  # fmt: skip
    with pytest.raises(TrainingError, match=r"phase recover: .* step 5; .*checkpoint-4") as caught:
        train(job)
    assert caught.value.exit_code == 3
    assert newest_complete(tmp_path).name == "checkpoint-4"
    assert json.loads((tmp_path / "checkpoint-4" / COMPLETE).read_text())["step"] == 4


def test_a_loss_that_is_not_finite_at_the_first_step_says_that_nothing_is_kept(tmp_path):
    job = phase_job(tmp_path, extra_loss=lambda: torch.tensor(float("inf")))
    with pytest.raises(TrainingError, match="step 1; last good checkpoint: none"):
        train(job)


def test_accumulated_batches_are_averaged(tmp_path):
    # Batches of equal size: the mean over 2 x 4 examples is the mean over 8.
    data = features(8)
    model = tiny_model("bert")
    model.config.hidden_dropout_prob = model.config.attention_probs_dropout_prob = 0.0
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    loss = model(**COLLATE(data)).loss
    expected = torch.linalg.vector_norm(
        torch.stack([g.norm() for g in torch.autograd.grad(loss, list(model.parameters()))])
    )
    for size, accumulation in ((8, 1), (4, 2), (2, 4)):
        changes = {
            "batch_size": size, "gradient_accumulation": accumulation, "epochs": 1.0,
            "learning_rate": 1e-30,
        }  # fmt: skip
        job = phase_job(tmp_path / str(size), data=data, changes=changes,
                        extra_loss=lambda: torch.tensor(0.5))  # fmt: skip
        result, _ = train(job, model)
        assert result["curve"][0]["loss"] == pytest.approx(loss.item() + 0.5, abs=1e-5)
        assert result["curve"][0]["grad_norm"] == pytest.approx(expected.item(), rel=1e-4)


def test_a_search_has_the_learning_rates_of_the_full_schedule(tmp_path):
    changes = {"epochs": 4.0, "warmup_fraction": 0.25}
    full, _ = train(phase_job(tmp_path / "full", changes=changes))
    early, _ = train(
        phase_job(
            tmp_path / "early", changes={**changes, "epochs": 1.0}, horizon_epochs=4.0,
            horizon_steps=16,
        )
    )  # fmt: skip
    rates = [point["learning_rate"] for point in full["curve"]]
    assert [point["learning_rate"] for point in early["curve"]] == rates[:4]
    # By hand: 4 of 16 steps warm up, from 0 in equal parts; then a straight line to 0.
    assert rates[:6] == pytest.approx([0.0, 0.0025, 0.005, 0.0075, 0.01, 0.01 * 11 / 12])


def test_seconds_before_an_interruption_count(tmp_path):
    with pytest.raises(Interrupted):
        train(phase_job(tmp_path, checkpoint_seconds=0, on_step=stop_at(5)))
    complete = newest_complete(tmp_path) / COMPLETE
    complete.write_text(json.dumps({**json.loads(complete.read_text()), "seconds": 1000.0}))
    result, _ = train(phase_job(tmp_path))
    assert 1000.0 < result["seconds"] < 1100.0


def test_curves_reach_the_watcher_and_are_told_again_after_an_interruption(tmp_path):
    told = []

    def watch(step, values):
        told.append((step, values))

    options = {"on_curve": watch, "checkpoint_seconds": 0}
    with pytest.raises(Interrupted):
        train(phase_job(tmp_path, on_step=stop_at(5), **options))
    assert [step for step, _ in told] == [1, 2, 3, 4]
    told.clear()
    result, _ = train(phase_job(tmp_path, **options))
    assert [step for step, _ in told] == list(range(1, 9))
    assert all(set(values) == set(module.CURVES) for _, values in told)
    assert [values["loss"] for _, values in told] == [p["loss"] for p in result["curve"]]
