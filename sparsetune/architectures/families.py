"""The families that are known, each told by its own file; without torch."""

from types import MappingProxyType

from sparsetune.architectures.bert import LOOK_ALIKES
from sparsetune.architectures.distilbert import DISTILBERT
from sparsetune.architectures.gpt2 import GPT2
from sparsetune.architectures.llama import LLAMA_LIKE

FAMILIES = MappingProxyType(
    {family.model_type: family for family in (*LOOK_ALIKES, GPT2, DISTILBERT, *LLAMA_LIKE)}
)
"""By what ``config.json`` calls the model's type."""
