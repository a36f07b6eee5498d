"""Llama and the models built like it: key-value heads shared by query heads, gated neurons.

A head, as anything here counts and removes it, is a key-value head with all query heads that read
it; Qwen3's norms over the features of a head are the same for all heads and stay as they are.
SmolLM and TinyLlama are of type ``llama``.
"""

from dataclasses import replace
from typing import Any

from sparsetune.architectures.base import Counted, Family

_HEADS = {
    "classification": "ForSequenceClassification",
    "regression": "ForSequenceClassification",
    "span": "ForQuestionAnswering",
    "generation": "ForCausalLM",
}


def _resize(attention: Any, heads: int, features: int) -> None:
    """Nothing to tell: the module knows the size of a head, and query heads per key-value head."""


LLAMA = Family(
    model_type="llama",
    class_prefix="Llama",
    heads=_HEADS,
    layer_list="layers",
    paths={
        "query": "self_attn.q_proj",
        "key": "self_attn.k_proj",
        "value": "self_attn.v_proj",
        "attention_output": "self_attn.o_proj",
        "ffn_in": "mlp.up_proj",
        "ffn_gate": "mlp.gate_proj",
        "ffn_out": "mlp.down_proj",
    },
    attention="self_attn",
    head_size="head_dim",
    resize_attention=_resize,
    task_head=("score", "qa_outputs"),
    new_weights=(),
    language_head=("lm_head.",),
    counted=Counted(every_token=True),
)
LLAMA_LIKE = (
    LLAMA,
    replace(LLAMA, model_type="mistral", class_prefix="Mistral"),
    replace(LLAMA, model_type="qwen2", class_prefix="Qwen2", config_by_layer=("layer_types",)),
    replace(LLAMA, model_type="qwen3", class_prefix="Qwen3", config_by_layer=("layer_types",)),
    replace(
        LLAMA,
        model_type="gemma",
        class_prefix="Gemma",
        heads={kind: name for kind, name in _HEADS.items() if kind != "span"},
    ),
)
