"""Choosing the positions of S2 from a pre-trained weight; its values are not chosen here.

Recipes: GreBsmo (low rank plus sparse), largest magnitude, random, none.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from sparsetune.architectures.anatomy import Anatomy
from sparsetune.errors import ConfigError, ModelError
from sparsetune.pruning.masks import exact_top_k
from sparsetune.randomness import derive

ALGORITHM = 1
"""Of the choice by GreBsmo; raise it when other positions come out, so that kept ones go."""
RECIPES = ("magnitude", "random", "empty", "grebsmo")
Recipe = Literal["magnitude", "random", "empty", "grebsmo"]


@dataclass(frozen=True)
class GreBsmoConfig:
    """Settings of the decomposition.

    Attributes:
        rounds: outer rounds; the rank grows between them.
        inner_rounds: alternations of U, V and S in a round.
        rank_growth: rows added to V after each round but the last.
        threshold: entries of the residual below it in magnitude are not sparse, 0 or more.

    Source:
        VITA-Group/DSEE at 61844c3, ``run_glue.py`` (2023 settings, the defaults); at f492778 (2021:
        10 alternations, growth 1, otherwise the same).
    Differs:
        The code of 2021 keeps one position more than it is asked for; here exactly N.
    """

    rounds: int = 100
    inner_rounds: int = 2
    rank_growth: int = 5
    threshold: float = 0.01

    def __post_init__(self) -> None:
        for name in ("rounds", "inner_rounds", "rank_growth"):
            if getattr(self, name) < 1:
                raise ConfigError(f"grebsmo {name}: received {getattr(self, name)}, allowed: 1..")
        if not self.threshold >= 0:
            raise ConfigError(f"grebsmo threshold: received {self.threshold}, allowed: 0 or more")


class SupportResult(NamedTuple):
    """Chosen positions and how well the decomposition behind them fits.

    Attributes:
        positions: int64, shape ``(N,)``, increasing, into the flattened ``O x I`` matrix.
        residual: Frobenius norm of ``W - U V - S`` over that of W; U V is zero and S is W at the
            positions, except for GreBsmo, where S is everything above the threshold.
    """

    positions: Tensor
    residual: float


def choose_support(
    weight: Tensor,
    *,
    recipe: Recipe,
    n_sparse: int,
    seed: int,
    grebsmo: GreBsmoConfig | None = None,
) -> SupportResult:
    """Choose which entries of one matrix S2 may train.

    Args:
        weight: floating, ``O x I``, the pre-trained W.
        recipe: ``magnitude`` largest |W|; ``random`` without replacement; ``empty`` none;
            ``grebsmo`` largest |S| of the decomposition.
        n_sparse: how many, 0 to ``O * I``; ignored by ``empty``.
        seed: of the random start or draw; magnitude does not use it.
        grebsmo: settings of the decomposition; published ones if None.

    Returns:
        Positions on the CPU and the residual. Among equal magnitudes the lower flat index wins.

    Raises:
        ModelError: if the recipe is unknown or the matrix has fewer entries.

    Source:
        Chen et al. 2023, arXiv:2111.00160 section 3; VITA-Group/DSEE at 61844c3.
    Differs:
        See ``decompose``.
    """
    if recipe not in RECIPES:
        raise ModelError(f"support recipe {recipe!r} unknown; known: {', '.join(RECIPES)}")
    if weight.dim() != 2 or not 0 <= n_sparse <= weight.numel():
        raise ModelError(f"cannot choose {n_sparse} positions of a {tuple(weight.shape)} weight")
    work = weight.detach()
    work = (work if work.dtype == torch.float64 else work.float()).contiguous()
    generator = torch.Generator().manual_seed(seed)
    if recipe == "grebsmo":
        return _grebsmo_support(work, n_sparse, generator, config=grebsmo or GreBsmoConfig())
    if recipe == "magnitude":
        positions = _largest(work.abs(), n_sparse)
    elif recipe == "random":
        drawn = torch.randperm(work.numel(), generator=generator)[:n_sparse]
        positions = drawn.sort().values
    else:
        positions = torch.empty(0, dtype=torch.int64)
    rest = work.clone()
    rest.view(-1)[positions.to(rest.device)] = 0.0
    return SupportResult(positions, _relative_norm(rest, work))


def decompose(
    weight: Tensor, generator: torch.Generator, config: GreBsmoConfig
) -> tuple[Tensor, Tensor]:
    """Split a matrix into low rank and rest by greedy alternation.

    Chaotic at the published settings: changing a 768 x 768 matrix by 1e-15 of its size moved most
    of the 64 largest entries of S, so any reordering of the same arithmetic does. The same seed
    gives the same result only on the same device with the same number of threads, so the saved
    support counts, not the seed.

    Args:
        weight: float32 or float64, ``O x I``.
        generator: CPU generator of the random start.
        config: rounds, alternations, growth and threshold.

    Returns:
        The low-rank part U V and the sparse part S (hard-thresholded ``W - U V``), both ``O x I``.

    Source:
        VITA-Group/DSEE at 61844c3, ``run_glue.py``; after Zhou & Tao 2013, GreBsmo.
    Differs:
        From the code: the rank stops growing at ``min(O, I)``; only the first rows of R are
        computed (they depend on the first columns of the residual only). From the published
        GreBsmo, as the code does: hard threshold, S reset each round, no convergence test.
    """
    v = torch.randn(1, weight.shape[1], generator=generator, dtype=weight.dtype).to(weight.device)
    rest, error = torch.empty_like(weight), torch.empty_like(weight)
    threshold = _just_below(config.threshold, weight.dtype)
    for turn in range(config.rounds):
        target = weight
        for step in range(config.inner_rounds):
            u = torch.linalg.qr(target @ v.t()).Q
            v = u.t() @ target
            torch.addmm(weight, u, v, alpha=-1, out=rest)
            # One pass: keeps what is above its bound in magnitude, here at or above the threshold.
            sparse = nn.functional.hardshrink(rest, threshold)
            if step + 1 < config.inner_rounds:
                target = weight - sparse
        growth = min(config.rank_growth, min(weight.shape) - v.shape[0])
        low_v = v
        if turn + 1 < config.rounds and growth > 0:
            torch.sub(rest, sparse, out=error)
            basis = torch.linalg.qr(error[:, :growth]).Q
            v = torch.cat([v, basis.t() @ error])
    return u @ low_v, sparse


def _just_below(value: float, dtype: torch.dtype) -> float:
    """Return the largest number of the dtype below a value, or 0 for 0."""
    zero = torch.zeros((), dtype=dtype)
    return float(torch.nextafter(torch.full_like(zero, value), zero))


def _grebsmo_support(
    weight: Tensor, n_sparse: int, generator: torch.Generator, *, config: GreBsmoConfig
) -> SupportResult:
    low, sparse = decompose(weight, generator, config)
    rest = weight - low
    # |rest| orders the entries above the threshold as |S| does, and still orders the others when
    # fewer than n_sparse survive, where |S| would be a tie of zeros.
    positions = _largest(rest.abs(), n_sparse)
    return SupportResult(positions, _relative_norm(rest - sparse, weight))


def _largest(magnitudes: Tensor, count: int) -> Tensor:
    return exact_top_k(magnitudes, count).view(-1).nonzero().squeeze(1).cpu()


def _relative_norm(part: Tensor, whole: Tensor) -> float:
    norm = float(torch.linalg.norm(whole))
    return float(torch.linalg.norm(part)) / norm if norm else 0.0


def site_seed(seed: int, key: str) -> int:
    """Seed of one matrix, independent of the others and of their order.

    Args:
        seed: of the whole support.
        key: site key.

    Returns:
        An integer in [0, 2**63).
    """
    return derive(seed, "support", key)


def model_supports(
    model: nn.Module,
    targets: Sequence[str],
    *,
    recipe: Recipe,
    n_sparse: int,
    seed: int,
    layers: Collection[int] | None = None,
    grebsmo: GreBsmoConfig | None = None,
    on_matrix: Callable[[int, int, str], object] | None = None,
) -> dict[str, SupportResult]:
    """Choose the support of every target projection of a model.

    Args:
        model: the pre-trained model, whole or after removal.
        targets: projections.
        recipe: see ``choose_support``.
        n_sparse: positions per matrix.
        seed: each matrix gets its own, see ``site_seed``.
        layers: numbers of the layers looked at; None = all. What is chosen for one does not
            depend on the others.
        grebsmo: settings of the decomposition; published ones if None.
        on_matrix: called after each matrix with how many are done, how many there are, and the
            site key of this one.

    Returns:
        Results by site key, in the order of the layers.

    Raises:
        ModelError: as ``choose_support``, or if a projection is unknown.
    """
    sites = [
        site for site in Anatomy.of(model).sites(targets) if layers is None or site.layer in layers
    ]
    results = {}
    for done, site in enumerate(sites, start=1):
        results[site.key] = choose_support(
            site.weight_view(),
            recipe=recipe,
            n_sparse=n_sparse,
            seed=site_seed(seed, site.key),
            grebsmo=grebsmo,
        )
        if on_matrix:
            on_matrix(done, len(sites), site.key)
    return results


def restrict_support(
    positions: Tensor,
    shape: tuple[int, int],
    *,
    kept_rows: Sequence[int] | None = None,
    kept_columns: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Follow a matrix whose rows or columns are removed: lost positions go, the others move.

    Args:
        positions: int64, flat in the matrix before removal.
        shape: ``(O, I)`` of the matrix before removal.
        kept_rows: row numbers kept, increasing; None = all.
        kept_columns: likewise.

    Returns:
        int64, flat in the smaller matrix, in the order of ``positions``; and which of the old ones
        survive, bool, shape of ``positions``.

    Source:
        VITA-Group/DSEE at 61844c3: pruning a head also slices the mask of S2, so a matrix keeps
        fewer than N positions.
    Differs:
        Nothing.

    Example:
        >>> restrict_support(torch.tensor([1, 7, 8]), (3, 4), kept_rows=[0, 2])
        (tensor([1, 4]), tensor([ True, False,  True]))
    """
    maps = []
    for size, kept in zip(shape, (kept_rows, kept_columns), strict=True):
        chosen = list(range(size) if kept is None else kept)
        moved = torch.full((size,), -1, dtype=torch.int64)
        moved[torch.as_tensor(chosen)] = torch.arange(len(chosen))
        maps.append(moved)
    row, column = maps[0][positions // shape[1]], maps[1][positions % shape[1]]
    survives = (row >= 0) & (column >= 0)
    width = shape[1] if kept_columns is None else len(kept_columns)
    return row[survives] * width + column[survives], survives
