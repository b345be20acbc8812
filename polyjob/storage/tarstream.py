"""Read tar streams that backends and users send."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator


class StrictTarInfo(tarfile.TarInfo):
    """Makes `tarfile.open(tarinfo=…)` raise ReadError for a tar that ends or breaks between two members.

    tarfile itself takes that for the end of the tar. Here, only the block of zeros is the end.
    """

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> StrictTarInfo:
        try:
            return super().fromtarfile(tarfile)
        except _HeaderError as error:
            if isinstance(error, _EOFHeaderError):
                raise
            raise _ReadError(str(error)) from None


_ReadError = tarfile.ReadError
_HeaderError = tarfile.HeaderError
_EOFHeaderError: type[Exception] = getattr(tarfile, "EOFHeaderError")  # noqa: B009 - not in the type stubs


class IteratorFile(io.RawIOBase):
    """A readable file with the bytes of an iterator."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._buffer = memoryview(b"")
        self.raised: BaseException | None = None
        """The exception that the iterator has raised."""

    def read(self, size: int = -1) -> bytes:
        parts = []
        while size and not self.is_at_end():
            part, self._buffer = self._buffer[:size], self._buffer[size:]
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def is_at_end(self) -> bool:
        """Return whether there are no more bytes. May read from the iterator, and raises what that raises."""
        while not self._buffer:
            try:
                piece = next(self._pieces, None)
            except BaseException as error:
                self.raised = error
                raise
            if piece is None:
                return True
            self._buffer = memoryview(piece)
        return False

    def drain(self) -> None:
        """Read the iterator to its end, where it may still raise."""
        while not self.is_at_end():
            self._buffer = memoryview(b"")


def relative_path(name: str) -> str | None:
    """Return a member's path below the root; None for the root itself, and for a name that is invalid or leaves it."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    is_invalid = not parts or ".." in parts or name.startswith("/") or "\0" in name
    return None if is_invalid else "/".join(parts)
