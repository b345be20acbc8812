"""Clients that send, read or leave slowly, against a real server with few threads."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from polyjob import connections
from polyjob.auth.throttle import MAX_FAILURES
from polyjob.server.web_worker import MAX_UPLOADS_AT_ONCE
from tests.e2e.conftest import JOBS, Server, eventually

THREADS = 8
CLIENTS = 60
"""More than all threads of the server, those for uploads included."""
LOG_SIZE = 20_000_000
PROJECT = JOBS.removesuffix("/jobs")
OUTPUT = f"{JOBS}/1/outputs/files?path=noise"

POST = b"POST /api/v1/users/token HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
SLOW_REQUESTS = {
    "nothing": b"",
    "half a request line": b"GET /heal",
    "half a header": b"GET / HTTP/1.1\r\nHost: a\r\nX-Half: ",
    "half a small body": POST + b"Content-Length: 1000\r\n\r\n{",
    "no body after expect": POST + b"Content-Length: 1000\r\nExpect: 100-continue\r\n\r\n",
    "half a body of a long length": POST + b"Content-Length: " + b"0" * 30 + b"1000\r\n\r\n{",
    "half a larger body": POST + b"Content-Length: 500000\r\n\r\n{",
    "half a chunk": POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{",
    "a connection that is never closed": b"GET /healthz HTTP/1.0\r\n\r\n",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("slow")
    with Server(folder, workers="1", threads=str(THREADS), followers="4", slots="2") as started:
        noise = f"head -c {LOG_SIZE} /dev/urandom > $POLYAXON_RUN_OUTPUTS_PATH/noise"
        number = started.submit(f"head -c {LOG_SIZE} /dev/zero; {noise}")["id"]
        started.until_done(number)
        assert number == 1
        yield started


def connect(server: Server, host: str = "127.0.0.1", window: int = 0) -> socket.socket:
    client = socket.socket()
    if window:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
    client.settimeout(30)
    client.connect((host, server.port))
    return client


@contextlib.contextmanager
def clients(server: Server, request: bytes, count: int = CLIENTS, window: int = 0) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(connect(server, window=window)) for _ in range(count)]
        for client in sockets:
            client.sendall(request)
        yield sockets


def health_delay(server: Server) -> float:
    begun = time.monotonic()
    assert server.call("GET", "/healthz").status == 200
    return time.monotonic() - begun


def get(server: Server, path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: a\r\nAuthorization: token {server.token}\r\n\r\n".encode()


def submission(server: Server) -> bytes:
    """The header of a user's own request, but for its end."""
    head = f"POST {JOBS} HTTP/1.1\r\nHost: a\r\nAuthorization: token {server.token}\r\n"
    return f"{head}Content-Type: application/json\r\n".encode()


def answer_to(server: Server, request: bytes) -> http.client.HTTPResponse:
    with connect(server) as client:
        client.sendall(request)
        response = http.client.HTTPResponse(client)
        response.begin()
        response.read()
        return response


@pytest.mark.parametrize("kind", SLOW_REQUESTS)
def test_slow_senders_do_not_occupy_threads(kind: str, server: Server) -> None:
    with clients(server, SLOW_REQUESTS[kind]):
        health_delay(server)  # by now the server has seen them all
        assert max(health_delay(server) for _ in range(5)) < 1.0


@pytest.mark.parametrize(
    "path", [f"{JOBS}/1/logs", f"{JOBS}/1/logs/lines?around=0&count=5000", f"{JOBS}/1/outputs", OUTPUT]
)
def test_slow_readers_do_not_occupy_threads(path: str, server: Server) -> None:
    with clients(server, get(server, path), window=1024):
        eventually(lambda: health_delay(server) < 1.0, 20)
        assert max(health_delay(server) for _ in range(5)) < 1.0


def test_slow_followers_do_not_occupy_threads(server: Server) -> None:
    number = server.submit("head -c 20000000 /dev/zero; sleep 60")["id"]
    eventually(lambda: len(server.log(number)) == LOG_SIZE)
    with clients(server, get(server, f"{JOBS}/{number}/logs?follow=true"), 4, window=1024) as sockets:
        assert {client.recv(12) for client in sockets} == {b"HTTP/1.1 200"}
        assert max(health_delay(server) for _ in range(5)) < 1.0
    server.call("POST", f"{JOBS}/{number}/stop")


def test_slow_reader_gets_every_byte(server: Server) -> None:
    with connect(server, window=4096) as client:
        client.sendall(get(server, f"{JOBS}/1/logs"))
        time.sleep(0.2)
        response = http.client.HTTPResponse(client)
        response.begin()
        assert len(response.read()) == LOG_SIZE


def test_incomplete_header_times_out(server: Server) -> None:
    begun = time.monotonic()
    assert answer_to(server, b"GET / HTTP/1.1\r\nX-Half: ").status == 408
    assert connections.MAX_HEADER_SECONDS - 1 < time.monotonic() - begun < connections.MAX_HEADER_SECONDS + 3


def test_idle_connection_is_closed(server: Server) -> None:
    with connect(server) as client:
        assert client.recv(1) == b""


def test_oversized_header_is_refused(server: Server) -> None:
    request = b"GET / HTTP/1.1\r\nX-Long: " + b"a" * connections.MAX_HEADER_BYTES
    assert answer_to(server, request).status == 431


