"""Multiply-adds of a model: executed, effective, in training, in generation, over its whole life.

One multiply-add is 1 MAC; FLOPs are 2 x MACs. Only matrix products count: look-ups, biases,
layer norms, activations and softmax are 0, as in torch's own counter.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sparsetune.cost.parameters import checked_zeros
from sparsetune.cost.shapes import ModelShape
from sparsetune.cost.updates import FULL, UpdateCount
from sparsetune.errors import ModelError

MODULES = (
    "embeddings", "query", "key", "value", "scores", "context",
    "attention_output", "ffn_in", "ffn_out", "pooler", "head", "update",
)  # fmt: skip
"""Of every model; where neurons are gated there is an ``ffn_gate`` after ``ffn_in``."""
_BESIDE_PROJECTIONS = ("scores", "context", "update")
LAYER_MODULES = (
    "query", "key", "value", "attention_output", "ffn_in", "ffn_out", *_BESIDE_PROJECTIONS
)  # fmt: skip
"""Those of :data:`MODULES` that every layer has one of."""
OPERATORS = ("linear", "attention", "low_rank", "single_entries")
"""Kinds of products: by a stored weight; of two activations; by U and V; by the values of S2."""
_RESERVED = ("inference", "total")


def macs_by_module(
    shape: ModelShape,
    tokens: float,
    update: UpdateCount = FULL,
    zeros: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """MACs of one sequence, by module: executed, or effective if zeros are given.

    Executed is what a dense kernel runs: removed heads and neurons are gone, single zeros inside a
    matrix still count. Effective is what an ideal sparse kernel would run: each zero saves one MAC
    per token. In both, branches of an update stand beside their matrix, unmerged:
    ``rank * (in + out)`` per token, and one per token for each sparse entry. What only scales or
    adds element by element (IA3's vectors, AdaLoRA's singular values, biases) is 0. Causal
    attention (GPT-2) counts in full and its output matrix for every token. The pooler and the
    classifiers of BERT and RoBERTa see one token; span heads and GPT-2's classifier see all.
    Relative positions with queries and keys of their own (DeBERTa) go through those projections,
    and the tokens through products with them, which are scores; so do branches and zeros there.

    Args:
        shape: the model after any removal.
        tokens: length T of the sequence, padding included, > 0; a mean length may be given,
            and each entry is then rounded.
        update: the branches to add, counted on ``shape``.
        zeros: site key ``layer.<i>.<projection>`` -> zeros that cost nothing; None = executed.

    Returns:
        Module -> MACs, in the order of :data:`MODULES`; their sum is the sequence's cost. Token
        embeddings of another width than the layers are multiplied by a matrix, else they are 0;
        a convolution beside the first layer (DeBERTa) is with them.

    Raises:
        ModelError: ``tokens`` is not above 0, an unknown site, or more zeros than weights.

    Differs:
        From what a batch runs: it makes the queries and keys of relative positions once for all its
        sequences.
    """
    macs = dict.fromkeys(_modules(shape), 0)
    beside = _embedding_products(shape) + shape.around.further_products
    macs["embeddings"] = round(tokens * beside)
    for module, values in _by_layer(shape, tokens, update).items():
        macs[module] = round(sum(values))
    if shape.pooler:
        pooled = tokens if shape.head == "span" else 1
        macs["pooler"] = round(pooled * shape.hidden_size**2)
    macs["head"] = round(_head_macs(shape, tokens))
    saved: Counter[str] = Counter()
    for key, count in checked_zeros(shape, zeros).items():
        saved[key.rsplit(".", 1)[1]] += count
    for projection, count in saved.items():
        macs[projection] -= round(_rows(shape, projection, tokens) * count)
    return macs


def macs_by_layer(
    shape: ModelShape,
    tokens: float,
    update: UpdateCount = FULL,
    zeros: Mapping[str, int] | None = None,
) -> dict[str, list[int]]:
    """MACs of one sequence in each layer, by module; embeddings, pooler and head are in none.

    Args:
        shape: the model after any removal.
        tokens: length T of the sequence, > 0.
        update: as in :func:`macs_by_module`.
        zeros: as in :func:`macs_by_module`.

    Returns:
        Module of :data:`LAYER_MODULES` -> one number for each layer; over the layers they add up
        to :func:`macs_by_module`, exactly if ``tokens`` is whole.

    Raises:
        ModelError: as :func:`macs_by_module`.
    """
    macs = _by_layer(shape, tokens, update)
    for key, count in checked_zeros(shape, zeros).items():
        _, layer, projection = key.split(".")
        macs[projection][int(layer)] -= _rows(shape, projection, tokens) * count
    return {module: [round(value) for value in values] for module, values in macs.items()}


def macs_by_operator(
    shape: ModelShape,
    tokens: float,
    update: UpdateCount = FULL,
    zeros: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """MACs of one sequence by the kind of product; look-ups and element-wise steps are 0.

    Args:
        shape: the model after any removal.
        tokens: length T of the sequence, > 0.
        update: as in :func:`macs_by_module`.
        zeros: as in :func:`macs_by_module`.

    Returns:
        Operator of :data:`OPERATORS` -> MACs; their sum is that over all modules.

    Raises:
        ModelError: as :func:`macs_by_module`.
    """
    macs = macs_by_module(shape, tokens, update, zeros)
    entries = round(
        sum(
            _rows(shape, branch.key.rpartition(".")[2], tokens) * branch.sparse
            for branch in update.branches
        )
    )
    attention = macs["scores"] + macs["context"]
    return {
        "linear": sum(macs.values()) - attention - macs["update"],
        "attention": attention,
        "low_rank": macs["update"] - entries,
        "single_entries": entries,
    }


def training_macs(shape: ModelShape, tokens: float, update: UpdateCount = FULL) -> dict[str, int]:
    """MACs of one training step's forward and backward pass for one sequence, by module.

    The rule: a product runs once forward, once more for the gradient of its input, and once
    more for the gradient of its weight if that is trained. So full training costs 3 x forward.
    With a frozen backbone the frozen matrices cost 2 x, and the branches, the head and the two
    attention products (both of whose factors need gradients) 3 x. Zeros save nothing: training
    runs dense kernels. Gates, losses and the optimiser are element-wise and count 0.

    Args:
        shape: the model as it stands in this phase.
        tokens: length T of the sequence, padding included, > 0.
        update: what is trained, counted on ``shape``.

    Returns:
        Module -> MACs, in the order of :data:`MODULES`.

    Raises:
        ModelError: as :func:`macs_by_module`.

    Differs:
        Below the lowest trained branch a framework stops early; what that saves in the first
        layer (its three input projections and half of its attention, at most) is not deducted.
    """
    frozen: tuple[str, ...] = ()
    if update.own is not None:
        frozen = (*shape.family.projections, "embeddings", "pooler")
    if update.own is not None and shape.head == "generation":
        frozen = (*frozen, "head")  # GPT-2's output matrix is its frozen embedding
    forward = macs_by_module(shape, tokens, update.as_trained)
    return {module: (2 if module in frozen else 3) * n for module, n in forward.items()}


@dataclass(frozen=True)
class TrainingPhase:
    """One phase that trained: how many sequences, how long, on which shape, which update."""

    name: str
    sequences: float
    tokens: float
    shape: ModelShape
    update: UpdateCount = FULL

    def macs(self) -> int:
        """MACs of the whole phase: :func:`training_macs` x sequences."""
        if not self.sequences:
            return 0
        step = sum(training_macs(self.shape, self.tokens, self.update).values())
        return round(step * self.sequences)


def pretraining_macs(shape: ModelShape, passes: Iterable[tuple[int, int]]) -> int:
    """MACs of training every weight of a language model.

    The masked objective's head is a D x D layer and a V x D matrix, run for every token; GPT-2's is
    its embedding matrix alone. Fine-tuning replaces either.

    Args:
        shape: with the head of language modelling.
        passes: (sequences, their tokens without padding) of each phase; each is counted at its
            mean length.
    """
    return sum(
        TrainingPhase("pretraining", sequences, tokens / max(sequences, 1), shape).macs()
        for sequences, tokens in passes
    )


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
        Phase name -> MACs, then ``inference``, ``total``.

    Raises:
        ModelError: a negative count, or a phase called ``inference`` or ``total``.
    """
    if inference_macs < 0 or inference_examples < 0:
        raise ModelError(
            f"inference: received {inference_macs} MACs x {inference_examples}; allowed: both >= 0"
        )
    life: dict[str, int] = {}
    for phase in phases:
        if phase.name in _RESERVED or phase.sequences < 0:
            raise ModelError(
                f"phase {phase.name!r}: received {phase.sequences} sequences; allowed: >= 0, and "
                f"names other than {' and '.join(_RESERVED)}"
            )
        life[phase.name] = life.get(phase.name, 0) + phase.macs()
    life["inference"] = inference_macs * inference_examples
    life["total"] = sum(life.values())
    return life


