"""One client's connection in a web worker: what it has sent so far, and what still has to be sent to it."""

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

from gunicorn.http.parser import RequestParser
from gunicorn.http.unreader import SocketUnreader
from gunicorn.workers.gthread import TConn

MAX_HEADER_SECONDS = 10
"""A request's header is complete after so long, or its connection is closed."""
MAX_HEADER_BYTES = 64 << 10
MAX_SMALL_BODY = 64 << 10
"""A body up to this size is complete before a thread gets its request."""
MAX_BODY_SECONDS = 30
"""A small body is complete after so long. For a larger one, the time that the client may fall behind the least rate."""
LEAST_UPLOAD_RATE = 8 << 10
"""Bytes per second that a client has to send of a larger body."""
MAX_SEND_SECONDS = 30
"""A client that takes nothing of a response for so long is disconnected."""

BODY_IS_LATE = "polyjob.body_is_late"
"""The key of a request's WSGI environment that says whether its body is larger or chunked: to read it is to wait for
the client."""

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length[ \t]*:([^\r\n]*)", re.IGNORECASE)
_TRANSFER_ENCODING = re.compile(rb"\r\ntransfer-encoding[ \t]*:", re.IGNORECASE)
_EXPECT = re.compile(rb"\r\nexpect:[ \t]*100-continue[ \t]*\r\n", re.IGNORECASE)
_FEW_DIGITS = re.compile(rb"[0-9]{1,18}")
_SEND_LIMIT = struct.pack("ll", MAX_SEND_SECONDS, 0)
_SEND_SIZE = 1 << 20


class Phase(Enum):
    """The event that a connection waits for while no thread works for it."""

    REQUEST = "the client sends"
    ROOM = "the client takes more of the response"
    GOODBYE = "the client closes its side"


class BodyTooSlow(TimeoutError):
    """The client sends a body more slowly than it has to."""


class PacedUnreader(SocketUnreader):
    """Reads a body from a blocking socket; the client has to keep up the least rate.

    Only the time spent waiting for the client counts, not the time that the server takes between two reads.
    """

    def begin(self) -> None:
        self._left = float(MAX_BODY_SECONDS)
        self._may_wait = True
        self.expects_to_continue = False
        """Whether the client waits for `100 Continue`, which the first read of the body sends."""

    def stop_waiting(self) -> None:
        """Read only what the client has sent already, from here on."""
        self._may_wait = False

    def chunk(self, size_hint: int | None = None) -> bytes:
        """Raises BodyTooSlow."""
        begun = time.monotonic()
        if self.expects_to_continue and self._may_wait:
            self.expects_to_continue = False
            self.sock.sendall(CONTINUE)
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        if not poll.poll(1000 * self._left if self._may_wait else 0):
            raise BodyTooSlow("The request's body arrives too slowly.")
        data: bytes = super().chunk(size_hint)
        left = self._left - (time.monotonic() - begun) + len(data) / LEAST_UPLOAD_RATE
        self._left = max(0.0, min(left, MAX_BODY_SECONDS))
        return data


