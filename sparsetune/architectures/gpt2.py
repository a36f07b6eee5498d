"""GPT-2: weights stored in x out, and query, key and value in one matrix."""

from collections.abc import Mapping, Sequence
from typing import Any

from sparsetune.architectures.base import Anew, Around, Counted, Family


def _resize(attention: Any, heads: int, features: int) -> None:
    attention.num_heads = heads
    attention.split_size = features


def _keeps_layers(config: Any, kept: Sequence[int]) -> str | None:
    if not getattr(config, "scale_attn_by_inverse_layer_idx", False):
        return None
    return (
        "scale_attn_by_inverse_layer_idx is true: a layer's attention would change with its "
        "number, so no layer can be removed; allowed: false"
    )


def _around(config: Mapping[str, Any]) -> Around:
    return Around(tied=config.get("tie_word_embeddings", True))


GPT2 = Family(
    model_type="gpt2",
    class_prefix="GPT2",
    heads={
        "classification": "ForSequenceClassification",
        "regression": "ForSequenceClassification",
        "span": "ForQuestionAnswering",
        "generation": "LMHeadModel",
    },
    layer_list="h",
    paths={
        "query": "attn.c_attn",
        "key": "attn.c_attn",
        "value": "attn.c_attn",
        "attention_output": "attn.c_proj",
        "ffn_in": "mlp.c_fc",
        "ffn_out": "mlp.c_proj",
    },
    attention="attn",
    head_size="head_dim",
    resize_attention=_resize,
    task_head=("score", "classifier", "qa_outputs"),
    new_weights=(),
    language_head=("lm_head.",),
    stored_in_by_out=True,
    activation="mlp.act",
    keeps_layers=_keeps_layers,
    config_neurons="n_inner",
    counted=Counted(
        names={
            "hidden_size": "n_embd",
            "num_attention_heads": "n_head",
            "num_hidden_layers": "n_layer",
            "intermediate_size": "n_inner",
            "max_position_embeddings": "n_positions",
        },
        neurons_per_feature=4,
        every_token=True,
        around=_around,
    ),
    anew=Anew(
        tokenizer="byte-bpe",
        tokenizer_class="GPT2TokenizerFast",
        special_tokens=("<|endoftext|>",),
        around=None,
        dropouts=("resid_pdrop", "embd_pdrop", "attn_pdrop"),
    ),
)
