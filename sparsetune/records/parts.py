"""The parts that records are made of: who asked for what, where it ran, and what is measured.

Names are the keys of the JSON files. Units are in the names: seconds, bytes, fractions in [0, 1],
macs = multiply-adds. A field that :func:`absent` describes is left out of the file where it does
not apply; any other field is always there, and null where it has no value.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveInt
from pydantic import StringConstraints as Text

ID = r"[a-z0-9]+([.-][a-z0-9]+)*"
"""What an id looks like: it becomes a part of paths."""
Id = Annotated[str, Text(pattern=f"^{ID}$", max_length=64)]
Digest = Annotated[str, Text(pattern=r"^[0-9a-f]{16}$")]
Sha256 = Annotated[str, Text(pattern=r"^[0-9a-f]{64}$")]
Files = dict[str, Sha256]
Count = NonNegativeInt
Seconds = NonNegativeFloat
Scores = dict[str, float | None]
Settings = dict[str, Any]
"""Resolved settings as they were asked for; older ones need not fit today's models."""


def _is_none(value: object) -> bool:
    return value is None


def absent() -> Any:
    """Default of a field that a file does not have where it does not apply."""
    return Field(default=None, exclude_if=_is_none)


class Part(BaseModel):
    """A closed, frozen piece of a record: an unknown key or a value out of range is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Asked(Part):
    """The stage that wrote the record."""

    stage: str
    stage_version: PositiveInt


class SuiteAsked(Asked):
    """A stage that looks at a whole suite."""

    suite: Id


class SettingsAsked(Asked):
    """A stage that was given resolved settings."""

    digest: Digest
    settings: Settings


class DatasetAsked(SettingsAsked):
    """A task's files."""

    task: Id


class BackboneAsked(SettingsAsked):
    """A backbone's folder."""

    backbone: Id


class SupportAsked(BackboneAsked):
    """Positions of S2 for one backbone."""

    suite: Id
    support: Id


class TicketAsked(BackboneAsked):
    """A ticket for one backbone, task and seed."""

    suite: Id
    task: Id
    ticket: Id
    seed: Count


class RunAsked(BackboneAsked):
    """A run: backbone x task x method x seed, with the recipes that it takes up."""

    suite: Id
    task: Id
    method: Id
    seed: Count
    support: Id | None = absent()
    ticket: Id | None = absent()


class Device(Part):
    """What computed; ``id`` is the GPU's number or UUID, ``slots`` the jobs that may share it."""

    kind: Literal["cpu", "cuda"]
    name: str
    cuda: str | None = absent()
    tf32: bool | None = absent()
    id: str | None = absent()
    slots: PositiveInt | None = absent()

    @property
    def timed_on(self) -> str:
        """What times and speeds depend on: the name, and how many jobs may have been beside."""
        shared = f", shared by up to {self.slots} jobs" if self.slots and self.slots > 1 else ""
        return f"{self.name}{shared}"


class Tracking(Part):
    """Where MLflow has the run, or why it has not."""

    mlflow_run_id: str | None
    problem: str | None


class Where(Part):
    """Code, packages, machine and times of one job; times are UTC.

    ``threads`` are those that torch computed with, which sums depend on; ``job`` is the number
    that a cluster's scheduler knows the job by.
    """

    commit: str | None
    dirty: bool | None
    device: Device
    ended: str
    packages: dict[str, str]
    platform: str
    python: str
    seconds: Seconds
    start_up_seconds: Seconds | None
    started: str
    host: str | None = absent()
    threads: PositiveInt | None = absent()
    job: str | None = absent()
    tracking: Tracking | None = absent()


class DatasetMeasured(Part):
    """What a task's files hold; which counts there are depends on the task's kind.

    ``fetch`` names one that was made since the lock file's commit became another;
    ``evaluation_examples_in_train`` counts, in a table, inputs that training sees too.
    """

    train_examples: Count
    evaluation_examples: Count
    files: Files
    stored_bytes: Count
    revision: str | None
    fetch: str | None = absent()
    train_label_counts: dict[str, Count] | None = absent()
    evaluation_label_counts: dict[str, Count] | None = absent()
    train_score_mean: float | None = absent()
    evaluation_score_mean: float | None = absent()
    train_unlabelled_dropped: Count | None = absent()
    evaluation_unlabelled_dropped: Count | None = absent()
    evaluation_examples_in_train: Count | None = absent()
    train_references: Count | None = absent()
    evaluation_references: Count | None = absent()


