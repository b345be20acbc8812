"""Following and waiting, against a real database file, real log files and real writers."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import uuid

import pytest

from polyjob.clock import now
from polyjob.db.database import write
from polyjob.db.models import Build, Job, Project
from polyjob.logs import follow as follow_module
from polyjob.logs.follow import (
    AccessRevoked,
    FollowInterrupted,
    Idle,
    LogChunk,
    RunDeleted,
    StatusChange,
    follow,
    wait_for_log,
    wait_until_done,
)
from polyjob.logs.watcher import CHUNK_BYTES, LogFile, Watcher
from polyjob.services.transitions import insert_first_status, transition
from polyjob.statuses import Status

from .conftest import (
    PATIENCE_SECONDS,
    Reader,
    finish_job,
    in_thread,
    make_job,
    wait_for_subscriptions,
    wait_for_ticks,
    watch_threads,
)

# The log.


def test_follower_gets_every_byte_of_a_writing_process(watcher, job, tmp_path):
    """The writer appends without a pause, and the row becomes done right after its last byte."""
    log = tmp_path / "log"
    reader = Reader(follow(watcher, job, log))
    script = "import sys\nwith open(sys.argv[1], 'ab', 0) as log:\n for i in range(20000): log.write(b'%d\\n' % i)"
    subprocess.run([sys.executable, "-c", script, log], check=True)
    finish_job(job)
    assert reader.finish() == b"".join(b"%d\n" % i for i in range(20000))


def test_bytes_written_just_before_done_are_delivered(watcher, project, tmp_path):
    for number in range(25):
        job = make_job(project)
        log = tmp_path / f"log-{number}"
        reader = Reader(follow(watcher, job, log))
        if number % 2:
            wait_for_ticks(watcher, 1)
        log.write_bytes(b"only at the very end")
        finish_job(job)
        assert reader.finish() == b"only at the very end"


def test_bytes_and_end_during_an_empty_read_are_delivered(watcher, job, tmp_path, monkeypatch):
    """Everything happens between a read that returned nothing and the next wait."""
    log, original_read = tmp_path / "log", LogFile.read
    has_read, may_return = threading.Event(), threading.Event()

    def read_slowly(file: LogFile, offset: int) -> bytes:
        data = original_read(file, offset)
        has_read.set()
        assert may_return.wait(PATIENCE_SECONDS)
        return data

    monkeypatch.setattr(LogFile, "read", read_slowly)
    reader = Reader(follow(watcher, job, log))
    assert has_read.wait(PATIENCE_SECONDS)
    log.write_bytes(b"all of it")
    finish_job(job)
    wait_for_ticks(watcher)
    may_return.set()
    assert reader.finish() == b"all of it"


def test_bytes_arrive_while_the_job_runs(watcher, job, tmp_path):
    log = tmp_path / "log"
    log.write_bytes(b"one ")
    reader = Reader(follow(watcher, job, log))
    reader.wait_for_content(b"one ")
    with log.open("ab") as writer:
        writer.write(b"two")
    reader.wait_for_content(b"one two")
    assert reader.is_alive()
    finish_job(job)
    assert reader.finish() == b"one two"


def test_follower_waits_for_a_missing_log(watcher, job, tmp_path):
    log = tmp_path / "jobs" / "log"
    reader = Reader(follow(watcher, job, log))
    wait_for_ticks(watcher)
    assert reader.is_alive()
    log.parent.mkdir()
    log.write_bytes(b"here")
    reader.wait_for_content(b"here")
    finish_job(job)
    assert reader.finish() == b"here"


def test_offset_selects_the_first_byte(watcher, job, tmp_path):
    log = tmp_path / "log"
    log.write_bytes(bytes(3 * CHUNK_BYTES) + b"tail")
    finish_job(job)
    chunks = [event for event in follow(watcher, job, log, 3 * CHUNK_BYTES - 1) if isinstance(event, LogChunk)]
    assert chunks == [LogChunk(b"\0tail", 3 * CHUNK_BYTES + 4)]


def test_offset_beyond_the_end_waits_for_those_bytes(watcher, job, tmp_path):
    log = tmp_path / "log"
    log.write_bytes(b"0123")
    reader = Reader(follow(watcher, job, log, 6))
    wait_for_ticks(watcher)
    with log.open("ab") as writer:
        writer.write(b"4567")
    finish_job(job)
    assert reader.finish() == b"67"


def test_followers_share_one_thread_and_get_the_whole_log(watcher, job, tmp_path):
    log = tmp_path / "log"
    readers = [Reader(follow(watcher, job, log)) for _ in range(20)]
    with log.open("ab", buffering=0) as writer:
        for number in range(200):
            writer.write(b"line %d\n" % number)
    assert len(watch_threads()) == 1
    finish_job(job)
    expected = b"".join(b"line %d\n" % number for number in range(200))
    assert [reader.finish() == expected for reader in readers] == [True] * 20


def test_build_is_followed_until_done(watcher, project, tmp_path):
    with write("test"):
        build = Build.create(
            uuid=uuid.uuid4().hex,
            project=project,
            user=project.user,
            created_at=now(),
            updated_at=now(),
            config={},
            runner="process",
            key="0",
            key_parts={},
        )
        insert_first_status(build)
    log = tmp_path / "log"
    log.write_bytes(b"step 1")
    reader = Reader(follow(watcher, build, log))
    reader.wait_for_content(b"step 1")
    assert reader.is_alive()
    with write("test"):
        for status in (Status.SCHEDULED, Status.RUNNING, Status.SUCCEEDED):
            transition(build, status)
    assert reader.finish() == b"step 1"
    assert reader.kinds == ["created", "log", "scheduled", "running", "succeeded"]


def test_unreadable_log_fails_only_its_own_follower(watcher, job, tmp_path):
    log, other = tmp_path / "log", tmp_path / "other"
    reader = Reader(follow(watcher, job, log))
    failing = Reader(follow(watcher, job, other))
    wait_for_ticks(watcher)
    other.symlink_to(other.with_name("x" * 300))
    log.write_bytes(b"fine")
    finish_job(job)
    assert reader.finish() == b"fine"
    with pytest.raises(OSError, match="name too long"):
        failing.finish()


# The end.


@pytest.mark.parametrize("way", ["hidden", "removed"])
def test_deleted_job_interrupts_the_follow(watcher, job, tmp_path, way):
    log = tmp_path / "log"
    log.write_bytes(b"begun")
    reader = Reader(follow(watcher, job, log))
    reader.wait_for_content(b"begun")
    with write("test"):
        if way == "hidden":
            Job.update(deleted_at=now()).where(Job.id == job.id).execute()
        else:
            Job.delete().where(Job.id == job.id).execute()
    with pytest.raises(RunDeleted):
        reader.finish()
    assert len(watcher) == 0


def test_revoked_access_interrupts_a_silent_follow(watcher, job, tmp_path, monkeypatch):
    monkeypatch.setattr(follow_module, "ACCESS_CHECK_SECONDS", 0.02)
    log, may_read, checks = tmp_path / "log", threading.Event(), threading.Semaphore(0)
    may_read.set()

    def check() -> bool:
        checks.release()
        return may_read.is_set()

    log.write_bytes(b"begun")
    reader = Reader(follow(watcher, job, log, may_read=check))
    for _ in range(3):
        assert checks.acquire(timeout=PATIENCE_SECONDS)
    assert (reader.is_alive(), reader.content) == (True, b"begun")
    may_read.clear()
    with pytest.raises(AccessRevoked):
        reader.finish()
    assert len(watcher) == 0


def test_access_is_checked_again_while_a_log_grows(data_dir, job, tmp_path):
    clock = [100.0]
    watcher, log, may_read = Watcher(112, lambda: clock[0]), tmp_path / "log", [True]
    events = follow(watcher, job, log, may_read=lambda: may_read[0])
    may_read[0] = False
    log.write_bytes(b"one")
    assert next(events) == LogChunk(b"one", 3), "the last check was just now"
    clock[0] += follow_module.ACCESS_CHECK_SECONDS
    log.write_bytes(b"onetwo")
    with pytest.raises(AccessRevoked):
        next(events)


def test_end_of_another_job_does_not_end_the_follow(watcher, job, project, tmp_path):
    log, other = tmp_path / "log", make_job(project)
    reader, other_reader = Reader(follow(watcher, job, log)), Reader(follow(watcher, other, tmp_path / "other"))
    finish_job(other)
    other_reader.finish()
    log.write_bytes(b"still here")
    reader.wait_for_content(b"still here")
    assert reader.is_alive()


def test_idle_comes_after_silence(watcher, job, tmp_path):
    with write("test"):
        insert_first_status(job)
    events = follow(watcher, job, tmp_path / "log", idle_after=0.02)
    assert [type(next(events)) for _ in range(3)] == [StatusChange, Idle, Idle]
    events.close()


def test_stopped_iteration_ends_without_an_error(watcher, job, tmp_path):
    events = follow(watcher, job, tmp_path / "log")
    reader = Reader(events)
    wait_for_ticks(watcher)
    events.stop()
    assert reader.finish() == b""
    assert len(watcher) == 0


def test_closed_iteration_yields_nothing(watcher, job, tmp_path):
    (tmp_path / "log").write_bytes(b"one")
    events = follow(watcher, job, tmp_path / "log")
    events.close()
    assert list(events) == []
    assert len(watcher) == 0


# The order of log and status.


def managed_job(project: Project, *statuses: Status) -> Job:
    """Return a job that the engine runs on this machine, with these statuses."""
    job = make_job(project)
    with write("test"):
        Job.update(is_managed=True).where(Job.id == job.id).execute()
        job.is_managed = True
        insert_first_status(job)
        for status in statuses:
            assert transition(job, status)
    return job


@pytest.mark.parametrize("statuses", [(Status.SCHEDULED,), (Status.SCHEDULED, Status.BUILDING)])
def test_log_of_a_local_job_comes_after_running(watcher, project, tmp_path, statuses):
    job, log = managed_job(project, *statuses), tmp_path / "log"
    log.write_bytes(b"early\n")
    reader = Reader(follow(watcher, job, log))
    wait_for_ticks(watcher, 10)
    assert reader.content == b""
    with write("test"):
        transition(job, Status.RUNNING)
    reader.wait_for_content(b"early\n")
    finish_job(job)
    reader.finish()
    assert reader.kinds == [str(statuses[-1]), "running", "log", "succeeded"]


def test_log_of_build_steps_in_a_pod_comes_before_running(watcher, project, tmp_path):
    job, log = managed_job(project, Status.SCHEDULED, Status.BUILDING), tmp_path / "log"
    job.runner = "kubernetes"
    log.write_bytes(b"Step 1/1\n")
    reader = Reader(follow(watcher, job, log))
    reader.wait_for_content(b"Step 1/1\n")
    with write("test"):
        transition(job, Status.FAILED)
    reader.finish()


# Waiting.


def test_wait_ends_with_the_job(watcher, job):
    waiter = in_thread(wait_until_done, watcher, job.id, 60)
    wait_for_subscriptions(watcher, 1)
    finish_job(job)
    waiter.join(PATIENCE_SECONDS)
    assert not waiter.is_alive()


def test_wait_ends_after_its_time(watcher, job):
    begin = time.monotonic()
    wait_until_done(watcher, job.id, 0.05)
    assert 0.04 < time.monotonic() - begin < PATIENCE_SECONDS
    assert len(watcher) == 0


def test_running_status_does_not_end_the_wait(watcher, job):
    waiter = in_thread(wait_until_done, watcher, job.id, 60)
    wait_for_subscriptions(watcher, 1)
    with write("test"):
        transition(job, Status.RUNNING)
    wait_for_ticks(watcher)
    assert waiter.is_alive()
    finish_job(job)
    waiter.join(PATIENCE_SECONDS)
    assert not waiter.is_alive()


def test_wait_for_a_done_or_missing_job_takes_no_slot(watcher, job):
    finish_job(job)
    watcher.limit = 0
    wait_until_done(watcher, job.id, 30)
    wait_until_done(watcher, job.id + 1, 30)


def test_wait_for_log_ends_at_the_next_byte(watcher, job, tmp_path):
    log = tmp_path / "log"
    log.write_bytes(b"123")
    waiter = in_thread(wait_for_log, watcher, job, log, 3, 60)
    wait_for_subscriptions(watcher, 1)
    wait_for_ticks(watcher)
    assert waiter.is_alive()
    log.write_bytes(b"1234")
    waiter.join(PATIENCE_SECONDS)
    assert not waiter.is_alive()


def test_watcher_that_should_close_ends_follows_and_waits(watcher, job, tmp_path):
    should_close = threading.Event()
    watcher.should_close = should_close.is_set
    reader = Reader(follow(watcher, job, tmp_path / "log"))
    waiter = in_thread(wait_until_done, watcher, job.id, 60)
    wait_for_subscriptions(watcher, 2)
    wait_for_ticks(watcher)
    assert reader.is_alive()
    assert waiter.is_alive()
    should_close.set()
    with pytest.raises(FollowInterrupted):
        reader.finish()
    waiter.join(PATIENCE_SECONDS)
    assert not waiter.is_alive()
    with pytest.raises(FollowInterrupted):
        Reader(follow(watcher, job, tmp_path / "log")).finish()
