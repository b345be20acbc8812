"""Packing outputs: a folder or a tar stream becomes a chain of gzip members, with a book of where each entry is.

What the archive and its index look like stands in `polyjob.storage.outputs`, which reads them. Packing yields often,
also where it has nothing to write, so that whoever consumes it can pause or end it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
import stat
import tarfile
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from isal import isal_zlib

from polyjob.storage.sparse import Extents, Reader, extents_of, sparse_header
from polyjob.storage.tarstream import Pieces, StrictInfo, relative
from runners.common.trees import made_readable

MEMBER_SIZE = 1 << 20
BLOCK = 1 << 16
DEEPEST = 200
"""Folders below one another; what lies deeper is left out, with a note."""
MAX_ENTRIES = 100_000
"""Files, folders and links that are kept of one job."""
MAX_NAME_BYTES = 32 << 20
"""Letters of all their paths together."""
MAX_SKIPPED_BYTES = 16 << 30
"""Of a tar stream that is read and not kept; it cannot be passed over otherwise."""
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
    is_sparse: bool = False
    """`offset` is that of the header with the map of the file's holes."""


class Cut(Exception):
    """Nothing more is kept; the text says why."""


@dataclass
class Packer:
    """Turns entries into the bytes of an archive, keeping book of where each one is."""

    prefix: str
    """The one folder that all entries are put into."""
    limit: int = 0
    """Bytes of files that are taken, holes not counted; 0 = all."""
    disk: int = 0
    """Bytes of files that are taken, holes counted: no more could be unpacked again. 0 = any number."""
    may_open: bool = False
    """What its owner may not read is made readable while it is packed: nobody else works with it any more."""
    deadline: Callable[[], str | None] = lambda: None
    """Why nothing more may be packed, once that is so."""
    entries: list[Entry] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Sentences on what could not be kept; at most MOST_NOTES, and then one that says so."""
    digest: Any = field(default_factory=hashlib.sha256)
    taken: int = 0
    """Bytes of files that were packed so far."""
    _apparent: int = 0
    _listed: int = 0
    _names: int = 0
    _skipped: int = 0
    _written: int = 0
    _member: int = 0
    _in_member: int = 0
    _compressor: Any = None
    _inodes: dict[tuple[int, int], Entry] = field(default_factory=dict)
    """Files with more than one name."""
    _owner: int | None = None
    """The account whose files are kept; None = any."""
    _border: tuple[int, Any, int] | None = None
    """While a large file is packed: bytes written before it, their digest, and the number of entries."""

    def folder(self, folder: Path) -> Iterator[bytes]:
        """Pack everything below `folder`, in order of name.

        Symlinks are kept and never followed. Of a folder that belongs to another account than this process, only that
        account's files are kept: what it did not write it may have linked to. What is not kept is noted. A file that
        changes meanwhile gives as many bytes as it had when it was opened. `rewind` has to follow.

        Raises OSError where this process lacks memory or descriptors.
        """
        try:
            with self._opened(folder, os.O_DIRECTORY) as root:
                owner = os.fstat(root).st_uid
                self._owner = None if owner == os.geteuid() else owner
                yield from self._walk(root, "", 1)
        except FileNotFoundError:
            return
        except Cut as cut:
            self.note(str(cut))
        except OSError as error:
            self._lost("The outputs folder", error)

    def stream(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """Pack everything in an uncompressed tar stream with names relative to the root; nothing if there is no piece.

        `rewind` has to follow. Raises what `pieces` raises, and OSError where the stream is no whole tar.
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
        except Cut as cut:
            self.note(str(cut))
        except (tarfile.TarError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
            if error is file.raised:
                raise
            raise OSError(f"the tar stream of the outputs is broken: {error}") from error

    def rewind(self) -> int:
        """Forget a file that was cut while it was packed. Return the number of bytes that the archive has without it,
        to which the consumer has to cut what it has written."""
        if self._border is not None:
            self._written, self.digest, count = self._border
            del self.entries[count:]
            self._compressor, self._border = None, None
            self._member, self._in_member = self._written, 0
        return self._written

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
        for name in self._list(folder, path):
            inner = f"{path}/{name}" if path else name
            try:
                yield from self._entry(folder, name, inner, depth)
            except OSError as error:
                self._lost(f"`{inner}`", error)

    def _list(self, folder: int, path: str) -> list[str]:
        """The names in a folder, in order; of all folders together as many as can be kept, and one more."""
        most = MAX_ENTRIES + 1 - self._listed
        with os.scandir(folder) as entries:
            names = [entry.name for entry in itertools.islice(entries, most)]
            if next(entries, None) is not None:
                self.note(f"`{path}` has more files than the {MAX_ENTRIES} that are kept; the others were not")
        self._listed += len(names)
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
        elif depth == DEEPEST:
            self.note(f"`{path}` was not kept: it lies more than {DEEPEST} folders deep")
        else:
            info.type = tarfile.DIRTYPE
            yield from self.plain(path, info)
            with self._opened(name, os.O_DIRECTORY, folder) as child:
                yield from self._walk(child, path, depth + 1)

    @contextlib.contextmanager
    def _opened(self, name: str | Path, flags: int, folder: int | None = None) -> Iterator[int]:
        """Open a folder (O_DIRECTORY) or anything else; not through a link, and without waiting at a FIFO.

        Whether this process may read it is tried, because root may lack the capability to.
        """
        with contextlib.ExitStack() as stack:
            try:
                opened = _open(name, flags, folder)
            except PermissionError:
                if not self.may_open or self._owner is not None:
                    raise
                stack.enter_context(made_readable(name, folder))
                opened = _open(name, flags, folder)
            stack.callback(os.close, opened)
            yield opened

    def _regular(self, folder: int, name: str, path: str, info: tarfile.TarInfo) -> Iterator[bytes]:
        with self._opened(name, 0, folder) as opened, open(opened, "rb", buffering=0, closefd=False) as file:
            status = os.fstat(opened)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "it is no file")
            if self._owner is not None and status.st_uid != self._owner:
                self.note(f"`{path}` was not kept: it belongs to another account than the job's")
                return
            inode = (status.st_dev, status.st_ino)
            if inode in self._inodes:
                yield from self.hard_link(path, info, self._inodes[inode])
                return
            before = len(self.entries)
            info.size = status.st_size
            extents = extents_of(opened, status)
            yield from self.file(path, info, Reader(file, extents, _OURS).read, extents)
            if status.st_nlink > 1 and len(self.entries) > before:
                self._inodes[inode] = self.entries[-1]

    def file(
        self, path: str, like: tarfile.TarInfo, read: Callable[[int], bytes], extents: Extents | None = None
    ) -> Iterator[bytes]:
        """Pack a file of `like`'s size, mode and time with what `read` gives: of `extents` one after the other, where
        those are given, else of all of it. Noted where a limit is reached."""
        size = like.size
        stored = size if extents is None else sum(length for _, length in extents)
        if (why := self._too_large(size, stored)) is not None:
            self.note(f"`{path}` was not kept: {why}")
            return
        info = tarfile.TarInfo()
        info.size, info.mode, info.mtime = size, like.mode, like.mtime
        if stored > MEMBER_SIZE:
            yield from self._new_member()
            self._border = self._written, self.digest.copy(), len(self.entries)
        header = yield from self._header(path, info, extents)
        at = self._in_member if extents is None else header
        self.entries.append(Entry(path, "file", size, None, self._member, at, extents is not None))
        self._apparent += size
        yield from self._content(path, read, stored)
        self._border = None

    def _too_large(self, size: int, stored: int) -> str | None:
        if self.limit and self.taken + stored > self.limit:
            return f"the outputs are larger than the {self.limit} bytes that are kept"
        if self.disk and self._apparent + size > self.disk:
            return f"with it, the outputs would be larger than the disk ({self.disk} bytes)"
        return None

    def _content(self, path: str, read: Callable[[int], bytes], size: int) -> Iterator[bytes]:
        left = size
        while left and (block := read(min(BLOCK, left))):
            if self._border is not None:
                self._check_deadline(path)
            left -= len(block)
            self.taken += len(block)
            yield from self._compress(block)
        if left:
            self.note(f"`{path}` became shorter or unreadable while it was kept; zeros fill the rest")
        while left:
            zeros = bytes(min(BLOCK, left))
            left -= len(zeros)
            self.taken += len(zeros)
            yield from self._compress(zeros)
        yield from self._compress(bytes(-size % tarfile.BLOCKSIZE))

    def skip(self, path: str, size: int, read: Callable[[int], bytes]) -> Iterator[bytes]:
        """Pass over a file of a stream that is not kept."""
        self._skipped += size
        if self._skipped > MAX_SKIPPED_BYTES:
            raise Cut(f"Nothing after `{path}` was kept: what is not kept is too large to be passed over")
        while block := read(min(BLOCK, size)):
            size -= len(block)
            self._check_deadline(path)
            yield b""

    def _check_deadline(self, path: str) -> None:
        why = self.deadline()
        if why is not None:
            raise Cut(f"`{path}` and what comes after it was not kept: {why}")

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

    def _header(self, path: str, info: tarfile.TarInfo, extents: Extents | None = None) -> Generator[bytes, None, int]:
        """Begin an entry. Return where, in the unpacked member, its last header begins."""
        self._check_deadline(path)
        self._names += len(path)
        if len(self.entries) >= MAX_ENTRIES or self._names > MAX_NAME_BYTES:
            raise Cut(f"`{path}` and what comes after it was not kept: the outputs have too many files")
        if self._in_member >= MEMBER_SIZE:
            yield from self._new_member()
        info.name = f"{self.prefix}/{path}"
        # Unpacked by root, everything is root's own: a file with a set-user-ID bit would run as root.
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
            self._compressor = isal_zlib.compressobj(_LEVEL, isal_zlib.DEFLATED, GZIP)
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
    """Raises PermissionError also for a folder that can be listed, but not searched."""
    flags |= os.O_NOFOLLOW | os.O_CLOEXEC | os.O_RDONLY | os.O_NONBLOCK
    opened = os.open(name, flags, dir_fd=folder)
    try:
        if flags & os.O_DIRECTORY:
            os.stat(".", dir_fd=opened)
    except OSError:
        os.close(opened)
        raise
    return opened


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
            before = len(self.packer.entries)
            yield from self.packer.file(path, info, content.read)
            if len(self.packer.entries) == before:
                yield from self.packer.skip(path, info.size, content.read)
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
