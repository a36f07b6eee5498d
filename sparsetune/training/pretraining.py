"""Pre-training of the small backbones on the generated corpus: tokenizer, model, Trainer."""

import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoTokenizer

from sparsetune.catalog import Backbone
from sparsetune.data.corpus import CausalBlocks, MaskedBlocks, encode_corpus
from sparsetune.data.corpus import collate as collate_blocks
from sparsetune.data.world import write_corpus
from sparsetune.models.embeddings import cooccurrence_embeddings
from sparsetune.models.tokenizers import train_tokenizer
from sparsetune.records import digest_of, sha256_of, write_json
from sparsetune.stages import STAGES
from sparsetune.training.plan import make_plan
from sparsetune.training.seeding import seed_everything
from sparsetune.training.trainer import PhaseJob, PhaseTrainer, TrainSettings, run_phase


def pretrain(
    backbone: Backbone,
    directory: Path,
    *,
    checkpoints: Path,
    device: str,
    checkpoint_seconds: float,
) -> dict[str, Any]:
    """Pre-train a backbone from random weights and save it as a Hugging Face folder.

    Args:
        backbone: with ``source.kind: world`` and a ``pretraining`` section.
        directory: where the folder goes; appears only when complete.
        checkpoints: folder for resuming; emptied at the end.
        device: ``cpu`` or ``cuda``.
        checkpoint_seconds: time between checkpoints.

    Returns:
        Counts, loss, seconds and file hashes for the record.

    Raises:
        TrainingError: the loss became NaN or infinite.
    """
    recipe, seed = backbone.pretraining, backbone.source["seed"]
    work = checkpoints / digest_of([backbone.settings(), STAGES["backbone"]])
    staging = work / "folder"
    staging.mkdir(parents=True, exist_ok=True)
    corpus = work / "corpus.txt"
    write_corpus(corpus, seed=seed, documents=backbone.source["documents"])
    train_tokenizer(
        recipe["tokenizer"]["kind"],
        corpus,
        vocabulary_size=recipe["tokenizer"]["vocabulary_size"],
        architecture=backbone.architecture,
        directory=staging,
        maximum_tokens=recipe["shape"]["maximum_positions"],
    )
    tokenizer = AutoTokenizer.from_pretrained(staging, local_files_only=True)
    seed_everything(seed)
    model = new_model(backbone.architecture, recipe, tokenizer)
    blocks = encode_corpus(corpus, tokenizer, block_tokens=recipe["block_tokens"])
    if recipe["embeddings"] == "cooccurrence":
        start_embeddings(model, blocks, tokenizer)
    phase = _train(model, blocks, tokenizer, backbone, (work, device, checkpoint_seconds))
    model.eval().save_pretrained(staging)
    measured = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "vocabulary_tokens": len(tokenizer),
        "corpus_tokens": sum(len(block) for block in blocks),
        "pretraining": phase,
        "files": {path.name: sha256_of(path) for path in sorted(staging.iterdir())},
    }
    _replace_folder(staging, directory)
    shutil.copyfile(corpus, directory / "corpus.txt")
    write_json(directory / "curve.json", phase["curve"])
    shutil.rmtree(work)
    return measured


