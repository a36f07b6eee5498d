"""AdaLoRA through PEFT: its tuner, driven step by step from our training loop.

The regularisation, the importance scores and the schedule are PEFT's own code; here is only what
calls it, keeps its state in checkpoints, and at the end removes what the budget gave up.
"""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sparsetune.architectures.base import Site
from sparsetune.errors import ModelError

if TYPE_CHECKING:
    from peft import AdaLoraModel

ADAPTER = "default"
_SUFFIX = f".lora_E.{ADAPTER}"
_SMOOTHED, _UNCERTAINTY, _KEPT = "smoothed/", "uncertainty/", "kept/"


class RankAllocation:
    """The companion of an AdaLoRA update: its loss term and its falling budget of ranks.

    Args:
        tuner: PEFT's, around the model.
        update: the method's settings.
        keys: module path -> site key of every wrapped matrix.

    Source:
        Zhang et al. 2023, arXiv:2303.10512, as PEFT 0.21 has it.
    Differs:
        Nothing while it trains. Steps count from 1, so that the budget reaches its target even
        without final steps.
    """

    def __init__(
        self, tuner: "AdaLoraModel", update: Mapping[str, Any], keys: Mapping[str, str]
    ) -> None:
        self.tuner = tuner
        self.update = update
        self.keys = keys

    def begin(self, total_steps: int) -> None:
        """Lay the schedule over ``total_steps`` optimizer steps.

        Raises:
            ModelError: there is no step from which ranks could be scored before they settle.
        """
        config = self.tuner.peft_config[ADAPTER]
        config.total_step = total_steps
        config.tinit = int(self.update["initial_fraction"] * total_steps)
        config.tfinal = int(self.update["final_fraction"] * total_steps)
        if total_steps - config.tfinal < 2:
            raise ModelError(
                f"update adalora: got {total_steps} optimizer steps, of which the last "
                f"{config.tfinal} come after the ranks have settled; need at least 2 before"
            )

    def loss(self) -> Tensor:
        """The weighted distance of the singular vectors from orthogonal ones; a scalar."""
        model = self.tuner.model
        outputs = SimpleNamespace(loss=torch.zeros((), device=next(model.parameters()).device))
        # PEFT adds the term to a model's loss; this model has none but the term.
        view = SimpleNamespace(
            model=SimpleNamespace(forward=lambda: outputs, named_parameters=model.named_parameters),
            peft_config=self.tuner.peft_config,
            trainable_adapter_name=ADAPTER,
        )
        return type(self.tuner).forward(view).loss

    def after_gradients(self, step: int) -> None:
        """Update the importance scores, and the ranks if it is time."""
        self.tuner.update_and_allocate(step)

    def state(self) -> dict[str, Tensor]:
        """The allocator's smoothed scores and the triplets it keeps, by parameter name."""
        allocator = self.tuner.rankallocator
        pattern = self.tuner.peft_config[ADAPTER].rank_pattern or {}
        return {
            **{_SMOOTHED + name: one.cpu() for name, one in allocator.exp_avg_ipt.items()},
            **{_UNCERTAINTY + name: one.cpu() for name, one in allocator.exp_avg_unc.items()},
            **{
                _KEPT + name: torch.tensor(kept, dtype=torch.uint8)
                for name, kept in pattern.items()
            },
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state.

        Raises:
            ModelError: it is another model's.
        """
        allocator, own = self.tuner.rankallocator, dict(self.tuner.model.named_parameters())
        allocator.reset_ipt()
        pattern = {}
        for key, tensor in state.items():
            room, _, name = key.partition("/")
            if name not in own:
                raise ModelError(f"saved run: ranks of {name}, which the model does not have")
            if room + "/" == _KEPT:
                pattern[name] = tensor.bool().tolist()
                continue
            smoothed = room + "/" == _SMOOTHED
            home = allocator.exp_avg_ipt if smoothed else allocator.exp_avg_unc
            home[name] = tensor.to(own[name].device)
            # Overwritten at the next step; absent, it would make PEFT start all scores anew.
            allocator.ipt[name] = torch.zeros_like(own[name])
        self.tuner.peft_config[ADAPTER].rank_pattern = pattern or None

    def finish(self) -> dict[str, Any]:
        """Remove the triplets that the budget gave up; their singular values are zero."""
        pattern = self.tuner.peft_config[ADAPTER].rank_pattern
        if not pattern:
            return {}
        ranks = {self.keys[name.removesuffix(_SUFFIX)]: sum(kept) for name, kept in pattern.items()}
        _resize(self.tuner, pattern)
        return {"ranks": ranks}


def attach_adalora(
    model: nn.Module, update: Mapping[str, Any], sites: Mapping[str, Site]
) -> RankAllocation | None:
    """Attach AdaLoRA.

    Args:
        model: changed in place.
        update: the method's settings; ``ranks`` (site key -> rank) if they are settled.
        sites: module path -> first target stored in it.

    Returns:
        What must be called while it trains; None once the ranks are settled.

    Raises:
        ModelError: ``ranks`` are not those of this model's targets.
    """
    from peft import AdaLoraConfig, AdaLoraModel

    config = AdaLoraConfig(
        init_r=update["initial_rank"],
        target_r=update["rank"],
        lora_alpha=update["alpha"],
        lora_dropout=update["dropout"],
        deltaT=update["interval_steps"],
        beta1=update["sensitivity_smoothing"],
        beta2=update["uncertainty_smoothing"],
        orth_reg_weight=update["orthogonality_weight"],
        total_step=1,  # until training begins
        target_modules=sorted(sites),
        fan_in_fan_out=any(site.stored_in_by_out for site in sites.values()),
    )
    tuner = AdaLoraModel(model, config, ADAPTER)
    keys = {path: site.key for path, site in sites.items()}
    if "ranks" not in update:
        return RankAllocation(tuner, update, keys)
    if update["ranks"].keys() != set(keys.values()):
        raise ModelError(
            f"update.ranks: got {', '.join(sorted(update['ranks']))}; the model's targets are "
            f"{', '.join(sorted(keys.values()))}"
        )
    ranks = {path: update["ranks"][key] for path, key in keys.items()}
    first = update["initial_rank"]
    _resize(
        tuner, {path + _SUFFIX: [i < rank for i in range(first)] for path, rank in ranks.items()}
    )
    return None


def _resize(tuner: "AdaLoraModel", pattern: Mapping[str, list[bool]]) -> None:
    with torch.random.fork_rng(devices=[]):  # PEFT draws values before it copies the old ones
        tuner.resize_modules_by_rank_pattern(pattern, ADAPTER)
    tuner.peft_config[ADAPTER].rank_pattern = None
