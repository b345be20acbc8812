"""A client's connection in a web worker: the received bytes of its next request, and its unsent response."""

from __future__ import annotations

import array
import fcntl
import os
import re
import select
import socket
import struct
import termios
import time
from collections import deque
from collections.abc import Iterator
from enum import Enum
from typing import Any

from gunicorn.http.body import LengthReader
from gunicorn.http.message import Request
from gunicorn.http.parser import RequestParser
from gunicorn.http.unreader import SocketUnreader
from gunicorn.workers.gthread import TConn

MAX_HEADER_SECONDS = 10
"""Time until a request's header is complete; otherwise the connection is closed."""
MAX_HEADER_BYTES = 64 << 10
MAX_SMALL_BODY = 64 << 10
"""A body up to this size is received completely before a thread gets the request."""
MAX_BODY_SECONDS = 30
"""Time until a small body is complete. For a larger body, how far a client can fall behind the minimum rate."""
MIN_UPLOAD_BYTES_PER_SECOND = 8 << 10
"""The rate at which a client has to send a larger body."""
MAX_SEND_SECONDS = 30
"""A client that reads nothing of its response for so long is disconnected."""

BODY_IS_LATE = "polyjob.body_is_late"
"""Key in a request's WSGI environment: true if its body is larger or chunked, and reading it waits for the client."""

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length[ \t]*:([^\r\n]*)", re.IGNORECASE)
_TRANSFER_ENCODING = re.compile(rb"\r\ntransfer-encoding[ \t]*:", re.IGNORECASE)
_EXPECT = re.compile(rb"\r\nexpect:[ \t]*100-continue[ \t]*\r\n", re.IGNORECASE)
_FEW_DIGITS = re.compile(rb"[0-9]{1,18}")
_SEND_LIMIT = struct.pack("ll", MAX_SEND_SECONDS, 0)
_SEND_SIZE = 1 << 20
_MAX_JOINED_BYTES = 16 << 10
"""Header and body of a response up to this size are sent by one call, so that the client wakes up once."""


class Phase(Enum):
    """The event that a connection waits for while no thread works for it."""

    REQUEST = "the client sends"
    WRITABLE = "the client takes more of the response"
    CLOSING = "the client closes its side"


class BodyTooSlow(TimeoutError):
    """The client sends a body more slowly than the minimum rate."""


class PacedUnreader(SocketUnreader):
    """Reads a body from a blocking socket at a minimum rate.

    Only the time spent waiting for the client counts, not the time between two reads.
    """

    def begin(self) -> None:
        """Start to read the body of a new request."""
        self._seconds_left = float(MAX_BODY_SECONDS)
        self._may_wait = True
        self.expects_to_continue = False
        """True if the client waits for `100 Continue`. The first read of the body sends it."""

    def stop_waiting(self) -> None:
        """From here on, read only what the client has sent already."""
        self._may_wait = False

    def chunk(self, size_hint: int | None = None) -> bytes:
        """Return the next bytes. Raises BodyTooSlow."""
        begin = time.monotonic()
        if self.expects_to_continue and self._may_wait:
            self.expects_to_continue = False
            self.sock.sendall(CONTINUE)
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        if not poll.poll(1000 * self._seconds_left if self._may_wait else 0):
            raise BodyTooSlow("The request's body arrives too slowly.")
        data: bytes = super().chunk(size_hint)
        seconds_left = self._seconds_left - (time.monotonic() - begin) + len(data) / MIN_UPLOAD_BYTES_PER_SECOND
        self._seconds_left = max(0.0, min(seconds_left, MAX_BODY_SECONDS))
        return data


class _Request(Request):
    """A request. gunicorn would parse the client's address to find out that no proxy is trusted."""

    def _peer_is_trusted_proxy(self) -> bool:
        has_address = isinstance(self.peer_addr, tuple)
        return not (has_address and not self.cfg.forwarded_allow_ips) and super()._peer_is_trusted_proxy()


class _Parser(RequestParser):
    mesg_class = _Request


