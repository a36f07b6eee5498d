"""Parameters of a model, those that are trained, and the bytes that must be stored.

Multiply-adds are in ``macs``.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sparsetune.architectures.base import PROJECTIONS
from sparsetune.cost.shapes import ModelShape
from sparsetune.cost.updates import UpdateCount
from sparsetune.errors import ModelError

VALUE_BYTES = 4
POSITION_BYTES = 4
_PARTS = {
    projection: "feed_forward" if projection.startswith("ffn") else "attention"
    for projection in PROJECTIONS
}


@dataclass(frozen=True)
class ParameterCount:
    """Parameters and bytes of one tuned model.

    ``total`` has the branches in it; ``trained`` is the update alone and ``trained_with_head``
    adds the task head; ``stored_bytes`` is what must be kept beside the shared backbone.
    """

    total: int
    trained: int
    trained_with_head: int
    stored_bytes: int


def dense_parameters(shape: ModelShape) -> int:
    """Parameters of the model itself, head included, branches not.

    An output matrix that is the token embedding counts once.
    """
    hidden, around = shape.hidden_size, shape.around
    width = shape.embedding_size or hidden
    rows = shape.vocabulary_size + shape.type_vocabulary_size
    total = (rows + shape.maximum_positions if around.positions else rows) * width
    total += 0 if width == hidden else width * hidden
    total += hidden * (around.layer_norms * len(shape.layers) + around.norms)
    total += sum(around.head_norms * layer.head_size for layer in shape.layers)
    total += sum(shape.sizes().values())
    total += sum(rows * columns for rows, columns in shape.relative_matrices())
    total += (hidden + around.pooler_norm) * hidden if shape.pooler else 0
    return total + around.further_weights + shape.bias_parameters() + shape.head_parameters()


def count_parameters(
    shape: ModelShape, update: UpdateCount, zeros: Mapping[str, int] | None = None
) -> ParameterCount:
    """Count parameters in all, parameters trained, and the bytes that must be stored.

    Args:
        shape: the model after any removal.
        update: what is trained, counted on ``shape``.
        zeros: zero weights by site key; its keys are the masked matrices (0 zeros = a mask that
            keeps everything, still stored).

    Returns:
        Bytes = 4 per value that is left of what was trained (head included), 4 per position of
        a sparse entry, and one bit per weight under a mask, whole bytes for each matrix. Only
        AdaLoRA keeps less than it trains: parameters are trained at its first rank.

    Raises:
        ModelError: an unknown site, or more zeros than weights.
    """
    dense = dense_parameters(shape)
    # A language model's output matrix is no head of a task: it trains with the model or not at all.
    head = 0 if shape.head == "generation" else shape.head_parameters()
    own = dense - head if update.own is None else update.own
    added = sum(branch.values for branch in update.branches)
    trained = own + sum(branch.values for branch in update.as_trained.branches)
    positions = sum(branch.sparse for branch in update.branches)
    sizes = shape.sizes()
    mask_bytes = sum((sizes[key] + 7) // 8 for key in checked_zeros(shape, zeros))
    return ParameterCount(
        total=dense + added,
        trained=trained,
        trained_with_head=trained + head,
        stored_bytes=VALUE_BYTES * (own + added + head) + POSITION_BYTES * positions + mask_bytes,
    )


def sparsity(
    shape: ModelShape, zeros: Mapping[str, int] | None = None, *, dense: ModelShape | None = None
) -> float:
    """Fraction of zeros among the weights of the layers' projections, in [0, 1].

    Args:
        shape: the model after any removal.
        zeros: zero weights by site key.
        dense: the model before removal; when given, removed weights count as zeros.

    Raises:
        ModelError: an unknown site, more zeros than weights, or ``dense`` the smaller model.
    """
    kept = sum(shape.sizes().values())
    whole = kept if dense is None else sum(dense.sizes().values())
    if whole < kept:
        raise ModelError(f"dense: has {whole} projection weights, fewer than the {kept} left")
    return (whole - kept + sum(checked_zeros(shape, zeros).values())) / whole


def sparsity_by_layer(
    shape: ModelShape,
    zeros: Mapping[str, int],
    *,
    dense: ModelShape,
    kept_layers: Sequence[int] | None = None,
) -> dict[str, list[float]]:
    """Fraction of zeros in each layer of the dense model; what was removed counts as zeros.

    Args:
        shape: the model after any removal.
        zeros: zero weights by site key of ``shape``.
        dense: the model before removal.
        kept_layers: for each layer of ``shape``, its number in ``dense``; None = none was removed.

    Returns:
        ``attention`` and ``feed_forward`` (its projections together): one fraction in [0, 1] per
        layer of ``dense``; 1 = the layer was removed.

    Raises:
        ModelError: an unknown site, or more zeros than weights.
    """
    checked = checked_zeros(shape, zeros)
    numbers = range(len(dense.layers)) if kept_layers is None else kept_layers
    left: Counter[tuple[int, str]] = Counter()
    whole: Counter[tuple[int, str]] = Counter()
    for key, projection, rows, columns in shape.sites():
        layer = numbers[int(key.split(".")[1])]
        left[layer, _PARTS[projection]] += rows * columns - checked.get(key, 0)
    for key, projection, rows, columns in dense.sites():
        whole[int(key.split(".")[1]), _PARTS[projection]] += rows * columns
    return {
        part: [
            round(1 - left[layer, part] / whole[layer, part], 6)
            for layer in range(len(dense.layers))
        ]
        for part in dict.fromkeys(_PARTS.values())
    }


def checked_zeros(shape: ModelShape, zeros: Mapping[str, int] | None) -> dict[str, int]:
    """Return ``zeros`` as a dict, every site known and no count beyond its matrix.

    Raises:
        ModelError: an unknown site, or a count outside the matrix.
    """
    sizes = shape.sizes()
    for key, count in (zeros or {}).items():
        if key not in sizes:
            raise ModelError(
                f"zeros: unknown site {key!r}; allowed: layer.<0..{len(shape.layers) - 1}>."
                f"<{'|'.join(shape.family.projections)}>"
            )
        if not 0 <= count <= sizes[key]:
            raise ModelError(f"zeros: {key}: received {count}; allowed: 0 to {sizes[key]}")
    return dict(zeros or {})
