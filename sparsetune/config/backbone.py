"""A backbone: a pre-trained model, fetched or pre-trained here, with the whole recipe."""

import math
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from sparsetune.architectures.families import FAMILIES, UNLIKE, WORKFLOW
from sparsetune.config.settings import (
    Count,
    Id,
    Items,
    OptimizerSettings,
    Penalty,
    Positive,
    Rule,
    Seed,
    Settings,
    Share,
    Text,
    Thing,
    broken,
    names_differ,
    none_of,
    only_with,
)
from sparsetune.errors import shown


def _in_workflow(model_type: str) -> str:
    if model_type in UNLIKE:
        raise broken("", f"received {shown(model_type)}: {UNLIKE[model_type]}")
    if model_type not in WORKFLOW:
        raise none_of("", model_type, WORKFLOW)
    return model_type


Architecture = Annotated[
    str, AfterValidator(_in_workflow), Field(json_schema_extra={"enum": list(WORKFLOW)})
]
Scope = Literal["global", "layer"]
Repository = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)?$",
        description="owner/name on the Hugging Face hub",
    ),
]
Revision = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9._-]+$",
        description="commit SHA, or a branch that is resolved at the first fetch",
    ),
]
Documents = Annotated[
    int | None,
    Field(ge=1, description="most documents taken, in the order of the files; all if left out"),
]


class HubSource(Settings):
    """A repository of the Hugging Face hub."""

    kind: Literal["hub"]
    repository: Repository
    revision: Revision
    subset: str | None = Field(
        default=None, pattern=r"^[A-Za-z0-9._-]*$", description="configuration of the data set"
    )


class MirrorSource(Settings):
    """A folder that holds the files."""

    kind: Literal["mirror"]
    path: Text = Field(description="folder that holds the files")


class SyntheticCorpus(Settings):
    """Text that is generated here."""

    kind: Literal["world"]
    seed: Seed = Field(description="seed of corpus, tokenizer and weights")
    documents: Count = Field(description="documents in the corpus")


class TextFiles(Settings):
    """Running text in local files."""

    kind: Literal["text"]
    seed: Seed = Field(description="seed of tokenizer, weights and masks")
    paths: Items[Text] = Field(
        description="files or patterns; plain or gzip (one document a line), or parquet (column "
        "text); relative to the working folder, or to the mirror's datasets/"
    )
    documents: Documents = None


class HubText(Settings):
    """Running text in files of a data set on the hub."""

    kind: Literal["hub-text"]
    seed: Seed = Field(description="seed of tokenizer, weights and masks")
    repository: Repository
    revision: Revision
    files: Items[Annotated[str, Field(pattern=r"^[A-Za-z0-9._*-]+(/[A-Za-z0-9._*-]+)*$")]] = Field(
        description="files of the hub's data set, or patterns, as in kind text"
    )
    documents: Documents = None


BackboneSource = HubSource | MirrorSource | SyntheticCorpus | TextFiles | HubText
TEXT_SOURCES = ("world", "text", "hub-text")
"""Kinds of sources that are texts, on which a backbone is pre-trained here."""


class _Sizes(Settings):
    """What every model has."""

    hidden_size: Count = Field(description="D")
    layers: Count = Field(description="L")
    heads: Count = Field(description="H")
    feed_forward_size: Count = Field(description="F")


class ExpectedSizes(_Sizes):
    """Published sizes, which an estimate uses."""

    maximum_positions: Count = Field(description="most positions, as config.json has them")
    vocabulary_size: Count = Field(description="rows of the token embedding")
    key_value_heads: Count | None = Field(
        default=None, description="heads of key and value that query heads share; H if left out"
    )
    head_size: Count | None = Field(
        default=None, description="features of a head; D / H if left out"
    )

    def rules(self) -> Iterator[Rule]:
        """Query heads are shared out evenly."""
        shared = self.key_value_heads or self.heads
        yield (
            self.heads % shared == 0,
            "key_value_heads",
            f"received {shared}; allowed: what divides heads, {self.heads}",
        )


class TrainedTokenizer(Settings):
    """A tokenizer that is trained on the text."""

    kind: Literal["wordpiece", "byte-bpe"] = Field(description="algorithm")
    vocabulary_size: int = Field(ge=64, description="tokens")


class PublishedTokenizer(Settings):
    """The tokenizer of another backbone, fetched."""

    kind: Literal["published"]
    backbone: Id = Field(description="id of the backbone whose tokenizer is taken")


class Shape(_Sizes):
    """Sizes of a model that is pre-trained here."""

    maximum_positions: int = Field(ge=8, description="longest input in tokens")
    dropout: Share = Field(description="everywhere, in [0, 1)")
    initializer_range: Positive = Field(description="standard deviation of random weights")


class PretrainingPhase(OptimizerSettings):
    """One phase, with an optimizer state of its own."""

    name: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", description="of the phase")
    block_tokens: int = Field(ge=8, description="tokens in one training block")
    steps: Count | None = Field(default=None, description="optimizer steps; this or epochs")
    epochs: Positive | None = Field(
        default=None, description="passes over the blocks; this or steps"
    )

    def rules(self) -> Iterator[Rule]:
        """A length is told in one way."""
        yield (self.steps is None) != (self.epochs is None), "", "needs steps or epochs, not both"


class EarlySettings(Settings):
    """EarlyBERT: search from random weights, draw, reset to them, remove, train a share."""

    stop_steps: Count = Field(description="steps of the first phase after which the search stops")
    head_penalty: Penalty = Field(description="l1 weight of the heads' coefficients")
    neuron_penalty: Penalty = Field(description="l1 weight of the neurons' coefficients")
    head_sparsity: Share = Field(description="share of heads removed in each layer, in [0, 1)")
    neuron_sparsity: Share = Field(description="share of FFN neurons removed, in [0, 1)")
    neuron_scope: Scope = Field(description="where neurons compete")
    steps_share: float = Field(
        gt=0, le=1, description="share of each phase's steps that the smaller model trains, (0, 1]"
    )


