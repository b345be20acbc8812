"""Read the log of a container from the Engine, from the position where the last read ended.

The Engine returns a log as frames, each with the time at which it was written. A *snapshot* is the log as it is at one
moment. It is requested from the cursor's time on and read in chunks to its end, because the Engine reads its log
files from their beginning for each request. A stream that follows the log is not used, because it would not show that
the Engine has rotated its files twice and left out frames. In a snapshot, the last known frame comes first again. If it
does not, the Engine has dropped it, and perhaps more frames.
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

from runners.common.log_moments import TENTH, times_of_moments
from runners.common.log_times import Times

HEADER_BYTES = 8
"""Bytes before each frame: one for the stream, three zeros, and four for the length, big-endian."""
BEGIN_LINE = b"polyjob begins\n"
"""The first line of every container, which is not part of the job's log. If it is missing, the Engine has dropped
lines.
"""
INIT_ERRORS = (b"[FATAL tini", b"ERROR (catatonit")
"""Beginnings of the message of the Engine's init process when it cannot run the shell."""
DROPPED_LINE = b"polyjob: the Docker Engine has dropped bytes of this log here\n"
DAMAGED_LINE = b"polyjob: the Docker Engine cannot read the rest of this log: %s\n"
MAX_OPEN_SNAPSHOTS = 32
"""Snapshots that stay open between two calls."""
UNKNOWN_TOTAL = -1
TIMESTAMP_LENGTH = len("2026-11-23T12:00:00.000000000Z")
PART_BYTES = 16_384
"""Size of the frames into which the Engine splits a long line. All of them have the time of the line."""
MAX_COMPLAINT_BYTES = 500
"""Bytes of the Engine's message about a log that it cannot read."""
_TIME = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d)\Z")
_MOMENT = re.compile(r"(?:\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9})?\Z")


@dataclass(frozen=True)
class LogCursor:
    """A position in a log: after all frames before `moment`, and `count` frames with that time.

    A time alone would repeat or skip frames, because several frames can have the same one.
    """

    moment: str = ""
    """RFC 3339 with nine digits, in UTC and without a zone, so that texts compare as times do."""
    count: int = 0
    total: int = 0
    """All frames that were read, for a log whose times go back; UNKNOWN in a cursor of an older version."""
    is_unordered: bool = False
    """The Engine's clock was set back, so frames are counted and their times are not compared."""
    is_damaged: bool = False
    """The Engine cannot read further, and the job's log says so already."""

    @classmethod
    def read(cls, text: str | None) -> LogCursor:
        """Parse the result of `text`. Raises ValueError or TypeError for anything else."""
        fields = json.loads(text) if text else {}
        return cls(**{"total": UNKNOWN_TOTAL if fields.get("moment") else 0, **fields})

    def text(self) -> str:
        return json.dumps({name: value for name, value in dataclasses.asdict(self).items() if value})

    @property
    def is_readable(self) -> bool:
        return _MOMENT.match(self.moment) is not None


