"""The tar of a backup: the files of a data folder, with their checksums.

The first member, `polyjob-backup.json`, has the format. The last one, `manifest.json`, has the size and the SHA-256 of
each file between them. So the tar can be written to a pipe, and a truncated one is noticed.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from polyjob.storage.durable import fsync_path
from polyjob.storage.tarstream import StrictTarInfo, relative_path
from runners.common.trees import remove_tree

FORMAT = 1
HEADER, MANIFEST = "polyjob-backup.json", "manifest.json"
MAX_MANIFEST_BYTES = 1 << 30
"""Length of `manifest.json`, about 150 bytes for each file."""
_CHUNK_BYTES = 1 << 20


class BadBackup(Exception):
    """The file is not a complete backup. The text says why in one sentence."""


@dataclass(frozen=True)
class Contents:
    """The number and the length of the files in a backup."""

    files: int
    bytes: int


def write_tar(out: IO[bytes], header: dict[str, Any], files: Iterable[tuple[str, Path]]) -> Contents:
    """Write the tar with these files: (name in the tar, path). `out` need not be seekable.

    A file that is missing is left out. One that grows meanwhile is packed with the length that it had at first. Raises
    OSError, also for a file that becomes shorter.
    """
    manifest: dict[str, dict[str, Any]] = {}
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        _add_document(tar, HEADER, header | {"format": FORMAT})
        for name, path in files:
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError:
                continue
            with open(descriptor, "rb") as file:
                status = os.fstat(descriptor)
                info = tarfile.TarInfo(name)
                info.size, info.mtime, info.mode = status.st_size, int(status.st_mtime), 0o600
                reader = _HashingReader(file)
                tar.addfile(info, cast("IO[bytes]", reader))
                manifest[name] = {"size": info.size, "sha256": reader.digest.hexdigest()}
        _add_document(tar, MANIFEST, manifest)
    return Contents(len(manifest), sum(entry["size"] for entry in manifest.values()))


def unpack_tar(source: IO[bytes], folder: Path, is_known: Callable[[str], bool]) -> tuple[dict[str, Any], Contents]:
    """Unpack a backup into an empty folder, and return its header. Every file is synced.

    `is_known(name)` tells whether a backup can have a file of this name. Raises BadBackup for everything that is not a
    complete and unchanged backup, and OSError.
    """
    try:
        with tarfile.open(fileobj=source, mode="r|", tarinfo=StrictTarInfo) as tar:
            return _unpack(tar, folder, is_known)
    except tarfile.TarError as error:
        raise BadBackup(f"The file is not a complete backup: {error}.") from None
    except EOFError:
        raise BadBackup("The backup is truncated.") from None


def _unpack(tar: tarfile.TarFile, folder: Path, is_known: Callable[[str], bool]) -> tuple[dict[str, Any], Contents]:
    header = _read_document(tar, tar.next(), HEADER)
    if header.get("format") != FORMAT:
        raise BadBackup(f"The backup has the format {header.get('format')!r}; this polyjob reads only {FORMAT}.")
    actual: dict[str, dict[str, Any]] = {}
    while (member := tar.next()) is not None and member.name != MANIFEST:
        if not member.isreg() or relative_path(member.name) != member.name or not is_known(member.name):
            raise BadBackup(f"The backup has a member that does not belong there: {member.name!a}.")
        if member.name in actual:
            raise BadBackup(f"The backup has {member.name!a} twice.")
        actual[member.name] = _unpack_file(tar, member, folder / member.name)
    manifest = _read_document(tar, member, MANIFEST)
    if actual != manifest:
        names = sorted(actual.keys() | manifest.keys())
        changed = next(name for name in names if actual.get(name) != manifest.get(name))
        raise BadBackup(f"The backup is damaged: {changed!a} is not the file that was backed up.")
    return header, Contents(len(actual), sum(entry["size"] for entry in actual.values()))


def _unpack_file(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> dict[str, Any]:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    source = tar.extractfile(member)
    assert source is not None  # it is a regular file
    reader = _HashingReader(source)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        size = 0
        while data := reader.read(_CHUNK_BYTES):
            size += file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.utime(path, (member.mtime, member.mtime))
    fsync_path(path.parent)
    return {"size": size, "sha256": reader.digest.hexdigest()}


def remove_path(path: Path) -> None:
    """Remove a file, or a folder with everything in it."""
    if path.is_dir():
        remove_tree(path)
    else:
        path.unlink()


def _add_document(tar: tarfile.TarFile, name: str, document: dict[str, Any]) -> None:
    data = json.dumps(document, indent=1).encode()
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o600
    tar.addfile(info, io.BytesIO(data))


def _read_document(tar: tarfile.TarFile, member: tarfile.TarInfo | None, name: str) -> dict[str, Any]:
    file = tar.extractfile(member) if member is not None and member.name == name and member.isreg() else None
    if member is None or file is None:
        raise BadBackup("The file is not a backup of polyjob." if name == HEADER else "The backup is truncated.")
    if member.size > MAX_MANIFEST_BYTES:
        raise BadBackup(f"The backup is damaged: {name} is too large.")
    try:
        document = json.loads(file.read())
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise BadBackup(f"The backup is damaged: {name} is not a JSON object.")
    return document


class _HashingReader:
    """Reads a file and computes the SHA-256 of what was read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.digest.update(data)
        return data