class Connection(TConn):
    """A connection. The worker's main loop receives each request until a thread can handle it without waiting."""

    def __init__(self, cfg: Any, sock: socket.socket, client: Any, server: Any) -> None:
        super().__init__(cfg, sock, client, server)  # the socket does not block from here on
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _SEND_LIMIT)  # for what a thread sends by itself
        self.network = ""
        self.phase = Phase.REQUEST
        self.deadline = 0.0
        self.received = bytearray()
        self.answer: PendingResponse | None = None
        """The response that is being sent."""
        self.drained = 0
        """Bytes that the client has sent since the server began to close the connection. They are ignored."""
        self._queued_bytes = 0
        """Bytes in the socket that the client had not acknowledged at the last call of `takes_more`."""
        self.has_continued = False
        """True if `100 Continue` was sent for this request."""
        self.is_body_late = False
        """True if the request that a thread handles has a body that the thread has to read from the socket."""
        self._head_size = 0
        """Size of the header; 0 while it is incomplete."""
        self._body_size: int | None = 0
        """Size of a small body; None for a larger or chunked one."""
        self.parser = _Parser(cfg, sock, client)
        self.parser.unreader = PacedUnreader(sock)
        self.initialized = self.data_ready = True

    @property
    def is_idle(self) -> bool:
        """True if no byte of a request has been received."""
        return self.phase is Phase.REQUEST and not self.received

    def add(self, data: bytes) -> None:
        """Add bytes that the client has sent."""
        scanned = max(0, len(self.received) - 3)
        self.received += data
        if self._head_size:
            return
        end = self.received.find(b"\r\n\r\n", scanned)
        if end >= 0:
            self._head_size = end + 4
            self._body_size = small_body(bytes(self.received[: end + 2]))

    @property
    def has_header(self) -> bool:
        return self._head_size > 0

    @property
    def has_small_body(self) -> bool:
        return self._body_size is not None

    @property
    def is_complete(self) -> bool:
        """True if the header and, if it is small, the body were received."""
        return self.has_header and len(self.received) >= self._head_size + (self._body_size or 0)

    @property
    def expects_to_continue(self) -> bool:
        """True if the client waits for `100 Continue` before it sends a small body."""
        return not self.has_continued and expects_continue(bytes(self.received[: self._head_size]))

    def takes_more(self) -> bool:
        """Return whether the server has sent or the client has read a part of the response since the last call."""
        count = array.array("i", [0])
        fcntl.ioctl(self.sock, termios.TIOCOUTQ, count)
        before, self._queued_bytes = self._queued_bytes, count[0]
        return self._queued_bytes != before

    def hand_over(self) -> None:
        """Pass the received bytes to the parser, which runs in a thread."""
        self.is_body_late = not self.has_small_body
        self.parser.unreader.begin()
        self.parser.unreader.unread(bytes(self.received))
        self.received.clear()
        self._head_size, self._body_size = 0, 0

    def drop_request(self) -> bool:
        """Return whether the application has read the complete body. Then the parser has nothing to drop of it."""
        body = self.parser.mesg.body
        if not isinstance(body.reader, LengthReader) or body.reader.length or body.buf.tell():
            return False
        self.parser.mesg = None
        return True

    def has_whole_body(self) -> bool:
        """Return whether the client has sent the complete body, without waiting. Drops its unread bytes."""
        self.parser.unreader.stop_waiting()
        return bool(self.parser.finish_body(deadline=time.monotonic() + MAX_BODY_SECONDS))

    def next_request(self) -> bytes:
        """Return the bytes of the next request that the parser has read already."""
        self.has_continued = False
        data: bytes = self.parser.unreader.take_buffered()
        return data


def small_body(head: bytes) -> int | None:
    """Return the size of the body that this header announces; None if the body is large or its size is unclear."""
    if _TRANSFER_ENCODING.search(head):
        return None
    match = _CONTENT_LENGTH.search(head)
    if match is None:
        return 0
    length = match[1].strip(b" \t")
    return int(length) if _FEW_DIGITS.fullmatch(length) and int(length) <= MAX_SMALL_BODY else None


def expects_continue(head: bytes) -> bool:
    """Return whether a client with this header waits for `100 Continue` before it sends the body."""
    request_line = head.lstrip(b"\r\n").partition(b"\r\n")[0]
    return request_line.endswith(b" HTTP/1.1") and _EXPECT.search(head) is not None


class Outbox:
    """Replaces the socket in gunicorn's Response: buffers the sent data until the real socket accepts it."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._parts: deque[memoryview | _Span] = deque()

    def sendall(self, data: bytes) -> None:
        if not data:
            return
        last = self._parts[-1] if self._parts else None
        if isinstance(last, memoryview) and len(last) + len(data) <= _MAX_JOINED_BYTES:
            self._parts[-1] = memoryview(bytes(last) + data)
        else:
            self._parts.append(memoryview(data))

    def sendfile(self, file: Any, offset: int, count: int) -> None:
        self._parts.append(_Span(file.fileno(), offset, count))

    def flush(self) -> bool:
        """Send as much as the socket accepts without blocking. Return whether everything was sent.

        Raises OSError if the client has disconnected.
        """
        while self._parts:
            try:
                self._send(self._parts[0])
            except BlockingIOError:
                return False
        return True

    def _send(self, part: memoryview | _Span) -> None:
        if isinstance(part, memoryview):
            sent = self._sock.send(part)
            remainder: memoryview | _Span = part[sent:]
        else:
            sent = os.sendfile(self._sock.fileno(), part.file, part.offset, min(part.count, _SEND_SIZE))
            if not sent:
                raise BrokenPipeError("the file is shorter than it was")
            remainder = _Span(part.file, part.offset + sent, part.count - sent)
        if len(remainder):
            self._parts[0] = remainder
        else:
            self._parts.popleft()


class _Span:
    """A range of bytes of an open file."""

    def __init__(self, file: int, offset: int, count: int) -> None:
        self.file = file
        self.offset = offset
        self.count = count

    def __len__(self) -> int:
        return self.count


class PendingResponse:
    """A response that is being sent: the application's remaining items, and those in the outbox."""

    def __init__(self, response: Any, body: Any, items: Iterator[bytes], outbox: Outbox) -> None:
        self.response = response
        self._body = body
        self._items = items
        self._outbox = outbox
        self._is_over = False

    def send(self) -> bool:
        """Send until the socket accepts no more or the response is complete. Return whether it is complete.

        Blocks only while the application produces the next item.
        """
        while self._outbox.flush():
            if self._is_over:
                return True
            try:
                item = next(self._items)
            except StopIteration:
                self.response.close()
                self._is_over = True
            else:
                self.response.write(item)
        return False

    def close(self) -> None:
        """Close the response's body, so that the application frees its resources. Idempotent."""
        body, self._body = self._body, None
        if hasattr(body, "close"):
            body.close()