def new_model(architecture: str, recipe: Mapping[str, Any], tokenizer: Any) -> nn.Module:
    """Build a language model of the recipe's shape with random weights.

    Args:
        architecture: ``bert``, ``roberta`` or ``gpt2``.
        recipe: the backbone's ``pretraining`` section.
        tokenizer: gives the vocabulary size and special tokens.

    Returns:
        BertForMaskedLM, RobertaForMaskedLM or GPT2LMHeadModel, float32.
    """
    shape = recipe["shape"]
    if architecture == "gpt2":
        from transformers import GPT2Config, GPT2LMHeadModel

        config = GPT2Config(
            vocab_size=len(tokenizer),
            n_embd=shape["hidden_size"],
            n_layer=shape["layers"],
            n_head=shape["heads"],
            n_inner=shape["feed_forward_size"],
            n_positions=shape["maximum_positions"],
            initializer_range=shape["initializer_range"],
            resid_pdrop=shape["dropout"],
            embd_pdrop=shape["dropout"],
            attn_pdrop=shape["dropout"],
            bos_token_id=tokenizer.eos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            use_cache=True,
        )
        return GPT2LMHeadModel(config)
    from transformers import BertConfig, BertForMaskedLM, RobertaConfig, RobertaForMaskedLM

    config_class, model_class, extra_positions = {
        "bert": (BertConfig, BertForMaskedLM, 0),
        # RoBERTa numbers positions from padding_idx + 1, so its table has two rows more.
        "roberta": (RobertaConfig, RobertaForMaskedLM, 2),
    }[architecture]
    config = config_class(
        vocab_size=len(tokenizer),
        hidden_size=shape["hidden_size"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        intermediate_size=shape["feed_forward_size"],
        max_position_embeddings=shape["maximum_positions"] + extra_positions,
        initializer_range=shape["initializer_range"],
        hidden_dropout_prob=shape["dropout"],
        attention_probs_dropout_prob=shape["dropout"],
        type_vocab_size=1 if architecture == "roberta" else 2,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return model_class(config)


def start_embeddings(model: nn.Module, blocks: Sequence[Sequence[int]], tokenizer: Any) -> None:
    """Write co-occurrence vectors into a model's token embeddings, in place.

    Vectors get the length that random ones have on average; tokens without a vector keep theirs.

    Args:
        model: with random weights.
        blocks: token ids of each document.
        tokenizer: its special tokens are left out.
    """
    embedding = model.get_input_embeddings().weight
    vectors = torch.from_numpy(
        cooccurrence_embeddings(
            blocks,
            vocabulary_size=embedding.shape[0],
            width=embedding.shape[1],
            skipped=tokenizer.all_special_ids,
        )
    )
    known = vectors.norm(dim=1) > 0
    length = model.config.initializer_range * embedding.shape[1] ** 0.5
    with torch.no_grad():
        embedding[known] = vectors[known] * length


def _train(
    model: nn.Module,
    blocks: list[list[int]],
    tokenizer: Any,
    backbone: Backbone,
    place: tuple[Path, str, float],
) -> dict[str, Any]:
    recipe, seed = backbone.pretraining, backbone.source["seed"]
    work, device, checkpoint_seconds = place
    settings = TrainSettings.of(recipe["train"])
    if recipe["objective"] == "causal":
        features, copies = CausalBlocks(blocks), 1
    else:
        copies = math.ceil(settings.epochs)
        features = MaskedBlocks(
            blocks, tokenizer, fraction=recipe["masked_fraction"], copies=copies, seed=seed
        )
    plan = make_plan(
        [len(block) for block in blocks] * copies,
        batch_size=settings.batch_size,
        gradient_accumulation=settings.gradient_accumulation,
        epochs=settings.epochs / copies,
        seed=seed,
    )
    job = PhaseJob(
        name="pretraining",
        features=features,
        collate=collate_blocks,
        settings=settings,
        plan=plan,
        folder=work / "phase",
        device=device,
        seed=seed,
        checkpoint_seconds=checkpoint_seconds,
    )
    trainer = PhaseTrainer(
        model,
        job,
        trained_state=lambda: {name: p.detach() for name, p in model.named_parameters()},
        load_trained_state=lambda state: model.load_state_dict(state, strict=False),
    )
    return run_phase(trainer)


def _replace_folder(staging: Path, directory: Path) -> None:
    directory.parent.mkdir(parents=True, exist_ok=True)
    old = directory.with_name(f".{directory.name}.{os.getpid()}.old")
    if directory.exists():
        directory.rename(old)
    staging.rename(directory)
    shutil.rmtree(old, ignore_errors=True)
