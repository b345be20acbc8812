"""Uploads: tarballs of source files, which are checked member by member before they are stored.

An upload is stored under the digest of the files in it: SHA-256 over their sorted paths, types, executable bits,
contents and link targets. The same files have the same digest, however they were packed.
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

from polyjob.errors import Invalid, Problem, TooLarge, Unavailable
from polyjob.storage.durable import rename_durably
from polyjob.storage.store import Store
from polyjob.storage.tarstream import StrictTarInfo

_IsalError: type[Exception] = isal_zlib.error  # type: ignore[assignment]

BLOCK = 1 << 16
MAX_NAME_BYTES = 255
MAX_PATH_BYTES = 4000
MAX_TARGET_BYTES = 4000
MAX_DEPTH = 200
"""Nested folders."""
MAX_ALL_NAMES_BYTES = 64 << 20
"""Bytes of all paths together, including folders that are only implied. They are held in memory."""
MAX_HEADER_BYTES = 1 << 16
"""Bytes of all headers of one member. Larger ones only serve to fill the memory."""
MEAN_HEADER_BYTES = 2048
"""Bytes of headers per allowed member, summed up over all members."""
MAX_GLOBAL_FIELDS = 64
"""Header fields that apply to all members. Each member gets a copy of them."""
MAX_PADDING_BYTES = 16 << 20
"""Zeros after the last member, which fill up its block."""

_MANY_DIGITS = re.compile(rb"[0-9]{300}")
"""Numbers that take tarfile seconds or minutes to read."""

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
"""Files at the root of an upload that build steps see: of each row, the first one that exists."""


@dataclass(frozen=True)
class Limits:
    size: int
    """Bytes of the tarball."""
    unpacked: int
    """Bytes of all files in it."""
    members: int


@dataclass(frozen=True)
class Upload:
    digest: str
    size: int
    """Bytes of the tarball."""
    files: Mapping[str, str]
    """The requirement files in it: path → SHA-256 of the content."""


MAX_CONCURRENT_CHECKS = 2
"""Uploads that one process unpacks at once."""
MAX_CHECK_WAIT_SECONDS = 20.0
"""Seconds that an upload waits for its turn to be unpacked."""
_CHECK_SLOTS = threading.BoundedSemaphore(MAX_CONCURRENT_CHECKS)

INCOMPLETE = "not a complete .tar.gz file"
_TARBALL_ERRORS = (
    *(tarfile.TarError, EOFError, zlib.error, _IsalError, struct.error, OSError),
    *(ValueError, ArithmeticError, LookupError, RecursionError, MemoryError),
)
"""Exceptions of tarfile and the decompressors for bytes that are not a tarball."""


class _InvalidUpload(Exception):
    """The upload is refused. The text is the reason."""


def receive(source: BinaryIO, store: Store, limits: Limits) -> Upload:
    """Check an upload and store it under its digest. When this returns, it is on disk and synced. Idempotent.

    Reads `source` to its end. Raises TooLarge, and Invalid with one sentence that names the member at fault. Then
    nothing is stored.
    """
    part = store.data_dir / "code" / f"{secrets.token_hex(8)}.part"
    try:
        with open(os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w+b") as file:
            size = _spool(source, file, limits.size)
            file.seek(0)
            with check_slot():
                tree = _read_tree(file, limits)
            file.flush()
            os.fsync(file.fileno())
        digest = hashlib.sha256(json.dumps(sorted(tree.items())).encode()).hexdigest()
        path = store.upload_path(digest)
        # Also over the same content, because the cleanup does not remove new files.
        rename_durably(part, path, "code")
    except _InvalidUpload as reason:
        raise Invalid([Problem("/repo", f"Invalid archive: {reason}.")]) from None
    finally:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()
    return Upload(digest, size, _requirements(tree))


@contextlib.contextmanager
def check_slot() -> Iterator[None]:
    """Take one of this process's few slots for unpacking uploads, after waiting up to `MAX_CHECK_WAIT_SECONDS`.

    Even a small tarball can take a minute to unpack, so a few of them could occupy every core. Raises Unavailable if no
    slot becomes free.
    """
    if not _CHECK_SLOTS.acquire(timeout=MAX_CHECK_WAIT_SECONDS):
        raise Unavailable("Other uploads are being checked. Try again in a moment.", retry_after=10)
    try:
        yield
    finally:
        _CHECK_SLOTS.release()


def _spool(source: BinaryIO, file: BinaryIO, limit: int) -> int:
    size = 0
    while block := source.read(BLOCK):
        size += len(block)
        if size > limit:
            raise TooLarge(f"The upload is larger than {limit} bytes.")
        file.write(block)
    return size


def _requirements(tree: Mapping[str, tuple[Any, ...]]) -> dict[str, str]:
    first = (next((name for name in names if tree.get(name, ("",))[0] == "file"), None) for names in REQUIREMENTS)
    return {name: tree[name][2] for name in first if name}


def _read_tree(file: BinaryIO, limits: Limits) -> dict[str, tuple[Any, ...]]:
    """Check a tarball and return what is in it, by path.

    Values are ("file", is_executable, SHA-256), ("symlink", target) or ("directory",). Raises _InvalidUpload.
    """
    tree: dict[str, tuple[Any, ...]] = {}
    unpacked = names = 0
    try:
        with igzip.open(file, "rb") as raw:
            bounded = _BoundedReader(raw, MAX_HEADER_BYTES + MEAN_HEADER_BYTES * limits.members)
            with tarfile.open(
                fileobj=cast(Any, bounded), mode="r:", encoding="utf-8", errors="surrogateescape", tarinfo=StrictTarInfo
            ) as tarball:
                for number, info in enumerate(tarball, 1):
                    if number > limits.members:
                        raise _InvalidUpload(f"it has more than {limits.members} members")
                    if info.size < 0:
                        raise _InvalidUpload(INCOMPLETE)
                    unpacked += info.size if info.isreg() else 0
                    if unpacked > limits.unpacked:
                        raise _InvalidUpload(f"unpacked, it is larger than {limits.unpacked} bytes")
                    bounded.begin_content(info.size)
                    before = len(tree)
                    _add_member(tree, tarball, info)
                    names += (len(tree) - before) * len(info.name)
                    if len(tree) > limits.members:
                        raise _InvalidUpload(f"it has more than {limits.members} members, including implied folders")
                    if names > MAX_ALL_NAMES_BYTES:
                        raise _InvalidUpload("the names in it are too many and too long")
                    if len(tarball.pax_headers) > MAX_GLOBAL_FIELDS:
                        raise _InvalidUpload("a header in it is too large")
                    tarball.members.clear()  # type: ignore[attr-defined] # or all members with their headers would stay in memory
                    bounded.begin_header()
            _check_end(raw)
    except _TARBALL_ERRORS as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # a fault of the disk, not of the tarball
        raise _InvalidUpload(INCOMPLETE) from error
    return tree


class _BoundedReader:
    """The unpacked tarball for tarfile, with a limit for the next header or content, and without seeking backwards.

    Otherwise a header could fill the memory, or a few bytes could make tarfile unpack the same data again and again.
    """

    def __init__(self, raw: Any, headers: int) -> None:
        self._raw = raw
        self._header_bytes = headers
        self.tell = raw.tell
        self.begin_header()

    def begin_header(self) -> None:
        self._remaining, self._in_header = MAX_HEADER_BYTES, True

    def begin_content(self, size: int) -> None:
        self._remaining, self._in_header = size, False

    def read(self, size: int) -> bytes:
        self._remaining -= size
        self._header_bytes -= size if self._in_header else 0
        if size < 0 or self._remaining < 0:
            raise _InvalidUpload("a header in it is too large")
        if self._header_bytes < 0:
            raise _InvalidUpload("the headers in it are too large")
        data = bytes(self._raw.read(size))
        if self._in_header and _MANY_DIGITS.search(data):
            raise _InvalidUpload("a header in it is full of digits")
        return data

    def seek(self, position: int) -> None:
        if position < self._raw.tell():
            raise _InvalidUpload(INCOMPLETE)
        self._raw.seek(position)


def _check_end(raw: Any) -> None:
    """Refuse anything but zeros after the end, because other tar programs would read it.

    Unpacking everything also compares the checksum.
    """
    remaining = MAX_PADDING_BYTES
    while block := raw.read(BLOCK):
        remaining -= len(block)
        if remaining < 0 or block.strip(b"\0"):
            raise _InvalidUpload("there is data after its end")


def _add_member(tree: dict[str, tuple[Any, ...]], tarball: tarfile.TarFile, info: tarfile.TarInfo) -> None:
    path = _checked_path(info.name)
    if not path and not info.isdir():
        raise _InvalidUpload(f"`{_printable(info.name)}` is its root but not a folder")
    if not path:
        return
    _check_parents(tree, path)
    entry = _entry(tree, tarball, info, path)
    if path in tree and tree[path] != entry:
        raise _InvalidUpload(f"`{_printable(path)}` is in it twice")
    tree[path] = entry


def _checked_path(name: str) -> str:
    """Return the member's normalized path; an empty one for the root itself."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/"):
        raise _InvalidUpload(f"`{_printable(name)}` is an absolute path")
    if ".." in parts:
        raise _InvalidUpload(f"`{_printable(name)}` leads outside of it")
    path = "/".join(parts)
    too_long = len(os.fsencode(path)) > MAX_PATH_BYTES or any(len(os.fsencode(part)) > MAX_NAME_BYTES for part in parts)
    if too_long or "\0" in path:
        raise _InvalidUpload(f"`{_printable(path)}` is not a valid file name")
    if len(parts) > MAX_DEPTH:
        raise _InvalidUpload(f"`{_printable(path)}` is more than {MAX_DEPTH} folders deep")
    return path


