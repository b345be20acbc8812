"""The outputs archive: a tar.gz whose every file can be read on its own, and the index that says where each one is.

The archive is a chain of gzip members, a new one begun at the first file behind each MiB; any tar reads the whole, and
one seek reaches a file. The index `outputs.json` is an object of `version`, `etag` (hex digits of the archive's
SHA-256), `notes` (sentences on what could not be kept) and `entries`, a list of
`[path, type, size, target, member, offset]`: the path below the root, `file`, `directory` or `symlink`, bytes, where a
link points, the byte of the archive at which the entry's gzip member begins, and the byte of that unpacked member at
which the file's content begins. Names that are not UTF-8 are kept by Python's surrogate escapes.

Each entry has a line of its own, behind a first line with the rest, and the lines are sorted by folder, then by name:
what lies in one folder lies together, and a bisection of the file finds it without reading the whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from isal import isal_zlib

from polyjob.errors import NotFound
from polyjob.packing import BLOCK, GZIP, Entry, Packer

VERSION = 2


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

    def tree(self, path: str) -> tuple[list[tuple[str, int]], list[str]]:
        """([(name, size) of each file and link], [name of each folder]) in the folder `path`, by name; empty = root.

        Raises NotThere.
        """
        base = path.strip("/")
        if base:
            self._find(base, "directory", "folder")
        files: list[tuple[str, int]] = []
        folders: list[str] = []
        for entry in self._entries_of(base):
            name = _key(entry.path)[1]
            if entry.type == "directory":
                folders.append(name)
            else:
                files.append((name, entry.size))
        return files, folders

    def links(self, path: str) -> dict[str, str]:
        """Name → where it leads, of each symlink in the folder `path`; none where there is no such folder."""
        found = self._entries_of(path.strip("/"))
        return {_key(entry.path)[1]: entry.target for entry in found if entry.target is not None}

    def open_file(self, path: str) -> tuple[int, Iterator[bytes]]:
        """(size, content in pieces) of one file: one seek, and nothing unpacked but its own gzip member.

        Raises NotThere.
        """
        entry = self._find(path.strip("/"), "file", "file")
        return entry.size, self._content(entry)

    def _entries_of(self, base: str) -> Iterator[Entry]:
        """What is in this folder."""
        return itertools.takewhile(lambda entry: _key(entry.path)[0] == base, self._rows((base, "")))

    def _find(self, path: str, kind: str, word: str) -> Entry:
        entry = next(self._rows(_key(path)), None)
        if entry is None or entry.path != path or entry.type != kind:
            raise NotThere(f"there is no {word} `{path}`")
        return entry

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
        skip, left = entry.offset, entry.size
        unpacker = isal_zlib.decompressobj(wbits=GZIP)
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
                elif not block and not data:
                    raise OSError(f"{self.path} ends too early")


def write_index(file: BinaryIO, packer: Packer) -> None:
    """The index of what the packer has packed."""
    head = {"version": VERSION, "etag": packer.digest.hexdigest()[:32], "notes": packer.notes}
    file.write(json.dumps(head)[:-1].encode() + b', "entries": [\n')
    for number, entry in enumerate(sorted(packer.entries, key=lambda entry: _key(entry.path))):
        file.write(b",\n" * bool(number) + json.dumps(entry, separators=(",", ":")).encode())
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

    def links(self, path: str) -> dict[str, str]:
        """As `Outputs.links`."""
        found = {}
        with contextlib.suppress(NotThere), self._opened(path.strip("/"), os.O_DIRECTORY) as folder:
            for name in os.listdir(folder):
                with contextlib.suppress(OSError):  # what is no link
                    found[name] = os.readlink(name, dir_fd=folder)
        return found

    def open_file(self, path: str) -> tuple[int, Iterator[bytes]]:
        """As `Outputs.open_file`; the content is as long as the file was when it was opened."""
        with self._opened(path.strip("/"), os.O_NONBLOCK) as found:
            status = os.fstat(found)
            if not stat.S_ISREG(status.st_mode):
                raise NotThere(f"there is no file `{path.strip('/')}`")
            content = _Content(os.dup(found), status.st_size)
        return status.st_size, content

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
        except (OSError, ValueError):
            raise NotThere(f"there is nothing at `{path}`") from None
        try:
            yield found
        finally:
            os.close(found)


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
