"""The outputs archive: a tar.gz whose every file can be read on its own, and the index that says where each one is.

The archive is a chain of gzip members, a new one begun at the first file behind each MiB; any tar reads the whole, and
one seek reaches a file. The index `outputs.json` is an object of `version`, `etag` (hex digits of the archive's
SHA-256), `notes` (sentences on what could not be kept) and `entries`, a list of
`[path, type, size, target, member, offset]`: the path below the root, `file`, `directory` or `symlink`, bytes, where a
link points, the byte of the archive at which the entry's gzip member begins, and the byte of that unpacked member at
which the file's content begins. A file with holes has a seventh item, true, and its offset is that of the tar header
with the map of its data (see `polyjob.storage.sparse`). Names that are not UTF-8 are kept by Python's surrogate
escapes.

Each entry has a line of its own, behind a first line with the rest, and the lines are sorted by folder, then by name:
what lies in one folder lies together, and a bisection of the file finds it without reading the whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import heapq
import itertools
import json
import os
import re
import stat
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from isal import isal_zlib

from polyjob.errors import NotFound
from polyjob.storage.pack import BLOCK, GZIP, Entry, Packer
from polyjob.storage.sparse import read_map
from polyjob.storage.tarstream import Pieces

VERSION = 3


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
        self._index = index
        self._start = self._end = 0
        head: dict[str, Any] = {"etag": hashlib.sha256(EMPTY).hexdigest()[:32], "notes": []}
        with contextlib.suppress(FileNotFoundError), index.open("rb") as file:
            line = file.readline()
            head, self._start, self._end = json.loads(line + b"]}"), len(line), file.seek(0, os.SEEK_END)
        self.etag: str = head["etag"]
        """The same for the same bytes of the archive, and for no others."""
        self.notes: list[str] = head["notes"]

    @property
    def is_empty(self) -> bool:
        return next(self._rows(("", "")), None) is None

    @property
    def entries(self) -> dict[str, Entry]:
        """Every entry by its path. Reads the whole index, as nothing else here does."""
        return {entry.path: entry for entry in self._rows(("", ""))}

    def tree(self, path: str, after: str = "", most: int | None = None) -> tuple[list[tuple[str, int]], list[str]]:
        """([(name, size) of each file and link], [name of each folder]) in the folder `path`, by name; empty = root.

        Only names behind `after`, and at most `most`. Raises NotThere.
        """
        base = path.strip("/")
        if base:
            base = self._find(base, "directory", "folder").path
        files: list[tuple[str, int]] = []
        folders: list[str] = []
        for entry in self._entries_of(base, after, most):
            name = _key(entry.path)[1]
            if entry.type == "directory":
                folders.append(name)
            else:
                files.append((name, entry.size))
        return files, folders

    def links(self, path: str, after: str = "", most: int | None = None) -> dict[str, str]:
        """Name → where it leads, of each symlink that `tree` has; none where there is no such folder."""
        base = path.strip("/")
        try:
            base = base and self._find(base, "directory", "folder").path
        except NotThere:
            return {}
        found = self._entries_of(base, after, most)
        return {_key(entry.path)[1]: entry.target for entry in found if entry.target is not None}

    def open_file(self, path: str) -> tuple[int, Iterator[bytes]]:
        """(size, content in pieces) of one file: one seek, and nothing unpacked but its own gzip member.

        Raises NotThere.
        """
        entry = self._find(path.strip("/"), "file", "file")
        return entry.size, self._content(entry)

    def _entries_of(self, base: str, after: str, most: int | None) -> Iterator[Entry]:
        """Return the entries of this folder whose names come after `after`; at most `most`."""
        rows = self._rows((base, after))
        if after:
            rows = itertools.dropwhile(lambda entry: _key(entry.path) == (base, after), rows)
        return itertools.islice(itertools.takewhile(lambda entry: _key(entry.path)[0] == base, rows), most)

    def _find(self, path: str, kind: str, word: str) -> Entry:
        for name in meant_by(path):
            entry = next(self._rows(_key(name)), None)
            if entry is not None and entry.path == name:
                if entry.type == kind:
                    return entry
                break
        raise NotThere(f"there is no {word} `{shown_name(name_of(path))}`")

    def _rows(self, key: tuple[str, str]) -> Iterator[Entry]:
        """The entries in the index's order, from the first whose key is not less than `key`."""
        if not self._end:
            return
        with self._index.open("rb") as file:
            low, high = self._start, self._end  # lines that begin before `low` are less, those from `high` on are not
            while low < high:
                middle = (low + high) // 2
                file.seek(middle - 1)
                file.readline()
                entry = _entry(file.readline())
                if entry is not None and _key(entry.path) < key:
                    low = file.tell()
                else:
                    high = middle
            file.seek(low)
            while (entry := _entry(file.readline())) is not None:
                yield entry

    def _content(self, entry: Entry) -> Iterator[bytes]:
        unpacked = self._unpacked(entry.member, entry.offset)
        if not entry.is_sparse:
            yield from _first(unpacked, entry.size)
            return
        file, end = Pieces(unpacked), 0
        for start, length in read_map(file.read):
            yield from _zeros(start - end)
            for at in range(0, length, BLOCK):
                yield file.read(min(BLOCK, length - at))
            end = start + length
        yield from _zeros(entry.size - end)

    def _unpacked(self, member: int, skip: int) -> Iterator[bytes]:
        """The bytes of one gzip member, without the first ones. Raises OSError where the archive ends too early."""
        unpacker = isal_zlib.decompressobj(wbits=GZIP)
        with self.path.open("rb") as file:
            file.seek(member)
            while True:
                data = unpacker.unconsumed_tail or file.read(BLOCK)
                block = unpacker.decompress(data, BLOCK)
                if not block and not data:
                    raise OSError(f"{self.path} ends too early")
                skipped = min(skip, len(block))
                skip -= skipped
                if len(block) > skipped:
                    yield block[skipped:]