LATE_BODIES = {
    "larger": b"Content-Length: 500000\r\n\r\n{",
    "chunked": b"Transfer-Encoding: chunked\r\n\r\n5\r\n{",
    "of a long length": b"Content-Length: " + b"0" * 30 + b"1000\r\n\r\n{",
    "awaited": b"Content-Length: 500000\r\nExpect: 100-continue\r\n\r\n",
}
"""Ends of headers that announce a body for which a thread would have to wait."""
STRANGERS = {
    "no token": (f"PUT {PROJECT}/repo/upload", ""),
    "a wrong token": (f"POST {JOBS}", "Authorization: token 0123456789\r\n"),
    "a token that may only read": (f"POST {JOBS}", "Authorization: token {reader}\r\n"),
    "a token of another project": (f"PUT {PROJECT}/repo/upload", "Authorization: token {elsewhere}\r\n"),
    "no session": ("POST /root/quick-start/submit", "Origin: http://a\r\nCookie: session=forged\r\n"),
    "no session, for a job": ("POST /root/quick-start/jobs/1/stop", "Origin: http://a\r\n"),
    "a log-in": ("POST /api/v1/users/token", ""),
    "a sign-in": ("POST /sign-in", "Origin: http://a\r\n"),
    "no need of a body": ("GET /healthz", ""),
    "no such path": ("POST /api/v1/there/is/nothing/here", ""),
}
"""Request line and header of each kind of stranger."""
REFUSED = {b"401", b"403", b"404"}


@pytest.fixture(scope="module")
def tokens(server: Server) -> dict[str, str]:
    assert server.call("POST", "/api/v1/projects", {"name": "elsewhere"}).status == 201
    bodies = {"reader": {"scope": "read"}, "elsewhere": {"project": "elsewhere"}}
    return {
        name: server.call("POST", "/api/v1/tokens", {"name": name} | body).json["token"]
        for name, body in bodies.items()
    }


def upload_delay(server: Server) -> float:
    """Seconds that a user's own upload takes. A thread of the upload pool reads its body."""
    body = json.dumps({"config": {"run": {"cmd": "true"}}}).encode().ljust(connections.MAX_SMALL_BODY + 1)
    begun = time.monotonic()
    answer = server.call("POST", JOBS, body, **{"Content-Type": "application/json"})
    assert answer.status == 201, answer
    return time.monotonic() - begun


@pytest.mark.parametrize("body", LATE_BODIES)
@pytest.mark.parametrize("stranger", STRANGERS)
def test_unauthenticated_clients_cannot_delay_uploads(
    stranger: str, body: str, server: Server, tokens: dict[str, str]
) -> None:
    line, header = STRANGERS[stranger]
    head = f"{line} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n{header.format(**tokens)}"
    with clients(server, head.encode() + LATE_BODIES[body], MAX_UPLOADS_AT_ONCE + 4) as sockets:
        assert upload_delay(server) < 3
        for client in sockets:
            answer = b""
            while data := client.recv(4096):  # until the server closes
                answer += data
            assert answer[9:12] in ({b"200"} if "healthz" in line else REFUSED), answer
            assert b"\r\nConnection: close\r\n" in answer
            assert b"100 Continue" not in answer


@pytest.mark.parametrize("expect", [b"", b"Expect: 100-continue\r\n"])
@pytest.mark.parametrize("size", [20, connections.MAX_SMALL_BODY + 1])
def test_body_in_pieces_is_read(size: int, expect: bytes, server: Server) -> None:
    body = b'{"username": "root", "password": ""}'.ljust(size)
    with connect(server) as client:
        client.sendall(submission(server) + expect + f"Content-Length: {len(body)}\r\n\r\n".encode())
        if expect:
            assert client.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(body[:10])
        time.sleep(0.1)
        client.sendall(body[10:])
        assert client.recv(12) == b"HTTP/1.1 400"


def test_pipelined_requests_are_answered_in_turn(server: Server) -> None:
    with connect(server) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n" * 3 + b"GET /healthz HTTP/1.0\r\n\r\n")
        received = b""
        while data := client.recv(4096):
            received += data
    assert received.count(b"200 OK") == 4


@pytest.mark.parametrize(
    ("body", "detail"),
    [(b"zz\r\n", "zz"), (b"5\r\n{    \r\nzz\r\n", "zz"), (b"5;\x01\r\n{    \r\n", "extension"), (b"2\r\n{}..", "..")],
)
def test_broken_chunk_is_a_bad_request(body: bytes, detail: str, server: Server, capfd: Any) -> None:
    capfd.readouterr()
    assert answer_to(server, submission(server) + b"Transfer-Encoding: chunked\r\n\r\n" + body).status == 400
    assert "Traceback" not in capfd.readouterr().err


def test_parallel_logins_respect_the_limits(server: Server) -> None:
    def log_in(number: int) -> int:
        return server.call("POST", "/api/v1/users/token", {"username": "root", "password": f"wrong {number}"}).status

    with ThreadPoolExecutor(60) as pool:
        tries = [pool.submit(log_in, number) for number in range(60)]
        assert health_delay(server) < 5.0
        statuses = Counter(each.result() for each in tries)
    assert set(statuses) <= {401, 429, 503}
    assert statuses[401] <= MAX_FAILURES + 2  # a slow run may get the next ones after a wait of 1 s and 2 s


def test_stop_does_not_wait_for_slow_clients(tmp_path: Path) -> None:
    with Server(tmp_path, runner="fake", workers="1") as server, clients(server, SLOW_REQUESTS["half a header"], 5):
        health_delay(server)
        begun = time.monotonic()
        assert server.interrupt() == 0
        assert time.monotonic() - begun < 3


@pytest.mark.parametrize(
    ("name", "path"), [("/public", "/public/api/v1/users"), ("/x y", "/api/v1/users"), ("/api", "/v1/users")]
)
def test_script_name_header_is_ignored(name: str, path: str, tmp_path: Path) -> None:
    with Server(tmp_path, runner="fake", workers="1", trusted_proxies="1") as behind_proxy:
        plain = behind_proxy.call("GET", path)
        assert behind_proxy.call("GET", path, SCRIPT_NAME=name).status == plain.status < 500
