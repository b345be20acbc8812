"""The log of a build, with a maximum size."""

from __future__ import annotations

from typing import BinaryIO

CHUNK_BYTES = 1 << 16
LAST_LINE_BYTES = 1 << 10
"""Space for the line that reports dropped bytes, beyond the limit."""


class BuildLog:
    """Writes at most `limit` bytes to a file.

    Bytes beyond the limit, and bytes that the disk rejects, are dropped and counted. Only one thread may write.
    """

    def __init__(self, file: BinaryIO, limit: int) -> None:
        self._file = file
        self._remaining = limit
        self._dropped = 0

    def say(self, text: str) -> None:
        """Write a line."""
        self.write(f"{text}\n".encode())

    def write(self, data: bytes) -> None:
        """Write as many bytes as the limit allows. Never raises OSError."""
        allowed = data[: self._remaining]
        try:
            self._file.write(allowed)
            self._remaining -= len(allowed)
        except OSError:
            allowed = b""
        self._dropped += len(data) - len(allowed)

    def copy(self, source: BinaryIO) -> None:
        """Write everything that `source` contains, up to its end."""
        while data := source.read(CHUNK_BYTES):
            self.write(data)

    def end(self) -> None:
        """Report dropped bytes in a last line."""
        if self._dropped:
            self._remaining = LAST_LINE_BYTES
            self.say(f"\npolyjob dropped {self._dropped} bytes of this log here")
