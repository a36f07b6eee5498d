"""What an update adds to a model of one shape and what of it trains; every kind counts its own.

The kinds stand in ``sparsetune.methods``; here is what they answer with.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from sparsetune.cost.shapes import ModelShape
from sparsetune.errors import ModelError


@dataclass(frozen=True)
class Branch:
    """What an update adds beside one matrix.

    Attributes:
        key: site key; of a matrix that holds several targets, the first of them.
        products: values that one multiply-add per token goes through (U, V, S2).
        sparse: how many of them are single entries, whose positions are stored too.
        vectors: values that only scale, element by element: no multiply-adds.
    """

    key: str
    products: int
    sparse: int = 0
    vectors: int = 0

    @property
    def values(self) -> int:
        """All values of the branch."""
        return self.products + self.vectors


@dataclass(frozen=True)
class UpdateCount:
    """An update on a model of one shape, as numbers.

    Attributes:
        branches: what stands beside the matrices, as it is kept and run.
        in_training: the same as it trains; None = as it is kept.
        own: parameters of the model itself that train, its task head not counted; the matrices
            are frozen then. None = all of them train.
    """

    branches: tuple[Branch, ...] = ()
    in_training: tuple[Branch, ...] | None = None
    own: int | None = 0

    @property
    def as_trained(self) -> "UpdateCount":
        """The update before any of its rank is given up."""
        if self.in_training is None:
            return self
        return UpdateCount(self.in_training, own=self.own)


FULL = UpdateCount(own=None)
"""Every weight trains, and nothing stands beside it."""


def low_rank_branches(
    shape: ModelShape,
    targets: Collection[str],
    rank: int,
    *,
    fused: bool = True,
    entries: Mapping[str, int] | None = None,
    ranks: Mapping[str, int] | None = None,
    singular_values: bool = False,
) -> tuple[Branch, ...]:
    """Count a product of two factors beside every target, with single entries where there are any.

    Args:
        shape: the model after any removal.
        targets: projections.
        rank: of every product, >= 0.
        fused: GPT-2's query, key and value are the one matrix that they are stored in (PEFT).
        entries: site key -> single entries beside that matrix; absent = none.
        ranks: site key -> what is left of ``rank`` there; absent = all of it.
        singular_values: a vector stands between the factors.

    Raises:
        ModelError: more entries than a matrix has, or ranks above ``rank`` or of another model.
    """
    entries, ranks = entries or {}, ranks or {}
    for key, own in ranks.items():
        if not 0 <= own <= rank:
            raise ModelError(f"update.ranks: {key}: received {own}; allowed: 0 to {rank}")
    branches = []
    for key, _, rows, columns in shape.matrices(targets, fused=fused):
        own, sparse = ranks.get(key, rank), entries.get(key, 0)
        if sparse > rows * columns:
            raise ModelError(
                f"update.n_sparse: received {sparse}; allowed: 0 to {rows * columns}, the entries "
                f"of {key}"
            )
        vector = own if singular_values else 0
        branches.append(Branch(key, own * (rows + columns) + sparse, sparse, vector))
    unknown = ranks.keys() - {branch.key for branch in branches}
    if unknown:
        raise ModelError(f"update.ranks: {min(unknown)}: no such target in this model")
    return tuple(branches)
