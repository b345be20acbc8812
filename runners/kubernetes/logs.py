"""Reads the log of a container from the API server, from a cursor on.

The kubelet returns lines, each with the time at which it began, and only from its current log file: lines of rotated
files are not available.

- A *snapshot* contains the lines up to now. Its request asks for lines from the second of the cursor's time on, because
  the API takes whole seconds. So the snapshot repeats the last line that was read. If it does not, the kubelet has
  rotated the file, and lines may be missing.
- A log that grows long is *followed* instead, by one request that goes on, because the kubelet reads a followed file to
  its end when it rotates it.
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
from runners.common.log_moments import TENTH, times_of_moments
from runners.common.log_times import Times
from runners.kubernetes.api import Api, ApiRefused
from runners.kubernetes.log_feed import Feed
from runners.kubernetes.manifests import BEGIN_LINE, MAIN

DROPPED_LINE = b"polyjob: the kubelet has rotated this log here, and bytes may be missing\n"
MIN_FOLLOWED_BYTES = 3 << 20
"""Size of a log in the kubelet's files from which on it is followed. Kubelets usually rotate files at 10 MiB."""
LINE_OVERHEAD_BYTES = 48
"""Bytes that the kubelet stores with each line."""
MAX_OPEN_LOGS = 128
"""Number of snapshots and followed logs that stay open between two calls."""
CATCH_UP_SECONDS = 1.0
"""Time to wait for data of a log that is followed again, until it reaches the cursor."""
LAST_DATA_SECONDS = 30.0
"""Time to wait for data of a followed log once the job has ended."""
CHUNK_BYTES = 1 << 16
HEAD_BYTES = 64
"""Bytes that are enough for a timestamp, a blank and `BEGIN_LINE`."""
SNAPSHOT_SECONDS, FOLLOW_SECONDS = 60.0, 3600.0
"""Time limits of the API server for the next data of a snapshot, and of a followed log."""
REMOVED_TEXT = b"unable to retrieve container logs for "
"""Text of a kubelet that has removed the container, in place of the log or in a refusal."""
LOG_REMOVED = "The machine has removed the log of the job's container."
_TIMESTAMP = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d) ")


@dataclass(frozen=True)
class LogCursor:
    """A position in a log: everything before it was read.

    A timestamp alone would repeat or skip lines, because several lines can have the same one, and a line may not have
    ended yet.
    """

    moment: str = ""
    """The time of the last line that was read; all earlier lines were read. RFC 3339 in UTC with nine digits, without
    the zone, so that texts compare as times."""
    count: int = 0
    """Number of lines with this time that were read."""
    size: int = 0
    """Bytes of the last of these lines that were read."""
    weight: int = 0
    """Approximate size in the kubelet's files of everything that was read, in bytes."""

    @classmethod
    def parse(cls, text: str | None) -> LogCursor:
        return cls(**json.loads(text)) if text else cls()

    def text(self) -> str:
        return json.dumps(dataclasses.asdict(self))