class Frames:
    """Reads the frames of a multiplexed stream that come after a cursor, without headers and times.

    An incomplete frame at the end is left out, because the next snapshot has all of it. A frame without a time is the
    Engine's message that it cannot read further. It becomes the last line.
    """

    def __init__(self, chunks: Iterable[bytes], cursor: LogCursor) -> None:
        self._chunks = iter(chunks)
        self._buffer = b""
        self._offset = 0
        self._resume_at: LogCursor | None = cursor
        """The cursor whose frames still have to be skipped; None after that."""
        self._skipped = 0
        self._moment = cursor.moment
        self._count, self._total = cursor.count, cursor.total
        self._is_unordered, self._is_damaged = cursor.is_unordered, cursor.is_damaged
        self._frame_number = 0
        """Number of frames that were read from this stream."""
        self._is_from_start = False
        """The first frame of the stream is the first one of the container."""
        self.moments: list[tuple[int, str]] = []
        """Offsets in the bytes of the last read, and the moments at which the bytes from there were written."""
        self._tenth = ""
        self._long_line_stamp: bytes | None = None
        """The time of a long line that has more frames; None otherwise."""
        self._lacks_line_feed = False

    @property
    def cursor(self) -> LogCursor:
        """The cursor after everything that has been read."""
        return LogCursor(self._moment, self._count, self._total, self._is_unordered, self._is_damaged)

    @property
    def lacks_cursor(self) -> bool:
        """Return, at the end of the stream, whether the frame of the cursor was not found in it."""
        cursor = self._resume_at
        return cursor is not None and cursor.is_unordered and not self._is_from_start and self._skipped < cursor.count

    def read(self, limit: int) -> bytes:
        """Return about `limit` bytes; fewer only at the end, and none after it."""
        parts: list[bytes] = []
        size = 0
        self.moments = []
        while size < limit:
            frame = self._next()
            if frame is None:
                break
            stamp, data = frame
            if not _TIME.match(stamp):
                parts.append(self._complaint(b" ".join(frame)))
                self._chunks, self._buffer = iter(()), b""
                break
            data = self._add_line_feed(stamp, data)
            moment = _moment_of(stamp)
            if self._resume_at is not None:
                new = self._skip_repeated(self._resume_at, moment, data)
                if new is None:
                    continue
                data = new
            self._advance(moment)
            if moment[:TENTH] != self._tenth and data:
                self._tenth = moment[:TENTH]
                self.moments.append((size, moment))
            parts.append(data)
            size += len(data)
        return b"".join(parts)

    def first(self) -> bytes:
        """Return the data of the first frame; empty if there is none. Only valid before `read`."""
        frame = self._next()
        return frame[1] if frame else b""

    def _advance(self, moment: str) -> None:
        self._is_unordered = self._is_unordered or moment < self._moment
        self._count = self._count + 1 if moment == self._moment else 1
        self._total += self._total != UNKNOWN_TOTAL
        self._moment, self._is_damaged = moment, False

    def _next(self) -> tuple[bytes, bytes] | None:
        """Return (time, data) of the next frame; None at the end."""
        while True:
            buffer, start = self._buffer, self._offset + HEADER_BYTES
            end = start + int.from_bytes(buffer[start - 4 : start], "big")
            if len(buffer) >= start and len(buffer) >= end:
                self._offset = end
                stamp, _, data = buffer[start:end].partition(b" ")
                return stamp, data
            chunk = next(self._chunks, None)
            if chunk is None:
                return None
            self._buffer, self._offset = buffer[self._offset :] + chunk, 0

    def _add_line_feed(self, stamp: bytes, data: bytes) -> bytes:
        """Return the data, with the line feed before it that the Engine leaves out after certain long lines."""
        lead = b"\n" if self._lacks_line_feed else b""
        has_feed = data.endswith(b"\n")
        self._lacks_line_feed = self._long_line_stamp == stamp and len(data) < PART_BYTES and not has_feed
        self._long_line_stamp = stamp if len(data) == PART_BYTES and not has_feed else None
        return lead + data

    def _skip_repeated(self, cursor: LogCursor, moment: str, data: bytes) -> bytes | None:
        """Return the new data of one of the first frames; None if the frame is known."""
        self._frame_number += 1
        self._is_from_start = self._is_from_start or (self._frame_number == 1 and data == BEGIN_LINE)
        if self._is_repeated(cursor, moment):
            self._skipped += moment == cursor.moment
            return None
        self._resume_at = None
        if not cursor.moment:
            return b"" if data == BEGIN_LINE else data if data.startswith(INIT_ERRORS) else DROPPED_LINE + data
        return data if cursor.is_unordered or self._skipped == cursor.count else DROPPED_LINE + data

    def _is_repeated(self, cursor: LogCursor, moment: str) -> bool:
        if not cursor.is_unordered:
            return moment < cursor.moment or (moment == cursor.moment and self._skipped < cursor.count)
        if self._is_from_start and cursor.total != UNKNOWN_TOTAL:
            return self._frame_number <= cursor.total
        return self._skipped < cursor.count

    def _complaint(self, message: bytes) -> bytes:
        is_new, self._is_damaged = not self._is_damaged, True
        return DAMAGED_LINE % b" ".join(message.split())[:MAX_COMPLAINT_BYTES] if is_new else b""