class Connection(TConn):
    """A connection whose requests the worker's main loop reads until a thread can work on them without waiting."""

    def __init__(self, cfg: Any, sock: socket.socket, client: Any, server: Any) -> None:
        super().__init__(cfg, sock, client, server)  # the socket does not block from here on
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _SEND_LIMIT)  # for what a thread sends by itself
        self.network = ""
        self.phase = Phase.REQUEST
        self.deadline = 0.0
        self.received = bytearray()
        self.answer: Answer | None = None
        """The response that is being sent."""
        self.drained = 0
        self._not_taken = 0
        self.has_continued = False
        """Whether the client was told that it may send the body of this request."""
        self.is_body_late = False
        """Whether the request that was handed over has a body that only a thread can read."""
        self._head_size = 0
        """Bytes of the header; 0 while it is incomplete."""
        self._body_size: int | None = 0
        """Bytes of a small body; None for one that only a thread can read."""
        self.parser = RequestParser(cfg, sock, client)
        self.parser.unreader = PacedUnreader(sock)
        self.initialized = self.data_ready = True

    @property
    def is_idle(self) -> bool:
        """Whether nothing of a request is there."""
        return self.phase is Phase.REQUEST and not self.received

    def add(self, data: bytes) -> None:
        """Add what the client has sent."""
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
        """Whether a thread has to wait for nothing that belongs to a header or a small body."""
        return self.has_header and len(self.received) >= self._head_size + (self._body_size or 0)

    @property
    def expects_to_continue(self) -> bool:
        """Whether the client waits to be told that it may send the small body."""
        return not self.has_continued and wants_to_be_told(bytes(self.received[: self._head_size]))

    def takes_more(self) -> bool:
        """Whether the client has taken anything of the response since this was asked last, or more was sent."""
        count = array.array("i", [0])
        fcntl.ioctl(self.sock, termios.TIOCOUTQ, count)
        before, self._not_taken = self._not_taken, count[0]
        return self._not_taken != before

    def hand_over(self) -> None:
        """Give what was received to the parser, which a thread runs."""
        self.is_body_late = not self.has_small_body
        self.parser.unreader.begin()
        self.parser.unreader.unread(bytes(self.received))
        self.received.clear()
        self._head_size, self._body_size = 0, 0

    def has_whole_body(self) -> bool:
        """Whether the client has sent all of the body. What the application left of it is dropped; nothing is waited
        for."""
        self.parser.unreader.stop_waiting()
        return bool(self.parser.finish_body(deadline=time.monotonic() + MAX_BODY_SECONDS))

    def next_request(self) -> bytes:
        """Take back what the parser has read of the next request."""
        self.has_continued = False
        data: bytes = self.parser.unreader.take_buffered()
        return data


def small_body(head: bytes) -> int | None:
    """Bytes of the body that this header announces; None where it is large, or not plainly said."""
    if _TRANSFER_ENCODING.search(head):
        return None
    found = _CONTENT_LENGTH.search(head)
    if found is None:
        return 0
    length = found[1].strip(b" \t")
    return int(length) if _FEW_DIGITS.fullmatch(length) and int(length) <= MAX_SMALL_BODY else None


def wants_to_be_told(head: bytes) -> bool:
    """Whether a client with this header waits for `100 Continue` before it sends the body."""
    request_line = head.lstrip(b"\r\n").partition(b"\r\n")[0]
    return request_line.endswith(b" HTTP/1.1") and _EXPECT.search(head) is not None


class Outbox:
    """Stands for the socket in gunicorn's Response: keeps what is sent until the real socket takes it."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._parts: deque[memoryview | _Span] = deque()

    def sendall(self, data: bytes) -> None:
        if data:
            self._parts.append(memoryview(data))

    def sendfile(self, file: Any, offset: int, count: int) -> None:
        self._parts.append(_Span(file.fileno(), offset, count))

    def flush(self) -> bool:
        """Send as much as the socket takes now, which does not block. Return whether nothing is left.

        Raises OSError where the client has left.
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
            rest: memoryview | _Span = part[sent:]
        else:
            sent = os.sendfile(self._sock.fileno(), part.file, part.offset, min(part.count, _SEND_SIZE))
            if not sent:
                raise BrokenPipeError("the file is shorter than it was")
            rest = _Span(part.file, part.offset + sent, part.count - sent)
        if len(rest):
            self._parts[0] = rest
        else:
            self._parts.popleft()


class _Span:
    """Bytes of an open file."""

    def __init__(self, file: int, offset: int, count: int) -> None:
        self.file = file
        self.offset = offset
        self.count = count

    def __len__(self) -> int:
        return self.count


class Answer:
    """A response on its way to the client: the application's items, and what of them was not sent yet."""

    def __init__(self, response: Any, body: Any, items: Iterator[bytes], outbox: Outbox) -> None:
        self.response = response
        self._body = body
        self._items = items
        self._outbox = outbox
        self._is_over = False

    def send(self) -> bool:
        """Go on until the client takes no more for the moment, or has it all. Return whether it has it all.

        Blocks only as long as the application takes for the next item.
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
        """Let the application free what the response holds. Idempotent."""
        body, self._body = self._body, None
        if hasattr(body, "close"):
            body.close()
