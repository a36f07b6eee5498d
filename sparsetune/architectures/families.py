"""The families that are known, each told by its own file; without torch."""

from types import MappingProxyType

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