class Corpus(Part):
    """The running text that a backbone was pre-trained on; ``files`` if it came from the hub."""

    documents: Count
    revision: str | None
    sha256: Sha256
    stored_bytes: Count
    files: Files | None = absent()


class TrainedPhase(Part):
    """One phase that trained; ``seconds`` has ``loading_seconds`` in it, ``engine`` tells how."""

    name: str
    kind: Literal["train"] = "train"
    steps: Count
    examples_seen: Count
    tokens_seen: Count
    seconds: Seconds
    loading_seconds: Seconds
    resumed_at_step: Count
    final_loss: float | None
    engine: str


class PrunedPhase(Part):
    """One phase that removed: heads for real, or weights that became zeros."""

    name: str
    kind: Literal["prune"] = "prune"
    heads: Count | None = absent()
    heads_removed: Count | None = absent()
    kept_heads: list[list[int]] | None = absent()
    weights_in_pools: Count | None = absent()
    weights_zeroed: Count | None = absent()


Phase = Annotated[TrainedPhase | PrunedPhase, Field(discriminator="kind")]


class SearchPhase(TrainedPhase):
    """A ticket's search; ``objective`` is ``task`` or ``mlm``."""

    objective: str
    language_head_from_checkpoint: bool | None = absent()


class PretrainingSearch(TrainedPhase):
    """A search at the beginning of a pre-training: heads and neurons kept in each layer."""

    kept_heads: list[Count]
    kept_neurons: list[Count]


class Pretraining(Part):
    """What a pre-training took; searches are in ``macs_total``, not in ``train_seconds``."""

    initial_weights_sha256: Sha256
    steps: Count
    examples_seen: Count
    tokens_seen: Count
    train_seconds: Seconds
    final_loss: float | None
    phases: list[TrainedPhase]
    macs_dense_plan: Count
    macs_search: Count
    macs_total: Count
    macs_training: Count
    search: PretrainingSearch | None = absent()
    search_seconds: Seconds | None = absent()


class BackboneMeasured(Part):
    """A backbone's files; the second half is there if it was fetched, the third if made here."""

    files: Files
    stored_bytes: Count | None = absent()
    parameters_stored: Count | None = absent()
    revision: str | None = absent()
    fetch: str | None = absent()
    parameters: Count | None = absent()
    vocabulary_tokens: Count | None = absent()
    corpus: Corpus | None = absent()
    corpus_tokens: Count | None = absent()
    pretraining: Pretraining | None = absent()


class SupportMeasured(Part):
    """Positions in all; ``residual`` is the norm of what S2 and UV leave, over that of W."""

    matrices: Count
    positions: Count
    residual: dict[str, float]


class Stopping(Part):
    """Where each rule stops a search, and how far the masks moved at every check."""

    rule: str
    steps_per_epoch: Count
    fixed_step: Count
    last_step_allowed: Count
    settled_step: Count | None
    window: Count
    epsilon: float
    check_steps: list[Count]
    head_distances: list[float | None]
    neuron_distances: list[float | None]


class TicketMeasured(Part):
    """Heads and neurons kept in each layer; ``kept_layers`` where whole layers went."""

    kept_heads: list[Count]
    kept_neurons: list[Count]
    kept_layers: list[Count] | None = absent()
    search: SearchPhase | None = absent()
    search_seconds: Seconds | None = absent()
    stopping: Stopping | None = absent()


class EpochScore(Part):
    """Scores after an epoch; ``step`` counts over all phases."""

    epoch: float
    step: Count
    metrics: Scores


class TuneMeasured(Part):
    """What training took and left; ``train_seconds`` has ``loading_seconds`` in it."""

    train_seconds: Seconds
    loading_seconds: Seconds
    steps: Count
    examples_seen: Count
    tokens_seen: Count
    final_loss: float | None
    parameters_trained: Count
    peak_memory_bytes: Count
    phases: list[Phase]
    model_sha256: Sha256
    epoch_scores: list[EpochScore] | None = absent()
    epoch_scores_note: str | None = absent()
    scoring_seconds: Seconds | None = absent()