def prefill_macs(
    shape: ModelShape,
    tokens: float,
    update: UpdateCount = FULL,
    zeros: Mapping[str, int] | None = None,
) -> int:
    """MACs of running a prompt and scoring the vocabulary after its last token only.

    Args:
        shape: of a model with a generation head.
        tokens: length of the prompt, > 0, padding not counted.
        update: as in :func:`macs_by_module`.
        zeros: as in :func:`macs_by_module`.

    Raises:
        ModelError: another head, or as :func:`macs_by_module`.
    """
    _check_generates(shape)
    macs = macs_by_module(shape, tokens, update, zeros)
    return sum(macs.values()) - macs["head"] + macs_by_module(shape, 1)["head"]


def decoding_macs(
    shape: ModelShape,
    steps: int,
    keys: int,
    *,
    beams: int,
    update: UpdateCount = FULL,
    zeros: Mapping[str, int] | None = None,
) -> int:
    """MACs of the steps after the prompt; every hypothesis of the beam runs a token in each.

    Args:
        shape: of a model with a generation head.
        steps: forward passes after the prompt's, >= 0.
        keys: that one hypothesis sees, summed over the steps: see :func:`visible_keys`.
        beams: hypotheses of a prompt, >= 1; all of them count in every step.
        update: as in :func:`macs_by_module`.
        zeros: as in :func:`macs_by_module`.

    Raises:
        ModelError: another head, a count out of range, or as :func:`macs_by_module`.

    Differs:
        From what ``generate`` runs: it reads the prompt once for every beam, and goes on until the
        last text of a batch is done. Neither that nor padding is counted.
    """
    _check_generates(shape)
    if steps < 0 or keys < steps or beams < 1:
        raise ModelError(
            f"decoding: received {steps} steps, {keys} keys and {beams} beams; allowed: steps >= "
            "0, a key or more for each step, and beams >= 1"
        )
    macs = macs_by_module(shape, 1, update, zeros)
    attention = macs["scores"] + macs["context"]  # for one key
    return beams * (steps * (sum(macs.values()) - attention) + keys * attention)