class Pretraining(Settings):
    """The whole recipe of a pre-training."""

    seed: Seed | None = Field(
        default=None, description="seed of weights, order, masks and dropout; null = the source's"
    )
    objective: Literal["masked", "causal"] = Field(description="what is predicted")
    tokenizer: TrainedTokenizer | PublishedTokenizer = Field(discriminator="kind")
    shape: Shape
    embeddings: Literal["cooccurrence", "random"] = Field(
        description="where token embeddings start"
    )
    blocks: Literal["documents", "stream"] = Field(
        description="documents: a block is the beginning of one; stream: documents are joined and "
        "cut into full blocks"
    )
    masked_fraction: Share | None = Field(
        default=None, description="share of tokens predicted (masked objective), in [0, 1)"
    )
    optimizer: Literal["adamw", "lamb"] = Field(description="of all phases and of the search")
    phases: Items[PretrainingPhase] = Field(description="trained in order")
    early: EarlySettings | None = None

    def rules(self) -> Iterator[Rule]:
        """What phases, shape and search ask of each other."""
        given, masked = self.masked_fraction is not None, self.objective == "masked"
        yield only_with("masked_fraction", given, masked, "objective masked")
        yield names_differ(self.phases)
        positions = self.shape.maximum_positions
        for index, phase in enumerate(self.phases):
            yield (
                phase.block_tokens <= positions,
                f"phases.{index}.block_tokens",
                f"received {phase.block_tokens}; allowed: up to shape.maximum_positions, "
                f"{positions}",
            )
        if self.early:
            yield from self._rules_of_search(self.early)

    def _rules_of_search(self, early: EarlySettings) -> Iterator[Rule]:
        steps, heads = self.phases[0].steps, self.shape.heads
        yield (
            steps is None or early.stop_steps <= steps,
            "early.stop_steps",
            f"received {early.stop_steps}; allowed: up to the first phase's {steps} steps",
        )
        yield (
            # The count that is removed is rounded half up.
            math.floor(early.head_sparsity * heads + 0.5) < heads,
            "early.head_sparsity",
            f"received {early.head_sparsity}, which leaves none of {heads} heads",
        )


class Backbone(Thing):
    """A pre-trained model: where it comes from, or how it is pre-trained here."""

    not_written: ClassVar = frozenset({"id", "tokenizer_source"})

    architecture: Architecture = Field(description="model family")
    source: BackboneSource = Field(discriminator="kind")
    pretraining: Pretraining | None = None
    tuned_as: Id | None = Field(
        default=None,
        description="id of the backbone whose overrides in methods and tickets hold here too",
    )
    expected: ExpectedSizes | None = None
    head: Literal["fresh", "keep"] | None = Field(
        default=None,
        description="of a checkpoint that was fine-tuned: its task head is left out, and drawn "
        "anew for each run, or kept with its order of labels; one that has a head needs it told",
    )
    tokenizer_source: HubSource | MirrorSource | None = Field(
        default=None, description="where a published tokenizer comes from"
    )

    @property
    def made_smaller(self) -> bool:
        """Whether heads and neurons are removed while it is pre-trained."""
        return self.pretraining is not None and self.pretraining.early is not None

    @property
    def maximum_tokens(self) -> int | None:
        """Longest input; None where only the files tell."""
        if self.pretraining:
            return self.pretraining.shape.maximum_positions
        if self.expected:
            return self.expected.maximum_positions - FAMILIES[self.architecture].unused_positions
        return None

    @property
    def published_tokenizer(self) -> str | None:
        """Id of the backbone whose tokenizer it takes."""
        if self.pretraining and isinstance(self.pretraining.tokenizer, PublishedTokenizer):
            return self.pretraining.tokenizer.backbone
        return None

    def settings(self) -> dict[str, object]:
        """What the ``backbone`` stage depends on."""
        return self.model_dump(
            mode="json",
            exclude_none=True,
            include={"architecture", "source", "pretraining", "tokenizer_source", "head"},
        )

    def rules(self) -> Iterator[Rule]:
        """Pre-trained here, or fetched, never both; and what an architecture can predict."""
        given, text = self.pretraining is not None, self.source.kind in TEXT_SOURCES
        yield (
            self.head is None or not text,
            "head",
            f"not with source.kind {self.source.kind}; allowed: hub, mirror",
        )
        yield only_with("pretraining", given, text, f"source.kind {', '.join(TEXT_SOURCES)}")
        if self.pretraining:
            yield from self._rules_of_anew(self.pretraining)
            wanted = "causal" if FAMILIES[self.architecture].generates else "masked"
            yield (
                self.pretraining.objective == wanted,
                "pretraining.objective",
                f"received {self.pretraining.objective!r}; allowed for {self.architecture}: "
                f"{wanted}",
            )

    def _rules_of_anew(self, recipe: Pretraining) -> Iterator[Rule]:
        """What can be made here of an architecture, and with which tokenizer."""
        anew = FAMILIES[self.architecture].anew
        known = ", ".join(name for name in WORKFLOW if FAMILIES[name].anew)
        yield (
            anew is not None,
            "pretraining",
            f"not for architecture {self.architecture}; allowed with {known}",
        )
        if anew and isinstance(recipe.tokenizer, TrainedTokenizer):
            yield (
                recipe.tokenizer.kind == anew.tokenizer,
                "pretraining.tokenizer.kind",
                f"received {recipe.tokenizer.kind!r}; allowed for {self.architecture}: "
                f"{anew.tokenizer}, published",
            )
