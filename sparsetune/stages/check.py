"""What a suite reads of this machine, looked at in small files before its first job."""

import contextlib
from pathlib import Path

from sparsetune.config.backbone import Backbone, MirrorSource
from sparsetune.config.load import Catalogue
from sparsetune.config.suite import RunSpec, Suite
from sparsetune.config.task import Task
from sparsetune.data.folder_checks import check_kept_head, check_token_numbers, task_head
from sparsetune.data.sources import local_path, text_files
from sparsetune.errors import ConfigError, DataError, ModelError


def check_sources(suite: Suite, catalogue: Catalogue) -> None:
    """Check that what a suite reads of this machine is there and fits what reads it.

    A file that is damaged is left to the stage that reads it whole; so is what the hub has.

    Args:
        suite: resolved.
        catalogue: that it was resolved from.

    Raises:
        ConfigError: a folder of one's own, or of the mirror, is not there; or an update does not
            fit the matrices of a backbone whose sizes the catalogue tells.
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
    for run in {run.key: run for run in suite.runs}.values():
        _check_matrices(run, catalogue)
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


def _check_matrices(run: RunSpec, catalogue: Catalogue) -> None:
    """Check that DSEE's rank and positions fit the dense matrices that they stand beside."""
    rank = getattr(run.method.update, "rank", None)
    if run.support is None or rank is None:
        return
    try:
        # Brings pandas, without which the workflow does not run, but this command does.
        from sparsetune.stages.estimate import shape_of

        shape = shape_of(run.backbone, catalogue)
    except (ConfigError, ModuleNotFoundError):
        return  # the sizes are not told here; the job that has the model looks again
    matrices = shape.layers[0].matrices(shape.hidden_size)
    for target in run.support.targets:
        if target not in matrices:
            continue
        rows, columns = matrices[target]
        place = f"on backbone {run.backbone.id}, whose {target} is {rows} x {columns}"
        for what, received, most in (
            (f"method {run.method.id}: update.rank", rank, min(rows, columns)),
            (f"support {run.support.id}: n_sparse", run.support.n_sparse, rows * columns),
        ):
            if received > most:
                raise ConfigError(f"{what}: received {received}; allowed {place}: up to {most}")


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