def _check_parents(tree: dict[str, tuple[Any, ...]], path: str) -> None:
    """Check that all parents of a path are folders and not links, and add missing ones to the tree."""
    parent = posixpath.dirname(path)
    while parent:
        if tree.setdefault(parent, ("directory",))[0] != "directory":
            raise _InvalidUpload(f"`{_printable(path)}` is below `{_printable(parent)}`, which is not a folder")
        parent = posixpath.dirname(parent)


def _entry(
    tree: dict[str, tuple[Any, ...]], tarball: tarfile.TarFile, info: tarfile.TarInfo, path: str
) -> tuple[Any, ...]:
    if info.isdir():
        return ("directory",)
    if info.isreg():
        return ("file", bool(info.mode & 0o111), _digest(tarball, info))
    if info.issym():
        _check_target(path, info.linkname)
        return ("symlink", info.linkname)
    if info.islnk():
        target = tree.get(_checked_path(info.linkname))
        if target is None or target[0] != "file":
            raise _InvalidUpload(
                f"`{_printable(path)}` is a link to `{_printable(info.linkname)}`, which is not an earlier file in it"
            )
        return target
    raise _InvalidUpload(f"`{_printable(path)}` is neither a file, a folder nor a link")


def _check_target(path: str, target: str) -> None:
    """Check that the target of a link cannot lead outside of the root.

    The folders above the link are real folders, so going up from it is safe. The folders below may be links themselves,
    so once the target goes down it must not go up again.
    """
    parts = [part for part in target.split("/") if part not in ("", ".")]
    ups = next((number for number, part in enumerate(parts) if part != ".."), len(parts))
    if target.startswith("/") or ups > path.count("/"):
        raise _InvalidUpload(f"`{_printable(path)}` is a link that leads outside of it, to `{_printable(target)}`")
    if ".." in parts[ups:]:
        raise _InvalidUpload(f"`{_printable(path)}` is a link that goes down and up again, to `{_printable(target)}`")
    if not target or "\0" in target or len(os.fsencode(target)) > MAX_TARGET_BYTES:
        raise _InvalidUpload(f"`{_printable(path)}` is a link to the invalid file name `{_printable(target)}`")


def _printable(name: str) -> str:
    """Return a name that is short and printable, for messages."""
    text = "".join(letter if letter.isprintable() else "�" for letter in name[:81])
    return text if len(text) <= 80 else text[:80] + "…"


def _digest(tarball: tarfile.TarFile, info: tarfile.TarInfo) -> str:
    content = tarball.extractfile(info)
    assert content is not None
    digest, remaining = hashlib.sha256(), info.size
    while remaining:
        block = content.read(min(BLOCK, remaining))
        if not block:
            raise _InvalidUpload(INCOMPLETE)
        digest.update(block)
        remaining -= len(block)
    return digest.hexdigest()
