"""Pack a tar stream, such as a backend sends the outputs of a job, into the tarball of outputs."""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Iterator
from typing import BinaryIO, cast

from polyjob.storage.pack import MAX_DEPTH, Entry, Packer, PackingStopped
from polyjob.storage.tarstream import IteratorFile, StrictTarInfo, relative_path


def pack_stream(packer: Packer, pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Pack everything in an uncompressed tar stream with names relative to the root. Call `packer.rewind` afterwards.

    An empty stream packs nothing. Raises what `pieces` raises, and OSError if the stream is not a complete tar.
    """
    file = IteratorFile(iter(pieces))
    if file.is_at_end():
        return
    try:
        with tarfile.open(
            fileobj=cast(BinaryIO, file),
            mode="r|",
            encoding="utf-8",
            errors="surrogateescape",
            tarinfo=StrictTarInfo,
        ) as source:
            yield from _MemberCopier(packer).copy(source)
        file.drain()
    except PackingStopped as stopped:
        packer.note(str(stopped))
    except (tarfile.TarError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
        if error is file.raised:
            raise
        raise OSError(f"the tar stream of the outputs is broken: {error}") from error


class _MemberCopier:
    """Copies the members of a tarball into a packer, and adds the folders that the tarball lacks."""

    def __init__(self, packer: Packer) -> None:
        self._packer = packer
        self._entries: dict[str, Entry] = {}

    def copy(self, source: tarfile.TarFile) -> Iterator[bytes]:
        for info in source:
            path = relative_path(info.name)
            if path is None:
                if not info.isdir() and info.name in (".", "./"):
                    self._packer.note("The outputs folder was not kept: it is not a folder")
                continue
            if path in self._entries:
                if not (info.isdir() and self._entries[path].type == "directory"):
                    self._packer.note(f"`{path}` was in the outputs twice; only the first was kept")
                continue
            folders = [path[:at] for at, letter in enumerate(path) if letter == "/"]
            if len(folders) >= MAX_DEPTH:
                self._packer.note(f"`{path}` was not kept: it lies more than {MAX_DEPTH} folders deep")
            elif any(folder in self._entries and self._entries[folder].type != "directory" for folder in folders):
                self._packer.note(f"`{path}` was not kept: it lies below something that is not a folder")
            else:
                yield from self._add_missing(folders)
                yield from self._record(self._member(source, info, path))

    def _add_missing(self, folders: list[str]) -> Iterator[bytes]:
        for folder in folders:
            if folder not in self._entries:
                info = tarfile.TarInfo()
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                yield from self._record(self._packer.plain(folder, info))

    def _member(self, source: tarfile.TarFile, info: tarfile.TarInfo, path: str) -> Iterator[bytes]:
        if info.isreg():
            content = source.extractfile(info)
            assert content is not None
            before = len(self._packer.entries)
            yield from self._packer.file(path, info, content.read)
            if len(self._packer.entries) == before:
                yield from self._packer.skip(path, info.size, content.read)
        elif info.isdir() or info.issym():
            yield from self._packer.plain(path, info)
        elif not info.islnk():
            self._packer.note(f"`{path}` was not kept: it is neither a file, a folder nor a link")
        elif (target := self._entries.get(relative_path(info.linkname) or "")) and target.type == "file":
            yield from self._packer.hard_link(path, info, target)
        else:
            self._packer.note(f"`{path}` was not kept, because the file that it links to was not kept")

    def _record(self, packed: Iterator[bytes]) -> Iterator[bytes]:
        before = len(self._packer.entries)
        yield from packed
        for entry in self._packer.entries[before:]:
            self._entries[entry.path] = entry
