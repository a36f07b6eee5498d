"""DSEE's layer: a frozen weight beside a trained low-rank and a trained sparse update.

The update is kept apart from the weight; ``merge`` says what happens when it is folded in. The
arithmetic is in ``dsee_kernel.py``, the choice of sparse positions in ``support.py``.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from sparsetune.architectures.base import (
    PROJECTIONS,
    Anatomy,
    Site,
    check_plain,
    task_head_parameters,
)
from sparsetune.dsee.fitting import check_fits
from sparsetune.dsee.kernel import DseeProduct, Layout
from sparsetune.errors import ConfigError, ModelError

_INIT_STD = 0.02


@dataclass(frozen=True)
class DseeConfig:
    """What is attached to which projections.

    Attributes:
        rank: rank of U V, at least 1.
        alpha: the update is scaled by ``alpha / rank``, above 0.
        n_sparse: trained entries of S2 per matrix, at least 0.
        targets: projections adapted in every layer.
        init: ``zero``: V from N(0, 0.02), U and S2 zero, so that training starts at the
            backbone; ``normal``: all three from N(0, 0.02).

    Source:
        Chen et al. 2023, arXiv:2111.00160; rank, n_sparse and alpha as in the released code of
        2021 (VITA-Group/DSEE at f492778).
    Differs:
        ``init="zero"`` is the paper's intent; the released code really does ``normal``, because
        the library's fast initialisation skips its zeroing.
    """

    rank: int = 16
    alpha: float = 32.0
    n_sparse: int = 64
    targets: tuple[str, ...] = ("query", "value")
    init: Literal["zero", "normal"] = "zero"

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigError(f"dsee rank: received {self.rank}, allowed: 1 or more")
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise ConfigError(f"dsee alpha: received {self.alpha}, allowed: above 0")
        if self.n_sparse < 0:
            raise ConfigError(f"dsee n_sparse: received {self.n_sparse}, allowed: 0 or more")
        known = set(self.targets) <= set(PROJECTIONS)
        if not self.targets or not known or len(set(self.targets)) != len(self.targets):
            raise ConfigError(
                f"dsee targets: received {list(self.targets)}, "
                f"allowed: distinct names from {', '.join(PROJECTIONS)}"
            )
        if self.init not in ("zero", "normal"):
            raise ConfigError(f"dsee init: received {self.init!r}, allowed: zero, normal")

    @property
    def scale(self) -> float:
        """The factor s on both parts of the update."""
        return self.alpha / self.rank


class DseeBranch(nn.Module):
    """The trained update of one projection: ``s (U V + S2)``, with parameters in float32.

    Attributes:
        key: the site it belongs to, e.g. ``layer.0.query``.
        U: ``O x R``.
        V: ``R x I``.
        S2: values of the sparse part, shape ``(N,)``.
        positions: int32, shape ``(N,)``: where they stand in the flattened ``O x I`` matrix.
        start: first row of this projection in the stored matrix (not 0 only when fused).
    """

    def __init__(self, site: Site, config: DseeConfig, positions: Tensor) -> None:
        super().__init__()
        self.key = site.key
        self.shape = site.shape
        out_features, in_features = site.shape
        self.start = site.out_slice(out_features * site.parts).start
        device = site.module.weight.device
        self.U = nn.Parameter(torch.zeros(out_features, config.rank, device=device))
        self.V = nn.Parameter(torch.zeros(config.rank, in_features, device=device))
        self.S2 = nn.Parameter(torch.zeros(positions.numel(), device=device))
        self.register_buffer("positions", positions.to(device=device, dtype=torch.int32))

    @torch.no_grad()
    def reset_(self, init: str, generator: torch.Generator) -> None:
        """Draw the starting values on the CPU, so that every device starts the same.

        Args:
            init: ``zero`` or ``normal``, see ``DseeConfig``.
            generator: CPU generator; advanced by the draws.
        """
        drawn = (self.V,) if init == "zero" else (self.V, self.U, self.S2)
        for parameter in drawn:
            values = torch.randn(parameter.shape, generator=generator) * _INIT_STD
            parameter.copy_(values)

    def coordinates(self) -> tuple[Tensor, Tensor]:
        """Rows and columns of the sparse entries in the stored matrix (out x in).

        Returns:
            Two int64 tensors of shape ``(N,)``.
        """
        flat = self.positions.long()
        return flat // self.shape[1] + self.start, flat % self.shape[1]

    def dense(self, scale: float) -> Tensor:
        """Form the whole update; for scores, merging and tests, not for training.

        Args:
            scale: the factor s.

        Returns:
            ``s (U V + S2)``, ``O x I``, dtype of the parameters, without gradient.
        """
        with torch.no_grad():
            update = self.U @ self.V
            update.view(-1).index_add_(0, self.positions.long(), self.S2)
            return update.mul_(scale)


class DseeLinear(nn.Module):
    """A projection (``nn.Linear`` or ``Conv1D``) with DSEE's update beside its frozen weight.

    Computes ``x (W*S1)^T + s x (U V)^T + s x S2^T + b`` with ``s = alpha / rank``. The weight keeps
    its name and storage, so a backbone's state still loads; masking it in place gives ``W*S1``.
    A fused query-key-value matrix is one such layer with a branch for each adapted third.

    Source:
        Chen et al. 2023, arXiv:2111.00160 section 3; VITA-Group/DSEE at 61844c3 (s on S2 too).
    Differs:
        S2 is stored as N values, not as a dense masked matrix; same function and gradients.
    """

    def __init__(
        self, sites: Sequence[Site], config: DseeConfig, supports: Sequence[Tensor]
    ) -> None:
        super().__init__()
        base = sites[0].module
        self.weight: nn.Parameter = base.weight
        self.bias: nn.Parameter | None = base.bias
        self.weight.requires_grad_(False)
        self.stored_in_by_out = sites[0].stored_in_by_out
        self.scale = config.scale
        self.training = base.training
        self.branches = nn.ModuleDict(
            {
                site.projection: DseeBranch(site, config, positions)
                for site, positions in zip(sites, supports, strict=True)
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer.

        Args:
            x: floating, shape ``(..., I)``.

        Returns:
            Shape ``(..., O)``, in the autocast dtype if autocast is on, else in that of ``x``.

        Raises:
            ModelError: if the frozen weight was set to train.
        """
        if self.weight.requires_grad:
            raise ModelError("the weight of a DSEE layer was set to train; it must stay frozen")
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        branches = tuple(self.branches.values())
        starts = tuple(branch.start for branch in branches)
        layout = Layout(self.scale, self.stored_in_by_out, starts, dtype)
        tensors = [
            tensor
            for branch in branches
            for tensor in (branch.U, branch.V, branch.S2, *branch.coordinates())
        ]
        return DseeProduct.apply(layout, x, self.weight, self.bias, *tensors)

    def delta(self, projection: str) -> Tensor:
        """Form the dense update of one projection.

        Args:
            projection: one that this layer adapts.

        Returns:
            ``s (U V + S2)``, ``O x I``, without gradient.

        Raises:
            ModelError: if the projection has no branch here.
        """
        if projection not in self.branches:
            known = ", ".join(self.branches)
            raise ModelError(f"no DSEE update on {projection!r} here; adapted: {known}")
        return self.branches[projection].dense(self.scale)


