"""The log of a container, read from the Engine from where it was left off.

The Engine gives a log as frames, each with the time at which it came. A *snapshot* is what is there at one moment; it
is asked for from the cursor's time on, and read to its end piece by piece, since the Engine reads its files from their
beginning for each that is asked for. A stream that follows is not used: in it, nothing would tell that the Engine has
turned over its files twice and left some out. In a snapshot the last frame that was seen comes first again; where it
does not, the Engine has dropped it, and perhaps more.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import email.utils
import json
import re
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

HEADER = 8
"""Bytes before each frame: a byte for the stream, three zeros, four for the length, big end first."""
BEGIN = b"polyjob begins\n"
"""What every container writes first, and no log shows: where it is not the first, something was dropped before."""
NOT_BEGUN = (b"[FATAL tini", b"ERROR (catatonit")
"""What an Engine's own first process says if it cannot run the shell."""
DROPPED = b"polyjob: the Docker Engine has dropped bytes of this log here\n"
DAMAGED = b"polyjob: the Docker Engine cannot read the rest of this log: %s\n"
MAX_OPEN_SNAPSHOTS = 32
"""Snapshots that are held open between two calls."""
UNKNOWN = -1
NANOSECONDS = len("2026-11-23T12:00:00.000000000Z")
PART_BYTES = 16_384
"""Bytes of the frames into which the Engine cuts a long line; all of them have the line's time."""
MAX_COMPLAINT_BYTES = 500
"""Bytes of the Engine's own words about a log that it cannot read."""
_TIME = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d)\Z")
_MOMENT = re.compile(r"(?:\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9})?\Z")


@dataclass(frozen=True)
class LogCursor:
    """How far a log was read: every frame before `moment`, and `count` of those that have it.

    A timestamp alone would repeat or skip, since several frames can have the same one.
    """

    moment: str = ""
    """RFC 3339 with nine digits, in UTC and without a zone, so that text compares as time."""
    count: int = 0
    total: int = 0
    """All frames that were read, for a log whose times go back; UNKNOWN in a cursor of an older version."""
    is_unordered: bool = False
    """The Engine's clock was set back: frames are counted, and their times are not compared."""
    is_damaged: bool = False
    """The Engine cannot read what comes next, and the log says so already."""

    @classmethod
    def read(cls, text: str | None) -> LogCursor:
        """Raises ValueError or TypeError for what `text` cannot have made."""
        fields = json.loads(text) if text else {}
        return cls(**{"total": UNKNOWN if fields.get("moment") else 0, **fields})

    def text(self) -> str:
        return json.dumps({name: value for name, value in dataclasses.asdict(self).items() if value})

    @property
    def is_readable(self) -> bool:
        return _MOMENT.match(self.moment) is not None


class Frames:
    """The frames of a multiplexed stream after a cursor, without headers and times, in pieces of about some size.

    A frame that is cut off at the stream's end is left out: it comes whole with the next snapshot. A frame without a
    time is the Engine's own message that it cannot read on; it becomes the last line.
    """

    def __init__(self, pieces: Iterable[bytes], cursor: LogCursor) -> None:
        self._pieces = iter(pieces)
        self._buffer = b""
        self._at = 0
        self._seen: LogCursor | None = cursor
        """What is still to be met again; None once it was."""
        self._met = 0
        self._moment = cursor.moment
        self._count, self._total = cursor.count, cursor.total
        self._is_unordered, self._is_damaged = cursor.is_unordered, cursor.is_damaged
        self._index = 0
        """Frames of this stream so far."""
        self._is_whole = False
        """The stream's first frame is the first that the container wrote."""
        self._line: bytes | None = None
        """The time of a long line, of which another part is to come."""
        self._owes_feed = False

    @property
    def cursor(self) -> LogCursor:
        """Behind what was read."""
        return LogCursor(self._moment, self._count, self._total, self._is_unordered, self._is_damaged)

    @property
    def has_missed(self) -> bool:
        """At the end: the cursor's frame was looked for in the whole stream, and is not there any more."""
        seen = self._seen
        return seen is not None and seen.is_unordered and not self._is_whole and self._met < seen.count

    def read(self, limit: int) -> bytes:
        """About `limit` bytes; fewer only at the end, empty after it."""
        found: list[bytes] = []
        size = 0
        while size < limit:
            frame = self._next()
            if frame is None:
                break
            stamp, data = frame
            if not _TIME.match(stamp):
                found.append(self._complaint(b" ".join(frame)))
                self._pieces, self._buffer = iter(()), b""
                break
            data = self._ended(stamp, data)
            moment = _moment_of(stamp)
            if self._seen is not None:
                new = self._meet(self._seen, moment, data)
                if new is None:
                    continue
                data = new
            self._advance(moment)
            found.append(data)
            size += len(data)
        return b"".join(found)

    def first(self) -> bytes:
        """The data of the very first frame, before anything else is read; empty if there is none."""
        frame = self._next()
        return frame[1] if frame else b""

    def _advance(self, moment: str) -> None:
        self._is_unordered = self._is_unordered or moment < self._moment
        self._count = self._count + 1 if moment == self._moment else 1
        self._total += self._total != UNKNOWN
        self._moment, self._is_damaged = moment, False

    def _next(self) -> tuple[bytes, bytes] | None:
        """(time, data) of the next frame; None at the end."""
        while True:
            buffer, start = self._buffer, self._at + HEADER
            end = start + int.from_bytes(buffer[start - 4 : start], "big")
            if len(buffer) >= start and len(buffer) >= end:
                self._at = end
                stamp, _, data = buffer[start:end].partition(b" ")
                return stamp, data
            piece = next(self._pieces, None)
            if piece is None:
                return None
            self._buffer, self._at = buffer[self._at :] + piece, 0

    def _ended(self, stamp: bytes, data: bytes) -> bytes:
        """The data, after the line feed that the Engine has left out if a long line ended right before it."""
        lead = b"\n" if self._owes_feed else b""
        has_feed = data.endswith(b"\n")
        self._owes_feed = self._line == stamp and len(data) < PART_BYTES and not has_feed
        self._line = stamp if len(data) == PART_BYTES and not has_feed else None
        return lead + data

    def _meet(self, seen: LogCursor, moment: str, data: bytes) -> bytes | None:
        """What of the first frames is new; None for one that was seen."""
        self._index += 1
        self._is_whole = self._is_whole or (self._index == 1 and data == BEGIN)
        if self._was_seen(seen, moment):
            self._met += moment == seen.moment
            return None
        self._seen = None
        if not seen.moment:
            return b"" if data == BEGIN else data if data.startswith(NOT_BEGUN) else DROPPED + data
        return data if seen.is_unordered or self._met == seen.count else DROPPED + data

    def _was_seen(self, seen: LogCursor, moment: str) -> bool:
        if not seen.is_unordered:
            return moment < seen.moment or (moment == seen.moment and self._met < seen.count)
        if self._is_whole and seen.total != UNKNOWN:
            return self._index <= seen.total
        return self._met < seen.count

    def _complaint(self, words: bytes) -> bytes:
        is_new, self._is_damaged = not self._is_damaged, True
        return DAMAGED % b" ".join(words.split())[:MAX_COMPLAINT_BYTES] if is_new else b""


