"""Connections: when a request is complete, what a slow client may do, and whose connections are counted together."""

from __future__ import annotations

import io
import socket
import time

import pytest
from gunicorn.config import Config
from gunicorn.http.parser import RequestParser

from polyjob import connections
from polyjob.app import create_app
from polyjob.connections import (
    MAX_HEADER_BYTES,
    MAX_SMALL_BODY,
    BodyTooSlow,
    Connection,
    Outbox,
    PacedUnreader,
    expects_continue,
    small_body,
)


@pytest.mark.parametrize(
    ("header", "size"),
    [
        (b"Host: a", 0),
        (b"Content-Length: 12", 12),
        (b"CONTENT-LENGTH:12 ", 12),
        (b"X: content-length: 7", 0),
        (b"Host: a\r\ncontent-length: %d\r\nX: y" % MAX_SMALL_BODY, MAX_SMALL_BODY),
        (b"content-length: %d" % (MAX_SMALL_BODY + 1), None),
        (b"Transfer-Encoding: chunked\r\nContent-Length: 5", None),
        (b"transfer-encoding : identity", None),
        (b"Content-Length: " + b"0" * 20 + b"100", None),
        (b"Content-Length: " + b"9" * 5000, None),
        (b"Content-Length: +5", None),
        (b"Content-Length : 500000", None),
        (b"Content-Length:", None),
    ],
)
def test_small_body_is_recognized_by_its_header(header, size):
    assert small_body(b"POST / HTTP/1.1\r\n" + header + b"\r\n") == size


@pytest.mark.parametrize(
    ("head", "waits"),
    [
        (b"POST / HTTP/1.1\r\nExpect: 100-continue\r\n\r\n", True),
        (b"\r\nPOST / HTTP/1.1\r\nHost: a\r\nEXPECT:100-Continue \r\n\r\n", True),
        (b"POST / HTTP/1.0\r\nExpect: 100-continue\r\n\r\n", False),
        (b"POST / HTTP/1.0\r\nX: HTTP/1.1\r\nExpect: 100-continue\r\n\r\n", False),
        (b"POST / HTTP/1.1\r\nExpect: a-miracle\r\n\r\n", False),
        (b"POST / HTTP/1.1\r\nX: expect: 100-continue\r\n\r\n", False),
    ],
)
def test_expect_continue_is_recognized(head, waits):
    assert expects_continue(head) == waits


@pytest.mark.parametrize(
    "line", [b"x HTTP/1.1\r\n", b"Content-Length: x\r\n", b"expect: 100-continu\r\n", b"Expect:" + b" " * 200 + b"\r\n"]
)
def test_hostile_header_is_parsed_quickly(line):
    head = b"POST / HTTP/1.1\r\n" + line * (MAX_HEADER_BYTES // len(line)) + b"\r\n"
    begun = time.process_time()
    small_body(head)
    expects_continue(head)
    assert time.process_time() - begun < 0.5


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_too_slow_body_is_aborted(pair, monkeypatch):
    ours, theirs = pair
    monkeypatch.setattr(connections, "MAX_BODY_SECONDS", 0.05)
    unreader = PacedUnreader(ours)
    unreader.begin()
    theirs.send(b"{")
    assert unreader.chunk() == b"{"
    with pytest.raises(BodyTooSlow):
        unreader.chunk()


def test_bytes_of_a_body_earn_time_up_to_the_limit(pair):
    ours, theirs = pair
    unreader = PacedUnreader(ours)
    unreader.begin()
    unreader._seconds_left = 1.0
    theirs.send(b"a" * 4096)
    unreader.chunk()
    assert unreader._seconds_left == pytest.approx(1.5, abs=0.1)
    unreader._seconds_left = float(connections.MAX_BODY_SECONDS)
    theirs.send(b"a" * 4096)
    unreader.chunk()
    assert unreader._seconds_left <= connections.MAX_BODY_SECONDS


def test_outbox_sends_texts_and_files_in_order_without_blocking(pair, tmp_path):
    ours, theirs = pair
    ours.setblocking(False)
    (tmp_path / "file").write_bytes(b"0123456789" * 100_000)
    with (tmp_path / "file").open("rb") as file:
        outbox = Outbox(ours)
        outbox.sendall(b"head")
        outbox.sendfile(file, 5, 900_000)
        outbox.sendall(b"tail")
        received = b""
        while not outbox.flush():
            received += theirs.recv(1 << 20)
        ours.shutdown(socket.SHUT_WR)
        while data := theirs.recv(1 << 20):
            received += data
    assert received == b"head" + (b"0123456789" * 100_000)[5:900_005] + b"tail"


def test_outbox_sends_header_and_small_body_at_once(monkeypatch):
    class Socket:
        sent = []

        def send(self, data):
            self.sent.append(bytes(data))
            return len(data)

    outbox = Outbox(Socket())
    for data in (b"header", b"body", b"x" * connections._MAX_JOINED_BYTES, b"end"):
        outbox.sendall(data)
    assert outbox.flush()
    assert Socket.sent == [b"headerbody", b"x" * connections._MAX_JOINED_BYTES, b"end"]


@pytest.mark.parametrize("allowed", ["", "*", "10.0.0.1"])
@pytest.mark.parametrize("client", [("10.0.0.1", 5), ("10.0.0.2", 5), ""], ids=str)
def test_proxies_are_trusted_as_gunicorn_trusts_them(pair, allowed, client):
    config = Config()
    config.set("forwarded_allow_ips", allowed)
    head = b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-Proto: https\r\n\r\n"
    own, original = (kind(config, iter([head]), client) for kind in (connections._Parser, RequestParser))
    assert next(own).scheme == next(original).scheme


@pytest.mark.parametrize(
    ("length", "read", "is_dropped"), [(b"4", 4, True), (b"4", 3, False), (b"4", 0, False), (b"0", 0, True)]
)
def test_request_with_a_read_body_is_dropped_at_once(pair, length, read, is_dropped):
    connection = Connection(Config(), pair[0], ("10.0.0.1", 5), ("10.0.0.2", 80))
    connection.add(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: " + length + b"\r\n\r\nbodyGET /next")
    connection.hand_over()
    next(connection.parser).body.read(read)
    assert connection.drop_request() == is_dropped
    assert (connection.parser.mesg is None) == is_dropped
    if read == 4:
        assert connection.next_request() == b"GET /next"


def test_outbox_stops_at_a_truncated_file(pair, tmp_path):
    (tmp_path / "file").write_bytes(b"short")
    with (tmp_path / "file").open("rb") as file:
        outbox = Outbox(pair[0])
        outbox.sendfile(file, 0, 6)
        with pytest.raises(BrokenPipeError):
            outbox.flush()


class Broken(io.RawIOBase):
    def __init__(self, error):
        self._error = error

    def readable(self):
        return True

    def tell(self):
        return 0

    def seek(self, offset, whence=0):
        return 0

    def readinto(self, buffer):
        if self._error:
            raise self._error
        return 0


@pytest.mark.parametrize(("error", "status"), [(BodyTooSlow("late"), 408), (ConnectionResetError(), 400), (None, 400)])
def test_interrupted_body_is_not_an_internal_error(error, status, settings):
    app = create_app(settings)
    answer = app.test_client().post(
        "/api/v1/users/token", input_stream=Broken(error), environ_overrides={"CONTENT_LENGTH": "9"}
    )
    assert answer.status_code == status
    assert answer.mimetype == "application/problem+json"
