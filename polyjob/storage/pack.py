"""Pack the outputs of a job into a chain of gzip members, and record where each entry is.

`polyjob.storage.outputs` describes and reads the format. `Packer.folder` packs a folder, and `pack_stream` packs a tar
stream. Packing yields often, also when it has nothing to write, so
that the consumer can pause or end it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
import stat
import tarfile
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from isal import isal_zlib

from polyjob.storage.sparse import ExtentReader, Extents, find_extents, sparse_header
from runners.common.trees import made_readable

MEMBER_SIZE = 1 << 20
BLOCK = 1 << 16
MAX_DEPTH = 200
"""Nested folders. Deeper ones are left out, with a note."""
MAX_ENTRIES = 100_000
"""Files, folders and links that are kept of one job."""
MAX_NAME_CHARACTERS = 32 << 20
"""Characters in all their paths together."""
MAX_SKIPPED_BYTES = 16 << 30
"""Bytes of a tar stream that are read and not kept. A stream cannot be skipped without reading it."""
MAX_NOTES = 20
MAX_NOTE_LENGTH = 500
_COMPRESSION_LEVEL = 1
GZIP_WINDOW_BITS = 31
"""zlib's window bits for a gzip member."""
_RESOURCE_ERRORS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}
"""Errors of this process and not of the file. A later attempt may succeed."""


class Entry(NamedTuple):
    path: str
    type: str
    size: int = 0
    target: str | None = None
    member: int = 0
    offset: int = 0
    is_sparse: bool = False
    """`offset` is that of the tar header with the map of the file's data."""


class PackingStopped(Exception):
    """Nothing more is packed. The text is the reason, for the notes."""


