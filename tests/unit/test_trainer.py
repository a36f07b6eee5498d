"""The Trainer's callback that stores the adapter: what is kept, and that it is what was trained."""

import json

import pytest
import torch
from transformers import Trainer, TrainingArguments
from transformers.trainer_callback import TrainerControl, TrainerState
from unit.tiny import output_of, tiny_batch, tiny_model

import sparsetune
from sparsetune import AdapterCheckpoint, DseeConfig
from sparsetune.errors import ConfigError, ModelError

CONFIG = DseeConfig(rank=3, n_sparse=11, init="normal", support="random")
OPTIONS = {"report_to": [], "use_cpu": True, "disable_tqdm": True, "learning_rate": 1e-2}


def rows():
    given = tiny_batch(batch=12)
    return [{**{k: v[n] for k, v in given.items()}, "labels": n % 3} for n in range(12)]


def adapter():
    return sparsetune.apply_dsee(tiny_model("bert"), CONFIG)


def told(callback, model, event, step, **metrics):
    """What a Trainer tells a callback."""
    state = TrainerState(global_step=step, is_world_process_zero=True)
    getattr(callback, event)(None, state, TrainerControl(), model=model, metrics=metrics)


def steps_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.slow
def test_a_trainer_stores_its_adapter_at_each_save_and_the_best_by_a_metric(tmp_path):
    model = adapter()
    newest = AdapterCheckpoint(tmp_path / "newest", keep=2)
    best = AdapterCheckpoint(tmp_path / "best", metric="accuracy")
    scores = iter([0.5, 0.75, 0.25])
    values = {}

    class Watching(Trainer):
        def evaluate(self, *inputs, **options):
            values[self.state.global_step] = output_of(model.eval(), tiny_batch())
            model.train()
            return super().evaluate(*inputs, **options)

    arguments = TrainingArguments(
        tmp_path / "out", max_steps=6, save_steps=2, eval_steps=2, eval_strategy="steps", **OPTIONS
    )
    Watching(
        model, arguments, train_dataset=rows(), eval_dataset=rows(), callbacks=[newest, best],
        compute_metrics=lambda _: {"accuracy": next(scores)},
    ).train()  # fmt: skip
    assert steps_in(newest.folder) == ["step-4", "step-6"]
    assert newest.best == tmp_path / "newest" / "step-6"
    assert steps_in(best.folder) == ["step-4"]
    for folder in (newest.folder / "step-4", newest.folder / "step-6", best.best):
        again = sparsetune.load(folder, tiny_model("bert")).eval()
        step = int(folder.name.removeprefix("step-"))
        assert torch.equal(output_of(again, tiny_batch()), values[step])
    assert json.loads((best.best / "metric.json").read_text()) == {
        "metric": "accuracy", "step": 4, "value": 0.75,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("metric", "greater", "keep", "kept"),
    [
        ("eval_loss", None, 1, [4]),
        ("loss", None, 3, [4, 6, 2]),
        ("loss", True, 2, [8, 10]),  # of equal ones the earlier
        ("f1", None, 2, [8, 10]),
        ("f1", False, 1, [4]),
    ],
)
def test_the_best_by_a_metric_are_kept_also_after_a_start_anew(
    metric, greater, keep, kept, tmp_path
):
    model = adapter()
    for step, value in ((2, 0.5), (4, 0.1), (6, 0.3), (8, 0.9), (10, 0.9), (12, float("nan"))):
        # One of its own each time, as in a training that was killed and resumed.
        callback = AdapterCheckpoint(
            tmp_path / "best", metric=metric, greater_is_better=greater, keep=keep
        )
        told(callback, model, "on_evaluate", step, eval_loss=value, eval_f1=value)
        told(callback, model, "on_save", step)
    assert steps_in(tmp_path / "best") == sorted(f"step-{one}" for one in kept)
    assert callback.best == tmp_path / "best" / f"step-{kept[0]}"


def test_what_a_kill_left_is_no_adapter_and_a_step_is_stored_again(tmp_path, monkeypatch):
    model, callback = adapter(), AdapterCheckpoint(tmp_path)
    told(callback, model, "on_save", 2)
    (tmp_path / ".partial").mkdir()
    (tmp_path / ".partial" / "model.safetensors").write_bytes(b"half")
    assert callback.best == tmp_path / "step-2"
    with torch.no_grad():
        model.classifier.bias += 1
    told(callback, model, "on_save", 2)
    assert steps_in(tmp_path) == ["step-2"]
    again = sparsetune.load(callback.best, tiny_model("bert"))
    assert torch.equal(output_of(again, tiny_batch()), output_of(model, tiny_batch()))

    def failing(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("sparsetune.trainer.save", failing)
    with pytest.raises(KeyboardInterrupt):
        told(callback, model, "on_save", 4)
    assert callback.best == tmp_path / "step-2"


def test_other_processes_store_nothing(tmp_path):
    callback = AdapterCheckpoint(tmp_path / "out", metric="loss")
    state = TrainerState(global_step=2, is_world_process_zero=False)
    callback.on_evaluate(None, state, TrainerControl(), model=adapter(), metrics={"eval_loss": 1.0})
    callback.on_save(None, state, TrainerControl(), model=adapter())
    assert callback.best is None


def test_what_cannot_be_stored_is_refused(tmp_path):
    for wrong in (0, True, "2"):
        with pytest.raises(ConfigError, match=r"keep: received .*; allowed: a whole number from 1"):
            AdapterCheckpoint(tmp_path, keep=wrong)
    callback = AdapterCheckpoint(tmp_path / "out", metric="acuracy")
    with pytest.raises(ConfigError, match=r"metric: received 'acuracy'; allowed: eval_accuracy, e"):
        told(callback, adapter(), "on_evaluate", 2, eval_accuracy=1.0, eval_loss=0.1)
    with pytest.raises(ModelError, match="no DSEE update is attached to this BertFor"):
        told(callback, tiny_model("bert"), "on_train_begin", 0)
    told(AdapterCheckpoint(tmp_path / "out"), adapter(), "on_save", 4)
    with pytest.raises(ModelError, match="holds adapters of another training"):
        told(AdapterCheckpoint(tmp_path / "out"), adapter(), "on_train_begin", 0)
    told(AdapterCheckpoint(tmp_path / "out"), adapter(), "on_train_begin", 4)
