"""A callback for transformers' Trainer that stores the adapter alone, in the folders of ``save``.

A Trainer's own checkpoints hold the adapter too, by ``save_pretrained``, beside the optimizer's
state, which is larger: they are for resuming, these are for keeping.
"""

import math
import re
import shutil
from pathlib import Path
from typing import Any

from torch import nn
from transformers.trainer_callback import TrainerCallback

from sparsetune.dsee.layer import dsee_branches
from sparsetune.errors import ConfigError, ModelError, nearest, shown
from sparsetune.records import read_json, write_json
from sparsetune.saving import save

_METRIC = "metric.json"
_STEP = re.compile(r"step-(\d+)")


class AdapterCheckpoint(TrainerCallback):
    """A callback that stores the adapter when a Trainer saves, or when a metric is among the best.

    Each is a folder of ``save``, ``folder/step-<number>``, there whole or not at all, written by
    the first process only. A training that is resumed goes on with its folder.

    Attributes:
        folder: of the stored adapters.
        metric: name of the metric; None = the newest are kept.
        greater_is_better: whether it is.
        keep: how many are kept.

    Example:
        >>> import tempfile, torch, transformers, sparsetune
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> from transformers import Trainer, TrainingArguments
        >>> sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
        >>> model = BertForSequenceClassification(
        ...     BertConfig(vocab_size=9, intermediate_size=16, **sizes)
        ... )
        >>> _ = sparsetune.apply_dsee(model, sparsetune.DseeConfig(rank=2, n_sparse=4))
        >>> rows = [{"input_ids": torch.tensor([1, 2, n]), "labels": n % 2} for n in range(8)]
        >>> options = {"report_to": [], "disable_tqdm": True, "use_cpu": True}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     stored = AdapterCheckpoint(f"{folder}/stored")
        ...     arguments = TrainingArguments(folder, max_steps=2, save_steps=2, **options)
        ...     trainer = Trainer(model, arguments, train_dataset=rows, callbacks=[stored])
        ...     trainer.remove_callback(transformers.PrinterCallback)
        ...     _ = trainer.train()
        ...     stored.best.name, sorted(path.name for path in stored.best.iterdir())
        ('step-2', ['README.md', 'config.json', 'model.safetensors'])
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        metric: str | None = None,
        greater_is_better: bool | None = None,
        keep: int = 1,
    ) -> None:
        """Say what is kept where.

        Args:
            folder: made when the first is stored.
            metric: of an evaluation, with or without ``eval_``; stores after evaluations. None =
                stores when the Trainer saves.
            greater_is_better: None = unless the metric's name ends in ``loss``, as for the Trainer.
            keep: 1 or more: the newest, or the best by the metric; of equal ones the earlier.

        Raises:
            ConfigError: ``keep`` is no whole number from 1.
        """
        if type(keep) is not int or keep < 1:
            raise ConfigError(
                f"AdapterCheckpoint: keep: received {shown(keep)}; allowed: a whole number from 1"
            )
        self.folder = Path(folder)
        self.metric = metric
        self.greater_is_better = greater_is_better
        if greater_is_better is None:
            self.greater_is_better = metric is not None and not metric.endswith("loss")
        self.keep = keep

    @property
    def best(self) -> Path | None:
        """Where the best is, or without a metric the newest; None = nothing is stored yet."""
        return next(iter(self._ranked()), None)

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, **_: Any
    ) -> None:
        """Refuse a model without an update, and a folder of another training."""
        if not any(True for _ in dsee_branches(model)):
            raise ModelError(
                f"AdapterCheckpoint: no DSEE update is attached to this {type(model).__name__}"
            )
        if state.global_step == 0 and self.best is not None:
            raise ModelError(
                f"AdapterCheckpoint: folder: {self.folder} holds adapters of another training; "
                "needed: an empty folder, or the training resumed"
            )

    def on_save(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Store the adapter, if it is not a metric that decides."""
        if self.metric is None and state.is_world_process_zero:
            self._store(model, state.global_step, None)

    def on_evaluate(
        self,
        args: Any,
        state: Any,
        control: Any,
        model: Any = None,
        metrics: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Store the adapter if its metric is among the best so far."""
        if self.metric is None or not state.is_world_process_zero:
            return
        known = metrics or {}
        name = next((one for one in (self.metric, f"eval_{self.metric}") if one in known), None)
        if name is None:
            raise ConfigError(
                f"AdapterCheckpoint: metric: received {self.metric!r}; allowed: "
                f"{', '.join(sorted(known))}{nearest(self.metric, known)}"
            )
        value = float(known[name])
        if not math.isnan(value):
            ranked = self._ranked()
            worst = self._rank(ranked[self.keep - 1]) if len(ranked) >= self.keep else None
            if worst is None or self._order(value, state.global_step) < worst:
                self._store(model, state.global_step, value)

    def _store(self, model: nn.Module, step: int, value: float | None) -> None:
        partial, old = self.folder / ".partial", self.folder / ".old"
        for left in (partial, old):
            shutil.rmtree(left, ignore_errors=True)
        save(model, partial)
        if value is not None:
            write_json(partial / _METRIC, {"metric": self.metric, "step": step, "value": value})
        target = self.folder / f"step-{step}"
        if target.exists():  # of a training that was killed after it, and is resumed from before
            target.rename(old)
        partial.rename(target)
        for left in (old, *self._ranked()[self.keep :]):
            shutil.rmtree(left, ignore_errors=True)

    def _ranked(self) -> list[Path]:
        found = self.folder.glob("step-*") if self.folder.is_dir() else []
        return sorted((one for one in found if _STEP.fullmatch(one.name)), key=self._rank)

    def _rank(self, path: Path) -> tuple[float, int]:
        step = int(path.name.removeprefix("step-"))
        if self.metric is None:
            return (-float(step), step)
        told = read_json(path / _METRIC, what="the metric of an adapter")
        return self._order(float(told["value"]), step)

    def _order(self, value: float, step: int) -> tuple[float, int]:
        return (-value if self.greater_is_better else value, step)
