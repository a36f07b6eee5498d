"""Which change of the weights is trained: everything, biases, PEFT's adapters, or DSEE's update.

Importing this module finds every kind; torch is imported when one is attached.
"""

import importlib
import pkgutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sparsetune.methods import kinds
from sparsetune.methods.kind import Attached, UpdateKind

if TYPE_CHECKING:
    from torch import Tensor, nn

for _module in pkgutil.iter_modules(kinds.__path__, f"{kinds.__name__}."):
    importlib.import_module(_module.name)


def update_of(settings: Mapping[str, Any]) -> UpdateKind:
    """Find the kind of update that a method's ``update`` settings name.

    Args:
        settings: ``kind`` (and ``type`` for PEFT) with their settings.

    Raises:
        ModelError: no such kind.
    """
    return UpdateKind.known[settings["kind"], settings.get("type")](**settings)


def attach_update(
    model: "nn.Module", update: UpdateKind, *, supports: "Mapping[str, Tensor]", seed: int
) -> Attached:
    """Prepare ``model`` in place so that exactly the update and the task head train.

    Args:
        model: BERT, RoBERTa or GPT-2 with a task head.
        update: the method's update.
        supports: as for :meth:`UpdateKind.attach`.
        seed: of the run; the update's random start has a stream of its own.

    Returns:
        The positions in use, and what must be called while the update trains, if anything.

    Raises:
        ModelError: the update does not fit the model.
    """
    return update.attach(model, supports, seed)
