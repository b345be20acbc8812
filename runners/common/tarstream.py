"""Tarballs on their way to and from a backend: changed as a stream, and never completely in memory."""

from __future__ import annotations

import io
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from runners.base import JobOutputs
from runners.common.tar_names import path_below

CHUNK_BYTES = 1 << 16
GZIP_WINDOW_BITS = 31
"""Value of zlib's `wbits` that selects the gzip format."""
END_OF_TARBALL = b"\0" * (2 * tarfile.BLOCKSIZE)


class JobFiles(Protocol):
    """The files that a job starts with: paths of .tar.gz files, as in `JobSpec`."""

    @property
    def upload(self) -> str | None: ...
    @property
    def inputs(self) -> str | None: ...
    @property
    def job_outputs(self) -> Sequence[JobOutputs]: ...


class _ChunkFile:
    """A read-only file made of chunks of bytes."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._rest = b""

    def read(self, size: int) -> bytes:
        while len(self._rest) < size:
            chunk = next(self._chunks, None)
            if chunk is None:
                break
            self._rest += chunk
        data, self._rest = self._rest[:size], self._rest[size:]
        return data


def rename_members(chunks: Iterable[bytes], rename: Callable[[str], str | None]) -> Iterator[bytes]:
    """Yield the members of a tar stream under new names, without `END_OF_TARBALL`.

    Leaves out each member for which `rename` returns None. Holes of sparse files become zeros. Only one chunk is in
    memory at a time. Raises tarfile.TarError if the stream is not a complete tarball.
    """
    for tarball, member in _members(chunks, rename):
        yield from _encode(tarball, member)


def _members(
    chunks: Iterable[bytes], rename: Callable[[str], str | None]
) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    with tarfile.open(fileobj=_ChunkFile(chunks), mode="r|", errors="surrogateescape") as tarball:  # type: ignore[call-overload]
        for member in tarball:
            name = rename(member.name)
            if not name:
                continue
            member.name = name
            if member.islnk():
                member.linkname = rename(member.linkname) or member.linkname
            yield tarball, member


def gunzip(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the content of all gzip members of a stream, in chunks of bounded size.

    The mode `r|gz` of tarfile reads only the first gzip member. As for gzip itself, zeros after a member are padding.
    Raises tarfile.ReadError if the stream is not gzip, or ends too early.
    """
    unpacker = None
    try:
        for data in chunks:
            while data:
                if unpacker is None:
                    data = data.lstrip(b"\0")
                    if not data:
                        break
                    unpacker = zlib.decompressobj(wbits=GZIP_WINDOW_BITS)
                if block := unpacker.decompress(data, CHUNK_BYTES):
                    yield block
                data = unpacker.unconsumed_tail
                if unpacker.eof:
                    data, unpacker = unpacker.unused_data, None
    except zlib.error as error:
        raise tarfile.ReadError(f"not a gzip stream: {error}") from error
    if unpacker is not None:
        raise tarfile.ReadError("the gzip stream ends too early")


def _encode(tarball: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[bytes]:
    member.pax_headers = {}
    if member.issparse():
        member.type = tarfile.REGTYPE
    yield member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    content = tarball.extractfile(member) if member.isreg() else None
    if content is None:
        return
    while data := content.read(CHUNK_BYTES):
        yield data
    yield b"\0" * (-member.size % tarfile.BLOCKSIZE)


def files_for_job(
    files: JobFiles, folders: Iterable[str], *, upload_folder: str, outputs_folder: str, inputs_folder: str
) -> Iterator[bytes]:
    """Yield a tarball of what a job finds in its container, relative to `/` and without `END_OF_TARBALL`.

    It contains the empty `folders`, the upload in `upload_folder`, the inputs in `outputs_folder`, and the outputs of
    each earlier job in a folder of its name in `inputs_folder`.

    After unpacking, everything belongs to root, while the image may run as another user. So every user gets the
    permissions that the owner had, and every user can write to all folders that are not members of their tarball.
    """
    for folder in folders:
        yield from _open_folders(folder.strip("/"))
    if files.upload:
        yield from _unpacked(files.upload, 0, upload_folder.strip("/"))
    if files.inputs:
        yield from _unpacked(files.inputs, 1, outputs_folder.strip("/"))
    for outputs in files.job_outputs:
        folder = f"{inputs_folder.strip('/')}/{outputs.name}"
        yield from _open_folders(folder)
        if outputs.path:
            yield from _unpacked(outputs.path, 1, folder)


def _unpacked(path: str, strip: int, folder: str) -> Iterator[bytes]:
    """Yield the members of a .tar.gz file below `folder`, with permissions for all users."""

    def rename(name: str) -> str | None:
        inner = path_below(name, strip)
        return f"{folder}/{inner}" if inner else None

    written = set(_with_parents(folder))
    with open(path, "rb") as file:
        for tarball, member in _members(gunzip(iter(lambda: file.read(CHUNK_BYTES), b"")), rename):
            for name in _with_parents(member.name)[:-1]:
                if name not in written:
                    written.add(name)
                    yield _open_folder(name)
            written.add(member.name)
            member.uid, member.gid, member.uname, member.gname = 0, 0, "", ""
            member.mode = (member.mode & 0o777) | (member.mode & 0o700) >> 3 | (member.mode & 0o700) >> 6
            yield from _encode(tarball, member)


def _open_folders(path: str) -> Iterator[bytes]:
    """Yield members for an empty folder and all folders above it. All users can write to them."""
    yield from map(_open_folder, _with_parents(path))


def _with_parents(path: str) -> list[str]:
    """Return a path and all folders above it, the topmost first."""
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]


def _open_folder(name: str) -> bytes:
    member = tarfile.TarInfo(name)
    member.type, member.mode = tarfile.DIRTYPE, 0o777
    return member.tobuf(errors="surrogateescape")


def file_member(name: str, data: bytes, mode: int = 0o644) -> Iterator[bytes]:
    """Yield a member that is a file."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), mode
    yield member.tobuf()
    yield data
    yield b"\0" * (-len(data) % tarfile.BLOCKSIZE)


def build_context(dockerfile: str, files: Iterable[tuple[str, bytes, int]], open_folder: str | None = None) -> bytes:
    """Return the tarball that an image is built from.

    It contains the Dockerfile, `files` as (name, content, mode), and the empty `open_folder`, to which all users can
    write.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tarball:
        for name, data, mode in [("Dockerfile", dockerfile.encode(), 0o644), *files]:
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), mode
            tarball.addfile(member, io.BytesIO(data))
    return b"".join(_open_folders(open_folder) if open_folder else ()) + buffer.getvalue()
