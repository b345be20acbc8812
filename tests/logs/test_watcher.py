"""The slots of a watcher, and the clients that leave, with real sockets."""

from __future__ import annotations

import gc
import threading

import pytest

from polyjob.db.database import database, write
from polyjob.errors import Unavailable
from polyjob.logs.follow import FollowInterrupted, LogChunk, SlotReassigned, follow, wait_until_done
from polyjob.services.transitions import insert_first_status

from .conftest import (
    PATIENCE_SECONDS,
    Reader,
    connected,
    in_thread,
    wait_for_subscriptions,
    wait_for_ticks,
    watch_threads,
)


def test_close_interrupts_followers(watcher, job, tmp_path):
    """Their response must not look complete."""
    reader = Reader(follow(watcher, job, tmp_path / "log"))
    wait_for_ticks(watcher)
    watcher.close()
    with pytest.raises(FollowInterrupted):
        reader.finish()
    assert len(watcher) == 0


def test_close_interrupts_a_blocked_send(watcher, job, tmp_path):
    log, is_sending = tmp_path / "log", threading.Event()
    log.write_bytes(bytes(32 << 20))
    with connected() as (server, client):
        server.settimeout(None)
        errors = []

        def send() -> None:
            try:
                for event in follow(watcher, job, log, client=server):
                    if isinstance(event, LogChunk):
                        is_sending.set()
                        server.sendall(event.data)
            except BrokenPipeError as error:
                errors.append(error)
            finally:
                database.close()

        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        assert is_sending.wait(PATIENCE_SECONDS)
        sender.join(0.1)
        assert sender.is_alive(), "the kernel took everything; the test shows nothing"
        watcher.close()
        sender.join(PATIENCE_SECONDS)
        assert not sender.is_alive()
        assert len(errors) == 1
        assert client.recv(1) == b"\0"


def test_disconnected_follower_frees_its_slot(watcher, job, tmp_path):
    with connected() as (server, client):
        reader = Reader(follow(watcher, job, tmp_path / "log", client=server))
        wait_for_ticks(watcher)
        assert len(watcher) == 1
        client.close()
        assert reader.finish() == b""
        assert len(watcher) == 0


def test_disconnected_waiting_client_frees_its_slot(watcher, job):
    with connected() as (server, client):
        waiter = in_thread(wait_until_done, watcher, job.id, 60, server)
        wait_for_subscriptions(watcher, 1)
        client.close()
        waiter.join(PATIENCE_SECONDS)
        assert not waiter.is_alive()


def test_client_that_left_before_occupies_no_slot(watcher, job, tmp_path):
    with connected() as (server, _):
        server.close()
        assert Reader(follow(watcher, job, tmp_path / "log", client=server)).finish() == b""
        assert len(watcher) == 0


def test_full_watcher_refuses_until_a_slot_is_free(watcher, job, tmp_path):
    watcher.limit = 2
    first = follow(watcher, job, tmp_path / "log")
    second = follow(watcher, job, tmp_path / "log")
    with pytest.raises(Unavailable) as refusal:
        follow(watcher, job, tmp_path / "log")
    assert refusal.value.retry_after > 0
    with pytest.raises(Unavailable):
        wait_until_done(watcher, job.id, 1)
    first.close()
    first.close()
    third = follow(watcher, job, tmp_path / "log")
    assert len(watcher) == 2
    second.close()
    third.close()


def test_slots_are_shared_fairly_among_users(watcher, job, tmp_path):
    watcher.limit = 6
    with write("test"):
        insert_first_status(job)
    many = [follow(watcher, job, tmp_path / "log", owner=1) for _ in range(6)]
    few = []
    for _ in range(3):
        few.append(follow(watcher, job, tmp_path / "log", owner=2))
        assert next(few[-1]).status.status == "created"
    for owner in (1, 2):
        with pytest.raises(Unavailable):
            follow(watcher, job, tmp_path / "log", owner=owner)
    for events in many[:3]:
        assert next(events).status.status == "created"
    for events in many[3:]:
        with pytest.raises(SlotReassigned):
            next(events)
    (tmp_path / "log").write_bytes(b"more")
    assert {next(events).data for events in (*many[:3], *few)} == {b"more"}
    assert len(watcher) == 6


def test_one_user_may_take_every_slot(watcher, job, tmp_path):
    watcher.limit = 3
    followed = [follow(watcher, job, tmp_path / "log", owner=1) for _ in range(3)]
    assert len(watcher) == len(followed)
    with pytest.raises(Unavailable):
        wait_until_done(watcher, job.id, 1, owner=1)


def test_waiting_request_returns_when_its_slot_is_reassigned(watcher, job, tmp_path):
    watcher.limit = 2
    kept = follow(watcher, job, tmp_path / "log", owner=1)
    waiter = in_thread(wait_until_done, watcher, job.id, 60, None, 1)
    wait_for_subscriptions(watcher, 2)
    follow(watcher, job, tmp_path / "log", owner=2).close()
    waiter.join(PATIENCE_SECONDS)
    assert not waiter.is_alive()
    (tmp_path / "log").write_bytes(b"more")
    assert next(kept) == LogChunk(b"more", 4)


def test_thread_serves_the_next_subscription(watcher, job, tmp_path, monkeypatch):
    monkeypatch.setattr("polyjob.logs.watcher.LINGER_SECONDS", 60.0)
    follow(watcher, job, tmp_path / "log").close()
    (thread,) = watch_threads()
    monkeypatch.setattr("polyjob.logs.watcher.LINGER_SECONDS", 0.0)
    events = follow(watcher, job, tmp_path / "log")
    assert watch_threads() == [thread]
    (tmp_path / "log").write_bytes(b"more")
    assert next(events) == LogChunk(b"more", 4)
    events.close()


def test_forgotten_follow_frees_its_slot(watcher, job, tmp_path):
    events = follow(watcher, job, tmp_path / "log")
    assert len(watcher) == 1
    del events
    gc.collect()
    wait_for_subscriptions(watcher, 0)
