"""Language models with random weights, and word vectors from counts: where pre-training starts."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sparsetune.architectures.anatomy import model_class
from sparsetune.architectures.families import FAMILIES
from sparsetune.config.backbone import Shape
from sparsetune.errors import ModelError, refusal

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def new_model(architecture: str, shape: Shape, tokenizer: Any) -> "PreTrainedModel":
    """Build a language model of a shape with random weights.

    Args:
        architecture: of a family that is made here.
        shape: its sizes.
        tokenizer: gives the vocabulary size and special tokens.

    Returns:
        With the head that the family is pre-trained with, float32.

    Raises:
        ModelError: the family is only taken as published.
    """
    family = FAMILIES[architecture]
    if family.anew is None or family.counted is None:
        known = [name for name, one in FAMILIES.items() if one.anew]
        raise ModelError(refusal("pretraining", "architecture", architecture, known))
    # A model that reads to the left alone pads nothing and begins where another text has ended.
    special = {
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.eos_token_id if family.generates else tokenizer.bos_token_id,
        **({} if family.generates else {"pad_token_id": tokenizer.pad_token_id}),
    }
    sizes = {
        "hidden_size": shape.hidden_size,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "intermediate_size": shape.feed_forward_size,
        "max_position_embeddings": shape.maximum_positions + family.unused_positions,
    }
    found = model_class(architecture, family.class_prefix + family.heads[family.language_model])
    config = found.config_class(
        vocab_size=len(tokenizer),
        initializer_range=shape.initializer_range,
        **special,
        **{family.counted.names.get(name, name): size for name, size in sizes.items()},
        **dict.fromkeys(family.anew.dropouts, shape.dropout),
        **family.anew.settings,
    )
    model: PreTrainedModel = found(config)
    return model


def start_embeddings(
    model: "PreTrainedModel", blocks: Sequence[Sequence[int]], tokenizer: Any
) -> None:
    """Write co-occurrence vectors into a model's token embeddings, in place.

    Vectors get the length that random ones have on average; tokens without a vector keep theirs.

    Args:
        model: with random weights.
        blocks: token ids of each document.
        tokenizer: its special tokens are left out.
    """
    embedding: Any = model.get_input_embeddings().weight
    vectors = torch.from_numpy(
        cooccurrence_embeddings(
            blocks,
            vocabulary_size=embedding.shape[0],
            width=embedding.shape[1],
            skipped=tokenizer.all_special_ids,
        )
    )
    known = vectors.norm(dim=1) > 0
    length = model.config.initializer_range * embedding.shape[1] ** 0.5
    with torch.no_grad():
        embedding[known] = vectors[known] * length


def cooccurrence_embeddings(
    documents: Sequence[Sequence[int]],
    *,
    vocabulary_size: int,
    width: int,
    skipped: Collection[int],
) -> np.ndarray:
    """Factorise how much more often than by chance two tokens stand in one document.

    A budget of a minute is too short for a model of random weights to discover by gradient which
    words belong together; counting tells it at once, and training goes on from there.

    Args:
        documents: token ids of each document.
        vocabulary_size: V, above every id.
        width: D, at most V.
        skipped: special tokens, which stand in every document and say nothing.

    Returns:
        float32, ``(V, D)``: rows of length 1 (0 for tokens that are skipped or alone), from the
        largest singular values of the positive pointwise mutual information. The sign of each
        dimension is fixed by its largest entry.

    Source:
        Levy and Goldberg 2014, "Neural word embedding as implicit matrix factorization",
        section 5 (shifted PPMI by SVD, symmetric: each side gets the square root of the values).
    Differs:
        The window is the document, and each pair counts once in it; no shift.
    """
    present = np.zeros((len(documents), vocabulary_size), dtype=np.float32)
    for row, document in enumerate(documents):
        present[row, list(document)] = 1.0
    present[:, sorted(skipped)] = 0.0
    together = present.T @ present
    np.fill_diagonal(together, 0.0)
    each = together.sum(axis=1)
    expected = np.outer(each, each) / max(each.sum(), 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        information = np.where(together > 0, np.log(together / expected), 0.0)
    left, values, _ = np.linalg.svd(np.maximum(information, 0.0))
    vectors = left[:, :width] * np.sqrt(values[:width])
    vectors *= np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(width)])
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 1e-6)
    vectors[each == 0] = 0.0
    return vectors.astype(np.float32)
