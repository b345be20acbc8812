"""Followers of logs in real web workers: what they hold, and what becomes of them when workers end."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import time
from typing import Any

from tests.e2e.conftest import JOBS, Server, eventually


def follow(server: Server, number: int) -> tuple[socket.socket, http.client.HTTPResponse]:
    """A follower that has got its headers."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("GET", f"{JOBS}/{number}/logs?follow=true", headers={"Authorization": f"token {server.token}"})
    client = connection.sock
    return client, connection.getresponse()


def test_past_the_limit_followers_are_told_503_and_places_of_those_that_went_are_free(make_server: Any) -> None:
    server = make_server(workers="1", followers="3")
    server.start()
    number = server.submit("sleep 600")["id"]
    server.until(number, "running")
    followers = [follow(server, number) for _ in range(3)]
    assert [response.status for _, response in followers] == [200, 200, 200]
    refused = server.call("GET", f"{JOBS}/{number}/logs?follow=true")
    assert refused.status == 503
    assert int(refused.headers["Retry-After"]) > 0
    assert server.call("GET", f"{JOBS}/{number}/logs").status == 200
    client, response = followers.pop()
    response.close()
    client.close()
    eventually(lambda: follow(server, number)[1].status == 200, 5, "the freed place")


def test_a_restart_of_the_workers_never_waits_for_followers_and_they_resume(make_server: Any) -> None:
    server = make_server()
    server.start()
    number = server.submit("echo before; sleep 600")["id"]
    server.until(number, "running")
    eventually(lambda: server.log(number) == b"before\n", what="the first line")
    followers = [follow(server, number) for _ in range(8)]
    assert {response.read(7) for _, response in followers} == {b"before\n"}
    arbiter, workers = server.web_pids()[0], set(server.worker_pids())
    begun = time.monotonic()
    os.kill(arbiter, signal.SIGHUP)
    for _, response in followers:
        try:
            response.read()
        except http.client.IncompleteRead:
            continue
        raise AssertionError("a follow that was broken off looks complete")
    eventually(lambda: workers.isdisjoint(server.worker_pids()), 10, "the old workers' end")
    assert time.monotonic() - begun < 2.5, "shorter than the time that workers get to end"
    assert follow(server, number)[1].status == 200
