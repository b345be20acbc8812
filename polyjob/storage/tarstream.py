"""Reading tars that others have made."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator


class StrictInfo(tarfile.TarInfo):
    """For `tarfile.open(tarinfo=…)`: a tar that stops or breaks between two members is an error, as it is not to
    tarfile itself. Its end is the block of zeros, and nothing else."""

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> StrictInfo:
        try:
            return super().fromtarfile(tarfile)
        except _HeaderError as error:
            if isinstance(error, _EOFHeaderError):
                raise
            raise _ReadError(str(error)) from None


_ReadError = tarfile.ReadError
_HeaderError = tarfile.HeaderError
_EOFHeaderError: type[Exception] = getattr(tarfile, "EOFHeaderError")  # noqa: B009 - not in the type stubs


class Pieces(io.RawIOBase):
    """A file to read from, made of an iterator's pieces."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")
        self.raised: BaseException | None = None
        """What the iterator has raised."""

    def read(self, size: int = -1) -> bytes:
        found = []
        while size and not self.is_at_end():
            part, self._rest = self._rest[:size], self._rest[size:]
            found.append(part)
            size -= len(part)
        return b"".join(found)

    def is_at_end(self) -> bool:
        while not self._rest:
            try:
                piece = next(self._pieces, None)
            except BaseException as error:
                self.raised = error
                raise
            if piece is None:
                return True
            self._rest = memoryview(piece)
        return False

    def drain(self) -> None:
        """To the very end, where the iterator may still raise."""
        while not self.is_at_end():
            self._rest = memoryview(b"")


def relative(name: str) -> str | None:
    """A member's path below the root; None for the root itself and for a name that leaves it or can be none."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    bad = not parts or ".." in parts or name.startswith("/") or "\0" in name
    return None if bad else "/".join(parts)