def _first(pieces: Iterator[bytes], size: int) -> Iterator[bytes]:
    """The first `size` bytes of `pieces`; nothing is read behind them."""
    while size:
        piece = next(pieces)[:size]
        size -= len(piece)
        yield piece


def _zeros(size: int) -> Iterator[bytes]:
    block = bytes(min(size, BLOCK))
    for _ in range(size // BLOCK):
        yield block
    if size % BLOCK:
        yield block[: size % BLOCK]


def shown_name(name: str) -> str:
    """Return a name as it is listed, another for each name: control characters and bytes that are not UTF-8 become `%`
    and two hex digits, and so does the `%` of a name in which such digits are letters of its own."""
    shown = _UNSHOWN.sub(lambda match: f"%{match[0].encode('utf-8', 'surrogateescape')[0]:02X}", name)
    return shown.encode("utf-8", "replace").decode()


def name_of(listed: str) -> str:
    """Return the name or path that `shown_name` lists like this."""
    return _ESCAPED.sub(lambda match: urllib.parse.unquote(match[0], errors="surrogateescape"), listed)


def meant_by(path: str) -> list[str]:
    """Return the paths that `path` can mean; the first that is there counts. It is a listed one, or else the path
    itself."""
    return list(dict.fromkeys([name_of(path), path]))


_CODE = "(?:[0189A-F][0-9A-F]|7F|25)"
_UNSHOWN = re.compile(f"[\x00-\x1f\x7f\udc80-\udcff]|%(?={_CODE})")
_ESCAPED = re.compile(f"(?:%{_CODE})+")


def write_index(file: BinaryIO, packer: Packer) -> None:
    """The index of what the packer has packed."""
    head = {"version": VERSION, "etag": packer.digest.hexdigest()[:32], "notes": packer.notes}
    file.write(json.dumps(head)[:-1].encode() + b', "entries": [\n')
    for number, entry in enumerate(sorted(packer.entries, key=lambda entry: _key(entry.path))):
        file.write(
            b",\n" * bool(number) + json.dumps(entry if entry.is_sparse else entry[:-1], separators=(",", ":")).encode()
        )
    file.write(b"\n]}\n")


def _key(path: str) -> tuple[str, str]:
    """(folder, name): what the index is sorted by."""
    folder, _, name = path.rpartition("/")
    return folder, name


def _entry(line: bytes) -> Entry | None:
    """The entry of one line of the index; None behind the last."""
    return Entry(*json.loads(line.rstrip(b",\n"))) if line.startswith(b"[") else None


class LiveOutputs:
    """The outputs folder of a job that still runs. Names are resolved beneath the folder only; no link is followed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def tree(self, path: str, after: str = "", most: int | None = None) -> tuple[list[tuple[str, int]], list[str]]:
        """As `Outputs.tree`."""
        files, folders = [], []
        with self._opened(path, os.O_DIRECTORY) as folder:
            for name in _names(folder, after, most):
                with contextlib.suppress(FileNotFoundError):
                    status = os.stat(name, dir_fd=folder, follow_symlinks=False)
                    if stat.S_ISDIR(status.st_mode):
                        folders.append(name)
                    else:
                        files.append((name, status.st_size))
        return files, folders

    def links(self, path: str, after: str = "", most: int | None = None) -> dict[str, str]:
        """As `Outputs.links`."""
        found = {}
        with contextlib.suppress(NotThere), self._opened(path, os.O_DIRECTORY) as folder:
            for name in _names(folder, after, most):
                with contextlib.suppress(OSError):  # what is no link
                    found[name] = os.readlink(name, dir_fd=folder)
        return found

    def open_file(self, path: str) -> tuple[int, Iterator[bytes]]:
        """As `Outputs.open_file`; the content is as long as the file was when it was opened.

        Where the folder belongs to an account of its own, only files of that account are given: a hard link leads to
        any file of the disk.
        """
        with self._opened(path, os.O_NONBLOCK) as found:
            status = os.fstat(found)
            if not stat.S_ISREG(status.st_mode) or not self._may_be_given(status):
                raise NotThere(f"there is no file `{shown_name(name_of(path.strip('/')))}`")
            content = _Content(os.dup(found), status.st_size)
        return status.st_size, content

    def _may_be_given(self, status: os.stat_result) -> bool:
        return self.folder.lstat().st_uid in (os.geteuid(), status.st_uid)

    def archive(self, prefix: str) -> Iterator[bytes]:
        """The folder as it is now, as a tar.gz."""
        packer = Packer(prefix)
        yield from packer.folder(self.folder)
        yield from packer.end()

    @contextlib.contextmanager
    def _opened(self, path: str, flags: int) -> Iterator[int]:
        found = self._open(path.strip("/"), flags)
        try:
            yield found
        finally:
            os.close(found)

    def _open(self, path: str, flags: int) -> int:
        for name in meant_by(path):
            try:
                return _open_beneath(self.folder, [part for part in name.split("/") if part], flags)
            except (FileNotFoundError, ValueError):
                continue
            except OSError:  # it is there, and cannot be opened like this
                break
        raise NotThere(f"there is nothing at `{shown_name(name_of(path))}`")


def _open_beneath(folder: Path, parts: list[str], flags: int) -> int:
    """Open what is at this path; no link is followed. Raises OSError, ValueError."""
    if any(part in (".", "..") for part in parts):
        raise ValueError("a path leads nowhere but down")
    always = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    found = os.open(folder, always | os.O_DIRECTORY)
    for number, part in enumerate(parts, 1):
        inner = flags if number == len(parts) else os.O_DIRECTORY
        try:
            below = os.open(part, always | inner, dir_fd=found)
        finally:
            os.close(found)
        found = below
    return found


def _names(folder: int, after: str, most: int | None) -> list[str]:
    """The names in a folder, in order: those behind `after`, at most `most`."""
    with os.scandir(folder) as entries:
        names = (entry.name for entry in entries if entry.name > after)
        return sorted(names) if most is None else heapq.nsmallest(most, names)


class _Content:
    """The first `size` bytes of an open file, in pieces. `close` may come at any time, and before the first piece."""

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor, self._left = descriptor, size

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        block = os.read(self._descriptor, min(BLOCK, self._left)) if self._left else b""
        if not block:
            self.close()
            raise StopIteration
        self._left -= len(block)
        return block

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor, self._left = -1, 0

    __del__ = close
