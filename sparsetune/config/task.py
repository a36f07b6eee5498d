"""A task: a data set in its published layout, what is predicted, and how it is scored."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from sparsetune.config.backbone import HubSource, MirrorSource
from sparsetune.config.metric import SCALES, metrics_of, scale_of
from sparsetune.config.settings import (
    Count,
    Positive,
    Rule,
    Seed,
    Settings,
    Text,
    Thing,
    UniqueItems,
    none_of,
    only_with,
)

GENERATED_PREFIX = "mini-"
"""What the id of every generated task, and of no other, begins with."""

PUBLISHED_QUESTION_TOKENS = 64
"""Longer questions are cut, as in SQuAD's published preparation."""

Kind = Literal["classification", "regression", "span", "generation"]
Layout = Literal[
    "sst2", "cola", "mrpc", "rte", "stsb", "qnli", "wnli", "qqp", "mnli", "squad", "e2e", "webnlg",
    "dart", "table",
]  # fmt: skip
Split = Literal["dev", "dev_matched", "dev_mismatched", "test"]
# Layouts whose files hold one kind of example; those not named hold classes.
_KINDS_OF_LAYOUTS = {
    "stsb": "regression",
    "squad": "span",
    **dict.fromkeys(("e2e", "webnlg", "dart"), "generation"),
}
# Of a layout ``table``: columns that each kind needs, and those that it may have besides.
_COLUMNS_OF_KINDS: dict[str, tuple[set[str], set[str]]] = {
    "classification": ({"texts", "label"}, set()),
    "regression": ({"texts", "label"}, set()),
    "span": ({"question", "context", "answers"}, {"id"}),
    "generation": ({"source", "references"}, set()),
}


def _known_metric(name: str) -> str:
    if name not in SCALES:
        raise none_of("", name, SCALES)
    return name


Metric = Annotated[
    str, AfterValidator(_known_metric), Field(json_schema_extra={"enum": list(SCALES)})
]


class SyntheticSizes(Settings):
    """Examples of each split of a generated task."""

    train: Count = Field(description="examples")
    evaluation: Count = Field(description="examples (for e2e: meaning representations)")
    test: int | None = Field(default=None, ge=0, description="examples")


class SyntheticTask(Settings):
    """Files that are generated here, in the layout of the published ones."""

    kind: Literal["world"]
    seed: Seed = Field(description="seed of the generator")
    sizes: SyntheticSizes


TaskSource = HubSource | MirrorSource | SyntheticTask


class Columns(Settings):
    """Which column of a table holds what."""

    texts: UniqueItems[Text] | None = Field(
        default=None, max_length=2, description="classification, regression: one text or a pair"
    )
    label: Text | None = Field(
        default=None,
        description="classification: a label's text or number from 0; regression: a number",
    )
    id: Text | None = Field(default=None, description="span: question id; left out: its place")
    question: Text | None = Field(default=None, description="span")
    context: Text | None = Field(default=None, description="span: the text that holds the answers")
    answers: Text | None = Field(
        default=None,
        description="span: text and answer_start, in characters, of each answer; JSON and parquet "
        "only",
    )
    source: Text | None = Field(
        default=None, description="generation: a text, or a list of texts that are joined by ' | '"
    )
    references: Text | None = Field(
        default=None, description="generation: a text, or a list of them"
    )


FileName = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$",
        description="file name without its ending, or split in the names of parquet shards",
    ),
]


class Splits(Settings):
    """Which file of a table holds which split."""

    train: FileName
    dev: FileName | None = None
    test: FileName | None = None


class Generation(Settings):
    """How texts are decoded."""

    beams: Count = Field(description="beam width; 1 = greedy")
    maximum_new_tokens: Count = Field(description="longest answer")
    length_penalty: float = Field(description="exponent of the length in beam scores")
    no_repeat_ngram: int = Field(ge=0, description="0 = allowed")


class ExpectedExamples(Settings):
    """Sizes that an estimate uses; nothing else reads them."""

    train_examples: Count | None = Field(default=None, description="published")
    evaluation_examples: Count | None = Field(
        default=None, description="published; for generation: prompts"
    )
    tokens: Positive = Field(description="mean length of a training example")