def _moment_of(stamp: bytes) -> str:
    """Nine digits, also if zeros at the end were left off; in UTC, without the zone."""
    text = stamp.decode()
    if len(text) == NANOSECONDS and text[-1] == "Z":
        return text[:-1]
    if text[-1] != "Z":
        head, sign, zone = text[:-6], text[-6], text[-5:]
        whole, _, fraction = head.partition(".")
        instant = datetime.datetime.fromisoformat(f"{whole}{sign}{zone}").astimezone(datetime.UTC)
        text = f"{instant:%Y-%m-%dT%H:%M:%S}.{fraction}"
    whole, _, fraction = text.removesuffix("Z").partition(".")
    return f"{whole}.{fraction.ljust(9, '0')}"


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
        if not cursor.is_readable:
            return b"", cursor
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
        if not data and frames.has_missed:
            return self.read(client, identity, LogCursor(), limit, seconds)
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
            surplus = [self._open.pop(next(iter(self._open)))] if len(self._open) >= MAX_OPEN_SNAPSHOTS else []
            self._open[identity] = held
        for _, close in surplus:
            close()


def first_frame(client: Any, identity: str, seconds: float) -> bytes:
    """The first thing in a container's log, empty if there is none. Raises what the client raises."""
    frames, close = _open(client, identity, LogCursor(), seconds)
    try:
        return frames.first()
    finally:
        close()


def _open(client: Any, identity: str, cursor: LogCursor, seconds: float) -> tuple[Frames, Callable[[], None]]:
    """A snapshot from the cursor's time on; of everything if the Engine's clock was set back behind that."""
    url = client._url("/containers/{0}/logs", identity)
    since = {"since": _unix(cursor.moment)} if cursor.moment and not cursor.is_unordered else {}
    parameters = {"stdout": 1, "stderr": 1, "timestamps": 1, **since}
    with contextlib.ExitStack() as stack:
        answer = stack.enter_context(client.get(url, params=parameters, stream=True, timeout=seconds))
        client._raise_for_status(answer)
        if since and _date(answer) + 1 < float(since["since"]):
            stack.close()
            return _open(client, identity, dataclasses.replace(cursor, is_unordered=True), seconds)
        frames = Frames(answer.iter_content(1 << 18), cursor)
        return frames, stack.pop_all().close


def _date(answer: Any) -> float:
    """The Engine's clock in whole seconds, as Unix time; in the far future if it does not say."""
    try:
        return email.utils.parsedate_to_datetime(answer.headers["Date"]).timestamp()
    except (KeyError, TypeError, ValueError):
        return float("inf")


def _unix(moment: str) -> str:
    """Seconds since 1970 with nine digits, as the Engine takes them."""
    whole, _, fraction = moment.partition(".")
    seconds = datetime.datetime.fromisoformat(f"{whole}+00:00").timestamp()
    return f"{int(seconds)}.{fraction}"
