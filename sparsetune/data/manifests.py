"""What a mirror's folder was filled with: files, checksums and the hub's commit, as JSON.

It lies beside the files. Folders that somebody filled by hand have none and are taken as they are.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from sparsetune.data.downloads import HubFile
from sparsetune.data.published import stored_name
from sparsetune.errors import DataError
from sparsetune.records import read_json, sha256_of, write_json

MANIFEST = "mirror-manifest.json"
_KEYS = ("repository", "kind", "commit", "patterns", "files")
_ENTRY_KEYS = {"path", "repository_path", "bytes", "sha256"}


def write_manifest(
    folder: Path, files: Mapping[str, HubFile], *, told: Mapping[str, Any]
) -> dict[str, Any]:
    """Write the manifest of a folder whose files have been checked.

    Args:
        folder: holds the files.
        files: path below the folder -> what the hub lists.
        told: ``repository``, ``kind``, ``commit`` and ``patterns``.

    Returns:
        The manifest.
    """
    listed = [
        {
            "path": path,
            "repository_path": file.path,
            "bytes": file.size_bytes,
            "sha256": file.sha256 or sha256_of(folder / path),
        }
        for path, file in sorted(files.items())
    ]
    manifest = {**told, "files": listed}
    write_json(folder / MANIFEST, manifest)
    return manifest


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Read a folder's manifest.

    Args:
        folder: may be absent.

    Returns:
        What :func:`write_manifest` wrote; None if there is none.

    Raises:
        DataError: it is damaged.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return None
    manifest = read_json(path, what="manifest")
    try:
        places = [PurePosixPath(entry["path"]) for entry in manifest["files"]]
        whole = all(key in manifest for key in _KEYS) and all(
            set(entry) == _ENTRY_KEYS for entry in manifest["files"]
        )
    except (TypeError, KeyError):
        whole = False
    if not whole or any(place.is_absolute() or ".." in place.parts for place in places):
        raise DataError(
            f"{path}: damaged: need {', '.join(_KEYS)} with relative paths; delete the folder and "
            "mirror again"
        )
    return manifest


def damaged_files(folder: Path, manifest: Mapping[str, Any]) -> list[str]:
    """Name the files that are missing or are not what the manifest says.

    Args:
        folder: that was filled.
        manifest: its manifest.
    """
    return [entry["path"] for entry in manifest["files"] if not _as_listed(folder, entry)]


def checked_commit(folder: Path, copied: Mapping[str, str]) -> str | None:
    """Compare files that were copied from a mirror with its manifest.

    Args:
        folder: of the mirror.
        copied: name -> sha256 of the copies.

    Returns:
        The commit of the hub that they come from; None for a folder without manifest.

    Raises:
        DataError: naming the first file that differs.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        return None
    listed = {
        stored_name(PurePosixPath(entry["path"])): entry["sha256"] for entry in manifest["files"]
    }
    for name, sha256 in copied.items():
        if name in listed and listed[name] != sha256:
            raise DataError(
                f"{folder / name}: damaged: sha256 is {sha256[:12]}…, the mirror's manifest has "
                f"{listed[name][:12]}…; run sparsetune mirror again"
            )
    # A file that somebody added is no part of the commit.
    return manifest["commit"] if all(name in listed for name in copied) else None


def foreign_files(folder: Path, manifest: Mapping[str, Any]) -> Sequence[str]:
    """Name the files of a mirror's folder that are not in its manifest; hidden ones do not count.

    Args:
        folder: that was filled.
        manifest: its manifest.
    """
    known = {MANIFEST, *(entry["path"] for entry in manifest["files"])}
    found = (path for path in folder.rglob("*") if path.is_file() and path.name[0] != ".")
    return sorted({path.relative_to(folder).as_posix() for path in found} - known)


def _as_listed(folder: Path, entry: Mapping[str, Any]) -> bool:
    path = folder / entry["path"]
    if not path.is_file() or path.stat().st_size != entry["bytes"]:
        return False
    return sha256_of(path) == entry["sha256"]
