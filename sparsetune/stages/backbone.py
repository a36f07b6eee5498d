"""Stage ``backbone``: a Hugging Face folder, fetched, mirrored, or pre-trained here."""

from pathlib import Path

from sparsetune.config.load import Backbone
from sparsetune.records import Clock, digest_of, make_record, write_record
from sparsetune.stages.asked import hashes


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
        DataError: the source or the corpus cannot be reached or read.
        TrainingError: the loss of a pre-training became NaN or infinite.
    """
    clock = Clock()
    described, inputs = None, {}
    if backbone.pretraining is not None:
        from sparsetune.training.devices import claim_gpu, describe_device, resolve_device

        lock = claim_gpu()
        from sparsetune.data.text_files import text_files
        from sparsetune.training.pretraining import PretrainingPlace, pretrain

        chosen = resolve_device(device)
        inputs = hashes(text_files(backbone.source))
        clock.ready()
        place = PretrainingPlace(checkpoints, lock_file, chosen, checkpoint_seconds)
        measured = pretrain(backbone, directory, place=place, inputs=inputs)
        described = describe_device(chosen)
        del lock
    else:
        from sparsetune.data.backbones import fetch_backbone

        clock.ready()
        measured = fetch_backbone(backbone, directory, lock_file=lock_file)
    record = make_record(
        "backbone",
        asked={
            "backbone": backbone.id,
            "settings": backbone.settings(),
            "digest": digest_of(backbone.settings()),
        },
        inputs=inputs,
        measured=measured,
        where=clock.where(described),
    )
    write_record(directory / "record.json", record)
