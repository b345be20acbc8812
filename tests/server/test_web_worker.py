"""The worker's bookkeeping of connections; tests/e2e/test_slow_clients.py has it serve real clients."""

from __future__ import annotations

import contextlib
import logging
import resource
import selectors
import socket
import time
from types import SimpleNamespace

import pytest
from gunicorn.config import Config

from polyjob.connections import Outbox, PendingResponse, Phase
from polyjob.server import web_worker
from polyjob.server.connection_counts import ConnectionCounts
from polyjob.server.web_worker import Worker, raise_file_limit


@pytest.fixture
def worker():
    """A worker that listens on a port of its own; its loop does not run."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    config = Config()
    config.set("worker_connections", 3)
    worker = Worker(0, 0, [listener], None, 30, config, logging.getLogger(__name__))
    worker.poller = selectors.DefaultSelector()
    worker.listener = listener
    worker.clients = []
    yield worker
    for connection in list(worker._waiting):
        worker._discard(connection)
    for each in (*worker.clients, worker.poller, listener, worker.tmp):
        each.close()


def connect(worker):
    client = socket.create_connection(worker.listener.getsockname())
    worker.clients.append(client)
    before = set(worker._waiting)
    worker.accept(worker.listener)
    new = set(worker._waiting) - before
    return client, new.pop() if new else None


def is_closed(client):
    client.settimeout(5)
    return client.recv(1) == b""


def test_new_connection_takes_the_place_of_the_longest_waiting(worker):
    (first, _), (_, second), (_, third) = connect(worker), connect(worker), connect(worker)
    assert is_closed(first)
    assert list(worker._waiting) == [second, third]
    assert worker.nr_conns == 2


def test_connections_of_one_address_are_bounded(worker, monkeypatch):
    monkeypatch.setattr(web_worker, "is_local", lambda address: False)
    monkeypatch.setattr(web_worker, "MAX_CONNECTIONS_OF_ADDRESS", 1)
    _, first = connect(worker)
    client, refused = connect(worker)
    assert refused is None
    assert is_closed(client)
    worker._discard(first)
    assert connect(worker)[1] is not None


def test_connections_of_a_trusted_proxy_are_not_bounded(worker, monkeypatch):
    monkeypatch.setattr(web_worker, "is_local", lambda address: False)
    monkeypatch.setattr(web_worker, "MAX_CONNECTIONS_OF_ADDRESS", 1)
    worker._serves_proxies = True
    assert connect(worker)[1] is not None
    assert connect(worker)[1] is not None


def test_client_that_takes_nothing_is_disconnected(worker):
    client, connection = connect(worker)
    freed = []
    body = SimpleNamespace(close=lambda: freed.append(True))
    connection.answer = PendingResponse(None, body, iter(()), Outbox(connection.sock))
    worker._wait(connection, Phase.WRITABLE, 100)
    worker.murder_pending()
    assert not freed
    connection.deadline = time.monotonic()
    worker._next_sweep = 0
    worker.murder_pending()
    assert freed
    assert is_closed(client)
    assert worker.nr_conns == 0


def test_client_that_takes_little_at_a_time_stays_connected(worker):
    client, connection = connect(worker)
    with contextlib.suppress(BlockingIOError):
        while True:
            connection.sock.send(bytes(1 << 16))
    connection.answer = PendingResponse(None, SimpleNamespace(), iter(()), Outbox(connection.sock))
    connection.takes_more()
    worker._wait(connection, Phase.WRITABLE, 0)
    for _ in range(10):
        client.recv(100_000)
    worker.murder_pending()
    assert connection.deadline > time.monotonic()
    connection.deadline, worker._next_sweep = time.monotonic(), 0
    worker.murder_pending()
    assert connection not in worker._waiting


def test_incomplete_request_is_answered_at_its_deadline(worker):
    client, connection = connect(worker)
    client.sendall(b"GET / HTTP")
    worker._receive(connection, connection.sock.recv(100))
    connection.deadline = time.monotonic()
    worker.murder_pending()
    assert client.recv(100).startswith(b"HTTP/1.1 408 ")
    assert connection.phase is Phase.CLOSING


def test_unread_bytes_do_not_delay_a_goodbye_for_ever(worker, monkeypatch):
    monkeypatch.setattr(web_worker, "_CLOSE_BYTES", 5)
    client, connection = connect(worker)
    worker._close_gently(connection)
    client.sendall(b"still here")
    worker._client_is_ready(connection)
    assert connection not in worker._waiting


def test_file_limit_is_raised_as_far_as_allowed(monkeypatch):
    raised = []
    monkeypatch.setattr(resource, "setrlimit", lambda which, limits: raised.append(limits))
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1024, 4096))
    assert raise_file_limit(3000) == 3000
    assert raise_file_limit(9000) == 4096
    assert raise_file_limit(500) == 1024
    assert raised == [(3000, 4096), (4096, 4096)]


@pytest.fixture
def other_count(monkeypatch):
    """Sets the number of connections of another worker."""
    counts = ConnectionCounts()
    monkeypatch.setattr(web_worker, "counts", counts)
    return lambda count: counts.publish(1, count)


def turn(worker):
    """One turn of the main loop, without waiting."""
    worker.wait_for_and_dispatch_events(0)
    worker.set_accept_enabled(True)


def test_connection_is_left_to_the_worker_with_fewer(worker, other_count):
    other_count(0)
    turn(worker)
    assert connect(worker)[1] is not None
    turn(worker)
    assert connect(worker)[1] is None
    assert not worker._accepting


def test_connection_that_no_other_worker_accepts_is_accepted(worker, other_count, monkeypatch):
    monkeypatch.setattr(web_worker, "_YIELD_SECONDS", 0.0)
    other_count(0)
    turn(worker)
    connect(worker)
    turn(worker)
    assert connect(worker)[1] is None
    turn(worker)
    assert worker._accepting
    turn(worker)
    assert worker.nr_conns == 2


def test_worker_waits_after_another_has_accepted(worker, other_count, monkeypatch):
    monkeypatch.setattr(web_worker, "_YIELD_SECONDS", 0.0)
    other_count(0)
    turn(worker)
    connect(worker)
    turn(worker)
    assert connect(worker)[1] is None
    turn(worker)
    worker.listener.accept()[0].close()
    timeouts = []
    monkeypatch.setattr(worker.poller, "select", lambda timeout: timeouts.append(timeout) or [])
    for _ in range(2):
        worker.wait_for_and_dispatch_events(1.0)
        worker.set_accept_enabled(True)
    assert timeouts == [1.0, 1.0]
    assert not worker._has_yielded


def test_ended_worker_is_left_no_connections(worker, other_count):
    other_count(0)
    web_worker.counts.withdraw(1)
    turn(worker)
    connect(worker)
    turn(worker)
    assert connect(worker)[1] is not None


def test_stopping_worker_withdraws_its_count(worker, other_count):
    other_count(1)
    turn(worker)
    assert not web_worker.counts.has_fewest(1)
    worker.alive = False
    turn(worker)
    assert web_worker.counts.has_fewest(1)
