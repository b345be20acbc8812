"""A form with files, read as it comes: the fields, and the files as one tar.gz. Nothing of it is held in memory.

The archive is no more trusted than any other: whoever keeps it checks every name in it (`polyjob.storage.uploads`).
"""

from __future__ import annotations

import contextlib
import io
import lzma
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from flask import request
from isal import igzip
from werkzeug.datastructures import MultiDict
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.sansio.multipart import Data, Epilogue, Field, File, MultipartDecoder, NeedData

from polyjob.errors import Invalid, Problem, TooLarge
from polyjob.storage.uploads import Limits, check_slot

BLOCK = 1 << 16
LARGEST_BUFFER = 1 << 20
PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""How a member of a zip may be packed. Others unpack a few bytes to gigabytes at once, whatever is asked for."""
LONGEST_TARGET = 4096
"""Bytes of where a symbolic link leads."""
LARGEST_DIRECTORY = 8 << 20
"""Bytes of a zip's list of what is in it, which is read into memory."""
OTHER_PARTS = 100
"""Parts of a form beside its files."""
ALWAYS_OUT = frozenset({".git", ".polyaxon"})
"""Folders that come along when a person chooses a folder, and that nobody means."""
POINTER = "/upload"
_BROKEN = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError),
    *(NotImplementedError, struct.error, ValueError, LookupError),
)
"""What is raised at bytes that nobody meant as a zip."""


@dataclass
class Received:
    """`archive` is None where no file was chosen. It is gone when the block ends that received it."""

    fields: MultiDict[str, str] = field(default_factory=MultiDict)
    archive: BinaryIO | None = None
    fault: Invalid | None = None
    """What is wrong with the files: then there is no archive of them."""

    @property
    def has_files(self) -> bool:
        return self.archive is not None or self.fault is not None


@contextlib.contextmanager
def receive(folder: Path, fields_limit: int, limits: Limits) -> Iterator[Received]:
    """The form that the request carries; its files are put aside in `folder`, without a name.

    Raises Invalid and TooLarge for a form that cannot be read, or is larger than `request.max_content_length`.
    """
    if request.mimetype != "multipart/form-data":
        yield Received(MultiDict(request.form))
        return
    boundary = request.mimetype_params.get("boundary")
    if not boundary:
        raise Invalid([Problem("", "The form is not whole.")])
    with contextlib.ExitStack() as stack:
        files = _Files(folder, limits, stack)
        received = Received()
        _read(boundary.encode(), received.fields, files, fields_limit, limits)
        try:
            received.archive = files.finish()
        except Invalid as error:
            received.fault = error
        except _BROKEN as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the disk's fault, not the zip's
            received.fault = Invalid([Problem(POINTER, "It is no whole zip file.")])
        yield received


def _read(boundary: bytes, fields: MultiDict[str, str], files: _Files, left: int, limits: Limits) -> None:
    decoder = MultipartDecoder(boundary, LARGEST_BUFFER, max_parts=limits.members + OTHER_PARTS)
    name, content, spool = "", bytearray(), None
    try:
        while not isinstance(event := decoder.next_event(), Epilogue):
            if isinstance(event, NeedData):
                decoder.receive_data(request.stream.read(BLOCK) or None)
            elif isinstance(event, Field):
                name, content, spool = event.name, bytearray(), None
            elif isinstance(event, File):
                spool = files.begin(event.filename or "")
            elif isinstance(event, Data) and spool is not None:
                spool.write(event.data)
                if not event.more_data:
                    files.end()
            elif isinstance(event, Data):
                left -= len(event.data)
                if left < 0:
                    raise TooLarge("What was typed is larger than what is taken.")
                content += event.data
                if not event.more_data:
                    fields.add(name, content.decode("utf-8", "replace"))
    except RequestEntityTooLarge:
        raise TooLarge(f"It is more than {limits.size} bytes, or more than {limits.members} files.") from None
    except ValueError as error:
        raise Invalid([Problem("", "The form is not whole.")]) from error


