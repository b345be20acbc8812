"""The files by which the engine and other processes talk."""

from __future__ import annotations

import select
import subprocess
import sys

import pytest

from polyjob.clock import now
from polyjob.engine_link import (
    DISK_USAGE_FILE,
    ENGINE_REPORT_FILE,
    RESTART_WINDOW_SECONDS,
    STARTS_TO_KEEP,
    DiskUsage,
    EngineLock,
    EngineReport,
    EngineRunning,
    RunnerReport,
    count_restarts,
    drain_wake_ups,
    engine_pid,
    last_pass,
    open_wake_up_fifo,
    read_disk_usage,
    read_engine_report,
    record_orderly_end,
    record_start,
    remove_engine_report,
    wake_engine,
    write_disk_usage,
    write_engine_report,
)
from tests.engine.conftest import ManualClock

DAMAGED = [b"", b"nonsense", b"[]", b"{}", b"\xff\x00", b'{"at": "x", "builds": 3, "runner": [], "slow": null}']

HOLD_THE_LOCK = """
import sys, pathlib
from polyjob.engine_link import EngineLock
lock = EngineLock(pathlib.Path(sys.argv[1]))
lock.acquire()
lock.record_pass("boot-1:5.000000")
print("acquired", flush=True)
sys.stdin.read()
"""


class TestLock:
    @pytest.fixture
    def other_engine(self, tmp_path):
        command = [sys.executable, "-c", HOLD_THE_LOCK, str(tmp_path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout.readline() == b"acquired\n"
            yield process
            process.kill()

    def test_second_engine_is_refused(self, tmp_path, other_engine):
        assert engine_pid(tmp_path) == other_engine.pid
        with pytest.raises(EngineRunning, match=str(other_engine.pid)):
            EngineLock(tmp_path).acquire()
        assert engine_pid(tmp_path) == other_engine.pid

    def test_lock_ends_with_its_process(self, tmp_path, other_engine):
        other_engine.kill()
        other_engine.wait(30)
        assert engine_pid(tmp_path) is None
        lock = EngineLock(tmp_path)
        lock.acquire()
        lock.release()
        lock.release()

    def test_last_pass_is_visible_to_others(self, tmp_path, other_engine):
        assert last_pass(tmp_path) == "boot-1:5.000000"

    def test_folder_without_a_lock_has_no_engine(self, tmp_path):
        assert engine_pid(tmp_path) is None
        assert last_pass(tmp_path) is None


class TestWakeUps:
    def test_engine_sees_wake_ups_of_others(self, tmp_path):
        fifo = open_wake_up_fifo(tmp_path)
        wake_engine(tmp_path)
        wake_engine(tmp_path)
        poll = select.poll()  # unlike `select`, it takes any descriptor
        poll.register(fifo, select.POLLIN)
        assert poll.poll(5000)
        drain_wake_ups(fifo)
        assert not poll.poll(0)

    def test_missing_engine_is_ignored(self, tmp_path):
        wake_engine(tmp_path)

    def test_full_fifo_is_ignored(self, tmp_path):
        open_wake_up_fifo(tmp_path)
        for _ in range(1 << 17):
            wake_engine(tmp_path)


class TestReports:
    def test_engine_report_is_read_back(self, tmp_path):
        write_engine_report(tmp_path, {"name": "fake", "ok": False, "message": "away"}, [7, 8])
        assert read_engine_report(tmp_path) == EngineReport(RunnerReport("fake", False, "away"), [7, 8])
        remove_engine_report(tmp_path)
        remove_engine_report(tmp_path)
        assert read_engine_report(tmp_path) == EngineReport(None, [])

    def test_disk_usage_is_read_back(self, tmp_path):
        usage = DiskUsage(now(), 30, {1: 10, 2: 20})
        write_disk_usage(tmp_path, usage)
        assert read_disk_usage(tmp_path) == usage

    @pytest.mark.parametrize("content", DAMAGED)
    def test_damaged_reports_count_as_missing(self, tmp_path, content):
        (tmp_path / ENGINE_REPORT_FILE).write_bytes(content)
        (tmp_path / DISK_USAGE_FILE).write_bytes(content)
        assert read_engine_report(tmp_path) == EngineReport(None, [])
        assert read_disk_usage(tmp_path) is None


class TestRestarts:
    def test_only_starts_after_a_crash_count(self, tmp_path):
        clock = ManualClock()
        counts = []
        for _ in range(3):
            record_start(tmp_path, "engine", clock)
            counts.append(count_restarts(tmp_path, "engine", clock))
        record_orderly_end(tmp_path, "engine")
        record_start(tmp_path, "engine", clock)
        assert [*counts, count_restarts(tmp_path, "engine", clock)] == [0, 1, 2, 0]
        assert count_restarts(tmp_path, "web", clock) == 0

    def test_restarts_expire_after_an_hour_or_a_boot(self, tmp_path):
        clock = ManualClock()
        for _ in range(2):
            record_start(tmp_path, "engine", clock)
        clock.move(RESTART_WINDOW_SECONDS + 1)
        assert count_restarts(tmp_path, "engine", clock) == 0
        record_start(tmp_path, "engine", clock)
        clock.boot_id = "boot-2"
        assert count_restarts(tmp_path, "engine", clock) == 0

    def test_number_of_recorded_starts_is_bounded(self, tmp_path):
        clock = ManualClock()
        for _ in range(3 * STARTS_TO_KEEP):
            record_start(tmp_path, "engine", clock)
        assert len((tmp_path / "engine.starts").read_text().splitlines()) == STARTS_TO_KEEP

    def test_damaged_file_counts_as_empty(self, tmp_path):
        (tmp_path / "engine.starts").write_bytes(b"\xff\x00 nonsense")
        assert count_restarts(tmp_path, "engine", ManualClock()) == 0
        record_start(tmp_path, "engine", ManualClock())
