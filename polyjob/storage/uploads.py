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
import re
import secrets
import struct
import tarfile
import threading
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from isal import igzip, isal_zlib

from polyjob.crash_points import crash_point
from polyjob.errors import Invalid, Problem, TooLarge, Unavailable
from polyjob.storage.store import Store, sync
from polyjob.storage.tarstream import StrictInfo

_IsalError: type[Exception] = isal_zlib.error  # type: ignore[assignment]

BLOCK = 1 << 16
LONGEST_NAME = 255
LONGEST_PATH = 4000
LONGEST_TARGET = 4000
DEEPEST = 200
"""Folders below one another."""
NAMES_SIZE = 64 << 20
"""Bytes of all paths together, of the folders that are only implied too. They are held in memory."""
LARGEST_HEADER = 1 << 16
"""Bytes of all the headers of one member. Larger ones are for nothing but filling memory."""
USUAL_HEADERS = 2048
"""Bytes of headers per member that is allowed, in the sum over all members."""
GLOBAL_FIELDS = 64
"""Fields that may hold for all members. Each member gets a copy of them."""
LARGEST_PADDING = 16 << 20
"""Zeros behind the last member, which fill its block up."""

_MANY_DIGITS = re.compile(rb"[0-9]{300}")
"""What tarfile takes seconds and minutes to read."""

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


MAX_CHECKS = 2
"""Uploads that one process unpacks at once."""
MAX_CHECK_WAIT = 20.0
"""Seconds that an upload waits for its turn to be unpacked."""
_CHECKS = threading.BoundedSemaphore(MAX_CHECKS)

NOT_WHOLE = "it is no whole tar.gz"
_BROKEN = (
    *(tarfile.TarError, EOFError, zlib.error, _IsalError, struct.error, OSError),
    *(ValueError, ArithmeticError, LookupError, RecursionError, MemoryError),
)
"""What tarfile and the unpackers raise at bytes that nobody meant as an archive."""


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
            with checking():
                tree = _read(file, limits)
            file.flush()
            os.fsync(file.fileno())
        digest = hashlib.sha256(json.dumps(sorted(tree.items())).encode()).hexdigest()
        path = store.code_archive(digest)
        crash_point("code:before")
        part.rename(path)  # also over the same content: what is new is not swept away
        crash_point("code:after")
        sync(path.parent)
    except _Bad as bad:
        raise Invalid([Problem("/repo", f"The archive is refused: {bad}.")]) from None
    finally:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()
    return Upload(digest, size, _requirements(tree))


@contextlib.contextmanager
def checking() -> Iterator[None]:
    """Take one of the few places for unpacking uploads in this process, and wait for one for a bounded time.

    A small archive can take a minute to unpack, so that a few of them would occupy every core. Raises Unavailable.
    """
    if not _CHECKS.acquire(timeout=MAX_CHECK_WAIT):
        raise Unavailable("Other uploads are being checked. Try again in a moment.", retry_after=10)
    try:
        yield
    finally:
        _CHECKS.release()


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
    unpacked = names = 0
    try:
        with igzip.open(file, "rb") as raw:
            bounded = _Bounded(raw, LARGEST_HEADER + USUAL_HEADERS * limits.members)
            with tarfile.open(
                fileobj=cast(Any, bounded), mode="r:", encoding="utf-8", errors="surrogateescape", tarinfo=StrictInfo
            ) as archive:
                for number, info in enumerate(archive, 1):
                    if number > limits.members:
                        raise _Bad(f"it has more than {limits.members} members")
                    if info.size < 0:
                        raise _Bad(NOT_WHOLE)
                    unpacked += info.size if info.isreg() else 0
                    if unpacked > limits.unpacked:
                        raise _Bad(f"unpacked, it is larger than the {limits.unpacked} bytes that are taken")
                    bounded.to_content(info.size)
                    before = len(tree)
                    _add(tree, archive, info)
                    names += (len(tree) - before) * len(info.name)
                    if len(tree) > limits.members:
                        raise _Bad(f"it has more than {limits.members} members, with the folders that they lie in")
                    if names > NAMES_SIZE:
                        raise _Bad("the names in it are too many and too long")
                    if len(archive.pax_headers) > GLOBAL_FIELDS:
                        raise _Bad("a header in it is too large")
                    archive.members.clear()  # type: ignore[attr-defined] # or each stays in memory, its headers too
                    bounded.to_header()
            _check_end(raw)
    except _BROKEN as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's fault, not the archive's
        raise _Bad(NOT_WHOLE) from error
    return tree