class ResamplingAsked(Part):
    """How often examples were drawn again, and how wide the intervals are."""

    resamples: PositiveInt
    level: float
    seed: Count


class Speed(Part):
    """Time of one batch, over ``repeats`` calls; ``engine`` tells how they ran."""

    engine: str
    sequences: Count
    tokens: Count
    threads: Count
    sequences_per_second: float
    latency_median_seconds: Seconds
    latency_p90_seconds: Seconds
    latency_minimum_seconds: Seconds
    repeats: Count
    warmup: Count


class TokenLengths(Part):
    """(tokens, sequences) of both splits as they are encoded, unpadded."""

    evaluation: list[tuple[Count, Count]]
    training: list[tuple[Count, Count]]


class Decoding(Part):
    """What generating the whole split took, for counting."""

    beams: PositiveInt
    steps_total: Count
    visible_keys_total: Count


class EvaluateMeasured(Part):
    """Scores of the evaluation split and the time that answers take.

    ``headline_metric`` names the primary metric; a score is null where it is undefined.
    """

    headline_metric: str
    metrics: Scores
    metric_notes: dict[str, str]
    intervals: dict[str, tuple[float, float] | None]
    intervals_from: ResamplingAsked
    collapsed: bool
    baseline: dict[str, float]
    n_examples: PositiveInt
    evaluate_seconds: Seconds
    examples_per_second: float
    latency_seconds_batch_1: Seconds
    sequences_per_second_batch_64: float | None
    speed: list[Speed]
    inference_peak_memory_bytes: Count
    weights_multiplied: list[tuple[str, Count]]
    token_lengths: TokenLengths
    decoding: Decoding | None = absent()


class SparsityByLayer(Part):
    """Fraction of zeros in each layer of the dense model."""

    attention: list[float]
    feed_forward: list[float]


class Breakdown(Part):
    """Multiply-adds by module, and over a life by phase, with ``inference`` and ``total``."""

    executed: dict[str, Count]
    effective: dict[str, Count]
    whole_life: dict[str, Count]


class Macs(Part):
    """Multiply-adds of one sequence: dense model, executed, and with zeros that cost nothing."""

    dense: Count
    executed: Count
    effective: Count


class MacsByLayer(Part):
    """Module -> one number for each layer."""

    executed: dict[str, list[Count]]
    effective: dict[str, list[Count]]


class OperatorMacs(Part):
    """Multiply-adds by the kind of product."""

    operator: str
    executed: Count
    effective: Count


class PhaseMacs(Part):
    """Multiply-adds of a phase over the training split's real lengths."""

    phase: str
    macs: Count


class TextMacs(Macs):
    """Multiply-adds of one generated text: ``prefill`` or ``decode``."""

    part: str


class LengthsMacs(Macs):
    """Expected multiply-adds of one sequence of a split."""

    split: str
    padding: str
    sequences: Count
    tokens_mean: float


class CostMeasured(Part):
    """Parameters, bytes and multiply-adds of one run, counted from shapes."""

    parameters_total: Count
    parameters_trained: Count
    parameters_trained_with_head: Count
    stored_bytes: Count
    sparsity: float
    sparsity_by_layer: SparsityByLayer
    search_seconds: Seconds
    tokens_per_example_mean: float
    macs_dense_per_example: Count
    macs_executed_per_example: Count
    macs_effective_per_example: Count
    macs_whole_life: Count
    whole_life_inference_examples: Count
    breakdown: Breakdown
    macs_at_128_tokens: Macs
    macs_by_layer: MacsByLayer
    macs_by_operator: list[OperatorMacs]
    macs_training_over_lengths: list[PhaseMacs]
    macs_over_lengths: list[LengthsMacs]
    macs_per_text: list[TextMacs] | None = absent()


class ClaimsMeasured(Part):
    """Verdict -> claims, in all and by paper; and each claim with everything that decides it."""

    verdicts: dict[str, Count]
    verdicts_by_paper: dict[str, dict[str, Count]]
    claims: list[dict[str, Any]]
    runs_count: Count


class TrackMeasured(Part):
    """What MLflow was given, and what it lacks."""

    published: Count
    unchanged: Count
    problems: list[str]
    attempt: str
