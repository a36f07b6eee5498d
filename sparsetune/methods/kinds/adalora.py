"""AdaLoRA through PEFT: its tuner, driven step by step from our training loop.

The regularisation, the importance scores and the schedule are PEFT's own code; here is only what
calls it, keeps its state in checkpoints, and at the end removes what the budget gave up.
"""

from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from sparsetune.config.method import Phase, TrainPhase
from sparsetune.config.settings import Count, Penalty, Positive, Rule, Share
from sparsetune.cost.shapes import ModelShape
from sparsetune.cost.updates import UpdateCount, low_rank_branches
from sparsetune.errors import ModelError
from sparsetune.methods.kind import Attached
from sparsetune.methods.kinds.peft import ADAPTER, Dropout, PeftUpdate, transposed

if TYPE_CHECKING:
    from peft import AdaLoraModel
    from torch import Tensor, nn

    from sparsetune.architectures.base import Site

_SUFFIX = f".lora_E.{ADAPTER}"
_SMOOTHED, _UNCERTAINTY, _KEPT = "smoothed/", "uncertainty/", "kept/"


class RankAllocation:
    """The companion of an AdaLoRA update: its loss term and its falling budget of ranks.

    Args:
        tuner: PEFT's, around the model.
        update: the method's update.
        keys: module path -> site key of every wrapped matrix.

    Source:
        Zhang et al. 2023, arXiv:2303.10512, as PEFT 0.21 has it.
    Differs:
        Nothing while it trains. Steps count from 1, so that the budget reaches its target even
        without final steps.
    """

    def __init__(
        self, tuner: "AdaLoraModel", update: "AdaloraUpdate", keys: Mapping[str, str]
    ) -> None:
        self.tuner = tuner
        self.update = update
        self.keys = keys
        self._config: Any = tuner.peft_config[ADAPTER]

    def begin(self, total_steps: int) -> None:
        """Lay the schedule over ``total_steps`` optimizer steps.

        Raises:
            ModelError: there is no step from which ranks could be scored before they converge.
        """
        config = self._config
        config.total_step = total_steps
        config.tinit = int(self.update.initial_fraction * total_steps)
        config.tfinal = int(self.update.final_fraction * total_steps)
        if total_steps - config.tfinal < 2:
            raise ModelError(
                f"update adalora: received {total_steps} optimizer steps, of which the last "
                f"{config.tfinal} come after the ranks have converged; allowed: at least 2 before"
            )

    def loss(self) -> "Tensor":
        """The weighted distance of the singular vectors from orthogonal ones; a scalar."""
        import torch

        model = self.tuner.model
        outputs = SimpleNamespace(loss=torch.zeros((), device=next(model.parameters()).device))
        # PEFT adds the term to a model's loss; this model has none but the term.
        view: Any = SimpleNamespace(
            model=SimpleNamespace(forward=lambda: outputs, named_parameters=model.named_parameters),
            peft_config=self.tuner.peft_config,
            trainable_adapter_name=ADAPTER,
        )
        return type(self.tuner).forward(view).loss

    def after_gradients(self, step: int) -> None:
        """Update the importance scores, and the ranks if it is time."""
        self.tuner.update_and_allocate(step)

    def state(self) -> "dict[str, Tensor]":
        """The allocator's smoothed scores and the triplets it keeps, by parameter name."""
        import torch

        allocator = self.tuner.rankallocator
        pattern = self._config.rank_pattern or {}
        return {
            **{_SMOOTHED + name: one.cpu() for name, one in allocator.exp_avg_ipt.items()},
            **{_UNCERTAINTY + name: one.cpu() for name, one in allocator.exp_avg_unc.items()},
            **{
                _KEPT + name: torch.tensor(kept, dtype=torch.uint8)
                for name, kept in pattern.items()
            },
        }

    def load_state(self, state: "Mapping[str, Tensor]") -> None:
        """Go on from a state.

        Raises:
            ModelError: it is another model's.
        """
        import torch

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
        self._config.rank_pattern = pattern or None

    def finish(self) -> dict[str, Any]:
        """Remove the triplets that the budget gave up; their singular values are zero."""
        pattern = self._config.rank_pattern
        if not pattern:
            return {}
        ranks = {self.keys[name.removesuffix(_SUFFIX)]: sum(kept) for name, kept in pattern.items()}
        _resize(self.tuner, pattern)
        return {"ranks": ranks}