class Lines:
    """The lines of a snapshot or a followed log after a cursor, without their timestamps."""

    def __init__(self, chunks: Iterable[bytes], cursor: LogCursor) -> None:
        """An empty chunk means that a followed log has no more data for now."""
        self.cursor = cursor
        """The position after everything that was read."""
        self._chunks = iter(chunks)
        self._is_waiting = False
        self._buffer = b""
        self._position = 0
        self._is_over = False
        self.moments: list[tuple[int, str]] = []
        """Offsets in the bytes of the last read, and the moments at which the lines from there were written."""
        self._tenth = ""
        self._is_in_line = False
        """The next bytes continue a line whose timestamp was read."""
        self._repeated: LogCursor | None = cursor
        """The position up to which lines are repeated; None once it was reached."""
        self._repeated_count = self._repeated_size = 0
        """The part of the repetition that was read, like `count` and `size` of a cursor."""

    @property
    def is_catching_up(self) -> bool:
        """Return whether the repetition has not reached the cursor yet."""
        end = self._repeated
        return end is not None and (self._repeated_count < end.count or self._repeated_size < end.size)

    def read(self, limit: int) -> bytes:
        """Return about `limit` bytes; fewer only at the end, none after it."""
        parts: list[bytes] = []
        size = 0
        self._is_waiting = False
        self.moments = []
        while size < limit:
            part = self._next()
            if part is None:
                break
            data = self._skip_repeated(self._repeated, *part) if self._repeated is not None else self._take(*part)
            if self.cursor.moment[:TENTH] != self._tenth and data:
                self._tenth = self.cursor.moment[:TENTH]
                self.moments.append((size, self.cursor.moment))
            parts.append(data)
            size += len(data)
        return b"".join(parts)

    def _next(self) -> tuple[str | None, bytes] | None:
        """Return (the time of a line, or None if this continues one; bytes of the line); None at the end."""
        self._fill()
        start = self._position
        if start >= len(self._buffer):
            return None
        match = None if self._is_in_line else _TIMESTAMP.match(self._buffer, start)
        if match is None and self._buffer.startswith(REMOVED_TEXT, start):
            raise HandleNotFound(LOG_REMOVED)
        if match is not None:
            start = match.end()
        end = self._buffer.find(b"\n", start) + 1
        if self._is_waiting and match is None and not self._is_in_line and not end:
            return None  # an incomplete timestamp
        self._is_in_line = end == 0
        self._position = end or len(self._buffer)
        return _moment(match) if match is not None else None, self._buffer[start : self._position]

    def _fill(self) -> None:
        """Fill the buffer with enough bytes for a timestamp, or with the rest."""
        while not self._is_over and not self._is_waiting and len(self._buffer) - self._position < HEAD_BYTES:
            chunk = next(self._chunks, None)
            self._is_over, self._is_waiting = chunk is None, chunk == b""
            self._buffer, self._position = self._buffer[self._position :] + (chunk or b""), 0

    def _take(self, moment: str | None, data: bytes) -> bytes:
        last = self.cursor
        if moment is None:
            self.cursor = LogCursor(last.moment, last.count, last.size + len(data), last.weight + len(data))
        else:
            count = last.count + 1 if moment == last.moment else 1
            self.cursor = LogCursor(moment, count, len(data), last.weight + len(data) + LINE_OVERHEAD_BYTES)
        return data

    def _skip_repeated(self, end: LogCursor, moment: str | None, data: bytes) -> bytes:
        """Return the new bytes of a part that may repeat what was read up to `end`."""
        if moment is None and not self._repeated_count:
            return b""  # the rest of a line that began before that second
        if moment is None:
            self._repeated_size += len(data)
        elif moment < end.moment:
            return b""
        elif moment == end.moment and self._repeated_count < end.count:
            self._repeated_count, self._repeated_size = self._repeated_count + 1, len(data)
        else:
            self._repeated = None
            is_complete = self._repeated_count == end.count and self._repeated_size >= end.size
            is_first = not end.moment
            self._take(moment, data)
            if is_first and data == BEGIN_LINE:
                return b""
            return data if is_complete and not is_first else DROPPED_LINE + data
        if self._repeated_count < end.count or self._repeated_size <= end.size:
            return b""
        self._repeated = None
        new = data[-(self._repeated_size - end.size) :]
        self.cursor = LogCursor(end.moment, end.count, self._repeated_size, end.weight + len(new))
        return new


def _moment(match: re.Match[bytes]) -> str:
    seconds, fraction, zone = match[1].decode(), (match[2] or b"").decode().ljust(9, "0"), match[3].decode()
    if zone not in ("Z", "+00:00"):
        utc = datetime.datetime.fromisoformat(seconds + zone).astimezone(datetime.UTC)
        seconds = utc.strftime("%Y-%m-%dT%H:%M:%S")
    return f"{seconds}.{fraction}"


