"""A support: how the positions of DSEE's sparse residual S2 are chosen."""

from typing import Any, ClassVar, Literal

from pydantic import Field

from sparsetune.config.settings import (
    Count,
    Id,
    Positive,
    Projection,
    Seed,
    Settings,
    Text,
    UniqueItems,
)


class SupportSettings(Settings):
    """Base of the supports of every recipe."""

    not_written: ClassVar = frozenset({"id"})

    id: Id = Field(description="the file's name")
    description: Text = Field(description="one line")
    recipe: Literal["grebsmo", "magnitude", "random", "empty"] = Field(
        description="how positions are chosen"
    )
    n_sparse: int = Field(ge=0, description="N: positions in each matrix")
    targets: UniqueItems[Projection]
    seed: Seed = Field(description="seed of the random start")

    def settings(self) -> dict[str, Any]:
        """The resolved settings without the description."""
        return self.resolved()


class GrebsmoSupport(SupportSettings):
    """The largest entries of GreBsmo's sparse part."""

    recipe: Literal["grebsmo"]
    rounds: Count = Field(description="outer rounds")
    inner_rounds: Count = Field(description="alternations in one round")
    rank_growth: Count = Field(description="rank added by each round")
    threshold: Positive = Field(description="entries smaller than this are set to 0")


class MagnitudeSupport(SupportSettings):
    """The largest weights."""

    recipe: Literal["magnitude"]


class RandomSupport(SupportSettings):
    """Positions drawn at random."""

    recipe: Literal["random"]


class EmptySupport(SupportSettings):
    """No position."""

    recipe: Literal["empty"]


SUPPORTS: dict[str, type[SupportSettings]] = {
    "grebsmo": GrebsmoSupport,
    "magnitude": MagnitudeSupport,
    "random": RandomSupport,
    "empty": EmptySupport,
}
"""Recipe -> class."""
