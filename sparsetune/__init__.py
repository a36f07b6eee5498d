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
    from sparsetune.trainer import AdapterCheckpoint

__version__ = "0.2.0"
__all__ = [
    "AdapterCheckpoint",
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
        # The Trainer's callbacks import what the rest has no need of.
        module = "trainer" if name == "AdapterCheckpoint" else "api"
        return getattr(importlib.import_module(f"sparsetune.{module}"), name)
    raise AttributeError(f"module 'sparsetune' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
