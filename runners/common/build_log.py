"""The log of a build, with a limit."""

from __future__ import annotations

from typing import BinaryIO


class BuildLog:
    """Writes at most `limit` bytes to the file; what comes after is counted and dropped, as is what the disk does not
    take. One thread writes."""

    def __init__(self, file: BinaryIO, limit: int) -> None:
        self._file = file
        self._left = limit
        self._dropped = 0

    def say(self, text: str) -> None:
        self.write(f"{text}\n".encode())

    def write(self, data: bytes) -> None:
        kept = data[: self._left]
        try:
            self._file.write(kept)
            self._left -= len(kept)
        except OSError:
            kept = b""
        self._dropped += len(data) - len(kept)

    def copy(self, source: BinaryIO) -> None:
        """All of it, to its end."""
        while data := source.read(1 << 16):
            self.write(data)

    def end(self) -> None:
        """Say in the last line what was dropped."""
        if self._dropped:
            self._left = 1 << 10
            self.say(f"\npolyjob dropped {self._dropped} bytes of this log here")