def _moment_of(stamp: bytes) -> str:
    """Return a time of the Engine with nine digits, in UTC and without a zone."""
    text = stamp.decode()
    if len(text) == TIMESTAMP_LENGTH and text[-1] == "Z":
        return text[:-1]
    if text[-1] != "Z":
        head, sign, zone = text[:-6], text[-6], text[-5:]
        whole, _, fraction = head.partition(".")
        instant = datetime.datetime.fromisoformat(f"{whole}{sign}{zone}").astimezone(datetime.UTC)
        text = f"{instant:%Y-%m-%dT%H:%M:%S}.{fraction}"
    whole, _, fraction = text.removesuffix("Z").partition(".")
    return f"{whole}.{fraction.ljust(9, '0')}"


class LogReader:
    """Reads logs, and keeps a few snapshots open between calls. A snapshot that was closed is requested again."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[Frames, Callable[[], None]]] = {}
        self._lock = threading.Lock()

    def read(
        self, client: Any, container: str, cursor: LogCursor, limit: int, seconds: float
    ) -> tuple[bytes, LogCursor, Times]:
        """Return about `limit` bytes after the cursor, the cursor after them, and the times of the bytes.

        There are fewer bytes at the present end. Raises what the client raises.
        """
        if not cursor.is_readable:
            return b"", cursor, ()
        snapshot = self._take(container)
        if snapshot and snapshot[0].cursor != cursor:
            snapshot[1]()
            snapshot = None
        frames, close = snapshot or _open(client, container, cursor, seconds)
        try:
            data = frames.read(limit)
        except BaseException:
            close()
            raise
        if len(data) < limit:
            close()
        else:
            self._keep(container, (frames, close))
        if not data and frames.lacks_cursor:
            return self.read(client, container, LogCursor(), limit, seconds)
        return data, frames.cursor, times_of_moments(frames.moments)

    def forget(self, container: str) -> None:
        """Close the snapshot of a container. Idempotent."""
        snapshot = self._take(container)
        if snapshot:
            snapshot[1]()

    def close(self) -> None:
        for container in list(self._open):
            self.forget(container)

    def _take(self, container: str) -> tuple[Frames, Callable[[], None]] | None:
        with self._lock:
            return self._open.pop(container, None)

    def _keep(self, container: str, snapshot: tuple[Frames, Callable[[], None]]) -> None:
        with self._lock:
            surplus = [self._open.pop(next(iter(self._open)))] if len(self._open) >= MAX_OPEN_SNAPSHOTS else []
            self._open[container] = snapshot
        for _, close in surplus:
            close()


def first_frame(client: Any, container: str, seconds: float) -> bytes:
    """Return the first frame of a container's log; empty if there is none. Raises what the client raises."""
    frames, close = _open(client, container, LogCursor(), seconds)
    try:
        return frames.first()
    finally:
        close()


def _open(client: Any, container: str, cursor: LogCursor, seconds: float) -> tuple[Frames, Callable[[], None]]:
    """Request a snapshot from the cursor's time on, or of all of it if the Engine's clock was set back before that."""
    url = client._url("/containers/{0}/logs", container)
    since = {"since": _unix(cursor.moment)} if cursor.moment and not cursor.is_unordered else {}
    parameters = {"stdout": 1, "stderr": 1, "timestamps": 1, **since}
    with contextlib.ExitStack() as stack:
        answer = stack.enter_context(client.get(url, params=parameters, stream=True, timeout=seconds))
        client._raise_for_status(answer)
        if since and _date(answer) + 1 < float(since["since"]):
            stack.close()
            return _open(client, container, dataclasses.replace(cursor, is_unordered=True), seconds)
        frames = Frames(answer.iter_content(1 << 18), cursor)
        return frames, stack.pop_all().close


def _date(answer: Any) -> float:
    """Return the Engine's clock as Unix time, in whole seconds; infinity if the answer does not have it."""
    try:
        return email.utils.parsedate_to_datetime(answer.headers["Date"]).timestamp()
    except (KeyError, TypeError, ValueError):
        return float("inf")


def _unix(moment: str) -> str:
    """Return a moment as Unix time with nine digits, as the Engine's API expects it."""
    whole, _, fraction = moment.partition(".")
    seconds = datetime.datetime.fromisoformat(f"{whole}+00:00").timestamp()
    return f"{int(seconds)}.{fraction}"
