"""The log of a pod's container, read from the API server from where it was left off.

The kubelet gives the log's lines, each behind the time at which it began, and only those of the file that it writes
just now: what it has turned over is not to be had any more. A *snapshot* is what is there at one moment; it is asked
for from the second of the cursor's time on, since the API takes whole seconds. The last line that was read comes again
in it; where it does not, the kubelet has turned the file over, and some lines may be missing. A log that grows long is
followed instead, by one request that goes on, for the kubelet reads a followed file to its end as it turns it over.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import urllib3

from runners.base import HandleNotFound, RunnerUnavailable
from runners.kubernetes.api import Api, Refused
from runners.kubernetes.log_feed import Feed
from runners.kubernetes.manifests import BEGIN, MAIN

DROPPED = b"polyjob: the kubelet has turned over this log here, and bytes may be missing\n"
FOLLOWED_FROM = 3 << 20
"""Bytes of a log in the kubelet's files, from which on it is followed; these are turned over at 10 MiB, usually."""
LINE_WEIGHT = 48
"""Bytes that the kubelet keeps with each line."""
MOST_OPEN = 128
"""Snapshots and followed logs that are held open between two calls."""
CATCHING_UP = 1.0
"""Seconds to wait for a piece of a followed log that was begun again, until it comes to where it was left off."""
LAST_WORDS = 30.0
"""Seconds that a followed log gets to come to its end, once the job has."""
CHUNK = 1 << 16
STAMP_AND_BEGIN = 64
"""Bytes that hold a time, a blank and `BEGIN`."""
SECONDS, SILENCE = 60.0, 3600.0
"""How long the API server may take for a piece of a snapshot, and of a log that is followed."""
REMOVED = b"unable to retrieve container logs for "
"""What a kubelet says, in a log's place or as the reason of a refusal, once it has removed the container."""
LOG_IS_GONE = "The machine has removed the log of the job's container."
_STAMP = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d) ")


@dataclass(frozen=True)
class LogCursor:
    """How far a log was read: every line that began before `moment`, and `count` of those that began at it, of the last
    of which `size` bytes.

    A time alone would repeat or skip, since several lines can bear the same one; and a line may not have ended yet.
    """

    moment: str = ""
    """RFC 3339 with nine digits, in UTC and without the zone, so that text compares as time."""
    count: int = 0
    size: int = 0
    weight: int = 0
    """Bytes that all that was read took in the kubelet's files, about."""

    @classmethod
    def read(cls, text: str | None) -> LogCursor:
        return cls(**json.loads(text)) if text else cls()

    def text(self) -> str:
        return json.dumps(dataclasses.asdict(self))


class Lines:
    """The lines of a snapshot behind a cursor, without their times, in pieces of about some size."""

    def __init__(self, pieces: Iterable[bytes], cursor: LogCursor) -> None:
        """A piece that is empty stands for a log that goes on, and has no more for now."""
        self.cursor = cursor
        """Behind what was read."""
        self._pieces = iter(pieces)
        self._is_waiting = False
        self._buffer = b""
        self._place = 0
        self._is_over = False
        self._is_in_line = False
        """The next bytes go on with a line whose time was read."""
        self._seen: LogCursor | None = cursor
        """What is still to be met again; None once it was."""
        self._met = self._met_size = 0

    @property
    def is_catching_up(self) -> bool:
        """Whether the last line that was read has still to be met again."""
        seen = self._seen
        return seen is not None and (self._met < seen.count or self._met_size < seen.size)

    def read(self, limit: int) -> bytes:
        """About `limit` bytes; fewer only at the end, empty behind it."""
        found: list[bytes] = []
        size = 0
        self._is_waiting = False
        while size < limit:
            part = self._next()
            if part is None:
                break
            data = self._meet(self._seen, *part) if self._seen is not None else self._take(*part)
            found.append(data)
            size += len(data)
        return b"".join(found)

    def _next(self) -> tuple[str | None, bytes] | None:
        """(when a line began, or None where this goes on with one; bytes of it); None at the end."""
        self._fill()
        start = self._place
        if start >= len(self._buffer):
            return None
        match = None if self._is_in_line else _STAMP.match(self._buffer, start)
        if match is None and self._buffer.startswith(REMOVED, start):
            raise HandleNotFound(LOG_IS_GONE)
        if match is not None:
            start = match.end()
        end = self._buffer.find(b"\n", start) + 1
        if self._is_waiting and match is None and not self._is_in_line and not end:
            return None  # a time that has not come whole
        self._is_in_line = end == 0
        self._place = end or len(self._buffer)
        return _moment(match) if match is not None else None, self._buffer[start : self._place]

    def _fill(self) -> None:
        """Have enough for a time, or all that is left."""
        while not self._is_over and not self._is_waiting and len(self._buffer) - self._place < STAMP_AND_BEGIN:
            piece = next(self._pieces, None)
            self._is_over, self._is_waiting = piece is None, piece == b""
            self._buffer, self._place = self._buffer[self._place :] + (piece or b""), 0

    def _take(self, moment: str | None, data: bytes) -> bytes:
        at = self.cursor
        if moment is None:
            self.cursor = LogCursor(at.moment, at.count, at.size + len(data), at.weight + len(data))
        else:
            count = at.count + 1 if moment == at.moment else 1
            self.cursor = LogCursor(moment, count, len(data), at.weight + len(data) + LINE_WEIGHT)
        return data

    def _meet(self, seen: LogCursor, moment: str | None, data: bytes) -> bytes:
        """What is new of the first parts."""
        if moment is None and not self._met:
            return b""  # the end of a line that began before that second
        if moment is None:
            self._met_size += len(data)
        elif moment < seen.moment:
            return b""
        elif moment == seen.moment and self._met < seen.count:
            self._met, self._met_size = self._met + 1, len(data)
        else:
            self._seen = None
            is_whole = self._met == seen.count and self._met_size >= seen.size
            is_first = not seen.moment
            self._take(moment, data)
            if is_first and data == BEGIN:
                return b""
            return data if is_whole and not is_first else DROPPED + data
        if self._met < seen.count or self._met_size <= seen.size:
            return b""
        self._seen = None
        new = data[-(self._met_size - seen.size) :]
        self.cursor = LogCursor(seen.moment, seen.count, self._met_size, seen.weight + len(new))
        return new


