"""The Engine's streams: frames of a log with their timestamps, and archives that are renamed while they pass."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

HEADER = 8
"""Bytes before each frame: a byte for the stream, three zeros, four for the length, big end first."""
CHUNK = 1 << 16


@dataclass(frozen=True)
class LogCursor:
    """How far a log was read: every frame before `moment`, and `count` of those that bear it.

    A timestamp alone would repeat or skip, since several frames can bear the same one.
    """

    moment: str = ""
    """As the Engine writes it: RFC 3339 with nine digits, in UTC, so that text compares as time."""
    count: int = 0

    @classmethod
    def read(cls, text: str | None) -> LogCursor:
        return cls(**json.loads(text)) if text else cls()

    def text(self) -> str:
        return json.dumps({"moment": self.moment, "count": self.count})

    def behind(self, moment: str) -> LogCursor:
        return LogCursor(moment, self.count + 1 if moment == self.moment else 1)


def frames(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The frames of a multiplexed stream, without their headers; one that is cut off is left out."""
    buffer = b""
    for piece in pieces:
        buffer += piece
        while len(buffer) >= HEADER:
            length = int.from_bytes(buffer[4:HEADER], "big")
            if len(buffer) < HEADER + length:
                break
            yield buffer[HEADER : HEADER + length]
            buffer = buffer[HEADER + length :]


def new_frames(found: Iterable[bytes], cursor: LogCursor) -> Iterator[tuple[bytes, LogCursor]]:
    """(bytes, the cursor behind them) of each frame that the cursor has not seen."""
    seen = 0
    for frame in found:
        stamp, _, data = frame.partition(b" ")
        moment = _comparable(stamp.decode())
        if moment < cursor.moment:
            continue
        if moment == cursor.moment and seen < cursor.count:
            seen += 1
            continue
        cursor = cursor.behind(moment)
        seen = cursor.count
        yield data, cursor


def _comparable(stamp: str) -> str:
    """The Engine leaves off zeros at the end."""
    whole, _, fraction = stamp.removesuffix("Z").partition(".")
    return f"{whole}.{fraction.ljust(9, '0')}"


# Archives.


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


def renamed(pieces: Iterable[bytes], rename: Callable[[str], str | None], mode: str = "r|") -> Iterator[bytes]:
    """A tar stream with its members renamed as it passes; those that get no name are left out. Nothing is kept but a
    piece at a time. Raises tarfile.TarError for what is no archive."""
    with tarfile.open(fileobj=_Pieces(pieces), mode=mode) as archive:  # type: ignore[call-overload]
        for member in archive:
            name = rename(member.name)
            if not name:
                continue
            member.name = name
            if member.islnk():
                member.linkname = rename(member.linkname) or member.linkname
            yield from _entry(archive, member)
    yield b"\0" * (2 * tarfile.BLOCKSIZE)


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


def context(dockerfile: str, files: Iterable[tuple[str, bytes]]) -> bytes:
    """The archive that a build is made from."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in [("Dockerfile", dockerfile.encode()), *files]:
            member: Any = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()
