"""Followers and waiters against a real database file, real log files, real writers and real sockets."""

from __future__ import annotations

import contextlib
import gc
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from polyjob.clock import now
from polyjob.db.database import write
from polyjob.db.models import Build, Job, Project
from polyjob.errors import Unavailable
from polyjob.logs import follow as watch
from polyjob.logs.watcher import CHUNK, TICK, File
from polyjob.services.transitions import insert_first_status, transition
from polyjob.statuses import Status
from tests.beside import soon


@pytest.fixture(autouse=True)
def watched(data_dir: Path) -> Iterator[None]:
    """No watch outlives a test."""
    yield
    watch.set_limit(112)
    watch.end_when(bool)
    watch.close_all()
    assert eventually(lambda: not watch_threads()), "the watch outlived those who waited"


@pytest.fixture
def job(project: Project) -> Job:
    return make_job(project)


def make_job(project: Project) -> Job:
    with write("test"):
        return Job.create(
            uuid=uuid.uuid4().hex,
            project=project,
            user=project.user,
            is_managed=False,
            runner="process",
            created_at=now(),
            updated_at=now(),
        )


def end(job: Job) -> None:
    with write("test"):
        assert transition(job, Status.SUCCEEDED)


def eventually(condition: Callable[[], bool], seconds: float = 5) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.002)
    return condition()


def watch_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "polyjob-watch"]


class Reader(threading.Thread):
    """Reads a follow to its end in a thread of its own, as a web worker does."""

    def __init__(self, follow: watch.Follow) -> None:
        super().__init__(daemon=True)
        self.follow = follow
        self.content = b""
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            for chunk in self.follow:
                self.content += chunk
        except Exception as error:
            self.error = error

    def finish(self, seconds: float = 10) -> bytes:
        self.join(seconds)
        assert not self.is_alive(), f"still following after {len(self.content)} bytes"
        if self.error:
            raise self.error
        return self.content


# What is read.


def test_a_follower_gets_every_byte_of_another_process_up_to_the_last_before_done(job: Job, tmp_path: Path) -> None:
    """The writer is a process that appends without pause; the row becomes done right behind its last byte."""
    log = tmp_path / "log"
    reader = Reader(watch.follow(job, log, 0))
    script = "import sys\nwith open(sys.argv[1], 'ab', 0) as log:\n for i in range(20000): log.write(b'%d\\n' % i)"
    subprocess.run([sys.executable, "-c", script, log], check=True)
    end(job)
    assert reader.finish() == b"".join(b"%d\n" % i for i in range(20000))


def test_the_last_bytes_before_done_are_never_lost(project: Project, tmp_path: Path) -> None:
    for number in range(25):
        job = make_job(project)
        log = tmp_path / f"log-{number}"
        reader = Reader(watch.follow(job, log, 0))
        time.sleep(number % 5 * TICK / 4)
        log.write_bytes(b"only at the very end")
        end(job)
        assert reader.finish() == b"only at the very end"


