"""Memory and time that jobs ask a scheduler for, from the sizes of backbone and task.

Bounds, not predictions: ``estimate`` predicts. What the catalogue tells goes through formulas
whose constants were measured, with headroom; where it does not tell, fixed values stand in.
Without torch, since rules call it.
"""

import functools
import math
from dataclasses import dataclass, replace
from typing import NamedTuple

from sparsetune.architectures.families import FAMILIES
from sparsetune.config.backbone import Backbone
from sparsetune.config.load import Catalogue
from sparsetune.config.method import TrainPhase
from sparsetune.config.suite import RunSpec, Suite
from sparsetune.config.support import GrebsmoSupport
from sparsetune.config.ticket import SearchedTicket
from sparsetune.cost.lengths import EVALUATION_BATCH
from sparsetune.cost.parameters import dense_parameters
from sparsetune.cost.shapes import ModelShape
from sparsetune.errors import ConfigError
from sparsetune.stages.estimate import (
    START_UP_SECONDS,
    assumed_seconds,
    jobs_of_run,
    shape_of,
    sizes_of,
)

MEMORY_HEADROOM, TIME_HEADROOM = 2.0, 3.0
LEAST_MB, LEAST_MINUTES = 2000, 15
DOWNLOAD_MINUTES = 60
"""The least for a backbone: how fast its files come is not known."""
UNKNOWN_MB = 16_000
UNKNOWN_MINUTES = {"backbone": 240, "support": 120, "ticket": 240, "tune": 1440, "evaluate": 240}
"""What a job asks for whose sizes the catalogue does not tell."""
ASSUMED_GPU = "a100"
"""As ``estimate`` assumes; a GPU of a third of its speed is within the headroom."""

# Measured on CPUs (docs/log.md), bytes: of a process with torch and transformers, and for each
# parameter, token and layer. CUDA's libraries on the host are a guess: never measured here.
_PROCESS_BYTES = {"cpu": 0.7e9, "cuda": 3.0e9}
# Weights, gradient and AdamW's two moments are 16; a copy of the weights while files are read or
# written, and one for phases that rewind, 8.
_TRAINING_BYTES, _LOADING_BYTES = 24, 12
# Of an encoded data set, for each token: ids, mask and segments as Python's numbers.
_FEATURE_BYTES = 48
# Of the order of a training, for each sequence seen: it is planned at once.
_ORDER_BYTES = 90
_GREBSMO_SECONDS = 2.5  # of a 768 x 768 matrix, 100 rounds of 2, on one core


@dataclass(frozen=True)
class Size:
    """What the memory of a job depends on.

    Attributes:
        shape: the model before any removal, with its head.
        sequences: computed on at once; 0 = the job needs no device.
        tokens: in the longest sequence.
        trains: whether activations are kept for a backward pass, and an optimizer's state.
        stored_tokens: of the encoded data set.
        planned_sequences: of the whole training.
    """

    shape: ModelShape
    sequences: int = 0
    tokens: int = 0
    trains: bool = False
    stored_tokens: float = 0.0
    planned_sequences: float = 0.0


class Need(NamedTuple):
    """What one job asks for: host memory in units of 1e6 bytes, and minutes."""

    memory_mb: int
    minutes: int


class Needs:
    """What the jobs of a suite ask for, by the names that ``estimate`` has for them.

    Args:
        suite: resolved.
        catalogue: that it was resolved from.
        gpu: whether jobs that can compute on a GPU do.
    """

    def __init__(self, suite: Suite, catalogue: Catalogue, *, gpu: bool) -> None:
        self._catalogue = catalogue
        self._gpu = gpu
        self._runs: dict[str, RunSpec] = {}
        alike: dict[tuple[str, str, str], RunSpec] = {}  # runs that differ in their seeds only
        for run in suite.runs:
            names = [f"tune/{run.path}", f"evaluate/{run.path}", f"backbone/{run.backbone.id}"]
            names += [f"support/{run.backbone.id}/{run.support.id}"] if run.support else []
            names += [f"ticket/{run.ticket_path}"] if run.ticket else []
            self._runs |= dict.fromkeys(names, alike.setdefault(run.key, run))
        self._known: dict[tuple[str, str, str], _Known | None] = {}

    def of(self, name: str, attempt: int = 1) -> Need:
        """Tell what a job asks for.

        Args:
            name: ``stage/...`` with the tail of its folder.
            attempt: from 1; each asks for twice as much as the one before.
        """
        stage, known = self._of(name)
        memory_mb, minutes = UNKNOWN_MB, UNKNOWN_MINUTES[stage]
        if known is not None:
            memory_mb = max(LEAST_MB, math.ceil(MEMORY_HEADROOM * known.bytes[stage] / 1e6))
            seconds = TIME_HEADROOM * (START_UP_SECONDS[stage] + known.seconds[stage])
            least = DOWNLOAD_MINUTES if stage == "backbone" else LEAST_MINUTES
            minutes = max(least, math.ceil(seconds / 60))
        return Need(memory_mb * 2 ** (attempt - 1), minutes * 2 ** (attempt - 1))

    def _of(self, name: str) -> tuple[str, "_Known | None"]:
        run = self._runs[name]
        if run.key not in self._known:
            try:
                self._known[run.key] = _known(run, self._catalogue, gpu=self._gpu)
            except ConfigError:
                self._known[run.key] = None
        return name.split("/")[0], self._known[run.key]