class AdaloraUpdate(PeftUpdate):
    """AdaLoRA, through PEFT.

    ``ranks`` (site key -> rank) is what a finished training has left of each matrix.
    """

    kind: Literal["peft"]
    type: Literal["adalora"]
    rank: Count = Field(description="mean rank of a matrix at the end")
    initial_rank: int = Field(ge=2, description="rank of every matrix at the start, above rank")
    alpha: Positive = Field(description="scale numerator: s = alpha / initial_rank")
    dropout: Dropout
    orthogonality_weight: Penalty = Field(
        description="weight of the orthogonality term in the loss"
    )
    initial_fraction: Share = Field(
        description="share of the steps before the ranks begin to fall, in [0, 1)"
    )
    final_fraction: Share = Field(
        description="share of the steps after the ranks have converged, in [0, 1)"
    )
    interval_steps: Count = Field(
        description="optimizer steps from one allocation of ranks to the next"
    )
    sensitivity_smoothing: float = Field(
        gt=0, lt=1, description="beta 1: moving average of the sensitivities, in (0, 1)"
    )
    uncertainty_smoothing: float = Field(
        gt=0, lt=1, description="beta 2: moving average of their uncertainties, in (0, 1)"
    )

    ranks: dict[str, int] | None = Field(
        None, description="of a run's file: what training has left of each matrix, by site key"
    )

    def rules(self) -> Iterator[Rule]:
        """There are ranks to give up, and steps to give them up in."""
        yield (
            self.initial_rank > self.rank,
            "initial_rank",
            f"received {self.initial_rank}; allowed: more than rank, {self.rank}: there must be "
            "ranks to give up",
        )
        yield (
            self.initial_fraction + self.final_fraction < 1,
            "initial_fraction and final_fraction",
            f"their sum must be below 1, received {self.initial_fraction} and "
            f"{self.final_fraction}",
        )

    def rules_with(self, phases: tuple[Phase, ...]) -> Iterator[Rule]:
        """Its ranks fall over one training."""
        yield self.ranks is None, "update.ranks", "only training sets them"
        trains = sum(isinstance(phase, TrainPhase) for phase in phases)
        yield (
            trains == 1,
            "phases",
            f"update.type adalora needs exactly one train phase, received {trains}: its ranks "
            "fall over the whole training",
        )

    products = frozenset({"lora_A", "lora_B"})
    scales = frozenset({"lora_E", "ranknum"})

    def inject(
        self, model: "nn.Module", sites: "Mapping[str, Site]", supports: "Mapping[str, Tensor]"
    ) -> Attached:
        """Put PEFT's tuner around the model; its ranks fall unless they have converged before."""
        from peft import AdaLoraConfig, AdaLoraModel

        config = AdaLoraConfig(
            init_r=self.initial_rank,
            target_r=self.rank,
            lora_alpha=self.alpha,  # type: ignore[arg-type]  # any number works
            lora_dropout=self.dropout,
            deltaT=self.interval_steps,
            beta1=self.sensitivity_smoothing,
            beta2=self.uncertainty_smoothing,
            orth_reg_weight=self.orthogonality_weight,
            total_step=1,  # until training begins
            target_modules=sorted(sites),
            fan_in_fan_out=transposed(sites),
        )
        tuner = AdaLoraModel(model, config, ADAPTER)
        keys = {path: site.key for path, site in sites.items()}
        if self.ranks is None:
            return Attached(companion=RankAllocation(tuner, self, keys))
        if self.ranks.keys() != set(keys.values()):
            raise ModelError(
                f"update.ranks: received {', '.join(sorted(self.ranks))}; allowed: the model's "
                f"targets, {', '.join(sorted(keys.values()))}"
            )
        pattern = {
            path + _SUFFIX: [n < self.ranks[key] for n in range(self.initial_rank)]
            for path, key in keys.items()
        }
        _resize(tuner, pattern)
        return Attached()

    def count(self, shape: ModelShape, entries: Mapping[str, int]) -> UpdateCount:
        """Count what is kept of the ranks, and all of the first ones in training."""
        kept, first = (
            low_rank_branches(
                shape, self.targets, self.initial_rank, ranks=ranks, singular_values=True
            )
            for ranks in (self.ranks, None)
        )
        return UpdateCount(kept, in_training=first)


def _resize(tuner: "AdaLoraModel", pattern: Mapping[str, list[bool]]) -> None:
    import torch

    with torch.random.fork_rng(devices=[]):  # PEFT draws values before it copies the old ones
        tuner.resize_modules_by_rank_pattern(pattern, ADAPTER)
    config: Any = tuner.peft_config[ADAPTER]
    config.rank_pattern = None