def apply_dsee(
    model: nn.Module,
    config: DseeConfig,
    supports: Mapping[str, Tensor],
    *,
    generator: torch.Generator,
) -> None:
    """Freeze a model and attach the update to its target projections, in place.

    Afterwards exactly the branches and the task head train.

    Args:
        model: a BERT, RoBERTa or GPT-2, after any removal of heads and neurons.
        config: rank, scale, targets and start.
        supports: int64 flat positions in ``O x I``, by site key; distinct, at most ``n_sparse``.
        generator: CPU generator of the starting values; used in the order of the layers.

    Raises:
        ModelError: if a support is missing or does not fit, rank or ``n_sparse`` are too large for
            a matrix, or a target is wrapped already; nothing is changed then.
    """
    anatomy = Anatomy.of(model)
    groups: dict[str, list[Site]] = {}
    for site in anatomy.sites([name for name in PROJECTIONS if name in config.targets]):
        check_plain(site)
        if site.key not in supports:
            raise ModelError(f"no support for {site.key}; received {len(supports)} supports")
        check_fits(site, supports[site.key], rank=config.rank, n_sparse=config.n_sparse)
        groups.setdefault(site.path, []).append(site)
    model.requires_grad_(False)
    for path, sites in groups.items():
        layer = DseeLinear(sites, config, [supports[site.key] for site in sites])
        for branch in layer.branches.values():
            branch.reset_(config.init, generator)
        model.set_submodule(path, layer)
    for parameter in task_head_parameters(model).values():
        parameter.requires_grad_(True)


def dsee_branches(model: nn.Module) -> Iterator[tuple[DseeLinear, DseeBranch]]:
    """Go through the attached updates.

    Args:
        model: any module.

    Yields:
        Each branch with the layer it is in, in the model's order.
    """
    for module in model.modules():
        if isinstance(module, DseeLinear):
            for branch in module.branches.values():
                yield module, branch


