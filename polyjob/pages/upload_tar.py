"""Turn the files of a form, or a zip file, into one tar.gz."""

from __future__ import annotations

import contextlib
import io
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from typing import IO, Any, BinaryIO

from isal import igzip

from polyjob.errors import Invalid, Problem
from polyjob.storage.uploads import Limits, check_slot

SUPPORTED_COMPRESSION = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Other methods can unpack a few bytes to gigabytes in one step, however little the caller reads."""
MAX_LINK_TARGET_BYTES = 4096
MAX_ZIP_DIRECTORY_BYTES = 8 << 20
"""The largest list of members in a zip file. zipfile reads all of it into memory."""
IGNORED_FOLDERS = frozenset({".git", ".polyaxon"})
"""Folders that browsers send as part of a chosen folder, although nobody wants them in an upload."""
POINTER = "/upload"
_ZIPFILE_ERRORS = (
    *(zipfile.BadZipFile, zlib.error, EOFError, OSError),
    *(NotImplementedError, struct.error, ValueError, LookupError),
)
"""Raised by zipfile for damaged files."""


def files_to_tar(files: Iterable[tuple[str, BinaryIO]], output: BinaryIO) -> BinaryIO:
    """Pack files, given as (filename, content), into a tar.gz; return `output`, at its beginning.

    The first folder of a filename is the one that the person chose, and is left out.
    """
    with _TarWriter(output) as tar:
        for filename, content in files:
            parts = [part for part in filename.split("/") if part]
            if "/" in filename:
                parts = parts[1:]
            if not parts or IGNORED_FOLDERS.intersection(parts[:-1]):
                continue
            size = content.seek(0, io.SEEK_END)
            content.seek(0)
            tar.add_file("/".join(parts), size, content)
    output.seek(0)
    return output


def zip_to_tar(file: BinaryIO, output: BinaryIO, limits: Limits) -> BinaryIO:
    """Repack a zip file as a tar.gz; return `output`, at its beginning.

    Raises Invalid for a damaged, unsupported or too large zip file, and Unavailable while too many others are unpacked.
    """
    _refuse_large_directory(file)
    zip_bytes = file.seek(0, io.SEEK_END)
    with check_slot(), _open_zip(file) as archive, _TarWriter(output) as tar:
        members = archive.infolist()
        _check_members(members, zip_bytes, limits)
        for info in members:
            _add_member(tar, archive, info)
    output.seek(0)
    return output


def _check_members(members: list[zipfile.ZipInfo], zip_bytes: int, limits: Limits) -> None:
    """Raise Invalid unless all members can be unpacked within the limits."""
    if len(members) > limits.members:
        raise _invalid(f"The zip file has more than {limits.members} members.")
    if sum(info.compress_size for info in members) > zip_bytes:
        raise _invalid("Members of the zip file overlap.")
    if any(info.flag_bits & 1 for info in members):
        raise _invalid("The zip file is encrypted.")
    if any(info.compress_type not in SUPPORTED_COMPRESSION for info in members):
        raise _invalid("The zip file uses an unsupported compression method; send a tar.gz.")
    if sum(info.file_size for info in members) > limits.unpacked:
        raise _invalid(f"Unpacked, the zip file is larger than {limits.unpacked} bytes.")


def _add_member(tar: _TarWriter, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
    mode, name = info.external_attr >> 16, _member_name(info)
    if name.endswith("/"):
        tar.add_folder(name)
        return
    with _zip_errors():
        content = archive.open(info)
    with content:
        if stat.S_ISLNK(mode):
            with _zip_errors():
                target = content.read(MAX_LINK_TARGET_BYTES)
            tar.add_link(name, target.decode("utf-8", "surrogateescape"))
        else:
            tar.add_file(name, info.file_size, _MemberReader(content), bool(mode & 0o111))


def _member_name(info: zipfile.ZipInfo) -> str:
    """Return a member's name with slashes between folders.

    Some programs on Windows write backslashes. As in Info-ZIP, backslashes separate folders if the member was written
    on Windows and its name has no slash.
    """
    from_windows = info.create_system == 0 and "/" not in info.filename
    return info.filename.replace("\\", "/") if from_windows else info.filename


def _refuse_large_directory(file: BinaryIO) -> None:
    """Raise Invalid if the zip file's list of members is too large to be read into memory.

    The end of the file states the size of the list. zipfile reads it from there, too.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - (1 << 16) - 22 - 20))
    tail = file.read()
    end = tail.rfind(b"PK\5\6")
    if end < 0 or len(tail) - end < 22:
        raise _damaged()
    length = struct.unpack("<L", tail[end + 12 : end + 16])[0]
    if length > MAX_ZIP_DIRECTORY_BYTES or b"PK\6\7" in tail[max(0, end - 20) :]:
        raise _invalid("The zip file has too many members; send a tar.gz.")


def _open_zip(file: BinaryIO) -> zipfile.ZipFile:
    with _zip_errors():
        return zipfile.ZipFile(file)


@contextlib.contextmanager
def _zip_errors() -> Iterator[None]:
    """Raise Invalid if zipfile reports a damaged file. Errors of the disk are raised unchanged."""
    try:
        yield
    except _ZIPFILE_ERRORS as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise _damaged() from error


def _damaged() -> Invalid:
    return _invalid("The zip file is incomplete or damaged.")


def _invalid(message: str) -> Invalid:
    return Invalid([Problem(POINTER, message)])


class _MemberReader:
    """The content of a zip member, for tarfile, which reads exactly the size that the member claims to have."""

    def __init__(self, content: IO[bytes]) -> None:
        self._content = content

    def read(self, size: int) -> bytes:
        with _zip_errors():
            data = self._content.read(size)
        if len(data) < size:
            raise _damaged()
        return data


class _TarWriter(contextlib.AbstractContextManager["_TarWriter"]):
    """Writes a tar.gz, which is complete when the block ends without an error."""

    def __init__(self, output: BinaryIO) -> None:
        self._gzip: Any = igzip.IGzipFile(fileobj=output, mode="wb", compresslevel=1, mtime=0)
        self._tar = tarfile.open(fileobj=self._gzip, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if kind is None:
            self._tar.close()
        self._gzip.close()

    def add_file(self, name: str, size: int, content: Any, is_executable: bool = False) -> None:
        info = tarfile.TarInfo(name)
        info.size, info.mode = size, 0o755 if is_executable else 0o644
        self._tar.addfile(info, content)
        self._tar.members.clear()  # type: ignore[attr-defined] # tarfile would keep all in memory

    def add_folder(self, name: str) -> None:
        info = tarfile.TarInfo(name)
        info.type, info.mode = tarfile.DIRTYPE, 0o755
        self._tar.addfile(info)

    def add_link(self, name: str, target: str) -> None:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = tarfile.SYMTYPE, target
        self._tar.addfile(info)
