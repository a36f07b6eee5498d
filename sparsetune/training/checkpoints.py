"""Checkpoints of a training phase in safetensors and JSON only: no pickle is written or read.

The Trainer would pickle its optimizer and random states; the mixin here replaces those parts.
A checkpoint holds what is trained, not the frozen backbone, and counts only when complete.
"""

import json
import random
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sparsetune.records import read_json, replacing, write_json

COMPLETE = "complete.json"
_TRAINED = "trained.safetensors"
_OPTIMIZER = "optimizer.safetensors"
_STATE = "state.json"
_RANDOM = "random.safetensors"


def newest_complete(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end, or None.

    Args:
        folder: a phase's checkpoint folder; may not exist.
    """
    complete = [path.parent for path in folder.glob(f"checkpoint-*/{COMPLETE}")]
    return max(complete, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def discard_incomplete(folder: Path) -> None:
    """Delete checkpoints whose writing was cut off."""
    for path in folder.glob("checkpoint-*"):
        if not (path / COMPLETE).exists():
            shutil.rmtree(path, ignore_errors=True)


class SafeCheckpoints:
    """Mixin for ``transformers.Trainer``: what a checkpoint holds, and how it is read back.

    The class it is mixed into supplies what is declared here, the Trainer's own or ours.
    """

    args: Any
    state: Any
    optimizer: Any
    lr_scheduler: Any
    trained_state: Callable[[], dict[str, Tensor]]
    load_trained_state: Callable[[Mapping[str, Tensor]], None]
    trained_seconds: Callable[[], float]
    loss_since_log: Callable[[], tuple[float, int]]
    refuse_bad_loss: Callable[[], None]
    loading_seconds: float
    scores: Any

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the trained tensors."""
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        state = {name: tensor.contiguous() for name, tensor in self.trained_state().items()}
        save_file(state, folder / _TRAINED)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self.refuse_bad_loss()  # a checkpoint after a NaN would replace the last good one
        super()._save_checkpoint(model, trial)  # type: ignore[misc]
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        loss, logged_step = self.loss_since_log()
        write_json(
            folder / COMPLETE,
            {
                "step": self.state.global_step,
                "seconds": self.trained_seconds(),
                "loading_seconds": round(self.loading_seconds, 3),
                "loss_since_log": loss,
                "logged_step": logged_step,
                **self.scores.state(),
            },
        )

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        state = self.optimizer.state_dict()
        tensors: dict[str, Tensor] = {}
        plain: dict[str, Any] = {}
        for index, values in state["state"].items():
            for name, value in values.items():
                home: dict[str, Any] = tensors if isinstance(value, Tensor) else plain
                home[f"{index}.{name}"] = value
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()},
                  Path(output_dir) / _OPTIMIZER)  # fmt: skip
        content = {
            "optimizer_groups": state["param_groups"],
            "optimizer_plain": plain,
            "scheduler": self.lr_scheduler.state_dict(),
        }
        (Path(output_dir) / _STATE).write_text(json.dumps(content))

    def _save_rng_state(self, output_dir: str) -> None:
        version, words, gauss = random.getstate()
        legacy: Any = np.random.get_state()
        kind, keys, position, has_gauss, cached = legacy
        tensors = {"torch": torch.random.get_rng_state()}
        if torch.cuda.is_available():
            tensors["cuda"] = torch.cuda.random.get_rng_state()
        tensors["numpy"] = torch.from_numpy(keys.astype(np.int64))
        tensors["python"] = torch.tensor(words, dtype=torch.int64)
        plain = {"python": [version, gauss], "numpy": [kind, position, has_gauss, cached]}
        save_file(tensors, Path(output_dir) / _RANDOM, metadata={"plain": json.dumps(plain)})

    def _save_scaler(self, output_dir: str) -> None:
        """Nothing to save: half precision is bfloat16, which needs no loss scaling."""

    def _load_scaler(self, checkpoint: str | None) -> None:
        """Nothing to load; see :meth:`_save_scaler`."""

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self.load_trained_state(load_file(Path(resume_from_checkpoint) / _TRAINED))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        content = read_json(Path(checkpoint) / _STATE, what="checkpoint")
        state: dict[int, dict[str, Any]] = {}
        entries = {**load_file(Path(checkpoint) / _OPTIMIZER), **content["optimizer_plain"]}
        for name, value in entries.items():
            index, _, key = name.partition(".")
            state.setdefault(int(index), {})[key] = value
        self.optimizer.load_state_dict(
            {"state": state, "param_groups": content["optimizer_groups"]}
        )
        self.lr_scheduler.load_state_dict(content["scheduler"])

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        tensors, plain = _read_random(Path(checkpoint) / _RANDOM)
        version, gauss = plain["python"]
        random.setstate((version, tuple(tensors["python"].tolist()), gauss))
        kind, position, has_gauss, cached = plain["numpy"]
        keys = tensors["numpy"].numpy().astype(np.uint32)
        np.random.set_state((kind, keys, position, has_gauss, cached))
        torch.random.set_rng_state(tensors["torch"])
        if torch.cuda.is_available() and "cuda" in tensors:
            torch.cuda.random.set_rng_state(tensors["cuda"])


def _read_random(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(  # noqa: SIM118
            file.metadata()["plain"]
        )


def read_state(path: Path) -> dict[str, Tensor] | None:
    """Read a safetensors file, or None if it is absent or was cut off."""
    try:
        return load_file(path) if path.exists() else None
    except SafetensorError:
        return None


def save_state(state: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors to a safetensors file, atomically."""
    with replacing(path) as partial:
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, partial)
