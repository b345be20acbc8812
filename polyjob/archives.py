"""The outputs archive: a tar.gz whose every file can be read on its own, and the index that says where each one is.

The archive is a chain of gzip members, a new one begun at the first file behind each MiB; any tar reads the whole, and
one seek reaches a file. The index `outputs.json` is an object of `version`, `etag` (hex digits of the archive's
SHA-256), `notes` (sentences on what could not be kept) and `entries`, a list of
`[path, type, size, target, member, offset]`: the path below the root, `file`, `directory` or `symlink`, bytes, where a
link points, the byte of the archive at which the entry's gzip member begins, and the byte of that unpacked member at
which the file's content begins. Names that are not UTF-8 are kept by Python's surrogate escapes.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import os
import stat
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

from isal import isal_zlib

from polyjob.errors import NotFound

VERSION = 1
MEMBER_SIZE = 1 << 20
BLOCK = 1 << 16
DEEPEST = 200
"""Folders below one another; what lies deeper is left out, with a note."""
_LEVEL = 1
_GZIP = 31
"""zlib's window bits for a gzip member of its own."""


@dataclass(frozen=True)
class Entry:
    path: str
    type: str
    size: int = 0
    target: str | None = None
    member: int = 0
    offset: int = 0

    def to_json(self) -> list[Any]:
        return [self.path, self.type, self.size, self.target, self.member, self.offset]


