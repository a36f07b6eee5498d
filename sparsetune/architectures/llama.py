"""Llama and the models built like it: key-value heads shared by query heads, gated neurons.

A head, as anything here counts and removes it, is a key-value head with all query heads that read
it; Qwen3's norms over the features of a head are the same for all heads and stay as they are.
SmolLM and TinyLlama are of type ``llama``.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sparsetune.architectures.base import ATTENTION_INPUTS, Around, Counted, Family

UNLIKE = {
    "olmo2": "its norms of query and key go over all heads together, so that a head cannot be "
    "removed without changing the others",
    "phi3": "its query, key and value are one matrix, of blocks that may differ in size",
}
"""What looks like Llama, and why it cannot be taken for it."""
_HEADS = {
    "classification": "ForSequenceClassification",
    "regression": "ForSequenceClassification",
    "span": "ForQuestionAnswering",
    "generation": "ForCausalLM",
}

_WITHOUT_SPANS = {kind: name for kind, name in _HEADS.items() if kind != "span"}


def _resize(attention: Any, heads: int, features: int) -> None:
    """Nothing to tell: the module knows the size of a head, and query heads per key-value head."""


def _counted(
    *,
    biased: tuple[str, ...] | None = None,
    mlp_bias: bool = False,
    tied: bool = False,
    layer_norms: int = 2,
    head_norms: int = 0,
) -> Counted:
    """Tell what stands around the layers.

    Args:
        biased: projections that have a bias; None = as the config says of attention.
        mlp_bias: whether it says the same of neurons.
        tied: what the library sets where the config says nothing.
        layer_norms: of every layer.
        head_norms: of every layer.
    """

    def around(config: Mapping[str, Any]) -> Around:
        attention = (*ATTENTION_INPUTS, "attention_output") if config.get("attention_bias") else ()
        neurons = ("ffn_in", "ffn_gate", "ffn_out") if mlp_bias and config.get("mlp_bias") else ()
        return Around(
            biased=(*attention, *neurons) if biased is None else biased,
            layer_norms=layer_norms,
            head_norms=head_norms,
            norm_bias=False,
            positions=False,
            tied=config.get("tie_word_embeddings", tied),
            output_biases=0,
        )

    return Counted(every_token=True, around=around)


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
    config_heads=("num_attention_heads", "num_key_value_heads", "head_dim"),
    counted=_counted(mlp_bias=True),
)
LLAMA_LIKE = (
    LLAMA,
    replace(
        LLAMA,
        model_type="mistral",
        class_prefix="Mistral",
        counted=_counted(biased=()),
    ),
    replace(
        LLAMA,
        model_type="qwen2",
        class_prefix="Qwen2",
        config_by_layer=("layer_types",),
        counted=_counted(biased=ATTENTION_INPUTS),
    ),
    replace(
        LLAMA,
        model_type="qwen3",
        class_prefix="Qwen3",
        config_by_layer=("layer_types",),
        counted=_counted(head_norms=2),
    ),
    replace(
        LLAMA,
        model_type="smollm3",
        class_prefix="SmolLM3",
        config_by_layer=("layer_types", "no_rope_layers"),
        counted=_counted(mlp_bias=True, tied=True),
    ),
    replace(
        LLAMA,
        model_type="gemma",
        class_prefix="Gemma",
        heads=_WITHOUT_SPANS,
        counted=_counted(tied=True),
    ),
    replace(
        LLAMA,
        model_type="gemma2",
        class_prefix="Gemma2",
        heads=_WITHOUT_SPANS,
        config_by_layer=("layer_types",),
        counted=_counted(tied=True, layer_norms=4),
    ),
    replace(
        LLAMA,
        model_type="gemma3_text",
        package="gemma3",
        class_prefix="Gemma3",
        heads={
            kind: "Text" + name if name != "ForCausalLM" else name
            for kind, name in _WITHOUT_SPANS.items()
        },
        config_by_layer=("layer_types",),
        counted=_counted(tied=True, layer_norms=4, head_norms=2),
    ),
)
