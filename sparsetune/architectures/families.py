"""The families that are known, each told by its own file; without torch."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from sparsetune.architectures import deberta, llama
from sparsetune.architectures.bert import LOOK_ALIKES
from sparsetune.architectures.deberta import DEBERTA_V2
from sparsetune.architectures.distilbert import DISTILBERT
from sparsetune.architectures.gpt2 import GPT2
from sparsetune.architectures.llama import LLAMA_LIKE
from sparsetune.architectures.modernbert import MODERNBERT

FAMILIES = MappingProxyType(
    {
        family.model_type: family
        for family in (*LOOK_ALIKES, GPT2, DISTILBERT, DEBERTA_V2, MODERNBERT, *LLAMA_LIKE)
    }
)
"""By what ``config.json`` calls the model's type."""
UNLIKE = MappingProxyType({**deberta.UNLIKE, **llama.UNLIKE})
"""Why a model's type is not among them, of some that one might look for."""
WORKFLOW = tuple(name for name, family in FAMILIES.items() if family.in_workflow)
"""Model types that a backbone of the workflow may have."""
IMPORTED_EARLY = (LOOK_ALIKES[0].module, GPT2.module)
"""Modules of transformers that the default suite needs, worth importing before a job asks."""


def longest_input(config: Mapping[str, Any]) -> int | None:
    """Tell how many tokens a model has positions for.

    Args:
        config: of its folder, as ``config.json`` has it.

    Returns:
        Tokens, RoBERTa's two unused rows left out; None for a family without a table of positions,
        or one that is not known.

    Example:
        >>> longest_input({"model_type": "roberta", "max_position_embeddings": 514})
        512
    """
    family = FAMILIES.get(config.get("model_type", ""))
    counted = family.counted if family else None
    if family is None or counted is None:
        return None
    if not counted.around(config).positions:
        return None
    name = "max_position_embeddings"
    rows = config.get(counted.names.get(name, name))
    return rows - family.unused_positions if isinstance(rows, int) else None