class _Bounded:
    """The unpacked archive, for tarfile: gives `left` bytes and no more, and never goes back.

    Without it a header may fill the memory, and a few bytes may have the same be unpacked again and again.
    """

    def __init__(self, raw: Any, headers: int) -> None:
        self._raw = raw
        self._headers = headers
        self.tell = raw.tell
        self.to_header()

    def to_header(self) -> None:
        self.left, self.in_header = LARGEST_HEADER, True

    def to_content(self, size: int) -> None:
        self.left, self.in_header = size, False

    def read(self, size: int) -> bytes:
        self.left -= size
        self._headers -= size if self.in_header else 0
        if size < 0 or self.left < 0:
            raise _Bad("a header in it is too large")
        if self._headers < 0:
            raise _Bad("the headers in it are too large")
        data = bytes(self._raw.read(size))
        if self.in_header and _MANY_DIGITS.search(data):
            raise _Bad("a header in it is full of digits")
        return data

    def seek(self, position: int) -> None:
        if position < self._raw.tell():
            raise _Bad(NOT_WHOLE)
        self._raw.seek(position)


def _check_end(raw: Any) -> None:
    """Nothing but zeros may follow; what else did would be seen by other tars than ours. Unpacking all of it also has
    the checksum compared."""
    left = LARGEST_PADDING
    while block := raw.read(BLOCK):
        left -= len(block)
        if left < 0 or block.strip(b"\0"):
            raise _Bad("something follows the end of it")


def _add(tree: dict[str, tuple[Any, ...]], archive: tarfile.TarFile, info: tarfile.TarInfo) -> None:
    path = _checked_path(info.name)
    if not path and not info.isdir():
        raise _Bad(f"`{_shown(info.name)}` is its root, and no folder")
    if not path:
        return
    _check_parents(tree, path)
    entry = _entry(tree, archive, info, path)
    if path in tree and tree[path] != entry:
        raise _Bad(f"`{_shown(path)}` is in it twice")
    tree[path] = entry


def _checked_path(name: str) -> str:
    """The member's path, normalised; empty for the root itself."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/"):
        raise _Bad(f"`{_shown(name)}` is an absolute name")
    if ".." in parts:
        raise _Bad(f"`{_shown(name)}` leads out of it")
    path = "/".join(parts)
    too_long = len(os.fsencode(path)) > LONGEST_PATH or any(len(os.fsencode(part)) > LONGEST_NAME for part in parts)
    if too_long or "\0" in path:
        raise _Bad(f"`{_shown(path)}` is no name that a file can have")
    if len(parts) > DEEPEST:
        raise _Bad(f"`{_shown(path)}` lies more than {DEEPEST} folders deep")
    return path


def _check_parents(tree: dict[str, tuple[Any, ...]], path: str) -> None:
    """Every folder above is one, and no link; those that are not in the archive are counted as in it."""
    parent = posixpath.dirname(path)
    while parent:
        if tree.setdefault(parent, ("directory",))[0] != "directory":
            raise _Bad(f"`{_shown(path)}` lies below `{_shown(parent)}`, which is no folder")
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
            raise _Bad(f"`{_shown(path)}` is a link to `{_shown(info.linkname)}`, which is no file before it")
        return target
    raise _Bad(f"`{_shown(path)}` is neither a file, a folder nor a link")


def _check_target(path: str, target: str) -> None:
    """A link's target may not leave the root, whatever the folders on its way are.

    The folders above the link are none but folders, so going up from it is safe. Those below may be links themselves:
    once it has gone down it may not go up again.
    """
    parts = [part for part in target.split("/") if part not in ("", ".")]
    ups = next((number for number, part in enumerate(parts) if part != ".."), len(parts))
    if target.startswith("/") or ups > path.count("/"):
        raise _Bad(f"`{_shown(path)}` is a link that leads out of it, to `{_shown(target)}`")
    if ".." in parts[ups:]:
        raise _Bad(f"`{_shown(path)}` is a link that goes down and up again, to `{_shown(target)}`")
    if not target or "\0" in target or len(os.fsencode(target)) > LONGEST_TARGET:
        raise _Bad(f"`{_shown(path)}` is a link to no name that a file can have, `{_shown(target)}`")


def _shown(name: str) -> str:
    """A name as it may stand in a message."""
    text = "".join(letter if letter.isprintable() else "�" for letter in name[:81])
    return text if len(text) <= 80 else text[:80] + "…"


def _digest(archive: tarfile.TarFile, info: tarfile.TarInfo) -> str:
    content = archive.extractfile(info)
    assert content is not None
    digest, left = hashlib.sha256(), info.size
    while left:
        block = content.read(min(BLOCK, left))
        if not block:
            raise _Bad(NOT_WHOLE)
        digest.update(block)
        left -= len(block)
    return digest.hexdigest()