def test_bytes_and_done_that_come_during_a_read_are_not_lost(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The unlucky moment, made long: the reader has found nothing, and everything happens before it asks again."""
    log, read, has_read = tmp_path / "log", File.read, threading.Event()

    def read_slowly(file: File, offset: int) -> bytes:
        data = read(file, offset)
        has_read.set()
        time.sleep(20 * TICK)
        return data

    monkeypatch.setattr(File, "read", read_slowly)
    reader = Reader(watch.follow(job, log, 0))
    assert has_read.wait(5)
    log.write_bytes(b"all of it")
    end(job)
    assert reader.finish() == b"all of it"


def test_bytes_arrive_while_the_job_runs(job: Job, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"one ")
    reader = Reader(watch.follow(job, log, 0))
    assert eventually(lambda: reader.content == b"one ")
    with log.open("ab") as writer:
        writer.write(b"two")
    assert eventually(lambda: reader.content == b"one two", 1)
    assert reader.is_alive()
    end(job)
    assert reader.finish() == b"one two"


def test_a_follower_waits_for_a_log_that_is_not_there_yet(job: Job, tmp_path: Path) -> None:
    log = tmp_path / "jobs" / "log"
    reader = Reader(watch.follow(job, log, 0))
    time.sleep(4 * TICK)
    assert reader.is_alive()
    log.parent.mkdir()
    log.write_bytes(b"here")
    assert eventually(lambda: reader.content == b"here")
    end(job)
    assert reader.finish() == b"here"


def test_a_follower_starts_where_it_says_and_counts_on(job: Job, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(bytes(3 * CHUNK) + b"tail")
    end(job)
    follow = watch.follow(job, log, 3 * CHUNK - 1)
    assert Reader(follow).finish() == b"\0tail"
    assert follow.offset == 3 * CHUNK + 4


def test_a_start_behind_the_end_waits_for_those_bytes(job: Job, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"0123")
    reader = Reader(watch.follow(job, log, 6))
    time.sleep(4 * TICK)
    with log.open("ab") as writer:
        writer.write(b"4567")
    end(job)
    assert reader.finish() == b"67"


def test_the_first_item_is_empty_so_that_headers_leave_at_once(job: Job, tmp_path: Path) -> None:
    follow = watch.follow(job, tmp_path / "log", 0)
    assert next(follow) == b""
    follow.close()


def test_followers_of_one_log_each_get_all_of_it(job: Job, tmp_path: Path) -> None:
    log = tmp_path / "log"
    readers = [Reader(watch.follow(job, log, 0)) for _ in range(20)]
    with log.open("ab", buffering=0) as writer:
        for number in range(200):
            writer.write(b"line %d\n" % number)
    end(job)
    expected = b"".join(b"line %d\n" % number for number in range(200))
    assert [reader.finish() == expected for reader in readers] == [True] * 20
    assert len({thread.ident for thread in watch_threads()}) <= 1


def test_a_build_is_followed_until_it_is_done(project: Project, tmp_path: Path) -> None:
    with write("test"):
        columns = {"config": {}, "runner": "process", "key": "0", "key_parts": {}}
        build = Build.create(
            uuid=uuid.uuid4().hex,
            project=project,
            user=project.user,
            created_at=now(),
            updated_at=now(),
            **columns,
        )
    log = tmp_path / "log"
    log.write_bytes(b"step 1")
    reader = Reader(watch.follow(build, log, 0))
    assert eventually(lambda: reader.content == b"step 1")
    assert reader.is_alive()
    with write("test"):
        for status in (Status.SCHEDULED, Status.RUNNING, Status.SUCCEEDED):
            transition(build, status)
    assert build.status is Status.SUCCEEDED
    assert reader.finish() == b"step 1"


# What ends it.


@pytest.mark.parametrize("way", ["hidden", "removed"])
def test_a_deleted_job_breaks_the_follow_off(job: Job, tmp_path: Path, way: str) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"begun")
    reader = Reader(watch.follow(job, log, 0))
    assert eventually(lambda: reader.content == b"begun")
    with write("test"):
        if way == "hidden":
            Job.update(deleted_at=now()).where(Job.id == job.id).execute()
        else:
            Job.delete().where(Job.id == job.id).execute()
    with pytest.raises(watch.RunDeleted):
        reader.finish(2)
    assert watch.waiting() == 0


@pytest.mark.parametrize("is_busy", [False, True])
def test_a_follow_breaks_off_when_whoever_reads_may_no_longer(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_busy: bool
) -> None:
    monkeypatch.setattr(watch, "RECHECK", 0.1)
    log, may = tmp_path / "log", [True]
    log.write_bytes(b"begun")
    reader = Reader(watch.follow(job, log, 0, holds=lambda: may[0]))
    time.sleep(0.3)
    assert (reader.is_alive(), reader.content) == (True, b"begun")
    may[0] = False
    deadline = time.monotonic() + 5
    while reader.is_alive() and time.monotonic() < deadline:
        time.sleep(0.01)
        if is_busy:
            with log.open("ab") as file:
                file.write(b"more")
    with pytest.raises(watch.WatchRefused):
        reader.finish(0)
    assert watch.waiting() == 0


def test_another_jobs_end_ends_nothing(job: Job, project: Project, tmp_path: Path) -> None:
    other = make_job(project)
    reader = Reader(watch.follow(job, tmp_path / "log", 0))
    time.sleep(2 * TICK)
    end(other)
    time.sleep(6 * TICK)
    assert reader.is_alive()


def test_closing_breaks_followers_off_so_that_they_do_not_look_complete(job: Job, tmp_path: Path) -> None:
    reader = Reader(watch.follow(job, tmp_path / "log", 0))
    time.sleep(2 * TICK)
    watch.close_all()
    with pytest.raises(watch.WatchEnded):
        reader.finish(1)
    assert watch.waiting() == 0


def test_a_worker_that_is_to_end_sends_away_who_waits_and_who_comes_later(job: Job, tmp_path: Path) -> None:
    is_ending = threading.Event()
    watch.end_when(is_ending.is_set)
    reader = Reader(watch.follow(job, tmp_path / "log", 0))
    waiter = threading.Thread(target=watch.wait_until_done, args=(job.id, 60), daemon=True)
    waiter.start()
    time.sleep(4 * TICK)
    assert reader.is_alive()
    assert waiter.is_alive()
    is_ending.set()
    with pytest.raises(watch.WatchEnded):
        reader.finish(1)
    waiter.join(1)
    assert not waiter.is_alive()
    with pytest.raises(watch.WatchEnded):
        Reader(watch.follow(job, tmp_path / "log", 0)).finish(1)


def test_closing_wakes_a_follower_whose_client_does_not_read(job: Job, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(bytes(32 << 20))
    with connected() as (server, client):
        follow = watch.follow(job, log, 0, server)

        def send() -> None:
            with pytest.raises(BrokenPipeError):
                for chunk in follow:
                    server.sendall(chunk)

        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        time.sleep(0.1)
        assert sender.is_alive(), "the kernel took everything; the test shows nothing"
        watch.close_all()
        sender.join(1)
        assert not sender.is_alive()
        follow.close()
        assert client.recv(1) == b"\0"


# Places.


@contextlib.contextmanager
def connected() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A TCP connection: the server's end, as gunicorn has it, and the client's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server = listener.accept()[0]
    with client, server:
        yield server, client


def test_a_client_that_goes_frees_its_place_though_the_log_is_silent(job: Job, tmp_path: Path) -> None:
    with connected() as (server, client):
        reader = Reader(watch.follow(job, tmp_path / "log", 0, server))
        time.sleep(4 * TICK)
        assert watch.waiting() == 1
        client.close()
        assert reader.finish(1) == b""
        assert watch.waiting() == 0


def test_a_waiting_client_that_goes_frees_its_place(job: Job) -> None:
    with connected() as (server, client):
        waiter = threading.Thread(target=watch.wait_until_done, args=(job.id, 60, server), daemon=True)
        waiter.start()
        assert eventually(lambda: watch.waiting() == 1)
        client.close()
        waiter.join(1)
        assert not waiter.is_alive()


def test_a_client_that_is_gone_already_holds_no_place(job: Job, tmp_path: Path) -> None:
    with connected() as (server, _):
        server.close()
        assert Reader(watch.follow(job, tmp_path / "log", 0, server)).finish(1) == b""
        assert watch.waiting() == 0


def test_past_the_limit_the_next_is_refused_at_once_and_a_freed_place_is_taken_again(job: Job, tmp_path: Path) -> None:
    watch.set_limit(2)
    first = watch.follow(job, tmp_path / "log", 0)
    second = watch.follow(job, tmp_path / "log", 0)
    with pytest.raises(Unavailable) as refusal:
        watch.follow(job, tmp_path / "log", 0)
    assert refusal.value.retry_after > 0
    with pytest.raises(Unavailable):
        watch.wait_until_done(job.id, 1)
    first.close()
    first.close()
    third = watch.follow(job, tmp_path / "log", 0)
    assert watch.waiting() == 2
    second.close()
    third.close()


def test_places_are_shared_fairly_among_users(job: Job, tmp_path: Path) -> None:
    watch.set_limit(6)
    greedy = [watch.follow(job, tmp_path / "log", 0, owner=1) for _ in range(6)]
    modest = []
    for _ in range(3):
        modest.append(watch.follow(job, tmp_path / "log", 0, owner=2))
        assert next(modest[-1]) == b""
    for owner in (1, 2):
        with pytest.raises(Unavailable):
            watch.follow(job, tmp_path / "log", 0, owner=owner)
    for follow in greedy:
        assert next(follow) == b""
    for follow in greedy[3:]:
        with pytest.raises(watch.PlaceNeeded):
            next(follow)
    (tmp_path / "log").write_bytes(b"more")
    assert {next(follow) for follow in (*greedy[:3], *modest)} == {b"more"}
    assert watch.waiting() == 6


def test_one_user_alone_may_take_every_place(job: Job, tmp_path: Path) -> None:
    watch.set_limit(3)
    follows = [watch.follow(job, tmp_path / "log", 0, owner=1) for _ in range(3)]
    assert watch.waiting() == 3
    with pytest.raises(Unavailable):
        watch.wait_until_done(job.id, 1, owner=1)
    assert len(follows) == 3


def test_waiting_request_whose_place_is_needed_is_answered(job: Job, tmp_path: Path) -> None:
    watch.set_limit(2)
    held = watch.follow(job, tmp_path / "log", 0, owner=1)
    with soon(lambda: watch.follow(job, tmp_path / "log", 0, owner=2).close()):
        watch.wait_until_done(job.id, 30, owner=1)
    assert next(held) == b""


def test_a_follow_that_nobody_reads_or_closes_frees_its_place(job: Job, tmp_path: Path) -> None:
    follow = watch.follow(job, tmp_path / "log", 0)
    assert watch.waiting() == 1
    del follow
    gc.collect()
    assert eventually(lambda: watch.waiting() == 0)


def test_a_log_that_cannot_be_opened_fails_its_own_follower_only(job: Job, tmp_path: Path) -> None:
    log, other = tmp_path / "log", tmp_path / "other"
    fine = Reader(watch.follow(job, log, 0))
    wrong = Reader(watch.follow(job, other, 0))
    time.sleep(4 * TICK)
    other.symlink_to(other.with_name("x" * 300))
    log.write_bytes(b"fine")
    end(job)
    assert fine.finish() == b"fine"
    with pytest.raises(OSError, match="name too long"):
        wrong.finish()


# Waiting.


def test_waiting_ends_when_the_job_does(job: Job) -> None:
    begun = time.monotonic()
    with soon(lambda: end(job), 0.1):
        watch.wait_until_done(job.id, 30)
    assert 0.05 < time.monotonic() - begun < 5
    assert Job.get_by_id(job.id).status.is_done


def test_waiting_ends_when_its_time_is_over(job: Job) -> None:
    begun = time.monotonic()
    watch.wait_until_done(job.id, 0.05)
    assert 0.04 < time.monotonic() - begun < 5
    assert watch.waiting() == 0


def test_a_status_that_is_not_the_last_does_not_end_the_waiting(job: Job) -> None:
    waiter = threading.Thread(target=watch.wait_until_done, args=(job.id, 60), daemon=True)
    waiter.start()
    assert eventually(lambda: watch.waiting() == 1)
    with write("test"):
        transition(job, Status.RUNNING)
    time.sleep(6 * TICK)
    assert waiter.is_alive()
    end(job)
    waiter.join(1)
    assert not waiter.is_alive()


def test_waiting_for_what_is_done_or_not_there_takes_no_place(job: Job) -> None:
    end(job)
    watch.set_limit(0)
    watch.wait_until_done(job.id, 30)
    watch.wait_until_done(job.id + 1, 30)


# The order of log and status.


def begun(project: Project, *statuses: Status) -> Job:
    """A job that the engine runs on this machine, as far as these statuses."""
    job = make_job(project)
    with write("test"):
        Job.update(is_managed=True).where(Job.id == job.id).execute()
        job.is_managed = True
        insert_first_status(job)
        for status in statuses:
            assert transition(job, status)
    return job


@pytest.mark.parametrize("statuses", [(Status.SCHEDULED,), (Status.SCHEDULED, Status.BUILDING)])
def test_a_followed_log_begins_after_the_status_running(project: Project, tmp_path: Path, statuses) -> None:
    job, log = begun(project, *statuses), tmp_path / "log"
    log.write_bytes(b"early\n")
    reader = Reader(watch.follow(job, log, 0))
    told = []
    teller = threading.Thread(target=lambda: told.extend(watch.story(job, log, 0, 30.0)), daemon=True)
    teller.start()
    assert eventually(lambda: watch.waiting() == 2)
    time.sleep(10 * TICK)
    assert reader.content == b""
    with write("test"):
        transition(job, Status.RUNNING)
    assert eventually(lambda: reader.content == b"early\n")
    end(job)
    reader.finish()
    teller.join(5)
    kinds = [str(part.status.status) if isinstance(part, watch.Changed) else "log" for part in told]
    assert kinds == [str(statuses[-1]), "running", "log", "succeeded"]


def test_a_log_of_build_steps_in_a_pod_is_followed_before_running(project: Project, tmp_path: Path) -> None:
    job, log = begun(project, Status.SCHEDULED, Status.BUILDING), tmp_path / "log"
    job.runner = "kubernetes"
    log.write_bytes(b"Step 1/1\n")
    reader = Reader(watch.follow(job, log, 0))
    assert eventually(lambda: reader.content == b"Step 1/1\n")
    with write("test"):
        transition(job, Status.FAILED)
    reader.finish()