def has_begun(api: Api, pod: Mapping[str, Any]) -> bool | None:
    """Return whether the log of a pod shows that the job's command has begun; None if its machine does not answer.

    Sends one request at most. The container writes `BEGIN_LINE` before it runs the command.
    """
    if not (pod.get("spec") or {}).get("nodeName"):
        return False
    query = [("container", MAIN), ("timestamps", "true"), ("limitBytes", str(HEAD_BYTES))]
    try:
        with api.open("GET", f"{api.pod(pod['metadata']['name'])}/log", query) as response:
            return _TIMESTAMP.match(response.read(decode_content=True)) is not None
    except ApiRefused as error:
        return False if error.status in (400, 404) else None
    except (RunnerUnavailable, urllib3.exceptions.HTTPError):
        return None


class _OpenLog:
    """A snapshot or a followed log that is being read."""

    def __init__(self, api: Api, pod: str, container: str, cursor: LogCursor) -> None:
        """Raises ApiRefused, RunnerUnavailable."""
        query = [("container", container), ("timestamps", "true")]
        if cursor.moment:
            query.append(("sinceTime", f"{cursor.moment.partition('.')[0]}Z"))
        self.is_followed = cursor.weight >= MIN_FOLLOWED_BYTES
        if self.is_followed:
            query.append(("follow", "true"))
        with contextlib.ExitStack() as stack:
            seconds = FOLLOW_SECONDS if self.is_followed else SNAPSHOT_SECONDS
            response = stack.enter_context(api.open("GET", f"{api.pod(pod)}/log", query, seconds=seconds))
            chunks = api.chunks(response, CHUNK_BYTES)
            self.close = stack.pop_all().close
        self._feed = Feed(response, chunks, self.close) if self.is_followed else None
        if self._feed is not None:
            self.close, chunks = self._feed.close, self._feed_chunks(self._feed)
        self.lines = Lines(chunks, cursor)
        self.wait_seconds = 0.0
        """Time to wait for data of a followed log."""
        self.has_ended = False

    def _feed_chunks(self, feed: Feed) -> Iterator[bytes]:
        while (chunk := feed.take(self._wait_seconds())) is not None:
            yield chunk
        self.has_ended = True

    def _wait_seconds(self) -> float:
        return max(self.wait_seconds, CATCH_UP_SECONDS if self.lines.is_catching_up else 0.0)


class Logs:
    """The open logs of all pods. They can be lost: the next call opens the log again."""

    def __init__(self) -> None:
        self._open: dict[str, _OpenLog] = {}
        self._lock = threading.Lock()

    def read(
        self, api: Api, pod: str, container: str, cursor: LogCursor, limit: int, is_over: bool = False
    ) -> tuple[bytes, LogCursor, Times]:
        """Return (about `limit` bytes after the cursor, the cursor after them, the times of the bytes).

        There are fewer bytes at the present end of the log, and none if the container has not started. `is_over` means
        that the container has ended; then a followed log is read to its end. Raises HandleNotFound, ApiRefused,
        RunnerUnavailable.
        """
        log = self._take(pod)
        if log and log.lines.cursor != cursor:
            log.close()
            log = None
        try:
            log = log or _OpenLog(api, pod, container, cursor)
        except ApiRefused as error:
            if error.status != 400:
                raise
            if REMOVED_TEXT.decode() in str(error):
                raise HandleNotFound(LOG_REMOVED) from None
            return b"", cursor, ()  # the container has not started
        log.wait_seconds = LAST_DATA_SECONDS if is_over else 0.0
        try:
            data = log.lines.read(limit)
        except BaseException:
            log.close()
            raise
        if log.has_ended or (len(data) < limit and not (log.is_followed and not is_over)):
            log.close()
        else:
            self._keep(pod, log)
        return data, log.lines.cursor, times_of_moments(log.lines.moments)

    def forget(self, pod: str) -> None:
        """Close the log of a pod. Idempotent."""
        log = self._take(pod)
        if log:
            log.close()

    def close(self) -> None:
        for pod in list(self._open):
            self.forget(pod)

    def _take(self, pod: str) -> _OpenLog | None:
        with self._lock:
            return self._open.pop(pod, None)

    def _keep(self, pod: str, log: _OpenLog) -> None:
        with self._lock:
            surplus = [self._open.pop(next(iter(self._open)))] if len(self._open) >= MAX_OPEN_LOGS else []
            self._open[pod] = log
        for each in surplus:
            each.close()
