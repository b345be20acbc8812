"""Packing outputs: a folder or a tar stream becomes a chain of gzip members, with a book of where each entry is.

What the archive and its index look like stands in `polyjob.archives`, which reads them.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from isal import isal_zlib

from polyjob.tars import Pieces, StrictInfo, relative

MEMBER_SIZE = 1 << 20
BLOCK = 1 << 16
DEEPEST = 200
"""Folders below one another; what lies deeper is left out, with a note."""
MOST_NOTES = 20
LONGEST_NOTE = 500
_LEVEL = 1
GZIP = 31
"""zlib's window bits for a gzip member of its own."""
_OURS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}
"""Errors that tell of this process and not of the file: a later try may keep it."""


class Entry(NamedTuple):
    path: str
    type: str
    size: int = 0
    target: str | None = None
    member: int = 0
    offset: int = 0


@dataclass
class Packer:
    """Turns entries into the bytes of an archive, keeping book of where each one is."""

    prefix: str
    """The one folder that all entries are put into."""
    limit: int = 0
    """Bytes of files that are taken; 0 = all."""
    entries: list[Entry] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Sentences on what could not be kept; at most MOST_NOTES, and then one that says so."""
    digest: Any = field(default_factory=hashlib.sha256)
    _written: int = 0
    _member: int = 0
    _in_member: int = 0
    _taken: int = 0
    _compressor: Any = None
    _inodes: dict[tuple[int, int], Entry] = field(default_factory=dict)
    """Files with more than one name."""

    def folder(self, folder: Path) -> Iterator[bytes]:
        """Everything below `folder`, in order of name. Symlinks are kept and never followed; what can be neither read
        nor kept is noted. A file that changes meanwhile gives as many bytes as it had when it was opened.

        Raises OSError where this process lacks memory or descriptors.
        """
        try:
            root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        except OSError as error:
            self._lost("The outputs folder", error)
            return
        try:
            yield from self._walk(root, "", 1)
        except OSError as error:
            self._lost("The outputs folder", error)
        finally:
            os.close(root)

    def stream(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """Everything in an uncompressed tar stream with names relative to the root; nothing if there is no piece.

        Raises what `pieces` raises, and OSError where the stream is no whole tar.
        """
        file = Pieces(iter(pieces))
        if file.is_at_end():
            return
        try:
            with tarfile.open(
                fileobj=cast(BinaryIO, file), mode="r|", encoding="utf-8", errors="surrogateescape", tarinfo=StrictInfo
            ) as source:
                yield from _Members(self).take(source)
            file.drain()
        except (tarfile.TarError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
            if error is file.raised:
                raise
            raise OSError(f"the tar stream of the outputs is broken: {error}") from error

    def end(self) -> Iterator[bytes]:
        """The archive's last bytes."""
        yield from self._compress(bytes(2 * tarfile.BLOCKSIZE))
        yield self._end_member()

    def note(self, text: str) -> None:
        if len(text) > LONGEST_NOTE:
            half = LONGEST_NOTE // 2
            text = f"{text[:half]}…{text[-half:]}"
        if len(self.notes) < MOST_NOTES:
            self.notes.append(text.encode("utf-8", "replace").decode())
        elif len(self.notes) == MOST_NOTES:
            self.notes.append("There is more of this kind.")

    def _lost(self, name: str, error: OSError) -> None:
        if error.errno in _OURS:
            raise error
        self.note(f"{name} was not kept: {error.strerror or error}")

    def _walk(self, folder: int, path: str, depth: int) -> Iterator[bytes]:
        for name in sorted(os.listdir(folder)):
            inner = f"{path}/{name}" if path else name
            try:
                yield from self._entry(folder, name, inner, depth)
            except OSError as error:
                self._lost(f"`{inner}`", error)

    def _entry(self, folder: int, name: str, path: str, depth: int) -> Iterator[bytes]:
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        info = tarfile.TarInfo()
        info.mode, info.mtime = stat.S_IMODE(status.st_mode), status.st_mtime
        if stat.S_ISREG(status.st_mode):
            yield from self._regular(folder, name, path, info)
        elif stat.S_ISLNK(status.st_mode):
            info.type, info.linkname = tarfile.SYMTYPE, os.readlink(name, dir_fd=folder)
            yield from self.plain(path, info)
        elif not stat.S_ISDIR(status.st_mode):
            self.note(f"`{path}` was not kept: it is neither a file, a folder nor a link")
        elif depth == DEEPEST:
            self.note(f"`{path}` was not kept: it lies more than {DEEPEST} folders deep")
        else:
            info.type = tarfile.DIRTYPE
            yield from self.plain(path, info)
            child = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            try:
                yield from self._walk(child, path, depth + 1)
            finally:
                os.close(child)

    def _regular(self, folder: int, name: str, path: str, info: tarfile.TarInfo) -> Iterator[bytes]:
        with _open_beneath(folder, name) as file:
            status = os.fstat(file.fileno())
            inode = (status.st_dev, status.st_ino)
            if inode in self._inodes:
                yield from self.hard_link(path, info, self._inodes[inode])
                return
            before = len(self.entries)
            info.size = status.st_size
            yield from self.file(path, info, _read_or_end(file))
            if status.st_nlink > 1 and len(self.entries) > before:
                self._inodes[inode] = self.entries[-1]

    def file(self, path: str, like: tarfile.TarInfo, read: Callable[[int], bytes]) -> Iterator[bytes]:
        """A file of `like`'s size, mode and time with what `read` gives; noted where the limit is reached."""
        size = like.size
        if self.limit and self._taken + size > self.limit:
            self.note(f"`{path}` was not kept: the outputs are larger than the {self.limit} bytes that are kept")
            return
        self._taken += size
        info = tarfile.TarInfo()
        info.size, info.mode, info.mtime = size, like.mode, like.mtime
        yield from self._header(path, info)
        self.entries.append(Entry(path, "file", size, None, self._member, self._in_member))
        left = size
        while left and (block := read(min(BLOCK, left))):
            left -= len(block)
            yield from self._compress(block)
        if left:
            self.note(f"`{path}` became shorter or unreadable while it was kept; zeros fill the rest")
        while left:
            zeros = bytes(min(BLOCK, left))
            left -= len(zeros)
            yield from self._compress(zeros)
        yield from self._compress(bytes(-size % tarfile.BLOCKSIZE))

    def plain(self, path: str, info: tarfile.TarInfo) -> Iterator[bytes]:
        """A folder or a symlink."""
        info.size = 0
        yield from self._header(path, info)
        target = info.linkname if info.issym() else None
        self.entries.append(Entry(path, "symlink" if info.issym() else "directory", 0, target))

    def hard_link(self, path: str, info: tarfile.TarInfo, target: Entry) -> Iterator[bytes]:
        """Another name of a file that is already in the archive."""
        info.type, info.size, info.linkname = tarfile.LNKTYPE, 0, f"{self.prefix}/{target.path}"
        yield from self._header(path, info)
        self.entries.append(target._replace(path=path))

    def _header(self, path: str, info: tarfile.TarInfo) -> Iterator[bytes]:
        if self._in_member >= MEMBER_SIZE:
            yield self._end_member()
        info.name = f"{self.prefix}/{path}"
        # Unpacked by root, everything is root's own: a file with a set-user-ID bit would run as root.
        info.uid = info.gid = 0
        info.uname = info.gname = ""
        info.mode &= ~(stat.S_ISUID | stat.S_ISGID)
        info.mtime = max(0, int(info.mtime))
        yield from self._compress(info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape"))

    def _compress(self, data: bytes) -> Iterator[bytes]:
        if self._compressor is None:
            self._compressor = isal_zlib.compressobj(_LEVEL, isal_zlib.DEFLATED, GZIP)
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


class _Members:
    """Takes a tar's members over into a packer. Folders that the tar leaves out are made."""

    def __init__(self, packer: Packer) -> None:
        self.packer = packer
        self.seen: dict[str, Entry] = {}

    def take(self, source: tarfile.TarFile) -> Iterator[bytes]:
        for info in source:
            path = relative(info.name)
            if path is None:
                if not info.isdir() and info.name in (".", "./"):
                    self.packer.note("The outputs folder was not kept: it is no folder")
                continue
            if path in self.seen:
                if not (info.isdir() and self.seen[path].type == "directory"):
                    self.packer.note(f"`{path}` was in the outputs twice; the first was kept")
                continue
            folders = [path[:at] for at, letter in enumerate(path) if letter == "/"]
            if len(folders) >= DEEPEST:
                self.packer.note(f"`{path}` was not kept: it lies more than {DEEPEST} folders deep")
            elif any(folder in self.seen and self.seen[folder].type != "directory" for folder in folders):
                self.packer.note(f"`{path}` was not kept: it lies below what is no folder")
            else:
                yield from self._missing(folders)
                yield from self._remembered(self._member(source, info, path))

    def _missing(self, folders: list[str]) -> Iterator[bytes]:
        for folder in folders:
            if folder not in self.seen:
                info = tarfile.TarInfo()
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                yield from self._remembered(self.packer.plain(folder, info))

    def _member(self, source: tarfile.TarFile, info: tarfile.TarInfo, path: str) -> Iterator[bytes]:
        if info.isreg():
            content = source.extractfile(info)
            assert content is not None
            yield from self.packer.file(path, info, content.read)
        elif info.isdir() or info.issym():
            yield from self.packer.plain(path, info)
        elif not info.islnk():
            self.packer.note(f"`{path}` was not kept: it is neither a file, a folder nor a link")
        elif (target := self.seen.get(relative(info.linkname) or "")) and target.type == "file":
            yield from self.packer.hard_link(path, info, target)
        else:
            self.packer.note(f"`{path}` was not kept: the file that it is another name of was not")

    def _remembered(self, packed: Iterator[bytes]) -> Iterator[bytes]:
        before = len(self.packer.entries)
        yield from packed
        for entry in self.packer.entries[before:]:
            self.seen[entry.path] = entry


@contextlib.contextmanager
def _open_beneath(folder: int, name: str) -> Iterator[BinaryIO]:
    """A regular file in `folder`, unbuffered; not through a link, and without waiting at a FIFO."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with open(os.open(name, flags, dir_fd=folder), "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is no file")
        yield cast(BinaryIO, file)


def _read_or_end(file: BinaryIO) -> Callable[[int], bytes]:
    """`file.read`, for which a file that cannot be read further has ended: its header is already in the archive."""

    def read(size: int) -> bytes:
        try:
            return file.read(size)
        except OSError as error:
            if error.errno in _OURS:
                raise
            return b""

    return read