def visible_keys(prompt_tokens: int, steps: int) -> int:
    """Keys that one hypothesis sees over all steps: the prompt's, and one more in every step.

    Args:
        prompt_tokens: >= 1.
        steps: forward passes after the prompt's, >= 0.

    Example:
        >>> visible_keys(4, 3)  # 5 + 6 + 7
        18
    """
    return steps * prompt_tokens + steps * (steps + 1) // 2


def _check_generates(shape: ModelShape) -> None:
    if shape.head != "generation":
        raise ModelError(
            f"decoding: received a model with head {shape.head!r}; allowed: generation"
        )


def _by_layer(shape: ModelShape, tokens: float, update: UpdateCount) -> dict[str, list[float]]:
    if not tokens > 0:
        raise ModelError(f"tokens: received {tokens}; allowed: a length above 0")
    names, around = (*shape.family.projections, *_BESIDE_PROJECTIONS), shape.around
    macs: dict[str, list[float]] = {name: [0] * len(shape.layers) for name in names}
    for key, projection, rows, columns in shape.sites():
        macs[projection][_layer_of(key)] = _rows(shape, projection, tokens) * rows * columns
        if projection in around.relative_of and not around.relative_shared:
            macs[projection][_layer_of(key)] += around.relative * rows * columns
    for index, layer in enumerate(shape.layers):
        # Scores and context are each, per head, a T x T x head_size product.
        keys = tokens + len(around.relative_of) * around.relative
        macs["scores"][index] = tokens * keys * layer.query_width
        macs["context"][index] = tokens * tokens * layer.query_width
    for branch in update.branches:
        through = _rows(shape, branch.key.rpartition(".")[2], tokens)
        macs["update"][_layer_of(branch.key)] += through * branch.products
    return macs


def _rows(shape: ModelShape, projection: str, tokens: float) -> float:
    """What goes through a projection: tokens, and relative positions where it makes theirs too."""
    shared = shape.around.relative_shared and projection in ("query", "key")
    return tokens + shape.around.relative if shared else tokens


def _modules(shape: ModelShape) -> list[str]:
    """Names of everything that such a model multiplies by, in order."""
    names = list(MODULES)
    if shape.family.gated:
        names.insert(names.index("ffn_in") + 1, "ffn_gate")
    return names


def _embedding_products(shape: ModelShape) -> int:
    """Weights between token embeddings and layers; none if both are of one width."""
    size, hidden = shape.embedding_size, shape.hidden_size
    return 0 if size in (None, hidden) else (size or 0) * hidden


def _layer_of(key: str) -> int:
    return int(key.split(".")[1])


def _head_macs(shape: ModelShape, tokens: float) -> float:
    hidden, labels = shape.hidden_size, shape.label_count
    if shape.head == "generation":
        return tokens * hidden * shape.vocabulary_size
    if shape.head == "masked_lm":
        inner = shape.embedding_size or hidden
        return tokens * inner * (hidden + shape.vocabulary_size)
    if shape.head == "span" or shape.counted.every_token:
        return tokens * hidden * labels
    own = hidden * hidden if shape.counted.classifier_layer else 0
    return own + hidden * labels
