"""Repositories of the hub at a pinned commit, through the library's cache and offline mode.

``snapshot_download`` checks by commit that everything wanted is there, with a network or without.
``datasets.load_dataset(repository, revision=...)`` does not: without a network it takes the newest
revision in its cache, whatever was asked for (5.2, ``CachedDatasetModuleFactory``). So data sets
are brought here as files too, and ``datasets`` reads those.
"""

import contextlib
import errno
import fcntl
import fnmatch
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from sparsetune.errors import DataError, first_line
from sparsetune.records import write_text_atomically

_COMMIT = re.compile(r"[0-9a-f]{40}")
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EPERM)
_LOCK_HEADER = (
    "# Commits that branch names stood for when they were first fetched. Later fetches use these;\n"
    "# delete a line to take the newest commit again.\n"
)


class NothingArrivesError(DataError):
    """There is no network, or no room: other files would not come either."""


@dataclass(frozen=True)
class HubFiles:
    """Files of a repository of the hub, and the folder of a mirror that stands in for them.

    Attributes:
        place: the mirror's folder: ``datasets/<task>`` or ``backbones/<id>``.
        kind: what the repository holds.
        repository: ``owner/name``.
        revision: 40 hex digits, or a branch.
        patterns: of the files' paths, as the shell's, where ``*`` also matches ``/``.
        prefix: folder in the repository that a mirror leaves out; ends in ``/``, or empty.
    """

    place: str
    kind: Literal["dataset", "model"]
    repository: str
    revision: str
    patterns: tuple[str, ...]
    prefix: str = ""

    def bring(self, lock_file: Path) -> tuple[Path, str, str]:
        """Bring the files to this machine.

        Args:
            lock_file: YAML file that keeps the commits of branches.

        Returns:
            Their folder, how messages call it, and their commit.

        Raises:
            DataError: as :meth:`commit` and :meth:`snapshot`.
        """
        commit = self.commit(lock_file)
        return self.snapshot(commit) / self.prefix, f"{self.repository}@{commit[:12]}", commit

    def commit(self, lock_file: Path, *, keep: bool = True) -> str:
        """Say which commit the revision stands for; a branch is looked up once and then kept.

        Args:
            lock_file: YAML file that keeps the commits of branches.
            keep: write what was looked up.

        Raises:
            DataError: no network, no such repository or revision, or a damaged lock file.
        """
        if _COMMIT.fullmatch(self.revision):
            return self.revision
        section, key = f"{self.kind}s", f"{self.repository}@{self.revision}"
        if not keep:
            return _locked_commit(lock_file, section, key) or self._resolved()
        with _exclusive(lock_file):
            commit = _locked_commit(lock_file, section, key)
            if commit is None:
                commit = self._resolved()
                locked = _read_lock(lock_file)
                locked.setdefault(section, {})[key] = commit
                _write_lock(lock_file, locked)
        return commit

    def snapshot(self, commit: str) -> Path:
        """Bring files to the library's cache; what is all there needs no network.

        Args:
            commit: 40 hex digits.

        Returns:
            The folder of the commit, with the files at their own paths.

        Raises:
            DataError: no network, no room, refused, or no file has such a name.
        """
        folder = Path(self._download(commit))
        if not self.below(folder):
            wanted = " or ".join(self.patterns)
            raise DataError(f"hub source {self.repository}@{commit[:12]}: has no file {wanted}")
        return folder

    def kept_commit(self, lock_file: Path) -> str | None:
        """Say what a fetch would take without looking: a commit, or None to look a branch up.

        Args:
            lock_file: YAML file that keeps the commits of branches.

        Raises:
            DataError: a damaged lock file.
        """
        if _COMMIT.fullmatch(self.revision):
            return self.revision
        return _locked_commit(lock_file, f"{self.kind}s", f"{self.repository}@{self.revision}")

    def below(self, folder: Path) -> list[str]:
        """Name those of the files, with ``/``, that are there in a folder of :meth:`snapshot`."""
        there = (
            path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
        )
        wanted = self.patterns
        return sorted(name for name in there if any(fnmatch.fnmatchcase(name, p) for p in wanted))

    def planned(self, commit: str) -> list[tuple[str, int, bool]]:
        """List path, bytes, and whether it would be downloaded, of what a snapshot would bring."""
        planned = self._download(commit, dry_run=True)
        return sorted((file.filename, file.file_size, file.will_download) for file in planned)

    def _download(self, commit: str, *, dry_run: bool = False) -> Any:
        import huggingface_hub
        from huggingface_hub.utils import disable_progress_bars

        disable_progress_bars()
        with self._told():
            return huggingface_hub.snapshot_download(
                self.repository, repo_type=self.kind, revision=commit,
                allow_patterns=list(self.patterns), dry_run=dry_run,
            )  # fmt: skip

    def _resolved(self) -> str:
        import huggingface_hub

        hub, name = huggingface_hub.HfApi(), self.repository
        with self._told():
            return str(hub.repo_info(name, repo_type=self.kind, revision=self.revision).sha)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Tell what the library raises in one line."""
        from huggingface_hub import errors

        what = f"hub source {self.repository}"
        try:
            yield
        except errors.HFValidationError as problem:
            raise DataError(f"{what}: no name of a repository: {first_line(problem)}") from None
        except errors.GatedRepoError:
            raise DataError(
                f"{what}: its owner asks for terms to be accepted on the hub first; then log in "
                "(hf auth login) or set HF_TOKEN"
            ) from None
        except errors.RevisionNotFoundError:
            raise DataError(f"{what}: the hub has no such revision") from None
        except errors.HfHubHTTPError as problem:
            # Without a valid token the hub answers 401 for both, so as not to tell which.
            unknown = isinstance(problem, errors.RepositoryNotFoundError)
            if unknown or problem.response.status_code == 401:
                told = "no such repository on the hub, or it is private"
            else:
                told = f"the hub refused: {first_line(problem)}"
            raise DataError(f"{what}: {told}") from None
        except (OSError, errors.HTTPError) as problem:
            refusal = problem.__cause__
            if getattr(problem, "errno", None) in _DISK_ERRORS:
                told = f"{what}: cannot be stored: {first_line(problem)}"
            elif isinstance(refusal, errors.HfHubHTTPError):
                raise DataError(f"{what}: the hub refused: {first_line(refusal)}") from None
            else:
                told = (
                    f"no network for {what}: {first_line(problem)}; run sparsetune mirror where "
                    "there is one, and use the mirror: --config mirror=PATH with the files in "
                    f"PATH/{self.place}/"
                )
            raise NothingArrivesError(told) from None
        except ValueError as problem:  # a path that leads out of the folder
            raise DataError(f"{what}: {first_line(problem)}") from None


def _locked_commit(lock_file: Path, section: str, key: str) -> str | None:
    commit = _read_lock(lock_file).get(section, {}).get(key)
    if commit is not None and not _COMMIT.fullmatch(str(commit)):
        raise DataError(
            f"{lock_file}: {section}.{key}: received {commit!r}; allowed: 40 hex digits"
        )
    return commit


def _write_lock(lock_file: Path, locked: dict[str, dict[str, str]]) -> None:
    text = yaml.safe_dump(locked, sort_keys=True, default_flow_style=False)
    try:
        write_text_atomically(lock_file, _LOCK_HEADER + text)
    except OSError as error:
        raise DataError(f"{lock_file}: cannot be written: {error.strerror or error}") from None


def _read_lock(lock_file: Path) -> dict[str, dict[str, str]]:
    if not lock_file.is_file():
        return {}
    try:
        locked = yaml.safe_load(lock_file.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{lock_file}: not YAML: {first_line(error)}") from None
    if not isinstance(locked, dict) or not all(isinstance(part, dict) for part in locked.values()):
        raise DataError(f"{lock_file}: need sections datasets and models, each name: commit")
    return locked


@contextlib.contextmanager
def _exclusive(lock_file: Path) -> Iterator[None]:
    # The folder is locked: the file is replaced by each write, so a lock on it would not hold,
    # and a separate lock file would lie around in config/.
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(lock_file.parent, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
