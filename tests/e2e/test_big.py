"""Large logs and outputs, and many followers: what they cost the web processes, and what plain requests notice.

POLYJOB_TEST_SCALE=10 makes it a log of 100 MB and outputs of 1 GB; by itself it is a tenth of that.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.e2e.conftest import JOBS, Server, eventually

SCALE = int(os.environ.get("POLYJOB_TEST_SCALE", "1"))
LOG = SCALE * 10_000_000
OUTPUTS = SCALE * 100_000_000
GROWTH = 24 << 20
"""Bytes that a web process may grow by, whatever passes through it."""
PATIENCE = 0.1


@contextlib.contextmanager
def watched(server: Server) -> Iterator[list[float]]:
    """Seconds that /healthz took, asked again and again meanwhile."""
    taken: list[float] = []
    is_over = threading.Event()

    def ask() -> None:
        while not is_over.wait(0.01):
            begun = time.monotonic()
            assert server.call("GET", "/healthz").status == 200
            taken.append(time.monotonic() - begun)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield taken
    finally:
        is_over.set()
        thread.join()


def memory(server: Server) -> int:
    """Bytes that the largest web process has at most needed so far."""
    peaks = []
    for pid in server.worker_pids():
        with open(f"/proc/{pid}/status") as status:
            peaks += [int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM:")]
    return max(peaks)


def receive(server: Server, path: str, **headers: str) -> int:
    """Bytes that come, without keeping them."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    try:
        connection.request("GET", path, headers={"Authorization": f"token {server.token}"} | headers)
        response = connection.getresponse()
        assert response.status in (200, 206)
        count = 0
        while data := response.read(1 << 20):
            count += len(data)
        return count
    finally:
        connection.close()


def at_once(*acts: Callable[[], int]) -> list[int]:
    found: dict[int, int] = {}
    threads = [
        threading.Thread(target=lambda number=number, act=act: found.update({number: act()}))
        for number, act in enumerate(acts)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(600)
    return [found.get(number, -1) for number in range(len(acts))]


@pytest.fixture
def warm(server: Server) -> Server:
    """Every kind of request was served once, so that what is measured is what passes through."""
    number = server.submit("echo x; echo y > $POLYAXON_RUN_OUTPUTS_PATH/f")["id"]
    server.until_done(number)
    for _ in range(8):
        for path in ("logs", "logs?follow=true", "logs?follow=sse", "outputs", "outputs/tree", "outputs/files?path=f"):
            receive(server, f"{JOBS}/{number}/{path}")
    return server


def test_large_log_does_not_block_other_requests(warm: Server) -> None:
    before = memory(warm)
    with watched(warm) as taken:
        number = warm.submit(f"yes 'a line of some length, as they come' | head -c {LOG}")["id"]
        path = f"{JOBS}/{number}/logs"
        followed = at_once(
            lambda: receive(warm, f"{path}?follow=true"),
            lambda: receive(warm, f"{path}?follow=true"),
            lambda: receive(warm, path, Accept="text/event-stream"),
        )
        assert followed[:2] == [LOG, LOG]
        assert followed[2] > LOG
        assert warm.until_done(number)["last_status"] == "succeeded"
        middle = {"Range": f"bytes={LOG // 2}-"}
        assert at_once(lambda: receive(warm, path), lambda: receive(warm, path, **middle)) == [LOG, LOG - LOG // 2]
    assert memory(warm) - before < GROWTH
    _assert_prompt(taken)


def test_large_outputs_do_not_block_other_requests(warm: Server) -> None:
    before = memory(warm)
    with watched(warm) as taken:
        write = f"cd $POLYAXON_RUN_OUTPUTS_PATH; head -c {OUTPUTS} /dev/urandom > large; seq 9 > small"
        number = warm.submit(write)["id"]
        assert warm.until_done(number, 300)["last_status"] == "succeeded"
        path = f"{JOBS}/{number}/outputs"
        whole, large, small = at_once(
            lambda: receive(warm, f"{path}/download"),
            lambda: receive(warm, f"{path}/files?path=large"),
            lambda: receive(warm, f"{path}/files?path=small"),
        )
        assert (large, small) == (OUTPUTS, 18)
        assert whole > OUTPUTS
        assert warm.call("GET", f"{path}/tree").json["files"] == [["large", OUTPUTS], ["small", 18]]
    assert memory(warm) - before < GROWTH
    _assert_prompt(taken)


def _assert_prompt(taken: list[float]) -> None:
    """Most answers come at once; a few may wait, because the tests themselves use the machine."""
    assert len(taken) >= 3
    assert statistics.median(taken) < PATIENCE, sorted(taken)


def test_follower_beyond_the_limit_gets_retry_after(make_server: Any) -> None:
    server = make_server(workers="1", followers="60")
    server.start()
    number = server.submit("echo begun; sleep 600")["id"]
    server.until(number, "running")
    eventually(lambda: server.log(number) == b"begun\n", what="the first line")
    with contextlib.ExitStack() as stack, watched(server) as taken:
        for _ in range(60):
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
            stack.callback(connection.close)
            connection.request(
                "GET", f"{JOBS}/{number}/logs?follow=true", headers={"Authorization": f"token {server.token}"}
            )
            response = stack.enter_context(contextlib.closing(connection.getresponse()))
            assert response.status == 200
            assert response.read(6) == b"begun\n"
        for path in (f"{JOBS}/{number}/logs?follow=true", f"{JOBS}/{number}/logs?follow=sse"):
            refused = server.call("GET", path)
            assert (refused.status, int(refused.headers["Retry-After"]) > 0) == (503, True)
        assert server.call("GET", f"{JOBS}/{number}/logs").body == b"begun\n"
        assert server.submit("true")["last_status"] == "created"
    _assert_prompt(taken)
