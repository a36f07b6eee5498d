"""Pre-training of backbones on running text, dense or the EarlyBERT way."""

import hashlib
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoTokenizer, PreTrainedModel

from sparsetune.config.backbone import (
    Backbone,
    BackboneSource,
    EarlySettings,
    HubText,
    Pretraining,
    PretrainingPhase,
    PublishedTokenizer,
    SyntheticCorpus,
    TextFiles,
)
from sparsetune.cost.macs import pretraining_macs
from sparsetune.cost.shapes import language_model_shapes
from sparsetune.data.corpus import Blocks, TrainingBlocks, encode_corpus, gather_corpus
from sparsetune.data.corpus import collate as collate_blocks
from sparsetune.data.sources import copy_files, fetch_tokenizer, replaced_directory
from sparsetune.data.tokenization import train_tokenizer
from sparsetune.earlybert.ticket import Ticket, TicketLabel
from sparsetune.errors import ConfigError
from sparsetune.pruning.checkpoint import save_whole
from sparsetune.pruning.structured import remove
from sparsetune.randomness import derive
from sparsetune.records import STAGES, digest_of, read_json, sha256_of, write_json
from sparsetune.training.checkpoints import read_state, save_state
from sparsetune.training.initial_models import new_model, start_embeddings
from sparsetune.training.loop import Engine, PhaseJob, run_phase
from sparsetune.training.plan import TrainingPlan, lengths_of, make_plan
from sparsetune.training.search import GATES, TICKET, SearchPlace, search_in_pretraining
from sparsetune.training.seeding import phase_seed, seed_everything


@dataclass(frozen=True)
class PretrainingPlace:
    """Where and on what a backbone is pre-trained.

    Attributes:
        checkpoints: folder for resuming; emptied at the end.
        lock_file: YAML file that keeps the commits of hub branches.
        engine: how it computes.
    """

    checkpoints: Path
    lock_file: Path
    engine: Engine


@dataclass(frozen=True)
class _Phase:
    """One phase: its blocks, its hyper-parameters, and how many steps the dense model would do."""

    index: int
    settings: PretrainingPhase
    features: Any
    dense_steps: int
    steps_per_epoch: int
    seed: int

    def plan(self, steps: int) -> TrainingPlan:
        """The first ``steps`` steps: always the same batches, however many are asked for."""
        return make_plan(
            lengths_of(self.features),
            batch_size=self.settings.batch_size,
            gradient_accumulation=self.settings.gradient_accumulation,
            epochs=steps / self.steps_per_epoch,
            seed=phase_seed(self.seed, self.index, self.settings.name, "order"),
        )

    @cached_property
    def dense_plan(self) -> TrainingPlan:
        """What the dense model would see."""
        return self.plan(self.dense_steps)


def pretrain(
    backbone: Backbone, directory: Path, *, place: PretrainingPlace, inputs: Mapping[str, str]
) -> dict[str, Any]:
    """Pre-train a backbone from random weights and save it as a Hugging Face folder.

    With an ``early`` section the weights are searched, reset and made smaller first; the folder
    then holds ``ticket.json`` and ``gates.npz`` too.

    Args:
        backbone: with a ``pretraining`` section.
        directory: where the folder goes; appears only when complete.
        place: see :class:`PretrainingPlace`.
        inputs: path -> sha256 of the local files that the corpus is read from.

    Returns:
        Counts, losses, seconds, multiply-adds and file hashes for the record.

    Raises:
        ConfigError: a search that would outlast the first phase.
        DataError: the corpus cannot be reached or read.
        TrainingError: the loss became NaN or infinite.

    Source:
        Chen et al. 2021, arXiv:2101.00063 section 4.3.
    Differs:
        Masked language modelling alone, without next-sentence prediction, and a fresh optimizer in
        each phase; the paper names neither.
    """
    recipe, seed = _recipe(backbone), _seed(backbone)
    work = _work_folder(place.checkpoints, [backbone.settings(), STAGES["backbone"], dict(inputs)])
    staging = work / "folder"
    corpus = _corpus_and_tokenizer(backbone, work, place.lock_file)
    tokenizer = AutoTokenizer.from_pretrained(staging, local_files_only=True)
    phases = [_phase(index, recipe, tokenizer, work, seed) for index in range(len(recipe.phases))]
    seed_everything(derive(seed, "weights"))
    model = new_model(backbone.architecture, recipe.shape, tokenizer)
    first = _blocks(work, recipe.phases[0].block_tokens)
    if recipe.embeddings == "cooccurrence":
        start_embeddings(model, first, tokenizer)
    start = {"initial_weights_sha256": _sha256_of_weights(model)}
    search = _make_early(model, phases[0], backbone, work, place) if recipe.early else None
    results = [_train(model, phase, recipe, work, place) for phase in phases]
    _save(model.eval(), work, early=search is not None)
    measured = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "vocabulary_tokens": len(tokenizer),
        "corpus": corpus,
        "corpus_tokens": sum(first.lengths),
        "pretraining": {
            **start,
            **_measured(results, search),
            **_macs(work, phases, results, search),
        },
        "files": {path.name: sha256_of(path) for path in sorted(staging.iterdir())},
    }
    with replaced_directory(directory) as partial:
        copy_files(sorted(staging.iterdir()), partial)
        if backbone.source.kind == "world":
            copy_files([work / "corpus.txt"], partial)
        write_json(partial / "curve.json", _curve(results))
    _discard(work)
    return measured


