"""Files of the hub at a pinned commit: which commit a branch stands for, what it holds, its files.

Every file is checked against what the hub lists. Fetched ones are kept in the folder that the hub's
library gives to its users, so that a second call needs no network.
"""

import contextlib
import errno
import fcntl
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import yaml

from sparsetune.data.downloads import HubFile, download, is_whole, patiently
from sparsetune.errors import DataError, first_line
from sparsetune.records import read_json, replacing, write_json, write_text_atomically

_COMMIT = re.compile(r"[0-9a-f]{40}")
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EPERM)
_LOCK_HEADER = (
    "# Commits that branch names stood for when they were first fetched. Later fetches use these;\n"
    "# delete a line to take the newest commit again.\n"
)


class NothingArrivesError(DataError):
    """There is no network, or no room: other files would not come either."""


@dataclass(frozen=True)
class HubRepository:
    """A repository of the hub.

    Attributes:
        name: ``owner/name``.
        kind: what it holds.
        advice: ends the message when there is no network.
    """

    name: str
    kind: Literal["dataset", "model"]
    advice: str

    def commit_of(self, revision: str, lock_file: Path, *, keep: bool = True) -> str:
        """Say which commit a revision stands for; a branch is looked up once and then kept.

        Args:
            revision: 40 hex digits, or a branch.
            lock_file: YAML file that keeps the commits of branches.
            keep: write what was looked up.

        Raises:
            DataError: no network, no such repository or revision, or a damaged lock file.
        """
        if _COMMIT.fullmatch(revision):
            return revision
        section, key = f"{self.kind}s", f"{self.name}@{revision}"
        if not keep:
            return locked_commit(lock_file, section, key) or self._resolved(revision)
        with _exclusive(lock_file):
            commit = locked_commit(lock_file, section, key)
            if commit is None:
                commit = self._resolved(revision)
                locked = _read_lock(lock_file)
                locked.setdefault(section, {})[key] = commit
                _write_lock(lock_file, locked)
        return commit

    def files(self, commit: str, patterns: Sequence[str]) -> list[HubFile]:
        """List the files at a commit that have one of the names wanted; asks the hub only once.

        Args:
            commit: 40 hex digits.
            patterns: as the shell's, where ``*`` also matches ``/``.

        Raises:
            DataError: no network, no such repository or commit, or a path that leads out of it.
        """
        from huggingface_hub.utils import filter_repo_objects

        kept = self._room(commit) / "listing.json"
        listed = _read_listing(kept)
        if listed is None:
            with self._told():
                listed = [
                    HubFile(one.path, one.size, one.lfs.sha256 if one.lfs else None, one.blob_id)
                    for one in self._tree(commit)
                ]
            with self._told():
                write_json(kept, [vars(file) for file in listed])
        wanted = filter_repo_objects(listed, allow_patterns=list(patterns), key=lambda f: f.path)
        return sorted(wanted, key=lambda file: file.path)

    def obtain(
        self, file: HubFile, commit: str, destination: Path, *, older: Path | None = None
    ) -> bool:
        """Bring a file to a place, from this machine if it is there, else from the hub.

        Args:
            file: one of :meth:`files`.
            commit: 40 hex digits.
            destination: left alone if it is that file; else replaced, by a whole file only.
            older: where an older copy may lie.

        Returns:
            Whether it had to be downloaded.

        Raises:
            DataError: no network, no room, refused, or what arrives is not what the hub lists.
        """
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers

        with self._told(file.path):
            if is_whole(destination, file):
                return False
            for place in filter(None, (older, *self._cached(file, commit))):
                if is_whole(place, file):
                    with replacing(destination) as partial:
                        shutil.copyfile(place, partial)
                    return False
            url = hf_hub_url(self.name, file.path, repo_type=self.kind, revision=commit)
            headers = build_hf_headers(library_name="sparsetune")
            try:
                download(file, destination, url=url, headers=headers)
            except DataError as error:
                raise DataError(f"hub source {self.name}: {error}") from None
        return True

    def store(self, commit: str) -> Path:
        """Folder of this machine in which files of a commit are kept, under their own paths."""
        return self._room(commit) / "files"

    def _room(self, commit: str) -> Path:
        from huggingface_hub import cached_assets_path

        with self._told():
            return cached_assets_path("sparsetune", f"{self.kind}s--{self.name}", commit)

    def _cached(self, file: HubFile, commit: str) -> Iterator[Path]:
        from huggingface_hub import try_to_load_from_cache

        yield self.store(commit) / file.path
        found = try_to_load_from_cache(self.name, file.path, revision=commit, repo_type=self.kind)
        if isinstance(found, str):
            yield Path(found)

    def _tree(self, commit: str) -> Iterator[Any]:
        import huggingface_hub
        from huggingface_hub.errors import CachedRepoTreeNotFoundError
        from huggingface_hub.hf_api import RepoFile

        try:  # another program may have asked the hub before
            tree = huggingface_hub.get_cached_repo_tree(
                self.name, repo_type=self.kind, revision=commit
            )
        except CachedRepoTreeNotFoundError:
            tree = huggingface_hub.HfApi().list_repo_tree(
                self.name, repo_type=self.kind, revision=commit, recursive=True
            )
        for one in tree:
            if not isinstance(one, RepoFile):
                continue
            place = PurePosixPath(one.path)
            if place.is_absolute() or ".." in place.parts:
                raise DataError(f"hub source {self.name}: unsafe path {one.path!r}")
            yield one

    def _resolved(self, branch: str) -> str:
        import huggingface_hub

        api = huggingface_hub.HfApi()
        ask = api.dataset_info if self.kind == "dataset" else api.model_info
        with self._told():
            return patiently(lambda: ask(self.name, revision=branch)).sha

    @contextlib.contextmanager
    def _told(self, path: str | None = None) -> Iterator[None]:
        """Tell what the library raises in one line."""
        from huggingface_hub import errors

        what = f"hub source {self.name}"
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
                raise DataError(
                    f"{what}: no such repository on the hub, or it is private"
                ) from None
            told = f"{path}: {first_line(problem)}" if path else first_line(problem)
            raise DataError(f"{what}: the hub refused: {told}") from None
        except (OSError, errors.HTTPError) as problem:
            if getattr(problem, "errno", None) in _DISK_ERRORS:
                told = f"{what}: cannot be stored: {first_line(problem)}"
            else:
                told = f"no network for {what}: {first_line(problem)}; {self.advice}"
            raise NothingArrivesError(told) from None


