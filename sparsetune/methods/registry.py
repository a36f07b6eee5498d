"""Which change of the weights is trained: everything, biases, PEFT's adapters, or DSEE's update.

Importing this module finds every kind; torch is imported when one is attached.
"""

import importlib
import pkgutil
from collections.abc import Mapping
from typing import Annotated, Any, cast

from pydantic import BeforeValidator

from sparsetune.config.method import UpdateSettings
from sparsetune.config.reading import validated
from sparsetune.config.settings import Settings
from sparsetune.errors import ConfigError, ModelError
from sparsetune.methods import kinds
from sparsetune.methods.kind import UpdateKind

for _module in pkgutil.iter_modules(kinds.__path__, f"{kinds.__name__}."):
    importlib.import_module(_module.name)


class _Saved(Settings):
    update: Annotated[UpdateSettings, BeforeValidator(UpdateSettings.of)]


def update_of(settings: Mapping[str, Any]) -> UpdateKind:
    """Read the update of a run's file.

    Args:
        settings: ``kind`` (and ``type`` for PEFT) with their settings.

    Raises:
        ModelError: no such kind, or not its settings.
    """
    try:
        return cast(UpdateKind, validated(_Saved, {"update": settings}, origin="saved run").update)
    except ConfigError as error:
        raise ModelError(str(error)) from None
