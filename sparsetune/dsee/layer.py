"""DSEE's layer: a frozen weight beside a trained low-rank and a trained sparse update.

         ┌─────────────── W ⊙ S1 ───────────────┐      W   O x I   frozen; S1: its zeros
    x ───┤                                      ├─+─► y
         ├── V (R x I) ──── U (O x R) ── · s ───┤      U V         trained, low rank
         └── S2: N values at fixed places ─ · s ┘      S2          trained; s = alpha / R

The arithmetic is in ``kernel`` (layer by layer) and ``folding`` (all at once), the choice of S2's
places in ``support``, merging in ``merge``.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsetune.architectures.anatomy import Anatomy, task_head_parameters, unknown_modules
from sparsetune.architectures.base import Site, check_no_peft, check_plain
from sparsetune.dsee.config import DseeConfig, check_pattern, sites_of
from sparsetune.dsee.folding import USES, Folding, Use
from sparsetune.dsee.kernel import DseeProduct, Layout
from sparsetune.dsee.support import model_supports, restrict_support
from sparsetune.dsee.support_cache import cached_supports
from sparsetune.errors import ConfigError, ModelError, nearest, refusal
from sparsetune.pruning.zeros import remember_zeros
from sparsetune.randomness import derive

_INIT_STD = 0.02


class DseeBranch(nn.Module):
    """The trained update of one projection: ``s (U V + S2)``, with parameters in float32.

    Attributes:
        key: the site it belongs to, e.g. ``layer.0.query``.
        shape: ``(O, I)``.
        rank: R, of this projection.
        alpha: numerator of its scale.
        U: ``O x R``.
        V: ``R x I``.
        S2: values of the sparse part, shape ``(N,)``.
        positions: int32, shape ``(N,)``: where they stand in the flattened ``O x I`` matrix.
    """

    positions: Tensor

    def __init__(self, site: Site, config: DseeConfig, positions: Tensor) -> None:
        super().__init__()
        self.key = site.key
        self.shape = site.shape
        self.rank = config.rank_of(site)
        self.alpha = config.alpha
        self._part = site.part
        out_features, in_features = site.shape
        device = site.module.weight.device
        self.U = nn.Parameter(torch.zeros(out_features, self.rank, device=device))
        self.V = nn.Parameter(torch.zeros(self.rank, in_features, device=device))
        self.S2 = nn.Parameter(torch.zeros(positions.numel(), device=device))
        self.register_buffer("positions", positions.to(device=device, dtype=torch.int32))

    def extra_repr(self) -> str:
        """Tell sizes in the printed model."""
        rows, columns = self.shape
        return f"{rows} x {columns}, rank={self.rank}, n_sparse={self.S2.numel()}"

    @property
    def scale(self) -> float:
        """The factor s on both parts of the update: ``alpha / rank``, of this projection."""
        return self.alpha / self.rank

    @property
    def start(self) -> int:
        """First row of this projection in the stored matrix; not 0 only when fused."""
        return self._part * self.shape[0]

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
        """Rows and columns of the sparse entries in the stored matrix (out x in), int64."""
        flat = self.positions.long()
        return flat // self.shape[1] + self.start, flat % self.shape[1]

    @torch.no_grad()
    def dense(self) -> Tensor:
        """Form the whole update; for scores, merging and tests, not for training.

        Returns:
            ``s (U V + S2)``, ``O x I``, dtype of the parameters, without gradient.
        """
        update = self.U @ self.V
        update.view(-1).index_add_(0, self.positions.long(), self.S2)
        return update.mul_(self.scale)

    def keep_(self, rows: Sequence[int] | None, columns: Sequence[int] | None) -> None:
        """Drop all other rows and columns for good; what is kept is copied bit for bit.

        Args:
            rows: row numbers of the ``O x I`` matrix, increasing; None = all.
            columns: likewise.
        """
        device = self.positions.device
        moved, survives = restrict_support(
            self.positions.long().cpu(), self.shape, kept_rows=rows, kept_columns=columns
        )
        self.positions = moved.to(device=device, dtype=torch.int32)
        self.S2 = nn.Parameter(self.S2.detach()[survives.to(device)])
        if rows is not None:
            self.U = nn.Parameter(self.U.detach()[list(rows)])
        if columns is not None:
            self.V = nn.Parameter(self.V.detach()[:, list(columns)].contiguous())
        self.shape = (self.U.shape[0], self.V.shape[1])


class DseeLinear(nn.Module):
    """A projection (``nn.Linear`` or ``Conv1D``) with DSEE's update beside its frozen weight.

    Computes ``x (W*S1)^T + s x (U V)^T + s x S2^T + b`` with ``s = alpha / rank``. The weight keeps
    its name and storage, so a backbone's state still loads; masking it in place gives ``W*S1``.
    A fused query-key-value matrix is one such layer with a branch for each adapted third.

    Attributes:
        folded: within a forward pass of the whole model, this layer's weight with its update, if
            that was made for all layers at once; else None.
        folding: what makes it; None if the layer is no part of a model.
        adapter: name of the adapter that it belongs to; None = it has none.

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
        self.dropout = config.dropout
        self.training = base.training
        self.folded: Tensor | None = None
        self.folding: Folding | None = None
        self.adapter: str | None = None
        self.branches: Any = nn.ModuleDict(  # projection -> DseeBranch
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
        cast = torch.is_autocast_enabled(kind)
        folded = None if self.drops else self.folded  # a held fold may meet training
        if folded is not None and (cast or x.dtype == folded.dtype):
            return _plain_product(x, folded, self.bias, transposed=self.stored_in_by_out)
        dtype = torch.get_autocast_dtype(kind) if cast else x.dtype
        branches = tuple(self.branches.values())
        starts = tuple(branch.start for branch in branches)
        scales = tuple(branch.scale for branch in branches)
        layout = Layout(scales, self.stored_in_by_out, starts, dtype)
        if self.drops:
            return self._dropped_product(layout, x, branches)
        tensors = [
            tensor
            for branch in branches
            for tensor in (branch.U, branch.V, branch.S2, *branch.coordinates())
        ]
        return DseeProduct.apply(layout, x, self.weight, self.bias, *tensors)

    def extra_repr(self) -> str:
        """Tell the adapter's name in the printed model."""
        return "" if self.adapter is None else f"adapter={self.adapter!r}"

    @property
    def drops(self) -> bool:
        """Whether inputs of U V are zeroed now."""
        return self.training and self.dropout > 0

    def _dropped_product(self, layout: Layout, x: Tensor, branches: Sequence[DseeBranch]) -> Tensor:
        """Multiply with a U V that sees other inputs than W and S2, beside them."""
        tensors = [
            tensor
            for branch in branches
            for tensor in (branch.U[:, :0], branch.V[:0], branch.S2, *branch.coordinates())
        ]
        out = DseeProduct.apply(layout, x, self.weight, self.bias, *tensors)
        for branch in branches:
            dropped = nn.functional.dropout(x, self.dropout).to(layout.dtype)
            low = dropped @ branch.V.to(layout.dtype).t()
            update = low @ branch.U.to(layout.dtype).t() * branch.scale
            after = out.shape[-1] - branch.start - branch.shape[0]
            out = out + nn.functional.pad(update, (branch.start, after))
        return out

    @property
    def updated(self) -> tuple[str, ...]:
        """Projections that have an update here."""
        return tuple(self.branches)

    def delta(self, projection: str) -> Tensor:
        """Form the dense update of one projection: ``s (U V + S2)``, ``O x I``, no gradient.

        Args:
            projection: one that this layer adapts.

        Raises:
            ModelError: if the projection has no branch here.
        """
        if projection not in self.branches:
            known = ", ".join(self.branches)
            raise ModelError(f"no DSEE update on {projection!r} here; adapted: {known}")
        return self.branches[projection].dense()

    def keep_update_(
        self, projection: str, rows: Sequence[int] | None, columns: Sequence[int] | None
    ) -> None:
        """Let the update of one projection follow a removal; see ``DseeBranch.keep_``.

        Args:
            projection: any that is stored here; one without an update is left alone.
            rows: rows kept; None = all.
            columns: columns kept; None = all.
        """
        if projection in self.branches:
            self.branches[projection].keep_(rows, columns)


def apply_dsee(
    model: nn.Module,
    config: DseeConfig,
    *,
    cache: Path | None = None,
    on_matrix: Callable[[int, int, str], object] | None = None,
) -> nn.Module:
    """Freeze a model and attach DSEE's update to it, in place.

    Afterwards exactly the update and the task head train; any training loop will do. What is zero
    in the projections by then, or is masked later, must still be zero when the model is saved.

    Args:
        model: of a known architecture, bare or with a task head, after any removal of heads and
            neurons.
        config: what is attached, and how the places of S2 are chosen.
        cache: folder of places that GreBsmo has chosen before, see ``support_cache``; None = none.
        on_matrix: called after each matrix that GreBsmo has worked on, see ``support_cache``.

    Returns:
        The same model, so that loading and attaching fit in one line.

    Raises:
        ConfigError: ``config`` is something else than a ``DseeConfig``.
        ModelError: another architecture, layers that it has not, a rank or positions that do not
            fit, a key of the rank pattern that nothing follows, or projections that are wrapped
            already; nothing is changed then.

    Source:
        Chen et al. 2023, arXiv:2111.00160 section 3.
    Differs:
        See ``DseeConfig``, ``DseeLinear`` and ``support.decompose``.
    """
    if not isinstance(config, DseeConfig):
        kind = type(config).__name__
        raise ConfigError(f"config: received a {kind}, allowed: a sparsetune.DseeConfig")
    anatomy = Anatomy.of(model)
    sites = sites_of(anatomy, config)
    check_no_peft(model)
    for site in anatomy.sites():  # before the choice, which may take minutes
        check_plain(site)
    check_pattern(sites, config)
    for site in sites:
        _check_sizes(site, config)
    saved = _modules_to_save(model, config, sites)
    supports = _supports(model, config, sites, cache=cache, on_matrix=on_matrix)
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(derive(config.seed, "update"))
    groups: dict[str, list[Site]] = {}
    for site in sites:
        groups.setdefault(site.path, []).append(site)
    for path, group in groups.items():
        layer = DseeLinear(group, config, [supports[site.key] for site in group])
        for branch in layer.branches.values():
            branch.reset_(config.init, generator)
        model.set_submodule(path, layer)
    for parameter in (*task_head_parameters(model).values(), *saved):
        parameter.requires_grad_(True)
    remember_zeros(anatomy.sites())
    layers = {layer: None for layer, _ in dsee_branches(model)}
    folding = Folding(list(layers), anatomy.layer_list)
    folding.attach(model)
    for layer in layers:
        layer.folding = folding
    return model


def fold_together(model: nn.Module, use: Use) -> None:
    """Say when forward passes of a model make all updated weights at once; for measurements.

    Args:
        model: that ``apply_dsee`` was given.
        use: ``auto``: where it is the faster way, as after ``apply_dsee``; ``always``, ``never``.

    Raises:
        ModelError: nothing is attached, or there is no such use.
    """
    if use not in USES:
        raise ModelError(refusal("dsee folding", "use", use, USES))
    found = [layer.folding for layer, _ in dsee_branches(model) if layer.folding is not None]
    if not found:
        raise ModelError("nothing to fold: no DSEE update is attached")
    for folding in found:
        folding.use = use


@contextmanager
def folds_held(model: nn.Module) -> Iterator[None]:
    """Let passes without gradients share one fold, where a fold of all updates is used at all.

    Args:
        model: any module; no weight of it may change in the context.
    """
    layers = {layer: layer.folding for layer, _ in dsee_branches(model)}
    foldings = [folding for folding in layers.values() if folding is not None]
    for folding in foldings:
        folding.holds = True
    try:
        yield
    finally:
        for folding in foldings:
            folding.holds = False
            folding.release()


def dsee_branches(model: nn.Module) -> Iterator[tuple[DseeLinear, DseeBranch]]:
    """Go through the attached updates, each with the layer it is in, in the model's order.

    Args:
        model: any module.
    """
    for module in model.modules():
        if isinstance(module, DseeLinear):
            for branch in module.branches.values():
                yield module, branch


def _plain_product(x: Tensor, weight: Tensor, bias: Tensor | None, *, transposed: bool) -> Tensor:
    weight = weight.t() if transposed else weight
    return nn.functional.linear(x, weight, bias)


def _supports(
    model: nn.Module,
    config: DseeConfig,
    sites: Sequence[Site],
    *,
    cache: Path | None,
    on_matrix: Callable[[int, int, str], object] | None,
) -> Mapping[str, Tensor]:
    """Choose the places of S2, or check those that were given."""
    if config.support == "grebsmo" and cache is not None:
        return cached_supports(
            sites,
            n_sparse=config.n_sparse,
            seed=config.seed,
            folder=cache,
            on_matrix=on_matrix,
        )
    if isinstance(config.support, str):
        chosen = model_supports(
            model,
            config.targets,
            layers=config.layers,
            recipe=config.support,
            n_sparse=config.n_sparse,
            seed=config.seed,
            on_matrix=on_matrix if config.support == "grebsmo" else None,
        )
        return {key: result.positions for key, result in chosen.items()}
    given = config.support
    unknown = sorted(given.keys() - {site.key for site in sites})
    if unknown:
        count = Anatomy.of(model).layers
        which = f"{count} layers" if config.layers is None else f"layers {list(config.layers)}"
        raise ModelError(
            f"support has positions for {unknown[0]}; {type(model).__name__} has "
            f"{', '.join(config.targets)} in {which} to adapt"
        )
    for site in sites:
        if site.key not in given:
            raise ModelError(f"no support for {site.key}; received {len(given)} supports")
        _check_positions(site, given[site.key], config.n_sparse)
    return given


def _modules_to_save(
    model: nn.Module, config: DseeConfig, sites: Sequence[Site]
) -> list[nn.Parameter]:
    """What trains beside the update and the task head; refuses what would freeze unseen."""
    if config.modules_to_save is None:
        unknown = unknown_modules(model)
        if unknown:
            raise ModelError(
                f"{type(model).__name__}: {', '.join(unknown)}: no part of the backbone and no "
                "head that is known, so it would stay frozen; needed: "
                f"modules_to_save={unknown} to train and save it, or "
                "modules_to_save=[] to leave it"
            )
        return []
    adapted = {f"{site.path}." for site in sites}
    found: dict[str, nn.Parameter] = {}
    for name in config.modules_to_save:
        own = {n: p for n, p in model.named_parameters() if f".{name}." in f".{n}."}
        if not own:
            known = sorted({part for n, _ in model.named_parameters() for part in n.split(".")})
            raise ModelError(
                f"dsee modules_to_save: received {name!r}; allowed: modules of "
                f"{type(model).__name__} that have parameters{nearest(name, known)}"
            )
        if any(n.startswith(path) for n in own for path in adapted):
            raise ModelError(
                f"dsee modules_to_save: received {name!r}, which DSEE adapts; allowed: modules "
                f"without {', '.join(config.targets)}"
            )
        found |= own
    return list(found.values())


def _check_sizes(site: Site, config: DseeConfig) -> None:
    size = f"{site.key} of {site.shape[0]} x {site.shape[1]}"
    key = config.key_of(site)
    rank = "rank" if key is None else f"rank_pattern {key!r}"
    for name, value, least, most in (
        (rank, config.rank_of(site), 1, min(site.shape)),
        ("n_sparse", config.n_sparse, 0, math.prod(site.shape)),
    ):
        if value > most:
            raise ModelError(f"{size}: dsee {name}: received {value}, allowed: {least} to {most}")


def _check_positions(site: Site, positions: Any, n_sparse: int) -> None:
    named = f"support of {site.key}"
    if not isinstance(positions, Tensor):
        raise ModelError(f"{named}: received a {type(positions).__name__}, needed: a tensor")
    if positions.dim() != 1 or positions.dtype not in (torch.int32, torch.int64):
        raise ModelError(
            f"{named}: received {positions.dtype} of {positions.dim()} dimensions, "
            "needed: int64 of one dimension"
        )
    if positions.numel() > n_sparse:
        raise ModelError(f"{named}: {positions.numel()} positions; allowed: at most {n_sparse}")
    if positions.numel() == 0:
        return
    lowest, highest, last = int(positions.min()), int(positions.max()), math.prod(site.shape) - 1
    if lowest < 0 or highest > last:
        raise ModelError(
            f"{named}: received {lowest}..{highest}, positions outside 0..{last} "
            f"of its {site.shape[0]} x {site.shape[1]} matrix"
        )
    if positions.unique().numel() != positions.numel():
        raise ModelError(f"{named}: a position occurs twice")