def hub_snapshot(
    source: Mapping[str, Any],
    *,
    kind: Literal["dataset", "model"],
    patterns: Sequence[str],
    lock_file: Path,
    advice: str,
) -> tuple[str, Path]:
    """Bring files of a hub repository at its pinned commit to this machine, each of them checked.

    What was fetched before needs no network; a download that was stopped goes on.

    Args:
        source: ``repository`` and ``revision`` (40 hex digits, or a branch that is resolved
            once and then kept in ``lock_file``).
        kind: what the repository holds.
        patterns: names of the files wanted.
        lock_file: YAML file that keeps resolved commits.
        advice: ends the message when there is no network.

    Returns:
        The commit and the folder that holds the files.

    Raises:
        DataError: no network, no such repository or revision, or wrong bytes.
    """
    repository = HubRepository(source["repository"], kind, advice)
    commit = repository.commit_of(source["revision"], lock_file)
    folder = repository.store(commit)
    for file in repository.files(commit, patterns):
        repository.obtain(file, commit, folder / file.path)
    return commit, folder


def locked_commit(lock_file: Path, section: str, key: str) -> str | None:
    """Look up the commit that a branch was resolved to at its first fetch.

    Args:
        lock_file: YAML file; may be absent.
        section: ``datasets`` or ``models``.
        key: ``repository@branch``.

    Returns:
        40 hex digits, or None.

    Raises:
        DataError: the file is not as this module writes it.
    """
    commit = _read_lock(lock_file).get(section, {}).get(key)
    if commit is not None and not _COMMIT.fullmatch(str(commit)):
        raise DataError(f"{lock_file}: {section}.{key}: got {commit!r}, need 40 hex digits")
    return commit


def _read_listing(path: Path) -> list[HubFile] | None:
    try:
        return [HubFile(**one) for one in read_json(path, what="listing")]
    except (DataError, TypeError):  # absent, or not as this module writes it
        return None


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
