"""DistilBERT: BERT's layers under other names, without token types and without a pooler."""

from collections.abc import Mapping
from typing import Any

from sparsetune.architectures.base import Around, Counted, Family


def _resize(attention: Any, heads: int, features: int) -> None:
    attention.n_heads = heads
    attention.dim = features


def _around(config: Mapping[str, Any]) -> Around:
    return Around(tied=config.get("tie_word_embeddings", True))


DISTILBERT = Family(
    model_type="distilbert",
    class_prefix="DistilBert",
    heads={
        "classification": "ForSequenceClassification",
        "regression": "ForSequenceClassification",
        "span": "ForQuestionAnswering",
        "masked_lm": "ForMaskedLM",
    },
    layer_list="transformer.layer",
    paths={
        "query": "attention.q_lin",
        "key": "attention.k_lin",
        "value": "attention.v_lin",
        "attention_output": "attention.out_lin",
        "ffn_in": "ffn.lin1",
        "ffn_out": "ffn.lin2",
    },
    attention="attention",
    head_size="attention_head_size",
    resize_attention=_resize,
    task_head=("pre_classifier", "classifier", "qa_outputs"),
    new_weights=(),
    language_head=("vocab_transform.", "vocab_layer_norm.", "vocab_projector."),
    activation="ffn.activation",
    config_neurons="hidden_dim",
    counted=Counted(
        names={
            "hidden_size": "dim",
            "num_attention_heads": "n_heads",
            "num_hidden_layers": "n_layers",
            "intermediate_size": "hidden_dim",
        },
        classifier_layer=True,
        around=_around,
    ),
)
