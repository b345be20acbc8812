"""Archives on their way to and from a back end: renamed while they pass, and never whole in memory."""

from __future__ import annotations

import io
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

CHUNK = 1 << 16
_GZIP = 31
"""zlib's window bits for gzip members."""
END_OF_ARCHIVE = b"\0" * (2 * tarfile.BLOCKSIZE)


class Given(Protocol):
    """What a job is given: paths of tar.gz archives, as in `JobSpec`."""

    @property
    def upload(self) -> str | None: ...
    @property
    def inputs(self) -> str | None: ...


class _Pieces:
    """Pieces of bytes as a file that is only read."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._rest = b""

    def read(self, size: int) -> bytes:
        while len(self._rest) < size:
            piece = next(self._pieces, None)
            if piece is None:
                break
            self._rest += piece
        data, self._rest = self._rest[:size], self._rest[size:]
        return data


def renamed(pieces: Iterable[bytes], rename: Callable[[str], str | None]) -> Iterator[bytes]:
    """Yield the members of a tar stream under new names, without `END_OF_ARCHIVE`.

    Members whose new name is empty are left out. Holes of sparse files become zeros. Keeps one piece in memory. Raises
    tarfile.TarError for what is not a complete archive.
    """
    for archive, member in _members(pieces, rename):
        yield from _entry(archive, member)


def _members(
    pieces: Iterable[bytes], rename: Callable[[str], str | None]
) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    with tarfile.open(fileobj=_Pieces(pieces), mode="r|", errors="surrogateescape") as archive:  # type: ignore[call-overload]
        for member in archive:
            name = rename(member.name)
            if not name:
                continue
            member.name = name
            if member.islnk():
                member.linkname = rename(member.linkname) or member.linkname
            yield archive, member


def gunzipped(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the content of all gzip members of a stream, in pieces of bounded size.

    tarfile's own `r|gz` reads the first member only. Zeros after a member are padding, as for gzip itself. Raises
    tarfile.ReadError for what is not gzip or ends too early.
    """
    unpacker = None
    try:
        for data in pieces:
            while data:
                if unpacker is None:
                    data = data.lstrip(b"\0")
                    if not data:
                        break
                    unpacker = zlib.decompressobj(wbits=_GZIP)
                if block := unpacker.decompress(data, CHUNK):
                    yield block
                data = unpacker.unconsumed_tail
                if unpacker.eof:
                    data, unpacker = unpacker.unused_data, None
    except zlib.error as error:
        raise tarfile.ReadError(f"not a gzip stream: {error}") from error
    if unpacker is not None:
        raise tarfile.ReadError("the gzip stream ends too early")


def _entry(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[bytes]:
    member.pax_headers = {}
    if member.issparse():
        member.type = tarfile.REGTYPE
    yield member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    content = archive.extractfile(member) if member.isreg() else None
    if content is None:
        return
    while data := content.read(CHUNK):
        yield data
    yield b"\0" * (-member.size % tarfile.BLOCKSIZE)


def below(name: str, strip: int) -> str | None:
    """A member's name without its topmost folders; None where nothing is left."""
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    return "/".join(parts[strip:]) or None


def given(spec: Given, folders: Iterable[str], *, code: str, outputs: str) -> Iterator[bytes]:
    """Yield the archive, below `/`, of what a job finds in its container, without `END_OF_ARCHIVE`.

    It has the empty `folders`, the code in the folder `code` and earlier outputs in the folder `outputs`. Everything
    belongs to root when it is unpacked, while the image may have a user of its own. So any user gets the rights that
    the owner had, and every folder that is not named in an archive can be written by all.
    """
    for folder in folders:
        yield from _folders(folder.strip("/"))
    if spec.upload:
        yield from _unpacked(spec.upload, 0, code.strip("/"))
    if spec.inputs:
        yield from _unpacked(spec.inputs, 1, outputs.strip("/"))


def _unpacked(path: str, strip: int, into: str) -> Iterator[bytes]:
    def rename(name: str) -> str | None:
        inner = below(name, strip)
        return f"{into}/{inner}" if inner else None

    seen = set(_levels(into))
    with open(path, "rb") as file:
        for archive, member in _members(gunzipped(iter(lambda: file.read(CHUNK), b"")), rename):
            for name in _levels(member.name)[:-1]:
                if name not in seen:
                    seen.add(name)
                    yield _folder(name)
            seen.add(member.name)
            member.uid, member.gid, member.uname, member.gname = 0, 0, "", ""
            member.mode = (member.mode & 0o777) | (member.mode & 0o700) >> 3 | (member.mode & 0o700) >> 6
            yield from _entry(archive, member)


def _folders(path: str) -> Iterator[bytes]:
    """Yield members for an empty folder and all folders above it, writable by all."""
    yield from map(_folder, _levels(path))


def _levels(path: str) -> list[str]:
    """Return a path and all folders above it, the topmost first."""
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]


def _folder(name: str) -> bytes:
    member = tarfile.TarInfo(name)
    member.type, member.mode = tarfile.DIRTYPE, 0o777
    return member.tobuf(errors="surrogateescape")


def member(name: str, data: bytes) -> Iterator[bytes]:
    """A file of an archive."""
    told = tarfile.TarInfo(name)
    told.size = len(data)
    yield told.tobuf()
    yield data
    yield b"\0" * (-len(data) % tarfile.BLOCKSIZE)


def context(dockerfile: str, files: Iterable[tuple[str, bytes, int]], folder: str | None = None) -> bytes:
    """Return the archive that a build is made from: files by name, content and mode, and an empty folder to which all
    may write."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data, mode in [("Dockerfile", dockerfile.encode(), 0o644), *files]:
            member: Any = tarfile.TarInfo(name)
            member.size, member.mode = len(data), mode
            archive.addfile(member, io.BytesIO(data))
    return b"".join(_folders(folder) if folder else ()) + out.getvalue()
