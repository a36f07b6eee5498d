"""What a suite reads of this machine, looked at in small files before its first job."""

import contextlib
from pathlib import Path

from sparsetune.config.backbone import Backbone, MirrorSource
from sparsetune.config.suite import Suite
from sparsetune.config.task import Task
from sparsetune.data.folder_checks import check_kept_head, check_token_numbers, task_head
from sparsetune.data.sources import local_path, text_files
from sparsetune.errors import ConfigError, DataError, ModelError


def check_sources(suite: Suite) -> None:
    """Check that what a suite reads of this machine is there and fits what reads it.

    A file that is damaged is left to the stage that reads it whole; so is what the hub has.

    Args:
        suite: resolved.

    Raises:
        ConfigError: a folder of one's own, or of the mirror, is not there.
        DataError: a text, or a split of a task, is not there.
        ModelError: a checkpoint brings a head of which nothing is said or that does not fit a
            task, or its tokenizer gives numbers for which it has no embedding.
    """
    backbones = {run.backbone.id: run.backbone for run in suite.runs}
    tasks = {run.task.id: run.task for run in suite.runs}
    for backbone in backbones.values():
        _check_backbone(backbone)
    for task in tasks.values():
        _check_task(task)
    for backbone_id, task_id in suite.groups():
        backbone = backbones[backbone_id]
        if isinstance(backbone.source, MirrorSource):
            folder = local_path(backbone.source.path)
            if _has_weights(folder, backbone):
                check_kept_head(folder, backbone, tasks[task_id])


def _check_backbone(backbone: Backbone) -> None:
    text_files(backbone.source)
    if isinstance(backbone.source, MirrorSource):
        folder = _folder(backbone.source, f"backbone {backbone.id}")
        if _has_weights(folder, backbone):
            task_head(folder, backbone)
        check_token_numbers(folder)
    if isinstance(backbone.tokenizer_source, MirrorSource):
        _folder(backbone.tokenizer_source, f"backbone {backbone.published_tokenizer}")


def _check_task(task: Task) -> None:
    if not isinstance(task.source, MirrorSource):
        return
    folder = _folder(task.source, f"task {task.id}")
    # Brings pyarrow, without which the workflow does not run, but this command does.
    with contextlib.suppress(ModuleNotFoundError):
        from sparsetune.data.layouts import files_read

        for path in files_read(folder, task):
            if not path.stat().st_size:
                raise DataError(f"{path}: the file is empty; it must hold at least one example")


def _folder(source: MirrorSource, what: str) -> Path:
    folder = local_path(source.path)
    if not folder.is_dir():
        raise ConfigError(
            f"{what}: source.path: received {source.path!r}, which is not there; allowed: a folder "
            "of this machine"
        )
    return folder


def _has_weights(folder: Path, backbone: Backbone) -> bool:
    """Whether shapes of weights can be read; if not, the stage that copies them says why."""
    try:
        task_head(folder, backbone.model_copy(update={"head": "keep"}))
    except ModelError:
        return False
    return True
