"""Uploaded code: a tar.gz that is checked member by member before it is kept, whole or not at all.

It is kept under the digest of the tree that it unpacks to: SHA-256 over its sorted paths, types, executable bits,
contents and link targets. The same files make the same digest, however they were packed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import posixpath
import secrets
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from isal import igzip, isal_zlib

from polyjob.crashpoints import crash_point
from polyjob.errors import Invalid, Problem, TooLarge
from polyjob.store import Store, sync

_IsalError: type[Exception] = isal_zlib.error  # type: ignore[assignment]

BLOCK = 1 << 16
LONGEST_NAME = 255
LONGEST_PATH = 4000
LARGEST_HEADER = 1 << 20
"""Bytes of one extended header. Larger ones are for nothing but filling memory."""

REQUIREMENTS: tuple[tuple[str, ...], ...] = (
    ("polyaxon_requirements.txt", "requirements.txt"),
    (
        "polyaxon_conda_env.yml",
        "polyaxon_conda_env.yaml",
        "conda_env.yml",
        "conda_env.yaml",
    ),
    ("polyaxon_setup.sh", "setup.sh"),
)
"""Files at the root of the code that build steps see; of each row the first that is there."""


@dataclass(frozen=True)
class Limits:
    size: int
    """Bytes of the archive as sent."""
    unpacked: int
    """Bytes of all files."""
    members: int


@dataclass(frozen=True)
class Upload:
    digest: str
    size: int
    """Bytes of the archive."""
    files: Mapping[str, str]
    """The requirement files in it: path → SHA-256 of the content."""


class _Bad(Exception):
    """The archive is refused; the text says why."""


def receive(source: BinaryIO, store: Store, limits: Limits) -> Upload:
    """Check and keep an upload: when this returns, the archive is on disk, synced, under its digest. Idempotent.

    Reads `source` to its end. Raises TooLarge, and Invalid with one sentence that names the member; then nothing is
    kept.
    """
    part = store.data_dir / "code" / f"{secrets.token_hex(8)}.part"
    try:
        with open(os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w+b") as file:
            size = _spool(source, file, limits.size)
            file.seek(0)
            tree = _read(file, limits)
            file.flush()
            os.fsync(file.fileno())
        digest = hashlib.sha256(json.dumps(sorted(tree.items())).encode()).hexdigest()
        path = store.code_archive(digest)
        crash_point("upload:before")
        if not path.exists():
            part.rename(path)
        crash_point("upload:after")
        sync(path.parent)
    except _Bad as bad:
        raise Invalid([Problem("/repo", f"The archive is refused: {bad}.")]) from None
    finally:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()
    return Upload(digest, size, _requirements(tree))


def _spool(source: BinaryIO, file: BinaryIO, limit: int) -> int:
    size = 0
    while block := source.read(BLOCK):
        size += len(block)
        if size > limit:
            raise TooLarge(f"The upload is larger than the {limit} bytes that are taken.")
        file.write(block)
    return size


def _requirements(tree: Mapping[str, tuple[Any, ...]]) -> dict[str, str]:
    found = (next((name for name in names if tree.get(name, ("",))[0] == "file"), None) for names in REQUIREMENTS)
    return {name: tree[name][2] for name in found if name}


def _read(file: BinaryIO, limits: Limits) -> dict[str, tuple[Any, ...]]:
    """path → ("file", executable, SHA-256), ("symlink", target) or ("directory",), of an archive that does no harm."""
    tree: dict[str, tuple[Any, ...]] = {}
    unpacked = 0
    try:
        with igzip.open(file, "rb") as raw, tarfile.open(fileobj=cast(Any, _Bounded(raw)), mode="r:") as archive:
            for number, info in enumerate(archive, 1):
                if number > limits.members:
                    raise _Bad(f"it has more than {limits.members} members")
                unpacked += info.size if info.isreg() else 0
                if unpacked > limits.unpacked:
                    raise _Bad(f"unpacked, it is larger than the {limits.unpacked} bytes that are taken")
                _add(tree, archive, info)
    except (tarfile.TarError, EOFError, zlib.error, _IsalError, OSError, ValueError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's fault, not the archive's
        raise _Bad("it is no whole tar.gz") from error
    return tree


class _Bounded:
    """The unpacked archive, for tarfile: refuses to hold a header that is absurdly large."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self.seek, self.tell = raw.seek, raw.tell

    def read(self, size: int = -1) -> bytes:
        if size < 0 or size > LARGEST_HEADER:
            raise _Bad("a header in it is too large")
        return bytes(self._raw.read(size))


def _add(tree: dict[str, tuple[Any, ...]], archive: tarfile.TarFile, info: tarfile.TarInfo) -> None:
    path = _checked_path(info.name)
    if not path:
        return
    _check_parents(tree, path)
    entry = _entry(tree, archive, info, path)
    if path in tree and tree[path] != entry:
        raise _Bad(f"`{path}` is in it twice")
    tree[path] = entry


def _checked_path(name: str) -> str:
    """The member's path, normalised; empty for the root itself."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/"):
        raise _Bad(f"`{name}` is an absolute name")
    if ".." in parts:
        raise _Bad(f"`{name}` leads out of it")
    path = "/".join(parts)
    too_long = len(os.fsencode(path)) > LONGEST_PATH or any(len(os.fsencode(part)) > LONGEST_NAME for part in parts)
    if too_long or "\0" in path:
        raise _Bad(f"`{path[:80]}…` is no name that a file can have")
    return path


def _check_parents(tree: dict[str, tuple[Any, ...]], path: str) -> None:
    """Every folder above is one, and no link; those that are not in the archive are counted as in it."""
    parent = posixpath.dirname(path)
    while parent:
        if tree.setdefault(parent, ("directory",))[0] != "directory":
            raise _Bad(f"`{path}` lies below `{parent}`, which is no folder")
        parent = posixpath.dirname(parent)


def _entry(
    tree: dict[str, tuple[Any, ...]], archive: tarfile.TarFile, info: tarfile.TarInfo, path: str
) -> tuple[Any, ...]:
    if info.isdir():
        return ("directory",)
    if info.isreg():
        return ("file", bool(info.mode & 0o111), _digest(archive, info))
    if info.issym():
        _check_target(path, info.linkname)
        return ("symlink", info.linkname)
    if info.islnk():
        target = tree.get(_checked_path(info.linkname))
        if target is None or target[0] != "file":
            raise _Bad(f"`{path}` is a link to `{info.linkname}`, which is no file before it")
        return target
    raise _Bad(f"`{path}` is neither a file, a folder nor a link")


def _check_target(path: str, target: str) -> None:
    """A link's target may not leave the root, whatever the folders on its way are."""
    depth = path.count("/")
    for part in target.split("/"):
        depth += -1 if part == ".." else 1 if part not in ("", ".") else 0
        if depth < 0:
            break
    if target.startswith("/") or depth < 0 or not target:
        raise _Bad(f"`{path}` is a link that leads out of it, to `{target[:80]}`")
    if ".." in target.split("/") and not target.startswith("../" * target.split("/").count("..")):
        raise _Bad(f"`{path}` is a link that goes down and up again, to `{target[:80]}`")


def _digest(archive: tarfile.TarFile, info: tarfile.TarInfo) -> str:
    content = archive.extractfile(info)
    assert content is not None
    digest, left = hashlib.sha256(), info.size
    while left:
        block = content.read(min(BLOCK, left))
        if not block:
            raise _Bad("it is no whole tar.gz")
        digest.update(block)
        left -= len(block)
    return digest.hexdigest()