@dataclass
class Packer:
    """Turns entries into the bytes of a tarball, and records where each entry is."""

    prefix: str
    """The folder in the tarball that has all entries."""
    limit: int = 0
    """Maximum bytes of files to pack, without holes; 0 = no limit."""
    disk_size: int = 0
    """Maximum bytes of files to pack, with holes; 0 = no limit. More could not be unpacked on this disk again."""
    can_change_modes: bool = False
    """Make unreadable files readable while they are packed. Only safe once no job uses them any more."""
    deadline: Callable[[], str | None] = lambda: None
    """Returns the reason once nothing more may be packed, and None before."""
    entries: list[Entry] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Sentences on what was not kept: at most `MAX_NOTES`, and one more if further notes were dropped."""
    digest: Any = field(default_factory=hashlib.sha256)
    packed_bytes: int = 0
    """Bytes of files, without holes, that have been packed so far."""
    _apparent_bytes: int = 0
    _listed_names: int = 0
    _name_characters: int = 0
    _skipped_bytes: int = 0
    _written: int = 0
    _member: int = 0
    _in_member: int = 0
    _compressor: Any = None
    _inodes: dict[tuple[int, int], Entry] = field(default_factory=dict)
    """The entries of files that have more than one name, by device and inode."""
    _owner: int | None = None
    """The account whose files are packed; None = any."""
    _before_large_file: tuple[int, Any, int] | None = None
    """While a large file is packed: the bytes written before it, their digest, and the number of entries."""

    def folder(self, folder: Path) -> Iterator[bytes]:
        """Pack everything below `folder`, sorted by name. Call `rewind` afterwards.

        Symlinks are packed and never followed. If the folder belongs to another account than this process's, only files
        of that account are packed, because other files may be hard links to anything. Everything that is left out is
        noted. A file that changes meanwhile is packed with the size that it had when it was opened.

        Raises OSError if this process lacks memory or file descriptors.
        """
        try:
            with self._opened(folder, os.O_DIRECTORY) as root:
                owner = os.fstat(root).st_uid
                self._owner = None if owner == os.geteuid() else owner
                yield from self._walk(root, "", 1)
        except FileNotFoundError:
            return
        except PackingStopped as stopped:
            self.note(str(stopped))
        except OSError as error:
            self._note_error("The outputs folder", error)

    def rewind(self) -> int:
        """Forget a file that was only packed in part.

        Returns the number of bytes of the tarball without it. The consumer has to truncate what it has written to that.
        """
        if self._before_large_file is not None:
            self._written, self.digest, count = self._before_large_file
            del self.entries[count:]
            self._compressor, self._before_large_file = None, None
            self._member, self._in_member = self._written, 0
        return self._written

    def end(self) -> Iterator[bytes]:
        """Yield the last bytes of the tarball."""
        yield from self._compress(bytes(2 * tarfile.BLOCKSIZE))
        yield self._end_member()

    def note(self, text: str) -> None:
        """Record a sentence on something that was not kept, shortened to `MAX_NOTE_LENGTH` characters."""
        if len(text) > MAX_NOTE_LENGTH:
            half = MAX_NOTE_LENGTH // 2
            text = f"{text[:half]}…{text[-half:]}"
        if len(self.notes) < MAX_NOTES:
            self.notes.append(text.encode("utf-8", "replace").decode())
        elif len(self.notes) == MAX_NOTES:
            self.notes.append("There are more such notes.")

    def _note_error(self, name: str, error: OSError) -> None:
        if error.errno in _RESOURCE_ERRORS:
            raise error
        self.note(f"{name} was not kept: {error.strerror or error}")

    def _walk(self, folder: int, path: str, depth: int) -> Iterator[bytes]:
        for name in self._list(folder, path):
            inner = f"{path}/{name}" if path else name
            try:
                yield from self._entry(folder, name, inner, depth)
            except OSError as error:
                self._note_error(f"`{inner}`", error)

    def _list(self, folder: int, path: str) -> list[str]:
        """Return the sorted names in a folder. All folders together list at most one name more than can be kept."""
        limit = MAX_ENTRIES + 1 - self._listed_names
        with os.scandir(folder) as entries:
            names = [entry.name for entry in itertools.islice(entries, limit)]
            if next(entries, None) is not None:
                self.note(
                    f"`{path}` has more files than the {MAX_ENTRIES} that one job can keep; the others were not kept"
                )
        self._listed_names += len(names)
        return sorted(names)

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
        elif depth == MAX_DEPTH:
            self.note(f"`{path}` was not kept: it lies more than {MAX_DEPTH} folders deep")
        else:
            info.type = tarfile.DIRTYPE
            yield from self.plain(path, info)
            with self._opened(name, os.O_DIRECTORY, folder) as child:
                yield from self._walk(child, path, depth + 1)

    @contextlib.contextmanager
    def _opened(self, name: str | Path, flags: int, folder: int | None = None) -> Iterator[int]:
        """Open a folder (O_DIRECTORY) or a file, without following a link and without waiting for a FIFO.

        Opening is the only reliable test of whether this process can read it: even root can lack the capability.
        """
        with contextlib.ExitStack() as stack:
            try:
                descriptor = _open(name, flags, folder)
            except PermissionError:
                if not self.can_change_modes or self._owner is not None:
                    raise
                stack.enter_context(made_readable(name, folder))
                descriptor = _open(name, flags, folder)
            stack.callback(os.close, descriptor)
            yield descriptor

    def _regular(self, folder: int, name: str, path: str, info: tarfile.TarInfo) -> Iterator[bytes]:
        with self._opened(name, 0, folder) as descriptor, open(descriptor, "rb", buffering=0, closefd=False) as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "it is not a regular file")
            if self._owner is not None and status.st_uid != self._owner:
                self.note(f"`{path}` was not kept: it belongs to another account than the job's")
                return
            inode = (status.st_dev, status.st_ino)
            if inode in self._inodes:
                yield from self.hard_link(path, info, self._inodes[inode])
                return
            before = len(self.entries)
            info.size = status.st_size
            extents = find_extents(descriptor, status)
            yield from self.file(path, info, ExtentReader(file, extents, _RESOURCE_ERRORS).read, extents)
            if status.st_nlink > 1 and len(self.entries) > before:
                self._inodes[inode] = self.entries[-1]

    def file(
        self, path: str, like: tarfile.TarInfo, read: Callable[[int], bytes], extents: Extents | None = None
    ) -> Iterator[bytes]:
        """Pack a file with the size, mode and time of `like`, or note that a limit does not allow it.

        `read` returns the content: the data of all `extents` in order, or all of the file if there are none.
        """
        size = like.size
        stored = size if extents is None else sum(length for _, length in extents)
        if (reason := self._size_problem(size, stored)) is not None:
            self.note(f"`{path}` was not kept: {reason}")
            return
        info = tarfile.TarInfo()
        info.size, info.mode, info.mtime = size, like.mode, like.mtime
        if stored > MEMBER_SIZE:
            yield from self._new_member()
            self._before_large_file = self._written, self.digest.copy(), len(self.entries)
        header = yield from self._header(path, info, extents)
        at = self._in_member if extents is None else header
        self.entries.append(Entry(path, "file", size, None, self._member, at, extents is not None))
        self._apparent_bytes += size
        yield from self._content(path, read, stored)
        self._before_large_file = None

    def _size_problem(self, size: int, stored: int) -> str | None:
        if self.limit and self.packed_bytes + stored > self.limit:
            return f"the outputs are larger than the {self.limit} bytes that are kept"
        if self.disk_size and self._apparent_bytes + size > self.disk_size:
            return f"with it, the outputs would be larger than the disk ({self.disk_size} bytes)"
        return None

    def _content(self, path: str, read: Callable[[int], bytes], size: int) -> Iterator[bytes]:
        remaining = size
        while remaining and (block := read(min(BLOCK, remaining))):
            if self._before_large_file is not None:
                self._check_deadline(path)
            remaining -= len(block)
            self.packed_bytes += len(block)
            yield from self._compress(block)
        if remaining:
            self.note(f"`{path}` became shorter or unreadable while it was packed; the rest is zeros")
        while remaining:
            zeros = bytes(min(BLOCK, remaining))
            remaining -= len(zeros)
            self.packed_bytes += len(zeros)
            yield from self._compress(zeros)
        yield from self._compress(bytes(-size % tarfile.BLOCKSIZE))

    def skip(self, path: str, size: int, read: Callable[[int], bytes]) -> Iterator[bytes]:
        """Read and discard a file of a stream that is not kept."""
        self._skipped_bytes += size
        if self._skipped_bytes > MAX_SKIPPED_BYTES:
            raise PackingStopped(f"Nothing after `{path}` was kept: the files that are not kept are too large to skip")
        while block := read(min(BLOCK, size)):
            size -= len(block)
            self._check_deadline(path)
            yield b""

    def _check_deadline(self, path: str) -> None:
        reason = self.deadline()
        if reason is not None:
            raise PackingStopped(f"`{path}` and everything after it was not kept: {reason}")

    def plain(self, path: str, info: tarfile.TarInfo) -> Iterator[bytes]:
        """Pack a folder or a symlink."""
        info.size = 0
        yield from self._header(path, info)
        target = info.linkname if info.issym() else None
        self.entries.append(Entry(path, "symlink" if info.issym() else "directory", 0, target))

    def hard_link(self, path: str, info: tarfile.TarInfo, target: Entry) -> Iterator[bytes]:
        """Pack another name of a file that is already in the tarball."""
        info.type, info.size, info.linkname = tarfile.LNKTYPE, 0, f"{self.prefix}/{target.path}"
        yield from self._header(path, info)
        self.entries.append(target._replace(path=path))

    def _header(self, path: str, info: tarfile.TarInfo, extents: Extents | None = None) -> Generator[bytes, None, int]:
        """Write the headers of an entry. Return the offset of the last one in the unpacked member."""
        self._check_deadline(path)
        self._name_characters += len(path)
        if len(self.entries) >= MAX_ENTRIES or self._name_characters > MAX_NAME_CHARACTERS:
            raise PackingStopped(f"`{path}` and everything after it was not kept: the outputs have too many files")
        if self._in_member >= MEMBER_SIZE:
            yield from self._new_member()
        info.name = f"{self.prefix}/{path}"
        # If root unpacks the tarball, root owns everything, and a file with a set-user-ID bit would run as root.
        info.uid = info.gid = 0
        info.uname = info.gname = ""
        info.mode &= ~(stat.S_ISUID | stat.S_ISGID)
        info.mtime = max(0, int(info.mtime))
        if extents is None:
            header = last = info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
        else:
            header, last = sparse_header(info, extents)
        at = self._in_member + len(header) - len(last)
        yield from self._compress(header)
        return at

    def _compress(self, data: bytes) -> Iterator[bytes]:
        if self._compressor is None:
            self._compressor = isal_zlib.compressobj(_COMPRESSION_LEVEL, isal_zlib.DEFLATED, GZIP_WINDOW_BITS)
        self._in_member += len(data)
        yield self._count(self._compressor.compress(data))

    def _new_member(self) -> Iterator[bytes]:
        if self._compressor is not None:
            yield self._end_member()

    def _end_member(self) -> bytes:
        packed = self._count(self._compressor.flush())
        self._compressor = None
        self._member, self._in_member = self._written, 0
        return packed

    def _count(self, packed: bytes) -> bytes:
        self._written += len(packed)
        self.digest.update(packed)
        return packed


def _open(name: str | Path, flags: int, folder: int | None) -> int:
    """Open a file or folder. Raises PermissionError also for a folder that can be listed but not searched."""
    flags |= os.O_NOFOLLOW | os.O_CLOEXEC | os.O_RDONLY | os.O_NONBLOCK
    descriptor = os.open(name, flags, dir_fd=folder)
    try:
        if flags & os.O_DIRECTORY:
            os.stat(".", dir_fd=descriptor)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