class Task(Thing):
    """A data set with its published layout, what is predicted, and how it is scored."""

    layout: Layout = Field(
        description="published layout of the files; table: as columns and splits say"
    )
    kind: Kind = Field(description="what is predicted")
    labels: UniqueItems[str] = Field(
        default=(),
        min_length=2,
        description="classification: label texts in the order of their numbers",
    )
    source: TaskSource = Field(discriminator="kind")
    evaluation_split: Split = Field(description="split that is scored")
    evaluation_part: Literal["all", "seen", "unseen"] | None = Field(
        default=None,
        description="webnlg: entries of every category, or of those that are, or are not, in the "
        "train file",
    )
    columns: Columns | None = Field(default=None, description="table: which column holds what")
    splits: Splits | None = Field(default=None, description="table: which file holds which split")
    drop_unlabelled: bool = Field(
        default=False,
        description="table: rows whose label is null, blank, - or -1 are left out, and counted",
    )
    maximum_tokens: int = Field(
        ge=8, description="longer inputs are cut (span: split into windows)"
    )
    window_stride_tokens: Count | None = Field(default=None, description="span: overlap of windows")
    metrics: UniqueItems[Metric] = Field(description="the first is the primary metric")
    generation: Generation | None = None
    expected: ExpectedExamples | None = None

    @property
    def label_count(self) -> int:
        """Outputs of the task head: labels, or 1 for a regression."""
        return len(self.labels) if self.kind == "classification" else 1

    def settings(self) -> dict[str, Any]:
        """What the ``dataset`` stage depends on: where the files are, and what is checked."""
        settings = self._part(
            "layout", "source", "kind", "labels", "evaluation_split", "evaluation_part", "columns",
            "splits",
        )  # fmt: skip
        # Only where it is asked for: no other data set must be read again.
        return {**settings, "drop_unlabelled": True} if self.drop_unlabelled else settings

    def scoring(self) -> dict[str, Any]:
        """What training and evaluation depend on besides the files, and besides the metrics.

        Metrics belong to ``evaluate`` alone: to correct one trains nothing again.
        """
        return self._part(
            "kind", "labels", "evaluation_split", "maximum_tokens", "window_stride_tokens",
            "generation", "evaluation_part", "columns", "splits",
        )  # fmt: skip

    def _part(self, *keys: str) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude_none=True, include=set(keys))

    def rules(self) -> Iterator[Rule]:
        """What its kind needs, the name of a generated one, and what the primary metric may be."""
        for key, kind in (
            ("labels", "classification"),
            ("generation", "generation"),
            ("window_stride_tokens", "span"),
        ):
            yield only_with(key, bool(getattr(self, key)), self.kind == kind, f"kind {kind}")
        yield (
            (self.window_stride_tokens or 0) < self.maximum_tokens,
            "window_stride_tokens",
            f"received {self.window_stride_tokens}; allowed: less than maximum_tokens, "
            f"{self.maximum_tokens}",
        )
        yield (
            (self.source.kind == "world") == self.id.startswith(GENERATED_PREFIX),
            "id",
            f"received {self.id!r} with source.kind {self.source.kind}; the id of a generated "
            f"task, and no other, begins with {GENERATED_PREFIX!r}",
        )
        yield from self._layout_rules()
        yield from self._metric_rules()

    def _metric_rules(self) -> Iterator[Rule]:
        """What can be measured of its kind, and what may come first."""
        known = metrics_of(self.kind, len(self.labels) or None)
        for index, metric in enumerate(self.metrics):
            yield (
                metric in known,
                f"metrics.{index}",
                f"received {metric!r}; allowed for kind {self.kind}"
                + (f" of {len(self.labels)} labels" if self.labels else "")
                + f": {', '.join(known)}",
            )
        primary = scale_of(self.metrics[0])
        # Tables, claims and figures set points of it beside each other, and up is better.
        yield (
            primary.factor == 100 and not primary.lower_is_better,
            "metrics",
            f"the first is the primary metric: received {self.metrics[0]}; allowed: one that is "
            "better when higher and printed in percent",
        )

    def _layout_rules(self) -> Iterator[Rule]:
        """What layout and everything else ask of each other."""
        layout, kind = self.layout, self.kind
        for key in ("columns", "splits"):
            given = getattr(self, key) is not None
            yield only_with(key, given, layout == "table", "layout table")
        yield (
            layout == "webnlg" or self.evaluation_part is None,
            "evaluation_part",
            f"not for layout {layout}; allowed with webnlg",
        )
        labelled = kind in ("classification", "regression")
        yield (
            not self.drop_unlabelled or (layout == "table" and labelled),
            "drop_unlabelled",
            f"not for layout {layout} and kind {kind}; allowed: layout table, kind classification "
            "or regression",
        )
        if self.columns is None or self.splits is None:
            held = _KINDS_OF_LAYOUTS.get(layout, "classification")
            yield kind == held, "kind", f"received {kind}; layout {layout} holds kind {held}"
            return
        needed, spare = _COLUMNS_OF_KINDS[kind]
        given_columns = self.columns.resolved().keys()
        yield (
            needed <= given_columns <= needed | spare,
            "columns",
            f"received {', '.join(sorted(given_columns)) or 'none'}; kind {kind} needs "
            f"{', '.join(sorted(needed))}"
            + (f" and may have {', '.join(sorted(spare))}" if spare else ""),
        )
        for key, told in self.columns.resolved().items():
            others = [
                other
                for other, value in self.columns.resolved().items()
                if other != key and set(_names(value)) & set(_names(told))
            ]
            yield (
                not others,
                f"columns.{key}",
                f"received {told!r}, which columns.{', '.join(others)} has too; allowed: a column "
                "of its own",
            )
        splits = self.splits.resolved()
        yield (
            splits.get("train") != splits.get(self.evaluation_split),
            f"splits.{self.evaluation_split}",
            f"received {splits.get('train')!r}, which is the train split's; allowed: another file, "
            "or the score would be that of what was learnt by heart",
        )
        yield (
            self.evaluation_split in splits,
            "evaluation_split",
            f"received {self.evaluation_split}; splits has {', '.join(splits)}",
        )
        yield self.source.kind != "world", "source.kind", "layout table cannot be generated"


def _names(columns: Any) -> tuple[str, ...]:
    """The columns that one key of ``columns`` names."""
    return (columns,) if isinstance(columns, str) else tuple(columns)


def context_room(maximum_tokens: int, special_tokens: int) -> int:
    """Tell how many tokens a window of kind span has for the context, beside the longest question.

    Args:
        maximum_tokens: of a window.
        special_tokens: that the tokenizer puts around a pair.

    Example:
        >>> context_room(384, 3)
        317
    """
    question = min(PUBLISHED_QUESTION_TOKENS, maximum_tokens // 2)
    return maximum_tokens - question - special_tokens
