"""Read a `multipart/form-data` body as it arrives, without storing it in memory or on disk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.sansio.multipart import Data, Epilogue, Event, Field, File, MultipartDecoder, NeedData

MAX_HEADER_BYTES = 1 << 20
"""The largest header of a part."""
_BLOCK_BYTES = 1 << 16


class MalformedBody(Exception):
    """The body is not a complete multipart message."""


class TooManyParts(MalformedBody):
    """The body has more parts than allowed, or a part's header is too large."""


@dataclass(frozen=True, eq=False)
class Part:
    """A part of the body: a form field, or a file if it has a filename."""

    name: str
    filename: str | None = None


@dataclass(frozen=True)
class Piece:
    """Some of a part's content. Each part has at least one piece."""

    part: Part
    data: bytes
    is_last: bool


def read_pieces(stream: IO[bytes], boundary: bytes, max_parts: int) -> Iterator[Piece]:
    """Yield the content of all parts, in order, and read the body to its end.

    Raises MalformedBody or TooManyParts, and whatever reading the stream raises.
    """
    decoder = MultipartDecoder(boundary, MAX_HEADER_BYTES, max_parts=max_parts)
    part: Part | None = None
    while not isinstance(event := _next_event(decoder), Epilogue):
        if isinstance(event, NeedData):
            _feed(decoder, stream.read(_BLOCK_BYTES))
        elif isinstance(event, File):
            part = Part(event.name, event.filename or "")
        elif isinstance(event, Field):
            part = Part(event.name)
        elif isinstance(event, Data) and part is not None:
            yield Piece(part, bytes(event.data), not event.more_data)


def _next_event(decoder: MultipartDecoder) -> Event:
    try:
        return decoder.next_event()
    except RequestEntityTooLarge as error:
        raise TooManyParts from error
    except ValueError as error:
        raise MalformedBody from error


def _feed(decoder: MultipartDecoder, block: bytes) -> None:
    """Pass a block of the body to the decoder; an empty one is the end."""
    try:
        decoder.receive_data(block or None)
    except RequestEntityTooLarge as error:
        raise TooManyParts from error
    except ValueError as error:
        raise MalformedBody from error