class _Known(NamedTuple):
    """Bytes and seconds of the jobs that a run needs, by stage."""

    bytes: dict[str, float]
    seconds: dict[str, float]


class _Work(NamedTuple):
    passes: float
    macs: float


def _known(run: RunSpec, catalogue: Catalogue, *, gpu: bool) -> _Known:
    """What a run's jobs need, without headroom.

    Raises:
        ConfigError: the catalogue does not tell the sizes.
    """
    held, seconds = {}, {}
    for job in jobs_of_run(run, catalogue):
        stage = job["stage"]
        if stage in UNKNOWN_MINUTES:
            work = _Work(job.get("passes", 0.0), job.get("macs", 0.0))
            seconds[stage] = assumed_seconds(ASSUMED_GPU if gpu else "cpu", "", work)
            held[stage] = memory_bytes(size_of(stage, run, catalogue), gpu=gpu)
    if isinstance(run.support, GrebsmoSupport):
        shape = shape_of(run.backbone, catalogue)
        seconds["support"] = _decomposing_seconds(run.support, shape)
    return _Known(held, seconds)


def memory_bytes(size: Size, *, gpu: bool) -> float:
    """Tell the host memory that a job holds at most, in bytes, without headroom.

    With a GPU, activations and the optimizer's state are there; the host holds data, weights
    while they are read and written, and CUDA's libraries.

    Args:
        size: of the job.
        gpu: whether jobs that need a device compute on one.

    Source:
        Korthikanti et al. 2022, arXiv:2205.05198, section 4.1: ``18 D + 4 F + 5 H T`` bytes of
        activations for a token and layer in 16 bits.
    Differs:
        Three times that for 32 bits, as measured (twice by arithmetic). Logits over a vocabulary
        count three times: themselves, their softmax, its gradient.
    """
    gpu = gpu and size.sequences > 0
    held = _PROCESS_BYTES["cuda" if gpu else "cpu"]
    held += _FEATURE_BYTES * size.stored_tokens + _ORDER_BYTES * size.planned_sequences
    held += (_TRAINING_BYTES if size.trains else _LOADING_BYTES) * dense_parameters(size.shape)
    if gpu:
        return held
    layer, hidden = size.shape.layers[0], size.shape.hidden_size
    heads = layer.heads * layer.queries_per_head
    kept = 3 * (18 * hidden + 4 * layer.ffn_width + 5 * heads * size.tokens)
    # Without a backward pass, the activations of one layer are there at a time.
    layers = len(size.shape.layers) if size.trains else 1
    words = size.shape.vocabulary_size if size.shape.head in ("generation", "masked_lm") else 0
    return held + size.sequences * size.tokens * (kept * layers + 3 * 4 * words)


def size_of(stage: str, run: RunSpec, catalogue: Catalogue) -> Size:
    """Tell what the memory of one of a run's jobs depends on.

    Args:
        stage: ``backbone``, ``support``, ``ticket``, ``tune`` or ``evaluate``.
        run: one that needs the job.
        catalogue: that it was resolved from.

    Raises:
        ConfigError: the catalogue does not tell.
    """
    task, shape = run.task, shape_of(run.backbone, catalogue)
    if stage == "backbone":
        return _pretraining(run.backbone, shape)
    if stage == "support":
        return Size(shape)
    shape = replace(shape, head=task.kind, label_count=task.label_count)
    train, answers, tokens = sizes_of(run)
    longest, stored = task.maximum_tokens, tokens * (train + answers)
    if stage == "evaluate":
        beams = task.generation.beams if task.generation else 1
        return Size(shape, EVALUATION_BATCH * beams, longest, stored_tokens=stored)
    if stage == "ticket":
        if not isinstance(run.ticket, SearchedTicket):
            return Size(shape)
        trainings = [(run.ticket.search.train.batch_size, 1.0)]
    else:
        phases = [phase for phase in run.method.phases if isinstance(phase, TrainPhase)]
        trainings = [(phase.batch_size, phase.epochs) for phase in phases]
    return Size(
        shape,
        max(batch for batch, _ in trainings),
        longest,
        trains=True,
        stored_tokens=stored,
        planned_sequences=train * max(epochs for _, epochs in trainings),
    )


def _pretraining(backbone: Backbone, shape: ModelShape) -> Size:
    recipe = backbone.pretraining
    if recipe is None:  # files are fetched and checked
        return Size(shape)
    head = FAMILIES[backbone.architecture].language_model
    documents = getattr(backbone.source, "documents", None) or 0
    return max(
        (
            Size(
                replace(shape, head=head),
                phase.batch_size,
                phase.block_tokens,
                trains=True,
                planned_sequences=phase.batch_size * phase.gradient_accumulation * phase.steps
                if phase.steps
                else documents * (phase.epochs or 0),
                stored_tokens=documents * phase.block_tokens,
            )
            for phase in recipe.phases
        ),
        key=functools.partial(memory_bytes, gpu=False),
    )


def _decomposing_seconds(support: GrebsmoSupport, shape: ModelShape) -> float:
    """Seconds of GreBsmo on one core: products and factorisations grow as the width cubed."""
    matrices = shape.layers[0].matrices(shape.hidden_size)
    one_layer = sum(math.prod(matrices[name]) ** 1.5 / 768**3 for name in support.targets)
    rounds = support.rounds / 100 * support.inner_rounds / 2
    return _GREBSMO_SECONDS * rounds * one_layer * len(shape.layers)
