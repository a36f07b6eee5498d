"""Configurations of the architectures, as a ``config.json`` holds them, and two updates."""

from sparsetune.cost.updates import UpdateCount, low_rank_branches

BERT_BASE = {
    "model_type": "bert", "hidden_size": 768, "num_attention_heads": 12, "num_hidden_layers": 12,
    "intermediate_size": 3072, "vocab_size": 30522, "max_position_embeddings": 512,
    "type_vocab_size": 2,
}  # fmt: skip
ROBERTA_BASE = BERT_BASE | {
    "model_type": "roberta", "vocab_size": 50265, "max_position_embeddings": 514,
    "type_vocab_size": 1,
}  # fmt: skip
TINY_GPT2 = {
    "model_type": "gpt2", "n_embd": 24, "n_head": 3, "n_layer": 2, "n_positions": 32,
    "vocab_size": 61, "n_inner": None,
}  # fmt: skip
TINY = {
    "hidden_size": 24, "num_attention_heads": 3, "num_hidden_layers": 2, "intermediate_size": 40,
    "vocab_size": 61, "max_position_embeddings": 32, "type_vocab_size": 2,
}  # fmt: skip
TINY_BERT = TINY | {"model_type": "bert"}
TINY_ROBERTA = TINY | {"model_type": "roberta"}
TINY_DISTILBERT = {
    "model_type": "distilbert", "dim": 24, "n_heads": 3, "n_layers": 2, "hidden_dim": 40,
    "vocab_size": 61, "max_position_embeddings": 32,
}  # fmt: skip
TINY_ELECTRA = TINY | {"model_type": "electra", "embedding_size": 16}
# Six query heads over three of key and value, of 4 features.
TINY_LLAMA = TINY | {
    "model_type": "llama", "num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 4,
}  # fmt: skip
# As Qwen/Qwen3-0.6B's config.json has it.
QWEN3 = {
    "model_type": "qwen3", "hidden_size": 1024, "num_attention_heads": 16,
    "num_key_value_heads": 8, "head_dim": 128, "num_hidden_layers": 28, "intermediate_size": 3072,
    "vocab_size": 151936, "max_position_embeddings": 40960, "attention_bias": False,
    "tie_word_embeddings": True,
}  # fmt: skip
# As microsoft/deberta-v3-base's and answerdotai/ModernBERT-base's have it.
DEBERTA_V3 = {
    "model_type": "deberta-v2", "hidden_size": 768, "num_attention_heads": 12,
    "num_hidden_layers": 12, "intermediate_size": 3072, "vocab_size": 128100,
    "max_position_embeddings": 512, "type_vocab_size": 0, "relative_attention": True,
    "position_buckets": 256, "norm_rel_ebd": "layer_norm", "share_att_key": True,
    "pos_att_type": "p2c|c2p", "max_relative_positions": -1, "position_biased_input": False,
}  # fmt: skip
MODERNBERT = {
    "model_type": "modernbert", "hidden_size": 768, "num_attention_heads": 12,
    "num_hidden_layers": 22, "intermediate_size": 1152, "vocab_size": 50368,
    "max_position_embeddings": 8192, "tie_word_embeddings": True,
}  # fmt: skip


def lora(shape, rank, targets):
    """Factors beside each target."""
    return UpdateCount(low_rank_branches(shape, targets, rank))


def dsee(shape, rank, n_sparse, targets):
    """Factors and single entries beside each target."""
    entries = {key: n_sparse for key, projection, *_ in shape.sites() if projection in targets}
    return UpdateCount(low_rank_branches(shape, targets, rank, fused=False, entries=entries))


def total(macs):
    """All modules of one sequence."""
    return sum(macs.values())
