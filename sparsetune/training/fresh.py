"""Language models with random weights: where pre-training starts."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from sparsetune.training.embeddings import cooccurrence_embeddings


def new_model(architecture: str, recipe: Mapping[str, Any], tokenizer: Any) -> nn.Module:
    """Build a language model of the recipe's shape with random weights.

    Args:
        architecture: ``bert``, ``roberta`` or ``gpt2``.
        recipe: the backbone's ``pretraining`` section.
        tokenizer: gives the vocabulary size and special tokens.

    Returns:
        BertForMaskedLM, RobertaForMaskedLM or GPT2LMHeadModel, float32.
    """
    shape = recipe["shape"]
    if architecture == "gpt2":
        from transformers import GPT2Config, GPT2LMHeadModel

        config = GPT2Config(
            vocab_size=len(tokenizer),
            n_embd=shape["hidden_size"],
            n_layer=shape["layers"],
            n_head=shape["heads"],
            n_inner=shape["feed_forward_size"],
            n_positions=shape["maximum_positions"],
            initializer_range=shape["initializer_range"],
            resid_pdrop=shape["dropout"],
            embd_pdrop=shape["dropout"],
            attn_pdrop=shape["dropout"],
            bos_token_id=tokenizer.eos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            use_cache=True,
        )
        return GPT2LMHeadModel(config)
    from transformers import BertConfig, BertForMaskedLM, RobertaConfig, RobertaForMaskedLM

    config_class, model_class, extra_positions = {
        "bert": (BertConfig, BertForMaskedLM, 0),
        # RoBERTa numbers positions from padding_idx + 1, so its table has two rows more.
        "roberta": (RobertaConfig, RobertaForMaskedLM, 2),
    }[architecture]
    config = config_class(
        vocab_size=len(tokenizer),
        hidden_size=shape["hidden_size"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        intermediate_size=shape["feed_forward_size"],
        max_position_embeddings=shape["maximum_positions"] + extra_positions,
        initializer_range=shape["initializer_range"],
        hidden_dropout_prob=shape["dropout"],
        attention_probs_dropout_prob=shape["dropout"],
        type_vocab_size=1 if architecture == "roberta" else 2,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return model_class(config)


def start_embeddings(model: nn.Module, blocks: Sequence[Sequence[int]], tokenizer: Any) -> None:
    """Write co-occurrence vectors into a model's token embeddings, in place.

    Vectors get the length that random ones have on average; tokens without a vector keep theirs.

    Args:
        model: with random weights.
        blocks: token ids of each document.
        tokenizer: its special tokens are left out.
    """
    embedding = model.get_input_embeddings().weight
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
