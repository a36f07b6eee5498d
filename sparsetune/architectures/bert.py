"""BERT, and the models whose layers are built and named like its own; they differ around them."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from sparsetune.architectures.base import Anew, Around, Counted, Family


def _resize(attention: Any, heads: int, features: int) -> None:
    attention.num_attention_heads = heads
    attention.all_head_size = features


def _around(config: Mapping[str, Any]) -> Around:
    tied = config.get("tie_word_embeddings", True)
    # A matrix of its own has a bias of its own, beside the head's.
    return Around(tied=tied, output_biases=1 if tied else 2)


def _around_both_ends(config: Mapping[str, Any]) -> Around:
    """A norm after the embeddings and one after the last layer."""
    return replace(_around(config), norms=2)


def _around_ernie(config: Mapping[str, Any]) -> Around:
    kinds = config.get("task_type_vocab_size", 3) if config.get("use_task_id") else 0
    return replace(_around(config), further_weights=kinds * config.get("hidden_size", 0))


def _around_electra(config: Mapping[str, Any]) -> Around:
    """The norm of the embeddings is as wide as they; what widens them has a bias."""
    hidden = config.get("hidden_size", 0)
    width = config.get("embedding_size", hidden)
    tied = config.get("tie_word_embeddings", True)
    return Around(
        norms=0,
        tied=tied,
        further_weights=width,
        further_biases=width + (hidden if width != hidden else 0),
    )


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
    counted=Counted(token_types=True, pooler=True, around=_around),
)
_DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob")
_BERT_ANEW = Anew(
    tokenizer="wordpiece",
    tokenizer_class="BertTokenizerFast",
    special_tokens=("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    around=("[CLS]", "[SEP]"),
    dropouts=_DROPOUTS,
    settings={"type_vocab_size": 2},
)
_ROBERTA_ANEW = Anew(
    tokenizer="byte-bpe",
    tokenizer_class="RobertaTokenizerFast",
    special_tokens=("<s>", "<pad>", "</s>", "<unk>", "<mask>"),
    around=("<s>", "</s>"),
    dropouts=_DROPOUTS,
    settings={"type_vocab_size": 1},
)


def _like_roberta(
    model_type: str, class_prefix: str, around: Callable[[Mapping[str, Any]], Around]
) -> Family:
    """No pooler before the classifier, which has a layer of its own."""
    return replace(
        BERT,
        model_type=model_type,
        class_prefix=class_prefix,
        new_weights=(),
        language_head=("lm_head.",),
        counted=Counted(token_types=True, classifier_layer=True, around=around),
        unused_positions=2,  # numbers of tokens start after the padding's, which is 1
    )


def _like_bert(
    model_type: str, class_prefix: str, backbone: str, counted: Counted | None
) -> Family:
    return replace(
        BERT,
        model_type=model_type,
        class_prefix=class_prefix,
        new_weights=(f"{backbone}.pooler.",),
        counted=counted,
    )


LOOK_ALIKES = (
    replace(BERT, anew=_BERT_ANEW),
    replace(_like_roberta("roberta", "Roberta", _around), anew=_ROBERTA_ANEW),
    _like_roberta("xlm-roberta", "XLMRoberta", _around),
    _like_roberta("camembert", "Camembert", _around),
    _like_roberta("xlm-roberta-xl", "XLMRobertaXL", _around),
    _like_roberta("roberta-prelayernorm", "RobertaPreLayerNorm", _around_both_ends),
    _like_bert(
        "ernie",
        "Ernie",
        "ernie",
        Counted(token_types=True, pooler=True, around=_around_ernie),
    ),
    # The norm of the embeddings is not there, one after the last layer is.
    _like_bert("megatron-bert", "MegatronBert", "bert", BERT.counted),
    # Its input and output embeddings are of two widths: not counted.
    _like_bert("rembert", "RemBert", "rembert", None),
    replace(
        BERT,
        model_type="electra",
        class_prefix="Electra",
        task_head=(*BERT.task_head, "sequence_summary"),
        new_weights=(),
        language_head=("generator_predictions.", "generator_lm_head."),
        counted=Counted(
            embedding_size="embedding_size",
            token_types=True,
            classifier_layer=True,
            around=_around_electra,
        ),
    ),
)
