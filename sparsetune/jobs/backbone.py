"""Stage ``backbone``: a Hugging Face folder, fetched, mirrored, or pre-trained here."""

from pathlib import Path

from sparsetune.catalog import Backbone
from sparsetune.records import Clock, digest_of, make_record, write_record


def make_backbone(
    backbone: Backbone,
    directory: Path,
    *,
    lock_file: Path,
    checkpoints: Path,
    device: str,
    checkpoint_seconds: float,
) -> None:
    """Make a backbone's folder and write ``record.json`` beside its files.

    Args:
        backbone: from the catalogue.
        directory: the backbone's folder; replaced only when everything is there.
        lock_file: ``config/revisions.lock.yaml``.
        checkpoints: where pre-training keeps what it needs to resume.
        device: ``auto``, ``cpu`` or ``cuda``.
        checkpoint_seconds: time between checkpoints.

    Raises:
        ModelError: the source has no safetensors weights, no tokenizer, or another architecture.
        DataError: the source cannot be reached or read.
    """
    clock = Clock()
    described = None
    if backbone.source["kind"] == "world":
        from sparsetune.training.devices import claim_gpu, describe_device, resolve_device

        lock = claim_gpu()
        from sparsetune.training.pretraining import pretrain

        chosen = resolve_device(device)
        clock.ready()
        measured = pretrain(
            backbone,
            directory,
            checkpoints=checkpoints,
            device=chosen,
            checkpoint_seconds=checkpoint_seconds,
        )
        described = describe_device(chosen)
        del lock
    else:
        from sparsetune.models.backbones import fetch_backbone

        clock.ready()
        measured = fetch_backbone(backbone, directory, lock_file=lock_file)
    record = make_record(
        "backbone",
        asked={
            "backbone": backbone.id,
            "settings": backbone.settings(),
            "digest": digest_of(backbone.settings()),
        },
        inputs={},
        measured=measured,
        where=clock.where(described),
    )
    write_record(directory / "record.json", record)