def _work_folder(checkpoints: Path, depends_on: list[Any]) -> Path:
    """The folder for resuming; those of other settings, texts or stage versions are deleted."""
    work = checkpoints / digest_of(depends_on)
    for old in checkpoints.iterdir() if checkpoints.is_dir() else ():
        if old != work:
            shutil.rmtree(old, ignore_errors=True)
    (work / "folder").mkdir(parents=True, exist_ok=True)
    return work


def _discard(work: Path) -> None:
    # Renamed first: half a folder must not be taken for one that can be resumed.
    old = work.rename(work.with_name(f".{work.name}.old"))
    shutil.rmtree(old, ignore_errors=True)


def _once(marker: Path, make: Callable[[], Any]) -> Any:
    """Do one step of the preparation, unless an interrupted process has finished it."""
    if not marker.exists():
        write_json(marker, make())
    return read_json(marker)


def _corpus_and_tokenizer(backbone: Backbone, work: Path, lock_file: Path) -> dict[str, Any]:
    path = work / "corpus.txt"
    corpus = _once(
        work / "corpus.json", lambda: gather_corpus(backbone.source, path, lock_file=lock_file)
    )
    _once(work / "tokenizer.json", lambda: _make_tokenizer(backbone, work, lock_file))
    return corpus


def _make_tokenizer(backbone: Backbone, work: Path, lock_file: Path) -> None:
    recipe = _recipe(backbone)
    asked = recipe.tokenizer
    if isinstance(asked, PublishedTokenizer):
        source = cast(BackboneSource, backbone.tokenizer_source)  # the catalogue filled it in
        fetch_tokenizer(source, work / "folder", name=asked.backbone, lock_file=lock_file)
        return
    train_tokenizer(
        asked.kind,
        work / "corpus.txt",
        vocabulary_size=asked.vocabulary_size,
        architecture=backbone.architecture,
        directory=work / "folder",
        maximum_tokens=recipe.shape.maximum_positions,
    )


def _recipe(backbone: Backbone) -> Pretraining:
    if backbone.pretraining is None:
        raise ConfigError(f"backbone {backbone.id}: pretraining: missing")
    return backbone.pretraining


def _seed(backbone: Backbone) -> int:
    """The seed of weights, order, masks and dropout: the recipe's own, or that of its texts."""
    recipe = _recipe(backbone)
    if recipe.seed is not None:
        return recipe.seed
    return cast(SyntheticCorpus | TextFiles | HubText, backbone.source).seed


def _phase(index: int, recipe: Pretraining, tokenizer: Any, work: Path, seed: int) -> _Phase:
    phase = recipe.phases[index]
    size, accumulation = phase.block_tokens, phase.gradient_accumulation
    encoded = encode_corpus(work / "corpus.txt", tokenizer, block_tokens=size, layout=recipe.blocks)
    blocks = Blocks.write(_blocks_folder(work, size), encoded)
    epochs = phase.epochs or (phase.steps or 0) * accumulation / _batches(len(blocks), phase)
    copies = 1 if recipe.masked_fraction is None else math.ceil(epochs)
    features = TrainingBlocks(
        blocks,
        tokenizer,
        fraction=recipe.masked_fraction,
        copies=copies,
        seed=phase_seed(seed, index, phase.name, "hidden tokens"),
    )
    steps_per_epoch = math.ceil(_batches(len(blocks) * copies, phase) / accumulation)
    steps = phase.steps or max(1, round(epochs / copies * steps_per_epoch))
    return _Phase(index, phase, features, steps, steps_per_epoch, seed)


def _batches(examples: int, phase: PretrainingPhase) -> int:
    return math.ceil(examples / phase.batch_size)


def _blocks_folder(work: Path, block_tokens: int) -> Path:
    return work / f"blocks-{block_tokens}"


def _blocks(work: Path, block_tokens: int) -> Blocks:
    return Blocks(_blocks_folder(work, block_tokens))


