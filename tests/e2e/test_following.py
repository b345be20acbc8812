"""Followers of logs in real web workers: their slots, and restarts of workers."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.conftest import JOBS, Server, eventually


class Follower:
    """A follower that has got its headers."""

    def __init__(self, server: Server, number: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        headers = {"Authorization": f"token {server.token}"}
        self._connection.request("GET", f"{JOBS}/{number}/logs?follow=true", headers=headers)
        self._response = self._connection.getresponse()
        self.status = self._response.status
        self.read = self._response.read

    def close(self) -> None:
        self._response.close()
        self._connection.close()


@contextlib.contextmanager
def followers(server: Server, number: int, count: int) -> Iterator[list[Follower]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(contextlib.closing(Follower(server, number))) for _ in range(count)]


def follow_status(server: Server, number: int) -> int:
    with followers(server, number, 1) as (follower,):
        return follower.status


def test_followers_beyond_the_limit_get_503(make_server: Any) -> None:
    server = make_server(workers="1", followers="3")
    server.start()
    number = server.submit("sleep 600")["id"]
    server.until(number, "running")
    with followers(server, number, 3) as clients:
        assert [follower.status for follower in clients] == [200, 200, 200]
        refused = server.call("GET", f"{JOBS}/{number}/logs?follow=true")
        assert refused.status == 503
        assert int(refused.headers["Retry-After"]) > 0
        assert server.call("GET", f"{JOBS}/{number}/logs").status == 200
        clients[0].close()
        eventually(lambda: follow_status(server, number) == 200, 5, "the freed place")


def test_worker_restart_does_not_wait_for_followers(make_server: Any) -> None:
    server = make_server()
    server.start()
    number = server.submit("echo before; sleep 600")["id"]
    server.until(number, "running")
    eventually(lambda: server.log(number) == b"before\n", what="the first line")
    with followers(server, number, 8) as clients:
        assert {follower.read(7) for follower in clients} == {b"before\n"}
        workers = set(server.worker_pids())
        begun = time.monotonic()
        os.kill(server.web_pids()[0], signal.SIGHUP)
        for follower in clients:
            with pytest.raises(http.client.IncompleteRead):
                follower.read()
        assert time.monotonic() - begun < 2.5, "not at once"
        eventually(lambda: workers.isdisjoint(server.worker_pids()), 10, "the old workers' end")
    assert follow_status(server, number) == 200
