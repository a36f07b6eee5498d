"""Data sets as inputs of MLflow runs, under the sums that our own records hold."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

_DIGEST_CHARACTERS = 36
_CONTEXT_TAG = "mlflow.data.context"


@dataclass(frozen=True)
class DataInput:
    """One split of a task's data, as a run used it.

    Attributes:
        name: task id.
        context: ``training`` or ``validation``.
        sums: file name -> sha256, from the data set's record.
        source: where the task says that the files come from.
        examples: how many the split has.
    """

    name: str
    context: str
    sums: Mapping[str, str]
    source: Mapping[str, Any]
    examples: int

    @property
    def digest(self) -> str:
        """Sha256, cut to the 36 characters that MLflow stores.

        One file: of its bytes. Several: of lines ``sum  name``, as ``sha256sum`` prints them.
        """
        if len(self.sums) == 1:
            (whole,) = self.sums.values()
        else:
            lines = "".join(f"{told}  {name}\n" for name, told in sorted(self.sums.items()))
            whole = hashlib.sha256(lines.encode()).hexdigest()
        return whole[:_DIGEST_CHARACTERS]

    def as_mlflow(self) -> "DatasetInput":
        """The entity that MLflow's client takes."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        profile = {"examples": self.examples, "sha256": dict(self.sums)}
        dataset = Dataset(
            name=self.name,
            digest=self.digest,
            source_type=str(self.source.get("kind", "local")),
            source=json.dumps(self.source, sort_keys=True),
            profile=json.dumps(profile, sort_keys=True),
        )
        return DatasetInput(dataset, tags=[InputTag(_CONTEXT_TAG, self.context)])
