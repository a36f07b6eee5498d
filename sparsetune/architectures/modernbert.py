"""ModernBERT: query, key and value in one matrix, gated neurons in another, attention by windows.

Its own words for the neurons are kept: ``input`` (``ffn_in``) passes the activation, ``gate``
multiplies what comes out. The layer between backbone and classifier (``head``) is pre-trained with
the language model's head and stays as it is, like BERT's pooler; ``modules_to_save=["head"]``
trains it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sparsetune.architectures.base import ATTENTION_INPUTS, Around, Counted, Family


def _resize(attention: Any, heads: int, features: int) -> None:
    """Nothing to tell: the module knows the size of a head, and counts heads by it."""


def _keeps_layers(config: Any, kept: Sequence[int]) -> str | None:
    if kept[0] == 0:
        return None
    return (
        f"kept layers: received {list(kept)}; allowed: with 0, since a modernbert's first layer is "
        "built without the norm before attention that every other has"
    )


def _around(config: Mapping[str, Any]) -> Around:
    attention = (*ATTENTION_INPUTS, "attention_output") if config.get("attention_bias") else ()
    neurons = ("ffn_in", "ffn_gate", "ffn_out") if config.get("mlp_bias") else ()
    return Around(
        biased=(*attention, *neurons),
        norms=1,  # of embeddings and after the last layer, less the first layer's
        norm_bias=config.get("norm_bias", False),
        positions=False,
        tied=config.get("tie_word_embeddings", True),
        output_biases=int(config.get("decoder_bias", True)),
        pooler_bias=config.get("classifier_bias", False),
        pooler_norm=True,
    )


MODERNBERT = Family(
    model_type="modernbert",
    class_prefix="ModernBert",
    heads={
        "classification": "ForSequenceClassification",
        "regression": "ForSequenceClassification",
        "span": "ForQuestionAnswering",
        "masked_lm": "ForMaskedLM",
    },
    layer_list="layers",
    paths={
        "query": "attn.Wqkv",
        "key": "attn.Wqkv",
        "value": "attn.Wqkv",
        "attention_output": "attn.Wo",
        "ffn_in": "mlp.Wi",
        "ffn_gate": "mlp.Wi",
        "ffn_out": "mlp.Wo",
    },
    attention="attn",
    head_size="head_dim",
    resize_attention=_resize,
    task_head=("classifier",),
    new_weights=(),
    language_head=("head.", "decoder."),
    keeps_layers=_keeps_layers,
    config_by_layer=("layer_types",),
    pooler="head.dense",
    counted=Counted(pooler=True, span_pooler=True, around=_around),
)