@dataclass
class Packer:
    """Turns entries into the bytes of an archive, keeping book of where each one is."""

    prefix: str
    """The one folder that all entries are put into."""
    limit: int = 0
    """Bytes of files that are taken; 0 = all."""
    entries: list[Entry] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    digest: Any = field(default_factory=hashlib.sha256)
    _written: int = 0
    _member: int = 0
    _in_member: int = 0
    _taken: int = 0
    _compressor: Any = None

    def folder(self, folder: Path) -> Iterator[bytes]:
        """Everything below `folder`, in order of name. Symlinks are kept and never followed; what can be neither read
        nor kept is noted. A file that changes meanwhile gives as many bytes as it had when it was opened."""
        try:
            root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            yield from self._walk(root, "", 1)
        finally:
            os.close(root)

    def stream(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """Everything in an uncompressed tar stream with names relative to the root."""
        links: dict[str, Entry] = {}
        pieces = iter(pieces)
        first = next(pieces, None)
        if first is None:
            return
        file = cast(BinaryIO, _Pieces(itertools.chain((first,), pieces)))
        with tarfile.open(fileobj=file, mode="r|", errors="surrogateescape") as source:
            for info in source:
                path = _relative(info.name)
                if path is None:
                    continue
                if info.isreg():
                    content = source.extractfile(info)
                    assert content is not None
                    yield from self._file(path, info.size, info.mode, info.mtime, content)
                    links[path] = self.entries[-1]
                elif info.isdir() or info.issym():
                    yield from self._plain(path, info)
                elif info.islnk() and (target := links.get(_relative(info.linkname) or "")):
                    yield from self._hard_link(path, info, target)
                else:
                    self.note(f"`{path}` was not kept: it is neither a file, a folder nor a link")

    def end(self) -> Iterator[bytes]:
        """The archive's last bytes."""
        yield from self._compress(bytes(2 * tarfile.BLOCKSIZE))
        yield self._end_member()

    def note(self, text: str) -> None:
        if len(self.notes) < 20:
            self.notes.append(text.encode("utf-8", "replace").decode())

    def _walk(self, folder: int, path: str, depth: int) -> Iterator[bytes]:
        for name in sorted(os.listdir(folder)):
            inner = f"{path}/{name}" if path else name
            try:
                yield from self._entry(folder, name, inner, depth)
            except OSError as error:
                self.note(f"`{inner}` was not kept: {error.strerror}")

    def _entry(self, folder: int, name: str, path: str, depth: int) -> Iterator[bytes]:
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if stat.S_ISREG(status.st_mode):
            with _open_beneath(folder, name) as file:
                size = os.fstat(file.fileno()).st_size
                yield from self._file(path, size, status.st_mode, status.st_mtime, file)
            return
        info = tarfile.TarInfo()
        info.mode, info.mtime = stat.S_IMODE(status.st_mode), status.st_mtime
        if stat.S_ISLNK(status.st_mode):
            info.type, info.linkname = tarfile.SYMTYPE, os.readlink(name, dir_fd=folder)
            yield from self._plain(path, info)
        elif not stat.S_ISDIR(status.st_mode):
            self.note(f"`{path}` was not kept: it is neither a file, a folder nor a link")
        elif depth == DEEPEST:
            self.note(f"`{path}` was not kept: it lies more than {DEEPEST} folders deep")
        else:
            info.type = tarfile.DIRTYPE
            yield from self._plain(path, info)
            child = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            try:
                yield from self._walk(child, path, depth + 1)
            finally:
                os.close(child)

    def _file(self, path: str, size: int, mode: int, mtime: float, content: Any) -> Iterator[bytes]:
        if self.limit and self._taken + size > self.limit:
            self.note(f"`{path}` was not kept: the outputs are larger than the {self.limit} bytes that are kept")
            return
        self._taken += size
        info = tarfile.TarInfo()
        info.size, info.mode, info.mtime = size, stat.S_IMODE(mode), mtime
        yield from self._header(path, info)
        self.entries.append(Entry(path, "file", size, None, self._member, self._in_member))
        left = size
        while left and (block := content.read(min(BLOCK, left))):
            left -= len(block)
            yield from self._compress(block)
        if left:
            self.note(f"`{path}` became shorter while it was kept; zeros fill the rest")
        while left:
            zeros = bytes(min(BLOCK, left))
            left -= len(zeros)
            yield from self._compress(zeros)
        yield from self._compress(bytes(-size % tarfile.BLOCKSIZE))

    def _plain(self, path: str, info: tarfile.TarInfo) -> Iterator[bytes]:
        info.size = 0
        yield from self._header(path, info)
        target = info.linkname if info.issym() else None
        self.entries.append(Entry(path, "symlink" if info.issym() else "directory", 0, target))

    def _hard_link(self, path: str, info: tarfile.TarInfo, target: Entry) -> Iterator[bytes]:
        info.size, info.linkname = 0, f"{self.prefix}/{target.path}"
        yield from self._header(path, info)
        self.entries.append(Entry(path, "file", target.size, None, target.member, target.offset))

    def _header(self, path: str, info: tarfile.TarInfo) -> Iterator[bytes]:
        if self._in_member >= MEMBER_SIZE:
            yield self._end_member()
        info.name = f"{self.prefix}/{path}"
        info.uid = info.gid = 0
        info.uname = info.gname = ""
        info.mtime = max(0, int(info.mtime))
        yield from self._compress(info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape"))

    def _compress(self, data: bytes) -> Iterator[bytes]:
        if self._compressor is None:
            self._compressor = isal_zlib.compressobj(_LEVEL, isal_zlib.DEFLATED, _GZIP)
        self._in_member += len(data)
        if packed := self._compressor.compress(data):
            yield self._count(packed)

    def _end_member(self) -> bytes:
        packed = self._count(self._compressor.flush())
        self._compressor = None
        self._member, self._in_member = self._written, 0
        return packed

    def _count(self, packed: bytes) -> bytes:
        self._written += len(packed)
        self.digest.update(packed)
        return packed


class _Pieces(io.RawIOBase):
    """A file to read from, made of an iterator's pieces."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""

    def read(self, size: int = -1) -> bytes:
        while len(self._rest) < size:
            piece = next(self._pieces, None)
            if piece is None:
                break
            self._rest += piece
        data, self._rest = self._rest[:size], self._rest[size:]
        return data


def _relative(name: str) -> str | None:
    """A member's path below the root; None for the root itself and for a name that leaves it."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return None if not parts or ".." in parts or name.startswith("/") else "/".join(parts)


@contextlib.contextmanager
def _open_beneath(folder: int, name: str) -> Iterator[BinaryIO]:
    """A regular file in `folder`, unbuffered; not through a link, and without waiting at a FIFO."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with open(os.open(name, flags, dir_fd=folder), "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(0, "it is no file")
        yield cast(BinaryIO, file)


def _empty() -> bytes:
    packer = Packer("")
    return b"".join(packer.end())


EMPTY = _empty()
"""The archive of outputs without any entry."""


class NotThere(NotFound):
    """The outputs have nothing, or nothing of that kind, at this path."""


class Outputs:
    """What was kept of a job's outputs: the sealed archive and its index. Without files, the outputs are empty."""

    def __init__(self, archive: Path, index: Path) -> None:
        self.path = archive
        try:
            content = json.loads(index.read_bytes())
        except FileNotFoundError:
            content = {"entries": [], "etag": hashlib.sha256(EMPTY).hexdigest()[:32], "notes": []}
        self.etag: str = content["etag"]
        """The same for the same bytes of the archive, and for no others."""
        self.notes: list[str] = content["notes"]
        self.entries = {row[0]: Entry(*row) for row in content["entries"]}

    @property
    def is_empty(self) -> bool:
        return not self.entries

    def tree(self, path: str) -> tuple[list[tuple[str, int]], list[str]]:
        """([(name, size) of each file and link], [name of each folder]) in the folder `path`, by name; empty = root.

        Raises NotThere.
        """
        base = path.strip("/")
        if base and (base not in self.entries or self.entries[base].type != "directory"):
            raise NotThere(f"there is no folder `{base}`")
        start = f"{base}/" if base else ""
        inner = [entry for entry in self.entries.values() if _is_child(entry.path, start)]
        files = [(entry.path[len(start) :], entry.size) for entry in inner if entry.type != "directory"]
        return files, [entry.path[len(start) :] for entry in inner if entry.type == "directory"]

    def open_file(self, path: str) -> tuple[int, Iterator[bytes]]:
        """(size, content in pieces) of one file: one seek, and nothing unpacked but its own gzip member.

        Raises NotThere.
        """
        entry = self.entries.get(path.strip("/"))
        if entry is None or entry.type != "file":
            raise NotThere(f"there is no file `{path.strip('/')}`")
        return entry.size, self._content(entry)

    def _content(self, entry: Entry) -> Iterator[bytes]:
        skip, left = entry.offset, entry.size
        unpacker = isal_zlib.decompressobj(wbits=_GZIP)
        with self.path.open("rb") as file:
            file.seek(entry.member)
            data = b""
            while left:
                data = unpacker.unconsumed_tail or file.read(BLOCK)
                block = unpacker.decompress(data, BLOCK)
                skipped = min(skip, len(block))
                skip -= skipped
                piece = block[skipped : skipped + left]
                left -= len(piece)
                if piece:
                    yield piece
                elif not data:
                    raise OSError(f"{self.path} ends too early")


def _is_child(path: str, start: str) -> bool:
    return path.startswith(start) and "/" not in path[len(start) :]


class LiveOutputs:
    """The outputs folder of a job that still runs. Names are resolved beneath the folder only; no link is followed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def tree(self, path: str) -> tuple[list[tuple[str, int]], list[str]]:
        """As `Outputs.tree`."""
        files, folders = [], []
        with self._opened(path.strip("/"), os.O_DIRECTORY) as folder:
            for name in sorted(os.listdir(folder)):
                with contextlib.suppress(FileNotFoundError):
                    status = os.stat(name, dir_fd=folder, follow_symlinks=False)
                    if stat.S_ISDIR(status.st_mode):
                        folders.append(name)
                    else:
                        files.append((name, status.st_size))
        return files, folders

    def open_file(self, path: str) -> tuple[int, Iterator[bytes]]:
        """As `Outputs.open_file`; the content is as long as the file was when it was opened."""
        with self._opened(path.strip("/"), os.O_NONBLOCK) as found:
            status = os.fstat(found)
            if not stat.S_ISREG(status.st_mode):
                raise NotThere(f"there is no file `{path.strip('/')}`")
            file = open(os.dup(found), "rb", buffering=0)  # noqa: SIM115 - closed by the iterator
        return status.st_size, _first_bytes(cast(BinaryIO, file), status.st_size)

    def archive(self, prefix: str) -> Iterator[bytes]:
        """The folder as it is now, as a tar.gz."""
        packer = Packer(prefix)
        yield from packer.folder(self.folder)
        yield from packer.end()

    @contextlib.contextmanager
    def _opened(self, path: str, flags: int) -> Iterator[int]:
        parts = [part for part in path.split("/") if part]
        always = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            if any(part in (".", "..") or "\0" in part for part in parts):
                raise NotThere(f"there is nothing at `{path}`")
            found = os.open(self.folder, always | os.O_DIRECTORY)
            for number, part in enumerate(parts, 1):
                inner = flags if number == len(parts) else os.O_DIRECTORY
                try:
                    below = os.open(part, always | inner, dir_fd=found)
                finally:
                    os.close(found)
                found = below
        except OSError:
            raise NotThere(f"there is nothing at `{path}`") from None
        try:
            yield found
        finally:
            os.close(found)


def _first_bytes(file: BinaryIO, size: int) -> Iterator[bytes]:
    with file:
        while size and (block := file.read(min(BLOCK, size))):
            size -= len(block)
            yield block
