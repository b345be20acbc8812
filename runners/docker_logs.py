"""The log of a container, read from the Engine from where it was left off.

The Engine gives a log as frames, each with the time at which it came. A *snapshot* is what is there at one moment; it
is asked for from the cursor's time on, and read to its end piece by piece, since the Engine reads its files from their
beginning for each that is asked for. A stream that follows is not used: in it, nothing would tell that the Engine has
turned over its files twice and left some out. In a snapshot the last frame that was seen comes first again; where it
does not, the Engine has dropped it, and perhaps more.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

HEADER = 8
"""Bytes before each frame: a byte for the stream, three zeros, four for the length, big end first."""
BEGIN = b"polyjob begins\n"
"""What every container writes first, and no log shows: where it is not the first, something was dropped before."""
NOT_BEGUN = b"[FATAL tini"
"""What the Engine's own first process says where it finds no shell."""
DROPPED = b"polyjob: the Docker Engine has dropped bytes of this log here\n"
MOST_OPEN = 32
"""Snapshots that are held open between two calls."""


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


class Frames:
    """The frames of a multiplexed stream behind a cursor, without headers and times, in pieces of about some size.

    A frame that is cut off at the stream's end is left out: it comes whole with the next snapshot.
    """

    def __init__(self, pieces: Iterable[bytes], cursor: LogCursor) -> None:
        self._pieces = iter(pieces)
        self._buffer = b""
        self._at = 0
        self._seen: LogCursor | None = cursor
        """What is still to be met again; None once it was."""
        self._met = 0
        self._stamp = cursor.moment.encode()
        self._count = cursor.count

    @property
    def cursor(self) -> LogCursor:
        """Behind what was read."""
        return LogCursor(_comparable(self._stamp), self._count)

    def read(self, limit: int) -> bytes:
        """About `limit` bytes; fewer only at the end, empty behind it."""
        found: list[bytes] = []
        size = 0
        while size < limit:
            frame = self._next()
            if frame is None:
                break
            stamp, data = frame
            if self._seen is not None:
                new = self._meet(self._seen, stamp, data)
                if new is None:
                    continue
                data = new
            if stamp == self._stamp:
                self._count += 1
            else:
                self._stamp, self._count = stamp, 1
            found.append(data)
            size += len(data)
        return b"".join(found)

    def _next(self) -> tuple[bytes, bytes] | None:
        """(time, data) of the next frame; None at the end."""
        while True:
            buffer, start = self._buffer, self._at + HEADER
            end = start + int.from_bytes(buffer[start - 4 : start], "big")
            if len(buffer) >= start and len(buffer) >= end:
                self._at = end
                space = buffer.index(b" ", start)
                return buffer[start:space], buffer[space + 1 : end]
            piece = next(self._pieces, None)
            if piece is None:
                return None
            self._buffer, self._at = buffer[self._at :] + piece, 0

    def _meet(self, seen: LogCursor, stamp: bytes, data: bytes) -> bytes | None:
        """What of the first frames is new; None for one that was seen."""
        moment = _comparable(stamp)
        if moment < seen.moment or (moment == seen.moment and self._met < seen.count):
            self._met += moment == seen.moment
            return None
        self._seen = None
        if moment == seen.moment:
            self._stamp = stamp
        if not seen.moment:
            return b"" if data == BEGIN else data if data.startswith(NOT_BEGUN) else DROPPED + data
        return data if self._met == seen.count else DROPPED + data


def _comparable(stamp: bytes) -> str:
    """Nine digits, also where zeros at the end were left off; without the zone, which is UTC."""
    whole, _, fraction = stamp.decode().removesuffix("Z").partition(".")
    return f"{whole}.{fraction.ljust(9, '0')}" if whole else ""


class Logs:
    """The snapshots that are being read, by container. Every one can be lost: the next call asks for another."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[Frames, Callable[[], None]]] = {}
        self._lock = threading.Lock()

    def read(
        self, client: Any, identity: str, cursor: LogCursor, limit: int, seconds: float
    ) -> tuple[bytes, LogCursor]:
        """(about `limit` bytes behind the cursor, the cursor behind them); fewer at the log's present end. Raises what
        the client raises."""
        held = self._take(identity)
        if held and held[0].cursor != cursor:
            held[1]()
            held = None
        frames, close = held or _open(client, identity, cursor, seconds)
        try:
            data = frames.read(limit)
        except BaseException:
            close()
            raise
        if len(data) < limit:
            close()
        else:
            self._keep(identity, (frames, close))
        return data, frames.cursor

    def forget(self, identity: str) -> None:
        """Idempotent."""
        held = self._take(identity)
        if held:
            held[1]()

    def close(self) -> None:
        for identity in list(self._open):
            self.forget(identity)

    def _take(self, identity: str) -> tuple[Frames, Callable[[], None]] | None:
        with self._lock:
            return self._open.pop(identity, None)

    def _keep(self, identity: str, held: tuple[Frames, Callable[[], None]]) -> None:
        with self._lock:
            surplus = [self._open.pop(next(iter(self._open)))] if len(self._open) >= MOST_OPEN else []
            self._open[identity] = held
        for _, close in surplus:
            close()


def _open(client: Any, identity: str, cursor: LogCursor, seconds: float) -> tuple[Frames, Callable[[], None]]:
    url = client._url("/containers/{0}/logs", identity)
    since = {"since": _unix(cursor.moment)} if cursor.moment else {}
    parameters = {"stdout": 1, "stderr": 1, "timestamps": 1, **since}
    with contextlib.ExitStack() as stack:
        answer = stack.enter_context(client.get(url, params=parameters, stream=True, timeout=seconds))
        client._raise_for_status(answer)
        frames = Frames(answer.iter_content(1 << 18), cursor)
        return frames, stack.pop_all().close


def _unix(moment: str) -> str:
    """Seconds since 1970 with nine digits, as the Engine takes them."""
    whole, _, fraction = moment.partition(".")
    seconds = datetime.datetime.fromisoformat(f"{whole}+00:00").timestamp()
    return f"{int(seconds)}.{fraction}"
