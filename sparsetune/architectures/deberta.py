"""DeBERTa of the second and third version: BERT's layers whose attention sees relative positions.

Relative positions have queries and keys too: in version 3 made by the projections of the tokens, in
version 2 by two further ones of every layer. Their rows belong to heads as those of the query do,
so they go with the heads. Both versions are of type ``deberta-v2``.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sparsetune.architectures.base import Around, Counted, Family

UNLIKE = {
    "deberta": "its query, key and value stand head by head in one matrix, so that none of them is "
    "a block of it; a deberta-v2 (versions 2 and 3) stores them apart"
}
"""Of the first version."""


def _resize(attention: Any, heads: int, features: int) -> None:
    attention.num_attention_heads = heads
    attention.all_head_size = features


def _keeps_layers(config: Any, kept: Sequence[int]) -> str | None:
    if kept[0] == 0 or not getattr(config, "conv_kernel_size", 0):
        return None
    return (
        f"kept layers: received {list(kept)}; allowed: with 0, since this deberta-v2 has a "
        "convolution beside its first layer (conv_kernel_size)"
    )


def _around(config: Mapping[str, Any]) -> Around:
    hidden, kernel = config.get("hidden_size", 0), config.get("conv_kernel_size") or 0
    relative = 0
    if config.get("relative_attention"):
        span = config.get("max_relative_positions", -1)
        span = config.get("max_position_embeddings", 0) if span < 1 else span
        buckets = config.get("position_buckets", -1)
        relative = 2 * (buckets if buckets > 0 else span)
    types = config.get("pos_att_type") or ()
    types = [one.strip() for one in types.lower().split("|")] if isinstance(types, str) else types
    names = (("c2p", "key"), ("p2c", "query"))
    tied, legacy = config.get("tie_word_embeddings", True), config.get("legacy", True)
    convolution = kernel * hidden * hidden // config.get("conv_groups", 1)
    # A norm of the relative positions, and the convolution's with its bias.
    normed = "layer_norm" in (config.get("norm_rel_ebd") or "").lower()
    vectors = normed * hidden, (1 if kernel else 0) * hidden
    token_types = (config.get("type_vocab_size") or 0) * (config.get("embedding_size") or hidden)
    return Around(
        positions=config.get("position_biased_input", True),
        tied=tied or not legacy,
        output_biases=1 if tied or not legacy else 2,
        further_weights=relative * hidden + sum(vectors) + convolution + token_types,
        further_biases=vectors[0] + 2 * vectors[1],
        further_products=convolution,
        relative=relative,
        relative_of=tuple(name for kind, name in names if kind in types),
        relative_shared=config.get("share_att_key", False),
    )


DEBERTA_V2 = Family(
    model_type="deberta-v2",
    class_prefix="DebertaV2",
    heads={
        "classification": "ForSequenceClassification",
        "regression": "ForSequenceClassification",
        "span": "ForQuestionAnswering",
        "masked_lm": "ForMaskedLM",
    },
    layer_list="encoder.layer",
    paths={
        "query": "attention.self.query_proj",
        "key": "attention.self.key_proj",
        "value": "attention.self.value_proj",
        "attention_output": "attention.output.dense",
        "ffn_in": "intermediate.dense",
        "ffn_out": "output.dense",
    },
    like_query=("attention.self.pos_query_proj", "attention.self.pos_key_proj"),
    attention="attention.self",
    head_size="attention_head_size",
    resize_attention=_resize,
    # Checkpoints have no pooler: it is as new as the classifier.
    task_head=("pooler", "classifier", "qa_outputs"),
    new_weights=(),
    language_head=("cls.predictions.", "lm_predictions."),
    activation="intermediate.intermediate_act_fn",
    keeps_layers=_keeps_layers,
    convolution="encoder.conv.conv",
    counted=Counted(
        names={"head_dim": "attention_head_size"},
        embedding_size="embedding_size",
        classifier_layer=True,
        around=_around,
    ),
)
