"""Multiply-adds of a model: executed, effective, and over its whole life.

One multiply-add is 1 MAC; FLOPs are 2 x MACs. Only matrix products count: look-ups, biases,
layer norms, activations and softmax are 0, as in torch's own counter.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sparsetune.cost.params import checked_zeros
from sparsetune.cost.shapes import PROJECTIONS, ModelShape
from sparsetune.cost.updates import Update
from sparsetune.errors import ModelError

MODULES = (
    "embeddings", "query", "key", "value", "scores", "context",
    "attention_output", "ffn_in", "ffn_out", "pooler", "head", "update",
)  # fmt: skip
LAYER_MODULES = (*PROJECTIONS, "scores", "context", "update")
"""Those of :data:`MODULES` that every layer has one of."""
OPERATORS = ("linear", "attention", "low_rank", "single_entries")
"""Kinds of products: by a stored weight; of two activations; by U and V; by the values of S2."""
_RESERVED = ("inference", "total")


def executed_macs(shape: ModelShape, tokens: float, update: Update | None = None) -> dict[str, int]:
    """MACs that a dense kernel runs for one sequence, by module.

    Removed heads and neurons are gone; single zeros inside a matrix still count. Branches of
    an update stand beside their matrix, unmerged: ``rank * (in + out)`` per token, and one per
    token for each sparse entry. What only scales or adds element by element (IA3's vectors,
    AdaLoRA's singular values, biases) is 0. Causal attention (GPT-2) counts in full and its output
    matrix for every token. The pooler and the classifiers of BERT and RoBERTa see one token;
    span heads and GPT-2's classifier see all.

    Args:
        shape: the model after any removal.
        tokens: length T of the sequence, padding included, > 0; a mean length may be given,
            and each entry is then rounded.
        update: the branches to add; None or full = none.

    Returns:
        Module -> MACs, in the order of :data:`MODULES`; their sum is the sequence's cost.

    Raises:
        ModelError: ``tokens`` is not above 0, or the update does not fit the model.
    """
    _check_length(tokens)
    macs: dict[str, float] = dict.fromkeys(MODULES, 0)
    for module, values in _by_layer(shape, tokens, update).items():
        macs[module] = sum(values)
    macs["pooler"] = shape.hidden_size**2 if shape.pooler else 0
    macs["head"] = _head_macs(shape, tokens)
    return {module: round(value) for module, value in macs.items()}


def effective_macs(
    shape: ModelShape,
    tokens: float,
    update: Update | None = None,
    zeros: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """MACs of one sequence when zero weights cost nothing, by module.

    What an ideal sparse kernel would run: each zero saves one MAC per token; the branches count
    in full.

    Args:
        shape: the model after any removal.
        tokens: length T of the sequence, > 0.
        update: the branches to add; None or full = none.
        zeros: site key ``layer.<i>.<projection>`` -> zeros left inside that matrix.

    Returns:
        Module -> MACs, in the order of :data:`MODULES`.

    Raises:
        ModelError: as :func:`executed_macs`; an unknown site; more zeros than weights.
    """
    macs = executed_macs(shape, tokens, update)
    saved = dict.fromkeys(PROJECTIONS, 0)
    for key, count in checked_zeros(shape, zeros).items():
        saved[key.rsplit(".", 1)[1]] += count
    for projection, count in saved.items():
        macs[projection] -= round(tokens * count)
    return macs


def macs_by_layer(
    shape: ModelShape,
    tokens: float,
    update: Update | None = None,
    zeros: Mapping[str, int] | None = None,
) -> dict[str, list[int]]:
    """MACs of one sequence in each layer, by module; embeddings, pooler and head are in none.

    Args:
        shape: the model after any removal.
        tokens: length T of the sequence, > 0.
        update: the branches to add; None or full = none.
        zeros: site key -> zeros that cost nothing; None = executed MACs, in which zeros count.

    Returns:
        Module of :data:`LAYER_MODULES` -> one number for each layer; over the layers they add up
        to :func:`executed_macs` or :func:`effective_macs`, exactly if ``tokens`` is whole.

    Raises:
        ModelError: as :func:`effective_macs`.
    """
    _check_length(tokens)
    macs = _by_layer(shape, tokens, update)
    for key, count in checked_zeros(shape, zeros).items():
        _, layer, projection = key.split(".")
        macs[projection][int(layer)] -= tokens * count
    return {module: [round(value) for value in values] for module, values in macs.items()}


def macs_by_operator(
    shape: ModelShape,
    tokens: float,
    update: Update | None = None,
    zeros: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """MACs of one sequence by the kind of product; look-ups and element-wise steps are 0.

    Args:
        shape: the model after any removal.
        tokens: length T of the sequence, > 0.
        update: the branches to add; None or full = none.
        zeros: as in :func:`macs_by_layer`.

    Returns:
        Operator of :data:`OPERATORS` -> MACs; their sum is that over all modules.

    Raises:
        ModelError: as :func:`effective_macs`.
    """
    macs = effective_macs(shape, tokens, update, zeros)
    sparse = sum(branch.sparse for branch in (update or Update.full()).branches(shape))
    attention = macs["scores"] + macs["context"]
    entries = round(tokens * sparse)
    return {
        "linear": sum(macs.values()) - attention - macs["update"],
        "attention": attention,
        "low_rank": macs["update"] - entries,
        "single_entries": entries,
    }


def training_macs(shape: ModelShape, tokens: float, update: Update | None = None) -> dict[str, int]:
    """MACs of one training step's forward and backward pass for one sequence, by module.

    The rule: a product runs once forward, once more for the gradient of its input, and once
    more for the gradient of its weight if that is trained. So full training costs 3 x forward.
    With a frozen backbone the frozen matrices cost 2 x, and the branches, the head and the two
    attention products (both of whose factors need gradients) 3 x. Zeros save nothing: training
    runs dense kernels. Gates, losses and the optimiser are element-wise and count 0.

    Args:
        shape: the model as it stands in this phase.
        tokens: length T of the sequence, padding included, > 0.
        update: what is trained; None = full.

    Returns:
        Module -> MACs, in the order of :data:`MODULES`.

    Raises:
        ModelError: as :func:`executed_macs`.

    Differs:
        Below the lowest trained branch a framework stops early; what that saves in the first
        layer (its three input projections and half of its attention, at most) is not deducted.
    """
    update = (update or Update.full()).in_training()
    frozen = () if update.kind == "full" else (*PROJECTIONS, "pooler")
    if update.kind != "full" and shape.head == "generation":
        # GPT-2's output matrix is its frozen embedding.
        frozen = (*frozen, "head")
    forward = executed_macs(shape, tokens, update)
    return {module: (2 if module in frozen else 3) * n for module, n in forward.items()}


@dataclass(frozen=True)
class TrainingPhase:
    """One phase that trained: how many sequences, how long, on which shape, which update."""

    name: str
    sequences: float
    tokens: float
    shape: ModelShape
    update: Update


def whole_life_macs(
    phases: Sequence[TrainingPhase], *, inference_macs: int, inference_examples: int
) -> dict[str, int]:
    """MACs of search, of every training phase, and of use, together.

    The backbone's pre-training is shared by all runs and not in it, unless given as a phase.

    Args:
        phases: every phase that trained, the search included; sequences count once per epoch.
            Phases of one name are added up.
        inference_macs: MACs of one forward pass, executed or effective as the caller reports.
        inference_examples: sequences that will be run, >= 0.

    Returns:
        Phase name -> MACs (:func:`training_macs` x sequences), then ``inference``, ``total``.

    Raises:
        ModelError: a negative count, or a phase called ``inference`` or ``total``.
    """
    if inference_macs < 0 or inference_examples < 0:
        raise ModelError(
            f"inference: got {inference_macs} MACs x {inference_examples}, need both >= 0"
        )
    life: dict[str, int] = {}
    for phase in phases:
        if phase.name in _RESERVED or phase.sequences < 0:
            raise ModelError(
                f"phase {phase.name!r}: got {phase.sequences} sequences, need >= 0 and a name "
                f"other than {' and '.join(_RESERVED)}"
            )
        step = sum(training_macs(phase.shape, phase.tokens, phase.update).values())
        life[phase.name] = life.get(phase.name, 0) + round(step * phase.sequences)
    life["inference"] = inference_macs * inference_examples
    life["total"] = sum(life.values())
    return life


def _check_length(tokens: float) -> None:
    if not tokens > 0:
        raise ModelError(f"tokens: got {tokens}, need a length above 0")


def _by_layer(shape: ModelShape, tokens: float, update: Update | None) -> dict[str, list[float]]:
    macs: dict[str, list[float]] = {name: [0] * len(shape.layers) for name in LAYER_MODULES}
    for key, projection, rows, columns in shape.sites():
        macs[projection][_layer_of(key)] = tokens * rows * columns
    for index, layer in enumerate(shape.layers):
        # Scores and context are each, per head, a T x T x head_size product.
        macs["scores"][index] = tokens * tokens * layer.heads * layer.head_size
        macs["context"][index] = macs["scores"][index]
    for branch in (update or Update.full()).branches(shape):
        macs["update"][_layer_of(branch.key)] += tokens * branch.products
    return macs


def _layer_of(key: str) -> int:
    return int(key.split(".")[1])


def _head_macs(shape: ModelShape, tokens: float) -> float:
    hidden, labels = shape.hidden_size, shape.label_count
    if shape.head == "generation":
        return tokens * hidden * shape.vocabulary_size
    if shape.head == "masked_lm":
        return tokens * hidden * (hidden + shape.vocabulary_size)
    if shape.head == "span" or shape.architecture == "gpt2":
        return tokens * hidden * labels
    own = hidden * hidden if shape.architecture == "roberta" else 0
    return own + hidden * labels
