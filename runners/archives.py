"""Archives on their way to and from a back end: renamed while they pass, and never whole in memory."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

CHUNK = 1 << 16
END_OF_ARCHIVE = b"\0" * (2 * tarfile.BLOCKSIZE)


class Given(Protocol):
    """What a job is given: paths of tar.gz archives, as in `JobSpec`."""

    @property
    def code(self) -> str | None: ...
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


def renamed(
    pieces: Iterable[bytes], rename: Callable[[str], str | None], mode: str = "r|", is_open: bool = False
) -> Iterator[bytes]:
    """The members of a tar stream, renamed as they pass; those that get no name are left out. `END_OF_ARCHIVE` is left
    to the caller. Nothing is kept but a piece at a time. Raises tarfile.TarError for what is no archive."""
    with tarfile.open(fileobj=_Pieces(pieces), mode=mode) as archive:  # type: ignore[call-overload]
        for member in archive:
            name = rename(member.name)
            if not name:
                continue
            member.name = name
            if is_open:
                member.mode |= (member.mode & 0o044) >> 1
            if member.islnk():
                member.linkname = rename(member.linkname) or member.linkname
            yield from _entry(archive, member)


def _entry(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[bytes]:
    member.pax_headers = {}
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


def given(spec: Given, folders: Iterable[str], *, code: str, outputs: str, is_open: bool = False) -> Iterator[bytes]:
    """The archive, below `/`, of what a job finds: the empty `folders`, to which all may write, and its code and
    its earlier outputs in the folders of these names. `END_OF_ARCHIVE` is left to the caller.

    With `is_open` whoever may read a file or folder may write it: where it is unpacked by another user than the job's.
    """
    for folder in folders:
        yield from _folders(folder.strip("/"))
    if spec.code:
        yield from _unpacked(spec.code, 0, code.strip("/"), is_open)
    if spec.inputs:
        yield from _unpacked(spec.inputs, 1, outputs.strip("/"), is_open)


def _unpacked(path: str, strip: int, into: str, is_open: bool) -> Iterator[bytes]:
    def rename(name: str) -> str | None:
        left = below(name, strip)
        return f"{into}/{left}" if left else None

    with open(path, "rb") as file:
        yield from renamed(iter(lambda: file.read(1 << 16), b""), rename, "r|gz", is_open)


def _folders(path: str) -> Iterator[bytes]:
    """Members of an archive: a folder that is empty, and those above it."""
    parts = path.split("/")
    for count in range(1, len(parts) + 1):
        member = tarfile.TarInfo("/".join(parts[:count]))
        member.type, member.mode = tarfile.DIRTYPE, 0o777
        yield member.tobuf()


def member(name: str, data: bytes) -> Iterator[bytes]:
    """A file of an archive."""
    told = tarfile.TarInfo(name)
    told.size = len(data)
    yield told.tobuf()
    yield data
    yield b"\0" * (-len(data) % tarfile.BLOCKSIZE)


def context(dockerfile: str, files: Iterable[tuple[str, bytes, int]]) -> bytes:
    """The archive that a build is made from; of each file name, content and mode."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data, mode in [("Dockerfile", dockerfile.encode(), 0o644), *files]:
            member: Any = tarfile.TarInfo(name)
            member.size, member.mode = len(data), mode
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()
