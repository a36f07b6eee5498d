"""Which change of the weights is trained: everything, biases, PEFT's adapters, or DSEE's update.

Each kind is one function that prepares a loaded model in place and leaves ``requires_grad``
on exactly what is trained. A new kind is one function and one entry in ``UPDATES``.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from sparsetune.architectures.anatomy import task_head_parameters
from sparsetune.dsee.layer import DseeConfig, apply_dsee
from sparsetune.methods.attached import Attached
from sparsetune.methods.peft_updates import attach_peft


def _attach_full(
    model: nn.Module, update: Mapping[str, Any], supports: Mapping[str, Tensor], seed: int
) -> Attached:
    model.requires_grad_(True)
    return Attached()


def _attach_bitfit(
    model: nn.Module, update: Mapping[str, Any], supports: Mapping[str, Tensor], seed: int
) -> Attached:
    # Ours, because PEFT trains biases beside an adapter only: without target modules it refuses.
    heads = task_head_parameters(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.endswith(".bias") or name in heads)
    return Attached()


def _attach_dsee(
    model: nn.Module, update: Mapping[str, Any], supports: Mapping[str, Tensor], seed: int
) -> Attached:
    config = DseeConfig(
        rank=update["rank"],
        alpha=update["alpha"],
        n_sparse=max((len(positions) for positions in supports.values()), default=0),
        targets=tuple(update["targets"]),
        init=update["init"],
        support=supports,
        seed=seed,
    )
    apply_dsee(model, config)
    return Attached(supports)


UPDATES: Mapping[
    str, Callable[[nn.Module, Mapping[str, Any], Mapping[str, Tensor], int], Attached]
] = MappingProxyType(
    {"full": _attach_full, "bitfit": _attach_bitfit, "peft": attach_peft, "dsee": _attach_dsee}
)


def attach_update(
    model: nn.Module, update: Mapping[str, Any], *, supports: Mapping[str, Tensor], seed: int
) -> Attached:
    """Prepare ``model`` in place so that exactly the update and the task head train.

    Args:
        model: BERT, RoBERTa or GPT-2 with a task head.
        update: the method's ``update`` settings; for DSEE with ``targets`` filled in.
        supports: site key -> flat positions (int64) of single trained entries: DSEE's S2, or
            Supra's as a run's file has them; empty otherwise.
        seed: of the run; the update's random start has a stream of its own.

    Returns:
        The positions in use, and what must be called while the update trains, if anything.

    Raises:
        ModelError: the update does not fit the model.
    """
    return UPDATES[update["kind"]](model, update, supports, seed)
