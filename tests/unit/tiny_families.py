"""Tiny random models of every family that is known, with every head that it has."""

import torch
from transformers import AutoConfig, set_seed

from sparsetune.architectures.anatomy import model_class
from sparsetune.architectures.families import FAMILIES

HIDDEN, LAYERS, HEADS, WIDTH, VOCAB = 24, 2, 4, 20, 50
TASKS = ("sequence", "token", "answer", "language")
_SIZES = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": WIDTH,
    "max_position_embeddings": 40,
}
# Two query heads for each of four key-value heads, in features that do not add up to HIDDEN.
_GROUPED = {**_SIZES, "num_attention_heads": 2 * HEADS, "num_key_value_heads": HEADS, "head_dim": 4}
_KINDS = ["full_attention", "sliding_attention"]
OWN_SIZES = {
    "gpt2": {"n_embd": HIDDEN, "n_layer": LAYERS, "n_head": HEADS, "n_inner": WIDTH},
    "distilbert": {"dim": HIDDEN, "n_layers": LAYERS, "n_heads": HEADS, "hidden_dim": WIDTH},
    # Embeddings of another width than the layers.
    "electra": {**_SIZES, "embedding_size": 16},
    "deberta-v2": {
        **_SIZES,
        # As in version 3; seven tokens are further apart than the buckets tell exactly.
        "relative_attention": True,
        "position_buckets": 4,
        "pos_att_type": ["p2c", "c2p"],
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
        "position_biased_input": False,
    },
    # A layer that sees all, one that sees a token on either side.
    "modernbert": {**_SIZES, "local_attention": 2, "global_attn_every_n_layers": 2},
    "smollm3": {**_GROUPED, "no_rope_layer_interval": 2},
    # The second layer sees two tokens.
    "gemma2": {**_GROUPED, "layer_types": _KINDS, "sliding_window": 2},
    "gemma3_text": {**_GROUPED, "layer_types": _KINDS, "sliding_window": 2},
    "rembert": {**_SIZES, "input_embedding_size": 16, "output_embedding_size": 20},
}


def family_config(model_type, labels=3, **more):
    sizes = _GROUPED if FAMILIES[model_type].generates and FAMILIES[model_type].gated else _SIZES
    return AutoConfig.for_model(
        model_type,
        vocab_size=VOCAB,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
        num_labels=labels,
        **(OWN_SIZES.get(model_type, sizes) | more),
    )


def class_of(model_type, task):
    """The class of transformers with that head; None if the library has none."""
    family = FAMILIES[model_type]
    kinds = {"sequence": "classification", "answer": "span", "language": family.language_model}
    # No run of the workflow has a head for every token.
    name = "ForTokenClassification" if task == "token" else family.heads.get(kinds[task])
    return name and model_class(model_type, family.class_prefix + name)


PAIRS = [(kind, task) for kind in FAMILIES for task in TASKS if class_of(kind, task) is not None]


def family_model(model_type, task, *, seed=0, config=None, **options):
    """In evaluation mode, with weights so large that outputs really differ."""
    set_seed(seed)
    told = family_config(model_type, 2 if task == "answer" else 3, **(config or {}))
    model = class_of(model_type, task)._from_config(told, **options)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2 and "embed" not in name:
                parameter.mul_(4.0)
            elif name.endswith(".bias"):
                parameter.normal_(std=0.1)
    return model.eval()


def family_batch(task, *, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def drawn(low, high, *shape):
        return torch.randint(low, high, shape, generator=generator)

    ids, seen = drawn(2, VOCAB, 3, 7), torch.ones(3, 7, dtype=torch.long)
    ids[0, -2:] = seen[0, -2:] = 0
    labels = {
        "sequence": {"labels": drawn(0, 3, 3)},
        "token": {"labels": drawn(0, 3, 3, 7)},
        "answer": {"start_positions": drawn(0, 5, 3), "end_positions": drawn(0, 5, 3)},
        "language": {"labels": ids},
    }[task]
    return {"input_ids": ids, "attention_mask": seen} | labels


def outputs_of(model, batch):
    """Logits of every kind that the head has, one beside the other."""
    with torch.no_grad():
        output = model(**batch)
    names = ("logits", "start_logits", "end_logits")
    return torch.cat([output[name].flatten() for name in names if name in output])