class _Files:
    """Takes files one after the other, and makes one tar.gz of them; a single archive is taken as what is in it."""

    def __init__(self, folder: Path, limits: Limits, stack: contextlib.ExitStack) -> None:
        self._folder, self._limits, self._stack = folder, limits, stack
        self._spool: BinaryIO | None = None
        self._name = ""
        self._waiting: tuple[str, BinaryIO] | None = None
        """The first file, of which nobody knows yet whether it is the only one."""
        self._packing: _Packing | None = None

    def begin(self, filename: str) -> BinaryIO:
        self._name = filename
        if self._spool is None:
            self._spool = self._temporary()
        self._spool.seek(0)
        self._spool.truncate()
        return self._spool

    def end(self) -> None:
        assert self._spool is not None
        if not self._name and not self._spool.tell():
            return  # what a browser sends where nothing was chosen
        if self._packing is None and self._waiting is None:
            self._waiting, self._spool = (self._name, self._spool), None
            return
        if self._waiting is not None:
            self._begin_packing(*self._waiting)
        self._pack(self._name, self._spool)

    def finish(self) -> BinaryIO | None:
        if self._waiting is not None:
            name, file = self._waiting
            file.seek(0)
            magic = file.read(4)
            file.seek(0)
            if name.lower().endswith((".tar.gz", ".tgz")) or magic[:2] == b"\x1f\x8b":
                return file
            if magic == b"PK\3\4" and name.lower().endswith(".zip"):
                return self._unzipped(file)
            self._begin_packing(name, file)
        return self._packing.finish() if self._packing else None

    def _begin_packing(self, name: str, file: BinaryIO) -> None:
        self._packing, self._waiting = self._new_packing(), None
        self._pack(name, file)

    def _pack(self, filename: str, file: BinaryIO) -> None:
        parts = [part for part in filename.split("/") if part]
        if "/" in filename:
            parts = parts[1:]  # the name of the folder that was chosen
        if not parts or ALWAYS_OUT.intersection(parts[:-1]):
            return
        assert self._packing is not None
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        self._packing.add("/".join(parts), size, file)

    def _unzipped(self, file: BinaryIO) -> BinaryIO:
        _refuse_large_directory(file)
        packing, left = self._new_packing(), self._limits.unpacked
        packed_left = file.seek(0, io.SEEK_END)
        with check_slot(), zipfile.ZipFile(file) as archive:
            if len(archive.infolist()) > self._limits.members:
                raise Invalid([Problem(POINTER, f"It has more than {self._limits.members} members.")])
            for info in archive.infolist():
                packed_left -= info.compress_size
                if packed_left < 0:
                    raise Invalid([Problem(POINTER, "Members of the zip file overlap.")])
                if info.flag_bits & 1:
                    raise Invalid([Problem(POINTER, "It is encrypted.")])
                if info.compress_type not in PACKED:
                    raise Invalid([Problem(POINTER, "It is packed in an unusual way; send a tar.gz.")])
                left -= info.file_size
                if left < 0:
                    detail = f"Unpacked, it is larger than the {self._limits.unpacked} bytes that are taken."
                    raise Invalid([Problem(POINTER, detail)])
                mode, name = info.external_attr >> 16, _name_in_zip(info)
                if name.endswith("/"):
                    packing.add_folder(name)
                elif stat.S_ISLNK(mode):
                    with archive.open(info) as content:
                        target = content.read(LONGEST_TARGET)
                    packing.add_link(name, target.decode("utf-8", "surrogateescape"))
                else:
                    with archive.open(info) as content:
                        packing.add(name, info.file_size, content, bool(mode & 0o111))
        return packing.finish()

    def _new_packing(self) -> _Packing:
        packing = _Packing(self._temporary())
        self._stack.callback(packing.close)
        return packing

    def _temporary(self) -> BinaryIO:
        return cast(BinaryIO, self._stack.enter_context(tempfile.TemporaryFile(dir=self._folder)))


def _name_in_zip(info: zipfile.ZipInfo) -> str:
    """Return a member's name with slashes between folders.

    Some programs on Windows write backslashes. As in Info-ZIP, they separate folders if the member comes from there
    and has no slash in its name.
    """
    from_windows = info.create_system == 0 and "/" not in info.filename
    return info.filename.replace("\\", "/") if from_windows else info.filename


def _refuse_large_directory(file: BinaryIO) -> None:
    """zipfile reads a zip's list of members whole. The end of the file says how long it is, and zipfile looks there,
    too."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - (1 << 16) - 22 - 20))
    tail = file.read()
    end = tail.rfind(b"PK\5\6")
    if end < 0 or len(tail) - end < 22:
        raise zipfile.BadZipFile
    length = struct.unpack("<L", tail[end + 12 : end + 16])[0]
    if length > LARGEST_DIRECTORY or b"PK\6\7" in tail[max(0, end - 20) :]:
        raise Invalid([Problem(POINTER, "The zip file has too many members; send a tar.gz.")])
    file.seek(0)


class _Packing:
    """A tar.gz that is being written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._zip: Any = igzip.IGzipFile(fileobj=file, mode="wb", compresslevel=1, mtime=0)
        self._tar = tarfile.open(fileobj=self._zip, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115

    def add(self, name: str, size: int, content: IO[bytes], is_program: bool = False) -> None:
        info = tarfile.TarInfo(name)
        info.size, info.mode = size, 0o755 if is_program else 0o644
        self._tar.addfile(info, content)
        self._tar.members.clear()  # type: ignore[attr-defined] # or each stays in memory

    def add_folder(self, name: str) -> None:
        info = tarfile.TarInfo(name)
        info.type, info.mode = tarfile.DIRTYPE, 0o755
        self._tar.addfile(info)

    def add_link(self, name: str, target: str) -> None:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = tarfile.SYMTYPE, target
        self._tar.addfile(info)

    def close(self) -> None:
        """Idempotent."""
        self._zip.close()

    def finish(self) -> BinaryIO:
        self._tar.close()
        self.close()
        self._file.seek(0)
        return self._file
