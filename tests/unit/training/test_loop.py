"""One phase: resumed exactly, equal to the Trainer's, told as it goes."""

import dataclasses

import pytest
import torch
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainingArguments
from unit.tiny import tiny_model
from unit.training.tiny_jobs import (
    COLLATE,
    features,
    interrupt,
    phase_job,
    stop_at,
    train,
    without_dropout,
)

from sparsetune.errors import TrainingError
from sparsetune.training import loop as module
from sparsetune.training.checkpoints import Checkpoint, checkpoint_step
from sparsetune.training.seeding import seed_everything

pytestmark = pytest.mark.slow


def train_in_two_parts(folder, *, stop, **options):
    interrupt(folder, on_step=stop_at(stop), **options)
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
    monkeypatch.setattr(module, "restore_random_state", lambda states: None)
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
        interrupt(tmp_path, on_step=stop_at(stop))
    result, found = train(phase_job(tmp_path))
    assert result["resumed_at_step"] == 5
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_one_safetensors_file_is_written(tmp_path):
    train(phase_job(tmp_path / "phase", checkpoint_seconds=0))
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert written
    assert [path.name for path in written] == ["checkpoint.safetensors"]


def test_a_checkpoint_that_was_cut_off_does_not_hide_the_one_before(tmp_path):
    interrupt(tmp_path, on_step=stop_at(5))
    (tmp_path / ".checkpoint.safetensors.1-1.partial").write_bytes(b"half")
    result, _ = train(phase_job(tmp_path))
    assert result["resumed_at_step"] == 4
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.safetensors"]


def test_a_loss_that_is_not_finite_stops_training_and_keeps_the_last_good_checkpoint(tmp_path):
    bad = {"from": 5}
    steps = {"done": 0}

    def extra():
        return torch.tensor(float("nan") if steps["done"] + 1 >= bad["from"] else 0.0)

    job = phase_job(
        tmp_path, checkpoint_seconds=0, extra_loss=extra, name="recover",
        on_step=lambda step: steps.update(done=step),
    )  # fmt: skip
    with pytest.raises(TrainingError, match=r"phase recover: .* step 5; .* step 4 in ") as caught:
        train(job)
    assert caught.value.exit_code == 3
    assert checkpoint_step(tmp_path) == 4


def test_a_loss_that_is_not_finite_at_the_first_step_says_that_nothing_is_kept(tmp_path):
    job = phase_job(tmp_path, extra_loss=lambda: torch.tensor(float("inf")))
    with pytest.raises(TrainingError, match="step 1; last good checkpoint: none"):
        train(job)


def test_accumulated_batches_are_averaged(tmp_path):
    # Batches of equal size: the mean over 2 x 4 examples is the mean over 8.
    data = features(8)
    model = without_dropout(tiny_model("bert"))
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
    interrupt(tmp_path, on_step=stop_at(5))
    found = Checkpoint.read(tmp_path)
    dataclasses.replace(found, told={**found.told, "seconds": 1000.0}).write(tmp_path)
    result, _ = train(phase_job(tmp_path))
    assert 1000.0 < result["seconds"] < 1100.0


def test_curves_reach_the_watcher_and_are_told_again_after_an_interruption(tmp_path):
    told = []

    def watch(step, values):
        told.append((step, values))

    interrupt(tmp_path, on_step=stop_at(5), on_curve=watch)
    assert [step for step, _ in told] == [1, 2, 3, 4]
    told.clear()
    result, _ = train(phase_job(tmp_path, on_curve=watch))
    assert [step for step, _ in told] == list(range(1, 9))
    assert all(set(values) == set(module.CURVES) for _, values in told)
    assert [values["loss"] for _, values in told] == [p["loss"] for p in result["curve"]]


class TrainerCurves(TrainerCallback):
    """What the Trainer says of every step."""

    def __init__(self):
        self.points = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:
            self.points.append({"step": state.global_step, **logs})


class PlannedTrainer(Trainer):
    """The Hugging Face Trainer on the batches of a plan; its loader draws from a generator of its
    own, so that dropout has all numbers of the global one."""

    plan = None

    def get_train_dataloader(self):
        return DataLoader(
            self.train_dataset, batch_sampler=self.plan, collate_fn=self.data_collator,
            generator=torch.Generator().manual_seed(0),
        )  # fmt: skip


def trainer_curve(job, model, folder):
    """Losses, norms and rates of every step, and the parameters, as the Trainer has them."""
    settings = job.settings
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=job.plan.steps, learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.schedule, weight_decay=settings.weight_decay,
        warmup_steps=round(settings.warmup_fraction * job.plan.steps),
        max_grad_norm=settings.maximum_gradient_norm, logging_steps=1, use_cpu=True,
        gradient_accumulation_steps=settings.gradient_accumulation, save_strategy="no",
        report_to="none", disable_tqdm=True, remove_unused_columns=False,
        per_device_train_batch_size=settings.batch_size,
    )  # fmt: skip
    curves = TrainerCurves()
    trainer = PlannedTrainer(
        model, arguments, train_dataset=job.features, data_collator=job.collate,
        callbacks=[curves],
    )  # fmt: skip
    trainer.plan = job.plan
    trainer.model_accepts_loss_kwargs = False  # a mean over batches, as task heads give it
    seed_everything(job.seed)
    trainer.train()
    return curves.points, dict(model.named_parameters())


@pytest.mark.parametrize("schedule", ["linear", "constant", "cosine"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_fifty_steps_are_the_trainer_s(tmp_path, schedule, accumulation):
    changes = {
        "epochs": 50 * accumulation / 7, "gradient_accumulation": accumulation,
        "schedule": schedule, "learning_rate": 2e-3,
    }  # fmt: skip
    if accumulation == 2:
        changes["epochs"] = 12.5
    job = phase_job(tmp_path / "ours", changes=changes)
    assert job.plan.steps == 50
    found, parameters = train(job)
    expected, their_parameters = trainer_curve(
        job, tiny_model("bert", scale=1.0), tmp_path / "theirs"
    )
    assert [point["step"] for point in expected] == list(range(1, 51))
    for name in module.CURVES:
        ours, theirs = ([float(p[name]) for p in points] for points in (found["curve"], expected))
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-9), name  # sums are in float64 here
    for name, parameter in parameters.items():
        torch.testing.assert_close(parameter, their_parameters[name], rtol=1e-5, atol=1e-6)
