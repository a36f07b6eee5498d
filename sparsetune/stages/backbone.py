"""Stage ``backbone``: a Hugging Face folder, fetched, mirrored, or pre-trained here."""

from pathlib import Path

from sparsetune.config.load import Backbone
from sparsetune.data.inputs import planned_files
from sparsetune.records import BackboneRecord
from sparsetune.stages.context import Context, asked_of, hashes


def make_backbone(
    backbone: Backbone,
    directory: Path,
    context: Context,
    *,
    lock_file: Path,
    fetch: str | None = None,
) -> None:
    """Make a backbone's folder and write ``record.json`` beside its files.

    Args:
        backbone: from the catalogue.
        directory: the backbone's folder; replaced only when everything is there.
        context: the job; its device and checkpoints are for pre-training.
        lock_file: ``config/revisions.lock.yaml``.
        fetch: from :func:`sparsetune.data.inputs.next_fetch`, for the record.

    Raises:
        ModelError: the source has no safetensors weights, no tokenizer, or another architecture.
        DataError: the source or the corpus cannot be reached or read.
        TrainingError: the loss of a pre-training became NaN or infinite.
    """
    record, asked = directory / "record.json", asked_of("backbone", backbone)
    read = [path for path in planned_files(backbone) if path.is_file()]
    if context.done_meanwhile(record, BackboneRecord, digest=asked["digest"], inputs=read):
        return
    inputs = hashes(read)
    if backbone.pretraining is not None:
        engine = context.engine  # before anything touches CUDA
        from sparsetune.training.pretraining import PretrainingPlace, pretrain

        context.ready()
        place = PretrainingPlace(context.checkpoints, lock_file, engine)
        measured = pretrain(backbone, directory, place=place, inputs=inputs)
    else:
        from sparsetune.data.sources import fetch_backbone

        context.ready()
        measured = fetch_backbone(backbone, directory, lock_file=lock_file)
    context.leave(
        record,
        BackboneRecord,
        asked=asked,
        inputs=inputs,
        measured={**measured, "fetch": fetch},
    )
