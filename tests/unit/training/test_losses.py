import math

import pytest
import torch
from unit.tiny import tiny_model
from unit.training.tiny_jobs import (
    COLLATE,
    NO_MASK,
    PHASE,
    build_tiny,
    features,
    phase_job,
    phases_of,
    save_backbone,
    train,
    without_dropout,
    workplace,
)

from sparsetune.methods.kinds.full import FullUpdate
from sparsetune.methods.tuned import Structure, build
from sparsetune.training.losses import StepLoss, smoothed_cross_entropy, step_loss
from sparsetune.training.phases import run_phases


def logits_and_labels():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 6, 11, generator=generator)
    labels = torch.randint(0, 11, (4, 6), generator=generator)
    labels[:, :2] = -100
    labels[1, 3:] = -100
    return logits, labels


def test_the_smoothed_loss_of_two_classes_is_as_worked_by_hand():
    # Probabilities 3/4 and 1/4, smoothing 0.2: the target is 0.9 and 0.1 for the first class.
    logits = torch.tensor([[math.log(3.0), 0.0]])
    expected = -(0.9 * math.log(0.75) + 0.1 * math.log(0.25))
    found = smoothed_cross_entropy(logits, torch.tensor([0]), 0.2)
    assert found.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
def test_the_loss_is_that_of_a_plain_loop(smoothing):
    logits, labels = logits_and_labels()
    losses = []
    for row, label in zip(logits.flatten(0, 1).double(), labels.flatten().tolist(), strict=True):
        if label >= 0:
            target = [smoothing / 11 + (1 - smoothing) * (c == label) for c in range(11)]
            log_sum = math.log(sum(math.exp(x) for x in row.tolist()))
            losses.append(sum(t * (log_sum - x) for t, x in zip(target, row.tolist(), strict=True)))
    found = smoothed_cross_entropy(logits, labels, smoothing)
    assert found.item() == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_the_parts_of_a_step_add_up_to_the_mean_over_its_tokens():
    # Batches of 4 and of 17 target tokens: the mean of their means would be another number.
    logits, labels = logits_and_labels()
    for next_token in (False, True):
        loss = StepLoss(0.1, next_token)
        items, parts = loss.count(labels), (slice(0, 1), slice(1, 4))
        assert items == sum(loss.count(labels[rows]) for rows in parts)
        whole = loss(logits, labels, items)
        torch.testing.assert_close(
            sum(loss(logits[rows], labels[rows], items) for rows in parts), whole
        )


def test_a_label_that_nothing_predicts_is_not_counted():
    # The first token of a text has no position before it.
    labels = torch.tensor([[3, 4, 5, -100], [-100, 4, 5, 6]])
    assert StepLoss(0.0, next_token=True).count(labels) == 5
    assert StepLoss(0.0).count(labels) == 6


def test_a_generation_without_smoothing_has_the_model_own_loss_to_the_bit():
    model = tiny_model("gpt2", task="lm")
    ids = torch.randint(2, 50, (3, 9), generator=torch.Generator().manual_seed(1))
    labels = ids.clone()
    labels[:, :4] = -100  # the prompt
    outputs = model(input_ids=ids, labels=labels)
    loss = step_loss("generation", 0.0)
    found = loss(outputs.logits, labels, loss.count(labels))
    assert torch.equal(found, outputs.loss)


def test_only_target_tokens_get_gradients_from_a_smoothed_generation():
    logits = torch.randn(1, 5, 7, requires_grad=True)
    labels = torch.tensor([[-100, -100, 3, 4, -100]])
    step_loss("generation", 0.1)(logits, labels, 2).backward()
    touched = logits.grad.abs().sum(-1)[0] > 0  # positions 1 and 2 predict tokens 2 and 3
    assert touched.tolist() == [False, True, True, False, False]


def test_classes_without_smoothing_and_everything_else_keep_the_model_own_loss():
    assert step_loss("classification", 0.0) is None
    assert step_loss("regression", 0.0) is None
    assert step_loss("span", 0.0) is None


def answers(count):
    """Features of a generation: three prompt tokens, and answers of quite different lengths."""
    made = features(count)
    for index, feature in enumerate(made):
        ids = feature["input_ids"] + [7] * (5 * (index % 4))
        feature |= {"input_ids": ids, "attention_mask": [1] * len(ids)}
        feature["labels"] = [-100] * 2 + ids[2:]
    return made


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_accumulated_batches_train_as_one_large_batch(tmp_path, smoothing):
    data, ends = answers(12), []
    for batch_size, accumulation in ((12, 1), (3, 4)):
        sizes = {"batch_size": batch_size, "gradient_accumulation": accumulation, "epochs": 1.0}
        job = phase_job(tmp_path / str(accumulation), data=data, changes=sizes,
                        loss=step_loss("generation", smoothing))  # fmt: skip
        model = without_dropout(tiny_model("gpt2", task="lm", scale=1.0))
        result, _ = train(job, model)
        ends.append((result["curve"][0], model.lm_head.weight.detach()))
    (one, weights), (many, others) = ends
    assert many["loss"] == pytest.approx(one["loss"], rel=1e-5)
    assert many["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)
    torch.testing.assert_close(others, weights, rtol=1e-3, atol=1e-4)  # Adam magnifies rounding


def test_an_extra_term_counts_once_a_step_beside_a_loss_of_its_own(tmp_path):
    changes = {"batch_size": 3, "gradient_accumulation": 4, "epochs": 1.0}
    losses = []
    for extra in (None, lambda: torch.tensor(10.0)):
        job = phase_job(
            tmp_path / str(bool(extra)), data=answers(12), changes=changes, extra_loss=extra,
            loss=step_loss("generation", 0.1),
        )  # fmt: skip
        result, _ = train(job, tiny_model("gpt2", task="lm", scale=1.0))
        losses.append(result["curve"][0]["loss"])
    assert losses[1] - losses[0] == pytest.approx(10.0, abs=1e-3)


def loss_of_phase(tuned, folder, data, **changes):
    one = {**PHASE, "epochs": 1.0, "batch_size": 12, "gradient_accumulation": 1, **changes}
    [result] = run_phases(
        tuned, phases_of(one), features=data, collate=COLLATE, mask=NO_MASK,
        workplace=workplace(folder),
    )  # fmt: skip
    return result["curve"][0]["loss"]


def test_the_smoothing_of_a_phase_reaches_the_loss_of_a_classification(tmp_path):
    backbone, found = save_backbone(tmp_path, "bert"), {}
    for smoothing in (0.0, 0.5):
        tuned, folder = build_tiny(backbone, "full"), tmp_path / str(smoothing)
        found[smoothing] = loss_of_phase(tuned, folder, features(12), label_smoothing=smoothing)
    absent = loss_of_phase(build_tiny(backbone, "full"), tmp_path / "absent", features(12))
    assert found[0.0] == absent != found[0.5]


def test_a_phase_of_a_generation_counts_every_target_token_of_a_step_alike(tmp_path):
    backbone = save_backbone(tmp_path, "gpt2")
    found = []
    for batch_size, accumulation in ((12, 1), (2, 6)):
        tuned = build(backbone, Structure("generation", 1, 3, False, FullUpdate(kind="full")), {})
        without_dropout(tuned.model)
        sizes = {"batch_size": batch_size, "gradient_accumulation": accumulation}
        found.append(loss_of_phase(tuned, tmp_path / str(accumulation), answers(12), **sizes))
    assert found[1] == pytest.approx(found[0], rel=1e-5)
