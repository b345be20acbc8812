"""One file out of a multipart body, as a stream: nothing of it is held in memory or put aside on disk."""

from __future__ import annotations

import io
from typing import IO, Any

from flask import request
from werkzeug.exceptions import RequestEntityTooLarge, UnsupportedMediaType
from werkzeug.sansio.multipart import Data, Epilogue, File, MultipartDecoder, NeedData

from polyjob.errors import Invalid, Problem

BLOCK = 1 << 16
MOST_PARTS = 20
LARGEST_BUFFER = 1 << 20
"""Bytes that headers of a part may take."""


def open_part(name: str) -> FilePart:
    """The file part `name` of the request. Raises Invalid where there is none, and werkzeug's error for a body that is
    no multipart."""
    boundary = request.mimetype_params.get("boundary")
    if request.mimetype != "multipart/form-data" or not boundary:
        raise UnsupportedMediaType(f"Send `multipart/form-data` with a file named `{name}`.")
    return FilePart(request.stream, boundary.encode(), name)


class FilePart(io.RawIOBase):
    """The content of the first file part of that name. Read to its end, the whole body has been read.

    Raises Invalid for a body that is no multipart, ends early or has no such part.
    """

    def __init__(self, stream: IO[bytes], boundary: bytes, name: str) -> None:
        self._stream = stream
        self._name = name
        self._decoder = MultipartDecoder(boundary, LARGEST_BUFFER, max_parts=MOST_PARTS)
        self._content = b""
        self._is_inside = False
        self._is_found = False
        self._is_over = False
        while not self._is_found:
            self._step()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        pieces, wanted = [], size if size >= 0 else 1 << 62
        while wanted and (self._content or not self._is_over):
            if not self._content:
                self._step()
                continue
            piece, self._content = self._content[:wanted], self._content[wanted:]
            pieces.append(piece)
            wanted -= len(piece)
        return b"".join(pieces)

    def _step(self) -> None:
        """Take the next event of the body."""
        event = self._decode()
        if isinstance(event, NeedData):
            block = self._stream.read(BLOCK)
            self._decode(block)
        elif isinstance(event, File) and event.name == self._name and not self._is_found:
            self._is_found = self._is_inside = True
        elif isinstance(event, Data) and self._is_inside:
            self._content = bytes(event.data)
            self._is_inside = event.more_data
        elif isinstance(event, Epilogue):
            self._is_over = True
            if not self._is_found:
                raise Invalid([Problem(f"/{self._name}", f"The body has no file named `{self._name}`.")])

    def _decode(self, block: bytes | None = None) -> Any:
        """Give the decoder a block (empty = the end), or else take its next event."""
        try:
            if block is None:
                return self._decoder.next_event()
            return self._decoder.receive_data(block or None)
        except (ValueError, RequestEntityTooLarge) as error:
            raise Invalid([Problem("", "The body is no whole multipart message.")]) from error
