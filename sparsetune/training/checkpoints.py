"""Checkpoints of a training phase: one safetensors file, replaced as a whole.

It holds what is trained, not the frozen backbone, the optimizer's state and the generators'; its
metadata hold what is not a tensor, as JSON. Nothing is pickled.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from sparsetune.records import replacing

_FILE = "checkpoint.safetensors"
_TOLD = "told"


@dataclass(frozen=True)
class Checkpoint:
    """A phase after some of its steps.

    Attributes:
        step: optimizer steps made.
        trained: what is trained, by name.
        optimizer: the optimizer's ``state_dict``.
        random: states of the generators, by device.
        told: the rest, as JSON data.
    """

    step: int
    trained: Mapping[str, Tensor]
    optimizer: Mapping[str, Any]
    random: Mapping[str, Tensor]
    told: Mapping[str, Any]

    def write(self, folder: Path) -> None:
        """Write the checkpoint in place of the one before; a reader sees one of the two, whole.

        Args:
            folder: of the phase.

        Raises:
            DiskError: no room.
        """
        tensors = {f"trained/{name}": tensor for name, tensor in self.trained.items()}
        tensors |= {f"random/{name}": tensor for name, tensor in self.random.items()}
        plain: dict[str, Any] = {}
        for index, values in self.optimizer["state"].items():
            for name, value in values.items():
                home: dict[str, Any] = tensors if isinstance(value, Tensor) else plain
                home[f"optimizer/{index}.{name}"] = value
        told = {
            "step": self.step,
            "told": self.told,
            "groups": self.optimizer["param_groups"],
            "plain": plain,
        }
        with replacing(folder / _FILE) as partial:
            save_file(
                {name: tensor.detach().contiguous() for name, tensor in tensors.items()},
                partial,
                metadata={_TOLD: json.dumps(told)},
            )

    @staticmethod
    def read(folder: Path) -> "Checkpoint | None":
        """Read a phase's checkpoint, if there is one; what a killed process half wrote goes.

        Args:
            folder: of the phase; may not exist.
        """
        for partial in folder.glob(f".{_FILE}.*.partial"):
            partial.unlink()
        tensors = read_state(folder / _FILE)
        if tensors is None:
            return None
        told = _told(folder)
        parts: dict[str, dict[str, Any]] = {"trained": {}, "random": {}, "optimizer": {}}
        for name, value in (*tensors.items(), *told["plain"].items()):
            part, _, rest = name.partition("/")
            parts[part][rest] = value
        state: dict[int, dict[str, Any]] = {}
        for name, value in parts["optimizer"].items():
            index, _, key = name.partition(".")
            state.setdefault(int(index), {})[key] = value
        optimizer = {"state": state, "param_groups": told["groups"]}
        return Checkpoint(told["step"], parts["trained"], optimizer, parts["random"], told["told"])


def checkpoint_step(folder: Path) -> int:
    """Steps that a phase's checkpoint holds; 0 = there is none.

    Args:
        folder: of the phase; may not exist.
    """
    try:
        return int(_told(folder)["step"])
    except (FileNotFoundError, SafetensorError):
        return 0


def random_state(device: str) -> dict[str, Tensor]:
    """States of the generators that a training on ``device`` draws from: torch's."""
    states = {"cpu": torch.random.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state()} if device == "cuda" else {})


def restore_random_state(states: Mapping[str, Tensor]) -> None:
    """Put the generators where :func:`random_state` found them."""
    torch.random.set_rng_state(states["cpu"])
    if "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"])


def _told(folder: Path) -> dict[str, Any]:
    with safe_open(folder / _FILE, framework="pt") as file:
        return json.loads(file.metadata()[_TOLD])


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
