"""One file of a multipart body, as a readable stream."""

from __future__ import annotations

import io
from collections.abc import Iterator

from flask import request
from werkzeug.exceptions import UnsupportedMediaType

from polyjob.api.multipart import MalformedBody, Part, Piece, read_pieces
from polyjob.errors import Invalid, Problem

MAX_PARTS = 20


def open_part(name: str) -> FilePart:
    """Return the first file named `name` of the request.

    Raises UnsupportedMediaType for a body that is not multipart, and Invalid as FilePart does.
    """
    boundary = request.mimetype_params.get("boundary")
    if request.mimetype != "multipart/form-data" or not boundary:
        raise UnsupportedMediaType(f"Send `multipart/form-data` with a file named `{name}`.")
    return FilePart(read_pieces(request.stream, boundary.encode(), MAX_PARTS), name)


class FilePart(io.RawIOBase):
    """The content of the first file of that name. Reading it to its end reads the whole body.

    Raises Invalid for a malformed body and for one without such a file.
    """

    def __init__(self, pieces: Iterator[Piece], name: str) -> None:
        self._pieces = pieces
        self._part: Part | None = None
        self._content = b""
        while piece := self._next_piece():
            if piece.part.name == name and piece.part.filename is not None:
                self._part, self._content = piece.part, piece.data
                return
        raise Invalid([Problem(f"/{name}", f"The body has no file named `{name}`.")])

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        parts, remaining = [], size if size >= 0 else 1 << 62
        while remaining and (self._content or self._read_more()):
            part, self._content = self._content[:remaining], self._content[remaining:]
            parts.append(part)
            remaining -= len(part)
        return b"".join(parts)

    def _read_more(self) -> bool:
        """Read more content. Return False at the end of the body."""
        while piece := self._next_piece():
            if piece.part is self._part and piece.data:
                self._content = piece.data
                return True
        return False

    def _next_piece(self) -> Piece | None:
        try:
            return next(self._pieces, None)
        except MalformedBody:
            raise Invalid([Problem("", "The body is not a complete multipart message.")]) from None
