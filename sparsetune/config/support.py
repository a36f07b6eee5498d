"""A support: how the positions of DSEE's sparse residual S2 are chosen."""

from typing import Literal

from pydantic import Field

from sparsetune.config.settings import (
    Count,
    Positive,
    Projection,
    Seed,
    Thing,
    UniqueItems,
)


class SupportSettings(Thing):
    """The largest weights, positions drawn at random, or none; GreBsmo's has more to say."""

    recipe: Literal["grebsmo", "magnitude", "random", "empty"] = Field(
        description="how positions are chosen"
    )
    n_sparse: int = Field(ge=0, description="N: positions in each matrix")
    targets: UniqueItems[Projection]
    seed: Seed = Field(description="seed of the random start")


class GrebsmoSupport(SupportSettings):
    """The largest entries of GreBsmo's sparse part."""

    recipe: Literal["grebsmo"]
    rounds: Count = Field(description="outer rounds")
    inner_rounds: Count = Field(description="alternations in one round")
    rank_growth: Count = Field(description="rank added by each round")
    threshold: Positive = Field(description="entries smaller than this are set to 0")


SUPPORTS: dict[str, type[SupportSettings]] = {
    "grebsmo": GrebsmoSupport,
    **dict.fromkeys(("magnitude", "random", "empty"), SupportSettings),
}
"""Recipe -> class."""
