"""The sealed outputs of a job: a tarball in which each file can be read on its own, and the index of its files.

The tarball is a chain of gzip members. A new member begins at the first file after each MiB. Any tar program can read
the tarball, and one seek reaches any file. The index `outputs.json` is an object of `version`, `etag` (hex digits of
the tarball's SHA-256), `notes` (sentences on what could not be kept) and `entries`, a list of
`[path, type, size, target, member, offset]`:

* `path`: the path below the root. Bytes that are not UTF-8 are kept as Python's surrogate escapes.
* `type`: `file`, `directory` or `symlink`.
* `size`: the size in bytes.
* `target`: the target of a symlink.
* `member`: the byte of the tarball at which the entry's gzip member begins.
* `offset`: the byte of the unpacked member at which the file's content begins.
* A file with holes has a seventh item, true. Its `offset` is that of the tar header with the map of its data (see
  `polyjob.storage.sparse`).

The first line of the index has everything but the entries. Each entry then has a line of its own, and the lines are
sorted by folder, then by name. The entries of one folder are therefore adjacent, and a binary search in the file finds
them without reading all of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from isal import isal_zlib

from polyjob.errors import NotFound
from polyjob.storage.output_names import escape_name, possible_paths, unescape_name
from polyjob.storage.pack import BLOCK, GZIP_WINDOW_BITS, Entry, Packer
from polyjob.storage.sparse import read_map
from polyjob.storage.tarstream import IteratorFile

VERSION = 3


def _empty() -> bytes:
    packer = Packer("")
    return b"".join(packer.end())


EMPTY = _empty()
"""The tarball of empty outputs."""


class PathNotFound(NotFound):
    """The outputs have nothing at this path, or not the requested kind (file or folder)."""


class Outputs:
    """The sealed outputs of a job: a tarball and its index. If the files are missing, the outputs are empty."""

    def __init__(self, tarball: Path, index: Path) -> None:
        self.path = tarball
        self._index = index
        self._start = self._end = 0
        head: dict[str, Any] = {"etag": hashlib.sha256(EMPTY).hexdigest()[:32], "notes": []}
        with contextlib.suppress(FileNotFoundError), index.open("rb") as file:
            line = file.readline()
            head, self._start, self._end = json.loads(line + b"]}"), len(line), file.seek(0, os.SEEK_END)
        self.etag: str = head["etag"]
        """An ETag of the tarball's content."""
        self.notes: list[str] = head["notes"]

    @property
    def is_empty(self) -> bool:
        return next(self._rows(("", "")), None) is None

    @property
    def entries(self) -> dict[str, Entry]:
        """All entries by path. This reads the complete index; the other methods do not."""
        return {entry.path: entry for entry in self._rows(("", ""))}

    def tree(self, path: str, after: str = "", limit: int | None = None) -> tuple[list[tuple[str, int]], list[str]]:
        """List the folder `path`; an empty path is the root.

        Returns the (name, size) of each file and link, and the name of each folder, both sorted. Lists only names after
        `after`, and at most `limit`. Raises PathNotFound.
        """
        base = path.strip("/")
        if base:
            base = self._find(base, "directory", "folder").path
        files: list[tuple[str, int]] = []
        folders: list[str] = []
        for entry in self._entries_of(base, after, limit):
            name = _key(entry.path)[1]
            if entry.type == "directory":
                folders.append(name)
            else:
                files.append((name, entry.size))
        return files, folders

    def links(self, path: str, after: str = "", limit: int | None = None) -> dict[str, str]:
        """Return the target of each symlink that `tree` lists, by name; nothing if there is no such folder."""
        base = path.strip("/")
        try:
            base = base and self._find(base, "directory", "folder").path
        except PathNotFound:
            return {}
        entries = self._entries_of(base, after, limit)
        return {_key(entry.path)[1]: entry.target for entry in entries if entry.target is not None}

    def open_file(self, path: str) -> tuple[int, Iterator[bytes]]:
        """Return the size of a file, and an iterator over its content.

        Only the file's own gzip member is read. Raises PathNotFound.
        """
        entry = self._find(path.strip("/"), "file", "file")
        return entry.size, self._content(entry)

    def _entries_of(self, base: str, after: str, limit: int | None) -> Iterator[Entry]:
        """Return the entries of a folder whose names come after `after`; at most `limit`."""
        rows = self._rows((base, after))
        if after:
            rows = itertools.dropwhile(lambda entry: _key(entry.path) == (base, after), rows)
        return itertools.islice(itertools.takewhile(lambda entry: _key(entry.path)[0] == base, rows), limit)

    def _find(self, path: str, kind: str, noun: str) -> Entry:
        for name in possible_paths(path):
            entry = next(self._rows(_key(name)), None)
            if entry is not None and entry.path == name:
                if entry.type == kind:
                    return entry
                break
        raise PathNotFound(f"there is no {noun} `{escape_name(unescape_name(path))}`")

    def _rows(self, key: tuple[str, str]) -> Iterator[Entry]:
        """Yield the entries in the order of the index, from the first whose key is not less than `key`."""
        if not self._end:
            return
        with self._index.open("rb") as file:
            # Lines that begin before `low` are less than `key`; lines from `high` on are not.
            low, high = self._start, self._end
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
        file, end = IteratorFile(unpacked), 0
        for start, length in read_map(file.read):
            yield from _zeros(start - end)
            for at in range(0, length, BLOCK):
                yield file.read(min(BLOCK, length - at))
            end = start + length
        yield from _zeros(entry.size - end)

    def _unpacked(self, member: int, skip: int) -> Iterator[bytes]:
        """Yield the content of one gzip member without its first `skip` bytes.

        Raises OSError if the tarball ends too early.
        """
        unpacker = isal_zlib.decompressobj(wbits=GZIP_WINDOW_BITS)
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
    """Yield the first `size` bytes of `pieces`, and read nothing after them."""
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


def write_index(file: BinaryIO, packer: Packer) -> None:
    """Write the index of everything that the packer has packed."""
    head = {"version": VERSION, "etag": packer.digest.hexdigest()[:32], "notes": packer.notes}
    file.write(json.dumps(head)[:-1].encode() + b', "entries": [\n')
    for number, entry in enumerate(sorted(packer.entries, key=lambda entry: _key(entry.path))):
        file.write(
            b",\n" * bool(number) + json.dumps(entry if entry.is_sparse else entry[:-1], separators=(",", ":")).encode()
        )
    file.write(b"\n]}\n")


def _key(path: str) -> tuple[str, str]:
    """Return (folder, name), the sort key of the index."""
    folder, _, name = path.rpartition("/")
    return folder, name


def _entry(line: bytes) -> Entry | None:
    """Return the entry of one line of the index; None after the last one."""
    return Entry(*json.loads(line.rstrip(b",\n"))) if line.startswith(b"[") else None
