"""Tiny random BERT, RoBERTa and GPT-2 models for tests: hidden 24, 2 layers, 4 heads."""

from dataclasses import replace

import torch
from transformers import BertConfig, GPT2Config, RobertaConfig, set_seed
from transformers.models.bert import modeling_bert
from transformers.models.gpt2 import modeling_gpt2
from transformers.models.roberta import modeling_roberta

from sparsetune.dsee.config import DseeConfig
from sparsetune.dsee.layer import apply_dsee

HIDDEN, LAYERS, HEADS, WIDTH, VOCAB = 24, 2, 4, 40, 50
KINDS = ("bert", "roberta", "gpt2")
SMALL_DSEE = DseeConfig(rank=3, alpha=6.0, n_sparse=11, init="normal", support="random")


def _encoder(config_class, labels):
    return config_class(
        vocab_size=VOCAB,
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=WIDTH,
        max_position_embeddings=40,
        pad_token_id=0,
        num_labels=labels,
    )


def tiny_config(kind, labels=3):
    if kind == "bert":
        return _encoder(BertConfig, labels)
    if kind == "roberta":
        return _encoder(RobertaConfig, labels)
    return GPT2Config(
        vocab_size=VOCAB,
        n_embd=HIDDEN,
        n_layer=LAYERS,
        n_head=HEADS,
        n_inner=WIDTH,
        n_positions=40,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        num_labels=labels,
    )


def tiny_model(kind, *, seed=0, task="classification", scale=5.0):
    """Random model in eval mode; ``scale`` enlarges weights so that outputs really differ."""
    set_seed(seed)
    module, prefix = {
        "bert": (modeling_bert, "Bert"),
        "roberta": (modeling_roberta, "Roberta"),
        "gpt2": (modeling_gpt2, "GPT2"),
    }[kind]
    suffix = {
        "classification": "ForSequenceClassification",
        "qa": "ForQuestionAnswering",
        "lm": "LMHeadModel",
        "bare": "Model",
    }[task]
    model = getattr(module, prefix + suffix)(tiny_config(kind, 2 if task == "qa" else 3))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2 and "embed" not in name and not name.endswith("lm_head.weight"):
                parameter.mul_(scale)
            elif name.endswith(".bias"):
                parameter.normal_(std=0.1)
    return model.eval()


def tiny_batch(*, seed=0, batch=3, length=7):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, VOCAB, (batch, length), generator=generator)
    mask = torch.ones_like(ids)
    mask[0, -2:] = 0
    ids[0, -2:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def output_of(model, batch):
    with torch.no_grad():
        return model(**batch)[0]


def attach(model, config=SMALL_DSEE, **changes):
    return apply_dsee(model, replace(config, **changes))


def adapted(kind, targets=("query", "value"), **options):
    return attach(tiny_model(kind), targets=targets, **options)