def _moment(match: re.Match[bytes]) -> str:
    whole, fraction, zone = match[1].decode(), (match[2] or b"").decode().ljust(9, "0"), match[3].decode()
    if zone not in ("Z", "+00:00"):
        utc = datetime.datetime.fromisoformat(whole + zone).astimezone(datetime.UTC)
        whole = utc.strftime("%Y-%m-%dT%H:%M:%S")
    return f"{whole}.{fraction}"


def has_begun(api: Api, pod: Mapping[str, Any]) -> bool | None:
    """Return whether the log of a pod says that the job's command has begun; None where its machine cannot be asked.
    One request at most: `BEGIN` is written before the command."""
    if not (pod.get("spec") or {}).get("nodeName"):
        return False
    query = [("container", MAIN), ("timestamps", "true"), ("limitBytes", str(STAMP_AND_BEGIN))]
    try:
        with api.open("GET", f"{api.pod(pod['metadata']['name'])}/log", query) as answer:
            return _STAMP.match(answer.read(decode_content=True)) is not None
    except Refused as error:
        return False if error.status in (400, 404) else None
    except (RunnerUnavailable, urllib3.exceptions.HTTPError):
        return None


class _Open:
    """A snapshot, or a followed log, that is being read."""

    def __init__(self, api: Api, pod: str, container: str, cursor: LogCursor) -> None:
        """Raises Refused, RunnerUnavailable."""
        query = [("container", container), ("timestamps", "true")]
        if cursor.moment:
            query.append(("sinceTime", f"{cursor.moment.partition('.')[0]}Z"))
        self.is_followed = cursor.weight >= FOLLOWED_FROM
        if self.is_followed:
            query.append(("follow", "true"))
        with contextlib.ExitStack() as stack:
            seconds = SILENCE if self.is_followed else SECONDS
            answer = stack.enter_context(api.open("GET", f"{api.pod(pod)}/log", query, seconds=seconds))
            pieces = api.pieces(answer, CHUNK)
            self.close = stack.pop_all().close
        self._feed = Feed(answer, pieces, self.close) if self.is_followed else None
        if self._feed is not None:
            self.close, pieces = self._feed.close, self._followed(self._feed)
        self.lines = Lines(pieces, cursor)
        self.patience = 0.0
        """Seconds to wait for a piece of a followed log."""
        self.has_ended = False

    def _followed(self, feed: Feed) -> Iterator[bytes]:
        while (piece := feed.take(self._patience())) is not None:
            yield piece
        self.has_ended = True

    def _patience(self) -> float:
        return max(self.patience, CATCHING_UP if self.lines.is_catching_up else 0.0)


class Logs:
    """The logs that are being read, by pod. Every one can be lost: the next call asks for another."""

    def __init__(self) -> None:
        self._open: dict[str, _Open] = {}
        self._lock = threading.Lock()

    def read(
        self, api: Api, pod: str, container: str, cursor: LogCursor, limit: int, is_over: bool = False
    ) -> tuple[bytes, LogCursor]:
        """(about `limit` bytes behind the cursor, the cursor behind them); fewer at the log's present end, none of a
        container that has not begun. `is_over` says that the container has ended; then what is followed is read to its
        end.

        Raises HandleNotFound, Refused, RunnerUnavailable."""
        held = self._take(pod)
        if held and held.lines.cursor != cursor:
            held.close()
            held = None
        try:
            held = held or _Open(api, pod, container, cursor)
        except Refused as error:
            if error.status != 400:
                raise
            if REMOVED.decode() in str(error):
                raise HandleNotFound(LOG_IS_GONE) from None
            return b"", cursor  # it has not begun
        held.patience = LAST_WORDS if is_over else 0.0
        try:
            data = held.lines.read(limit)
        except BaseException:
            held.close()
            raise
        if held.has_ended or (len(data) < limit and not (held.is_followed and not is_over)):
            held.close()
        else:
            self._keep(pod, held)
        return data, held.lines.cursor

    def forget(self, pod: str) -> None:
        """Idempotent."""
        held = self._take(pod)
        if held:
            held.close()

    def close(self) -> None:
        for pod in list(self._open):
            self.forget(pod)

    def _take(self, pod: str) -> _Open | None:
        with self._lock:
            return self._open.pop(pod, None)

    def _keep(self, pod: str, held: _Open) -> None:
        with self._lock:
            surplus = [self._open.pop(next(iter(self._open)))] if len(self._open) >= MOST_OPEN else []
            self._open[pod] = held
        for one in surplus:
            one.close()