def _sha256_of_weights(model: nn.Module) -> str:
    """One hash of all weights: two models that start alike have the same."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        digest.update(name.encode())
        digest.update(parameter.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


def _make_early(
    model: nn.Module, phase: _Phase, backbone: Backbone, work: Path, place: PretrainingPlace
) -> dict[str, Any]:
    """Search with a copy of the model, then make the model itself, untrained, smaller."""
    recipe = _recipe(backbone)
    label = TicketLabel(backbone.id, recipe.objective, "pretraining", _seed(backbone))
    search = _once(
        work / "search.json",
        lambda: search_in_pretraining(
            model,
            cast(EarlySettings, recipe.early),
            phase.settings,
            phase.dense_plan,
            (phase.features, collate_blocks),
            label=label,
            place=SearchPlace(work / "search", place.engine),
            optimizer=recipe.optimizer,
        ),
    )
    ticket = Ticket.load(work / TICKET)
    ticket.check_fits(model)
    remove(model, ticket.kept_heads, ticket.kept_neurons)
    kept = {"kept_heads": list(map(len, ticket.kept_heads)),
            "kept_neurons": list(map(len, ticket.kept_neurons))}  # fmt: skip
    return {**search, **kept}


def _train(
    model: nn.Module,
    phase: _Phase,
    recipe: Pretraining,
    work: Path,
    place: PretrainingPlace,
) -> dict[str, Any]:
    """Train one phase, or take it over from an interrupted process."""
    done, told = work / f"phase-{phase.index}.safetensors", work / f"phase-{phase.index}.json"
    share = recipe.early.steps_share if recipe.early else 1.0

    def load(state: Mapping[str, torch.Tensor]) -> None:
        model.load_state_dict(state, strict=False)

    def state() -> dict[str, torch.Tensor]:
        return {name: p.detach() for name, p in model.named_parameters()}

    kept = read_state(done) if told.exists() else None
    if kept is not None:
        load(kept)
        return read_json(told)
    job = PhaseJob(
        name=phase.settings.name,
        features=phase.features,
        collate=collate_blocks,
        settings=phase.settings,
        optimizer=recipe.optimizer,
        plan=phase.plan(max(1, round(share * phase.dense_steps))),
        folder=work / f"phase-{phase.index}",
        engine=place.engine,
        seed=phase_seed(phase.seed, phase.index, phase.settings.name, "dropout"),
    )
    result = run_phase(model, job, state=state, load_state=load)
    save_state(state(), done)
    write_json(told, result)
    return result


def _save(model: PreTrainedModel, work: Path, *, early: bool) -> None:
    folder = work / "folder"
    if not early:
        model.save_pretrained(folder)
        return
    save_whole(model.cpu(), folder)
    for name in (TICKET, GATES):
        shutil.copyfile(work / name, folder / name)


def _measured(
    results: Sequence[Mapping[str, Any]], search: Mapping[str, Any] | None
) -> dict[str, Any]:
    phases = [{key: v for key, v in result.items() if key != "curve"} for result in results]
    return {
        "steps": sum(result["steps"] for result in results),
        "examples_seen": sum(result["examples_seen"] for result in results),
        "tokens_seen": sum(result["tokens_seen"] for result in results),
        "train_seconds": round(sum(result["seconds"] for result in results), 3),
        "final_loss": results[-1]["final_loss"],
        "phases": phases,
        **({"search": search, "search_seconds": search["seconds"]} if search else {}),
    }


def _macs(
    work: Path,
    phases: Sequence[_Phase],
    results: Sequence[Mapping[str, Any]],
    search: Mapping[str, Any] | None,
) -> dict[str, int]:
    """What was computed, and what the dense model would have needed for all steps."""
    dense, shape = language_model_shapes(work / "folder")
    passes = [(result["examples_seen"], result["tokens_seen"]) for result in results]
    planned, searched = passes, []
    if search:
        plans = [phase.dense_plan for phase in phases]
        planned = [(plan.examples_seen, plan.tokens_seen) for plan in plans]
        searched = [(search["examples_seen"], search["tokens_seen"])]
    trained, found = pretraining_macs(shape, passes), pretraining_macs(dense, searched)
    return {
        "macs_dense_plan": pretraining_macs(dense, planned),
        "macs_search": found,
        "macs_training": trained,
        "macs_total": found + trained,
    }


def _curve(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Points of all phases, with steps counted on from phase to phase."""
    points, before = [], 0
    for result in results:
        points += [
            {**point, "step": before + point["step"], "phase": result["name"]}
            for point in result["curve"]
        ]
        before += result["steps"]
    return points
