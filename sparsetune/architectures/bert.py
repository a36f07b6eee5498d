"""BERT, and RoBERTa, which differs in its head alone."""

from dataclasses import replace
from typing import Any

from sparsetune.architectures.base import Family


def _resize(attention: Any, heads: int, features: int) -> None:
    attention.num_attention_heads = heads
    attention.all_head_size = features


BERT = Family(
    model_type="bert",
    class_prefix="Bert",
    heads={
        "classification": "ForSequenceClassification",
        "regression": "ForSequenceClassification",
        "span": "ForQuestionAnswering",
        "masked_lm": "ForMaskedLM",
    },
    layer_list="encoder.layer",
    paths={
        "query": "attention.self.query",
        "key": "attention.self.key",
        "value": "attention.self.value",
        "attention_output": "attention.output.dense",
        "ffn_in": "intermediate.dense",
        "ffn_out": "output.dense",
    },
    attention="attention.self",
    head_size="attention_head_size",
    resize_attention=_resize,
    task_head=("classifier", "qa_outputs"),
    new_weights=("bert.pooler.",),
    activation="intermediate.intermediate_act_fn",
    language_head=("cls.predictions.",),
)
ROBERTA = replace(
    BERT,
    model_type="roberta",
    class_prefix="Roberta",
    new_weights=(),
    language_head=("lm_head.",),
)
