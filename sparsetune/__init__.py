"""Fine-tuning with winning tickets (EarlyBERT) and low-rank plus sparse updates (DSEE)."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparsetune.api import (
        ConfigError,
        DseeConfig,
        MergeReport,
        ModelError,
        OnnxReport,
        SparsetuneError,
        Summary,
        Ticket,
        TicketSearch,
        TrainingError,
        apply_dsee,
        detach,
        disabled,
        export_onnx,
        load,
        merge,
        prune,
        random_ticket,
        save,
        search_ticket,
        shrink,
        summary,
        trainable_parameters,
        unmerge,
        use,
    )

__version__ = "0.2.0"
__all__ = [
    "ConfigError",
    "DseeConfig",
    "MergeReport",
    "ModelError",
    "OnnxReport",
    "SparsetuneError",
    "Summary",
    "Ticket",
    "TicketSearch",
    "TrainingError",
    "__version__",
    "apply_dsee",
    "detach",
    "disabled",
    "export_onnx",
    "load",
    "merge",
    "prune",
    "random_ticket",
    "save",
    "search_ticket",
    "shrink",
    "summary",
    "trainable_parameters",
    "unmerge",
    "use",
]


def __getattr__(name: str) -> Any:
    # Looked up when asked for: the workflow imports this package in every job, without torch.
    if name in __all__:
        return getattr(importlib.import_module("sparsetune.api"), name)
    raise AttributeError(f"module 'sparsetune' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