def trainable_state(model: nn.Module) -> dict[str, Tensor]:
    """Copy what training changes: updates and task head, never the frozen backbone.

    Args:
        model: a model with DSEE attached.

    Returns:
        Detached contiguous copies: ``<site>.U``, ``<site>.V``, ``<site>.S2`` (values),
        ``<site>.positions`` (int32) and ``head.<parameter name>``.
    """
    live = _state_tensors(model)
    return {name: tensor.detach().clone().contiguous() for name, tensor in live.items()}


def load_trainable_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put a saved state back, in place; the model must have the same updates attached.

    Args:
        model: a model with DSEE attached by the same config.
        state: as ``trainable_state`` returns; any device.

    Raises:
        ModelError: if names or shapes differ; nothing is changed then.
    """
    live = _state_tensors(model)
    if live.keys() != state.keys():
        missing, unknown = sorted(live.keys() - state.keys()), sorted(state.keys() - live.keys())
        raise ModelError(f"saved state does not fit: missing {missing[:3]}, unknown {unknown[:3]}")
    for name, tensor in live.items():
        if tensor.shape != state[name].shape:
            raise ModelError(
                f"saved state does not fit: {name} is {tuple(state[name].shape)}, "
                f"the model needs {tuple(tensor.shape)}"
            )
    with torch.no_grad():
        for name, tensor in live.items():
            tensor.copy_(state[name])


def _state_tensors(model: nn.Module) -> dict[str, Tensor]:
    live = {f"head.{name}": tensor for name, tensor in task_head_parameters(model).items()}
    for _, branch in dsee_branches(model):
        for name in ("U", "V", "S2", "positions"):
            live[f"{branch.key}.{name}"] = getattr(branch, name)
    return live


@dataclass(frozen=True)
class MergeReport:
    """What a merge did to the adapted matrices.

    Attributes:
        policy: ``unmerged``, ``dense`` or ``masked``.
        zero_share_before: zeros in W over its entries, in [0, 1].
        zero_share_after: the same for the matrix that inference then multiplies by.
        relative_change: norm of the part of the update that was dropped over the norm of the
            whole update; 0 unless ``masked``, or if the update is zero.
    """

    policy: str
    zero_share_before: float
    zero_share_after: float
    relative_change: float


def merge(model: nn.Module, policy: Literal["unmerged", "dense", "masked"]) -> MergeReport:
    """Fold the updates into the weights, or leave them beside, in place.

    ``dense`` and ``masked`` turn the layers back into plain ones with new weights. ``masked`` takes
    the mask from the zeros of W, so that they survive, and so changes what the model computes.

    Args:
        model: a model with DSEE attached.
        policy: ``unmerged`` changes nothing; ``dense`` keeps the function and loses the zeros;
            ``masked`` keeps the zeros and drops the update there.

    Returns:
        Shares of zeros and how much of the update was dropped.

    Raises:
        ModelError: if the policy is unknown or nothing is attached.
    """
    if policy not in ("unmerged", "dense", "masked"):
        raise ModelError(f"merge policy {policy!r}; allowed: unmerged, dense, masked")
    anatomy = Anatomy.of(model)
    attached = [(anatomy.site_of(branch.key), layer) for layer, branch in dsee_branches(model)]
    if not attached:
        raise ModelError("nothing to merge: no DSEE update is attached")
    before, after, total = 0, 0, 0
    dropped, whole = 0.0, 0.0
    merged: dict[str, Tensor] = {}
    for site, layer in attached:
        stored = merged.setdefault(site.path, layer.weight.detach().clone())
        view, update = site.weight_view(stored), layer.delta(site.projection)
        zero = view == 0
        before, total = before + int(zero.sum()), total + zero.numel()
        if policy == "masked":
            whole += float(update.square().sum())
            dropped += float(update[zero].square().sum())
            update = update.masked_fill(zero, 0.0)
        if policy != "unmerged":
            view += update.to(view.dtype)
        after += int((view == 0).sum())
    if policy != "unmerged":
        for path, layer in {site.path: layer for site, layer in attached}.items():
            model.set_submodule(path, _plain(layer, merged[path]))
    change = math.sqrt(dropped / whole) if whole else 0.0
    return MergeReport(policy, before / total, after / total, change)


def _plain(layer: DseeLinear, weight: Tensor) -> nn.Module:
    """Make a module of the original kind around a merged weight."""
    if layer.stored_in_by_out:
        from transformers.pytorch_utils import Conv1D

        with torch.device("meta"):  # no draw from the global generator for values thrown away
            module: nn.Module = Conv1D(weight.shape[1], weight.shape[0])
    else:
        module = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    module.weight = nn.Parameter(weight, requires_grad=False)
    module.bias = layer.bias
    return module.train(layer.training)
