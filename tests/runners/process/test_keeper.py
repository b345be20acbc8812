"""Keepers: stops, ends, and the deaths of keepers, servers and engines."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runners.base import Exited, JobSpec, Missing, Pending, Reason, RunnerUnavailable, Running, State
from runners.process import attempts, keeper_server, launch
from runners.process.attempts import FENCED
from runners.process.linux import BOOT_ID_PATH
from runners.process.markers import kill_marked
from tests.require import require, require_root
from tests.runners.harness import (
    EXECUTABLE_BY_ALL,
    ProcessHarness,
    as_nobody,
    kill,
    lives,
    parent_of,
    processes_of,
    state_of,
    wait_for,
)

TREE = "trap '' TERM; (setsid sleep 1000 &); (setsid sh -c 'trap \"\" TERM; sleep 1000; true' &); sleep 1000"
TREE_SIZE = 4
BOOT_ID = Path(BOOT_ID_PATH).read_text().strip()


def start_tree(process: ProcessHarness, cmd: str = TREE, grace: float = 0.3) -> tuple[str, str]:
    """Return (uuid, handle) of a job with many processes, after all have started."""
    spec = process.spec(cmd, grace=grace)
    handle = process.runner.start(spec, None)
    wait_for(lambda: len(processes_of(spec.uuid)) >= TREE_SIZE)
    return spec.uuid, handle


def server_of(process: ProcessHarness) -> int:
    """Return the pid of the keeper server, from its greeting. An orphaned keeper has the same command line."""
    return int(wait_for(lambda: greeting(process))["pid"])


def greeting(process: ProcessHarness) -> dict[str, int] | None:
    """Return the server's greeting. None if there is no server, or only a fork of a killed one holds its socket."""
    folder = os.open(process.data / "process", os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(f"/proc/self/fd/{folder}/server-{keeper_server.VERSION}")
            status: dict[str, int] = json.loads(connection.recv(4096) or b"null")
            return status
    except (ConnectionError, FileNotFoundError):
        return None
    finally:
        os.close(folder)


def is_lost(process: ProcessHarness, handle: str) -> bool:
    return isinstance(process.state(handle), Missing)


def request_of(process: ProcessHarness, spec: JobSpec) -> dict[str, Any]:
    """Return what the engine asks the keeper server for when it starts this job."""
    requests: list[dict[str, Any]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process.runner._client, "start_job", requests.append)
        process.runner.start(spec, None)
    return requests[0]


def failing(number: int) -> Callable[..., None]:
    """Return a call that fails with this errno."""

    def fail(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


def die_in_start(process: ProcessHarness, spec: JobSpec, at: str, has_links: bool = True) -> None:
    """Kill a keeper server while it gives a job to a keeper: at the first call of the function `at`.

    A number after the name selects a later call.
    """
    request = request_of(process, spec)
    name, _, number = at.partition(" ")
    calls = int(number or 1)
    pid = os.fork()
    if pid == 0:
        try:
            owner, _, name = name.rpartition(".")
            spare = keeper_server.SpareKeeper
            targets = {"os": os, "SpareKeeper": spare, "attempts": attempts, "keeper_server": keeper_server}
            if not has_links:
                os.link = failing(errno.EPERM)
            call = getattr(targets[owner], name)

            def count(*arguments: Any, **options: Any) -> Any:
                nonlocal calls
                calls -= 1
                if calls == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*arguments, **options)

            server = keeper_server.Server(str(process.data / "process"))
            setattr(targets[owner], name, count)
            server._start(request)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


DEATHS = [
    "os.link",
    "os.unlink",
    "attempts.lock_unused",
    "os.pwrite",
    "os.unlink 2",
    "keeper_server.replace_file",
    "SpareKeeper.give_job",
]


@pytest.mark.parametrize("has_links", [True, False], ids=["links", "no-links"])
class TestDeathInStart:
    @pytest.mark.parametrize("at", DEATHS)
    def test_untaken_job_is_started_by_the_next_server(self, process: ProcessHarness, at: str, has_links: bool) -> None:
        spec = process.says("x")
        die_in_start(process, spec, at, has_links)
        handle = process.runner.start(spec, None)
        assert process.end(handle).succeeded
        assert process.log(spec, handle) == b"x"
        assert process.runs(spec) == 1

    @pytest.mark.parametrize("at", DEATHS)
    def test_start_of_an_untaken_job_can_be_prevented(self, process: ProcessHarness, at: str, has_links: bool) -> None:
        spec = process.says("x")
        die_in_start(process, spec, at, has_links)
        assert process.runner.prevent_start(spec.uuid) is None
        assert process.runner.inventory() == {}
        handle = process.runner.start(spec, None)
        assert is_lost(process, handle)
        assert not (Path(spec.folder) / "outputs").exists()

    @pytest.mark.parametrize("at", ["os.pwrite", "os.unlink 2", "SpareKeeper.give_job"])
    def test_job_whose_second_keeper_was_killed_is_lost(
        self, process: ProcessHarness, at: str, has_links: bool
    ) -> None:
        spec = process.lasts()
        die_in_start(process, spec, at, has_links)
        handle = process.runner.start(spec, None)
        wait_for(lambda: isinstance(process.state(handle), Running))
        kill(json.loads((process.data / "process" / "jobs" / spec.uuid / "keeper.json").read_bytes())["pid"])
        wait_for(lambda: is_lost(process, handle))
        assert process.runner.start(spec, None) == handle
        assert process.runner.prevent_start(spec.uuid) == handle
        assert is_lost(process, handle)
        assert not processes_of(spec.uuid)

    @pytest.mark.parametrize("at", ["attempts.lock_unused", "os.pwrite", "os.unlink 2"])
    def test_attempt_of_another_boot_is_not_continued(self, process: ProcessHarness, at: str, has_links: bool) -> None:
        spec = process.says("x")
        die_in_start(process, spec, at, has_links)
        for file in (process.data / "process" / "jobs" / spec.uuid).glob("attempt*"):
            if file.read_bytes():
                file.write_text("boot-id-of-another-boot")
        handle = process.runner.start(spec, None)
        assert is_lost(process, handle)
        assert not (Path(spec.folder) / "outputs").exists()


def new_attempt(process: ProcessHarness) -> Path:
    """Return the path of the attempt of a job that was never started; its folder exists."""
    folder = process.data / "process" / "jobs" / process.spec().uuid
    folder.mkdir(parents=True)
    return folder / "attempt"


class TestAttempt:
    @pytest.mark.parametrize("content", ["", "boot-id-of-another-boot"])
    def test_possibly_taken_job_is_not_started_again(self, process: ProcessHarness, content: str) -> None:
        spec = process.says("x")
        die_in_start(process, spec, "SpareKeeper.give_job")
        (process.data / "process" / "jobs" / spec.uuid / "attempt").write_text(content)
        handle = process.runner.start(spec, None)
        assert process.runner.prevent_start(spec.uuid) == handle
        assert is_lost(process, handle)

    @pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV])
    def test_jobs_run_without_hard_links(
        self, process: ProcessHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
    ) -> None:
        script = tmp_path / "launch.py"
        script.write_text(
            "import os, runpy\n"
            f"def link(*arguments): raise OSError({number}, os.strerror({number}))\n"
            "os.link = link\n"
            f"runpy.run_path({launch.__file__!r}, run_name='__main__')\n"
        )
        monkeypatch.setattr(launch, "__file__", str(script))
        spec = process.says("x")
        handle = process.runner.start(spec, None)
        assert process.end(handle).succeeded
        assert process.runner.start(spec, None) == handle
        assert process.log(spec, handle) == b"x"
        assert process.runs(spec) == 1

    def test_fence_before_the_lock_prevents_the_start(
        self, process: ProcessHarness, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = new_attempt(process)
        monkeypatch.setattr(os, "link", failing(errno.EPERM))
        attempts.create(str(path), BOOT_ID)
        assert process.runner.prevent_start(path.parent.name) is None
        assert attempts.begin(str(path), BOOT_ID) is None

    def test_unlocked_fence_yields_to_a_start(self, process: ProcessHarness, monkeypatch: pytest.MonkeyPatch) -> None:
        path = new_attempt(process)
        real = fcntl.flock
        files = []

        def flock(file: int, operation: int) -> None:
            if not files:
                files.append(-1)
                (path.parent / "attempt.part").write_text(BOOT_ID)
                files.append(attempts.lock_unused(str(path), BOOT_ID))
            real(file, operation)

        monkeypatch.setattr(fcntl, "flock", flock)
        monkeypatch.setattr(attempts, "HANDOVER_SECONDS", 0.1)
        assert process.runner.prevent_start(path.parent.name) is not None
        assert path.read_text() == BOOT_ID
        os.close(files[1])

    @pytest.mark.parametrize("call", ["flock", "write"])
    def test_failed_fence_can_be_repeated(
        self, process: ProcessHarness, monkeypatch: pytest.MonkeyPatch, call: str
    ) -> None:
        number = {"flock": errno.ENOLCK, "write": errno.ENOSPC}[call]
        spec = process.says("x")
        with monkeypatch.context() as patch:
            patch.setattr(fcntl if call == "flock" else os, call, failing(number))
            with pytest.raises(RunnerUnavailable, match="cannot be used"):
                process.runner.prevent_start(spec.uuid)
        assert process.runner.prevent_start(spec.uuid) is None
        assert process.runner.inventory() == {}
        assert is_lost(process, process.runner.start(spec, None))

    def test_fence_of_an_unused_attempt_can_be_repeated(
        self, process: ProcessHarness, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        spec = process.says("x")
        die_in_start(process, spec, "SpareKeeper.give_job")
        real = os.pwrite

        def pwrite(file: int, data: bytes, offset: int) -> int:
            if data == FENCED:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(file, data, offset)

        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", pwrite)
            with pytest.raises(RunnerUnavailable, match="cannot be used"):
                process.runner.prevent_start(spec.uuid)
        assert process.runner.prevent_start(spec.uuid) is None
        assert process.runner.inventory() == {}

    def test_removed_attempt_is_not_given_to_a_keeper(
        self, process: ProcessHarness, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = new_attempt(process)
        attempts.create(str(path), BOOT_ID)
        real = fcntl.flock

        def flock(file: int, operation: int) -> None:
            path.unlink()
            real(file, operation)

        monkeypatch.setattr(fcntl, "flock", flock)
        assert attempts.lock_unused(str(path), BOOT_ID) is None

    def test_start_overtaken_by_clean_creates_no_attempt(
        self, process: ProcessHarness, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = new_attempt(process)
        real = os.link

        def link(source: str, target: str) -> None:
            os.unlink(source)
            real(source, target)

        monkeypatch.setattr(os, "link", link)
        with pytest.raises(FileNotFoundError):
            attempts.begin(str(path), BOOT_ID)
        assert not path.exists()


class TestStop:
    @pytest.mark.parametrize(
        "cmd", [TREE, "trap '' TERM; setsid sleep 1000 & setsid sleep 1000 & sleep 1000; sleep 1000"]
    )
    def test_stop_leaves_no_process(self, process: ProcessHarness, cmd: str) -> None:
        uuid, handle = start_tree(process, cmd)
        process.runner.stop(handle, force=False)
        assert process.end(handle).signal == 9
        assert processes_of(uuid) == []

    def test_stopped_command_has_its_grace_period(self, process: ProcessHarness) -> None:
        spec = process.spec("trap 'sleep 0.3; echo bye; exit 7' TERM; echo ready; sleep 1000 & wait", grace=5)
        handle = process.runner.start(spec, None)
        log = Path(spec.folder) / "log"
        wait_for(lambda: log.exists() and log.read_bytes())
        process.runner.stop(handle, force=False)
        end = process.end(handle)
        assert (end.reason, end.code) == (Reason.EXITED, 7)
        assert log.read_bytes() == b"ready\nbye\n"

    @pytest.mark.parametrize("grace", [2_592_000.0, 999_999_999.0])
    def test_grace_period_can_be_months(self, process: ProcessHarness, grace: float) -> None:
        spec = process.spec(
            "trap 'sleep 0.3; echo bye; exit 7' TERM; echo ready; while :; do sleep 0.1; done", grace=grace
        )
        handle = process.runner.start(spec, None)
        log = Path(spec.folder) / "log"
        wait_for(lambda: log.exists() and log.read_bytes())
        process.runner.stop(handle, force=False)
        end = process.end(handle)
        assert (end.reason, end.code) == (Reason.EXITED, 7)
        assert log.read_bytes().endswith(b"bye\n")

    @pytest.mark.parametrize("start", ["sleep 1000 &", "setsid sleep 1000 &", "(setsid nohup sleep 1000 &);"])
    def test_stop_reaches_processes_started_after_the_term(self, process: ProcessHarness, start: str) -> None:
        cmd = f"trap '{start} exit 7' TERM; echo ready; while :; do sleep 0.1; done"
        spec = process.spec(cmd, grace=1000.0)
        handle = process.runner.start(spec, None)
        log = Path(spec.folder) / "log"
        wait_for(lambda: log.exists() and log.read_bytes())
        process.runner.stop(handle, force=False)
        assert process.end(handle).code == 7
        assert processes_of(spec.uuid) == []

    def test_each_process_receives_one_term(self, process: ProcessHarness) -> None:
        child = 'trap "echo term" TERM; echo ready; for i in 1 2 3 4 5 6 7 8 9 10; do sleep 0.1; done; exit'
        spec = process.spec(f"trap 'exit 7' TERM; sh -c '{child}' & wait", grace=1000.0)
        handle = process.runner.start(spec, None)
        log = Path(spec.folder) / "log"
        wait_for(lambda: log.exists() and log.read_bytes())
        process.runner.stop(handle, force=False)
        assert process.end(handle).code == 7
        assert log.read_bytes().split().count(b"term") == 1

    @pytest.mark.parametrize(
        "cmd",
        [
            "trap 'echo bye; exit 7' TERM; echo ready; kill -STOP $$",
            "trap 'wait; exit 7' TERM; sh -c 'trap \"echo bye; exit\" TERM; echo ready; kill -STOP $$' & wait",
            "trap 'wait; exit 7' TERM; setsid sh -c 'trap \"echo bye; exit\" TERM; echo ready; kill -STOP $$' & wait",
        ],
    )
    def test_stop_reaches_suspended_processes(self, process: ProcessHarness, cmd: str) -> None:
        spec = process.spec(cmd)
        handle = process.runner.start(spec, None)
        wait_for(lambda: any(state_of(pid) == "T" for pid in processes_of(spec.uuid)))
        process.runner.stop(handle, force=False)
        end = process.end(handle)
        assert (Path(spec.folder) / "log").read_bytes() == b"ready\nbye\n"
        assert end.code == 7

    def test_keeper_finishes_a_stop_without_the_engine(self, process: ProcessHarness) -> None:
        uuid, handle = start_tree(process)
        requested_at = time.monotonic()
        process.runner.stop(handle, force=False)
        process.runner.close()
        time.sleep(0.15)
        assert processes_of(uuid), "the grace is not over"
        wait_for(lambda: not processes_of(uuid))
        assert 0.3 <= time.monotonic() - requested_at < 10
        process.runner = process.another()
        assert process.end(handle).signal == 9

    def test_suspended_job_can_be_stopped(self, process: ProcessHarness) -> None:
        spec = process.spec("kill -STOP $$", grace=0.2)
        handle = process.runner.start(spec, None)
        wait_for(lambda: processes_of(spec.uuid))
        process.runner.stop(handle, force=False)
        assert process.end(handle).signal in (9, 15)

    def test_stop_reaches_hundreds_of_new_processes(self, process: ProcessHarness) -> None:
        spec = process.spec("for i in $(seq 200); do (while :; do sleep 0.2; done) & done; wait", grace=0.1)
        handle = process.runner.start(spec, None)
        wait_for(lambda: len(processes_of(spec.uuid)) > 100)
        process.runner.stop(handle, force=False)
        process.end(handle)
        assert processes_of(spec.uuid) == []

    def test_stop_reaches_endlessly_forking_processes(self, process: ProcessHarness) -> None:
        # Each forks its successor and ends, so that no list of processes is ever true.
        spec = process.spec(
            'hop=\'[ $0 -gt 20000 ] || { setsid sh -c "$1" $(($0 + 1)) "$1" & }\';'
            ' for i in 1 2 3; do sh -c "$hop" 0 "$hop"; done; sleep 1000',
            grace=0.2,
        )
        handle = process.runner.start(spec, None)
        wait_for(lambda: processes_of(spec.uuid))
        time.sleep(0.2)
        process.runner.stop(handle, force=False)
        process.end(handle)
        assert processes_of(spec.uuid) == []


class TestEnd:
    @pytest.mark.parametrize("cmd", ["nohup sleep 1000 & exit 2", "(setsid sleep 1000 &); exit 2"])
    def test_stragglers_are_ended_and_named(self, process: ProcessHarness, cmd: str) -> None:
        spec = process.spec(cmd)
        end = process.end(process.runner.start(spec, None))
        assert (end.reason, end.code) == (Reason.EXITED, 2)
        assert end.stragglers == ("sleep",)
        assert processes_of(spec.uuid) == []

    def test_stragglers_that_ignore_term_are_killed(self, process: ProcessHarness) -> None:
        spec = process.spec("(setsid sh -c 'trap \"\" TERM; sleep 1000; true' &); sleep 0.1; exit 0", grace=0.2)
        end = process.end(process.runner.start(spec, None))
        assert end.succeeded
        assert processes_of(spec.uuid) == []

    def test_job_ends_while_a_straggler_holds_its_pipe(self, process: ProcessHarness) -> None:
        spec = process.spec("(sleep 1000 &) ; echo done")
        end = process.end(process.runner.start(spec, None))
        assert end.stragglers == ("sleep",)
        assert (Path(spec.folder) / "log").read_bytes() == b"done\n"

    def test_job_ends_while_a_stranger_writes_to_its_pipe(self, process: ProcessHarness) -> None:
        spec = process.spec("echo $$; sleep 1000")
        handle = process.runner.start(spec, None)
        log = Path(spec.folder) / "log"
        wait_for(lambda: log.exists() and log.read_bytes())
        pipe = f"/proc/{log.read_text().strip()}/fd/1"
        with open(pipe, "wb") as file, subprocess.Popen(["yes"], stdout=file) as stranger:
            process.runner.stop(handle, force=True)
            assert process.end(handle).signal == 9
            stranger.kill()

    def test_job_can_kill_its_own_process_group(self, process: ProcessHarness) -> None:
        end, _ = process.run("sleep 1000 & kill -KILL 0")
        assert (end.reason, end.signal) == (Reason.SIGNALLED, 9)

    def test_job_without_output_is_awaited(self, process: ProcessHarness) -> None:
        spec = process.spec("exec >&- 2>&- <&-; sleep 0.3; touch ../late; exit 8")
        assert process.end(process.runner.start(spec, None)).code == 8
        assert (Path(spec.folder) / "late").exists()


class TestDeathOfTheKeeper:
    def test_job_without_its_keeper_is_killed_and_lost(self, process: ProcessHarness) -> None:
        spec = process.spec("echo ran >> ../runs;" + TREE)
        handle = process.runner.start(spec, None)
        wait_for(lambda: len(processes_of(spec.uuid)) >= TREE_SIZE)
        kill(process.keeper(spec))
        wait_for(lambda: is_lost(process, handle))
        assert processes_of(spec.uuid) == []
        assert process.another().start(spec, None) == handle
        assert is_lost(process, handle)
        assert process.runs(spec) == 1

    def test_job_is_not_missing_while_a_process_lives(self, process: ProcessHarness) -> None:
        uuid, handle = start_tree(process)
        stopped = processes_of(uuid)
        kill(parent_of(min(stopped)))
        for _ in range(200):
            if is_lost(process, handle):
                assert not [pid for pid in stopped if lives(pid)]
                return
        pytest.fail("the job is not reported as missing")

    def test_death_of_a_keeper_wakes_the_engine(self, process: ProcessHarness) -> None:
        spec = process.spec("sleep 1000")
        handle = process.runner.start(spec, None)
        wait_for(lambda: isinstance(process.state(handle), Running))
        process.woken.clear()
        kill(process.keeper(spec))
        assert process.woken.wait(2)
        wait_for(lambda: is_lost(process, handle))  # the wake-up may have been that of the start

    def test_unpacking_ends_with_its_keeper(self, process: ProcessHarness, tmp_path: Path) -> None:
        pipe = tmp_path / "code.tar.gz"
        os.mkfifo(pipe)
        pipe_fd = os.open(pipe, os.O_RDWR)
        try:
            spec = process.spec("echo ran", upload=str(pipe))
            handle = process.runner.start(spec, None)
            others = {server_of(process)}

            def unpacking() -> tuple[int, int] | None:
                pairs = [(pid, parent_of(pid)) for pid in process.servers()]
                return next((pair for pair in pairs if pair[1] not in others and parent_of(pair[1]) in others), None)

            pid, keeper = wait_for(unpacking)
            kill(keeper)
            wait_for(lambda: is_lost(process, handle))
            wait_for(lambda: not lives(pid), 2)
        finally:
            os.close(pipe_fd)

    def test_zombie_keeper_counts_as_dead(self, process: ProcessHarness) -> None:
        """The suspended server does not reap its keeper."""
        spec = process.spec("sleep 1000")
        handle = process.runner.start(spec, None)
        keeper, server = process.keeper(spec), server_of(process)
        os.kill(server, signal.SIGSTOP)
        try:
            kill(keeper)
            wait_for(lambda: is_lost(process, handle))
        finally:
            os.kill(server, signal.SIGCONT)


class TestDeathOfTheServer:
    def test_keepers_survive_their_server(self, process: ProcessHarness) -> None:
        spec = process.spec("until [ -e ../go ]; do sleep 0.05; done; echo done; exit 3")
        handle = process.runner.start(spec, None)
        wait_for(lambda: isinstance(process.state(handle), Running))
        kill(server_of(process))
        assert process.run("exit 4")[0].code == 4
        assert isinstance(process.state(handle), Running)
        (Path(spec.folder) / "go").touch()
        assert process.end(handle).code == 3
        assert (Path(spec.folder) / "log").read_bytes() == b"done\n"

    def test_jobs_can_be_stopped_after_the_server_died(self, process: ProcessHarness) -> None:
        uuid, handle = start_tree(process)
        kill(server_of(process))
        process.runner.close()
        process.runner = process.another()
        process.runner.stop(handle, force=False)
        process.end(handle)
        assert processes_of(uuid) == []

    def test_death_during_starts_neither_repeats_nor_loses_jobs(self, process: ProcessHarness) -> None:
        """Killed at any moment of a start: the job runs once, or it never runs and is lost."""
        specs = [process.spec("echo ran >> ../runs") for _ in range(12)]
        handles = []
        for number, spec in enumerate(specs):
            doomed = wait_for(lambda: process.runner.check() or greeting(process))["pid"]  # type: ignore[func-returns-value]
            killer = threading.Timer(number * 0.0003, kill, (doomed,))
            killer.start()
            handles.append(process.runner.start(spec, None))
            killer.join()

        def is_over(handle: str) -> bool:
            return isinstance(process.state(handle), Exited | Missing)

        for spec, handle in zip(specs, handles, strict=True):
            wait_for(lambda handle=handle: is_over(handle))
            state = process.state(handle)
            if isinstance(state, Exited):
                assert state.exit.succeeded
                assert process.runs(spec) == 1
            else:
                assert not (Path(spec.folder) / "runs").exists()

    def test_server_without_engine_ends_after_the_last_job(self, process: ProcessHarness) -> None:
        handle = process.runner.start(process.spec("sleep 1.5"), None)
        wait_for(lambda: isinstance(process.state(handle), Running))
        process.runner.close()
        time.sleep(0.2)
        assert server_of(process)
        wait_for(lambda: not process.servers())
        process.runner = process.another()
        assert process.end(handle).succeeded
        assert process.run("exit 5")[0].code == 5

    def test_next_server_starts_after_an_idle_one_ended(self, process: ProcessHarness) -> None:
        for code in (1, 2, 3):
            assert process.run(f"exit {code}")[0].code == code
            process.runner.close()
            if code == 2:
                wait_for(lambda: not process.servers())


class TestServer:
    def test_many_engines_share_one_server(self, process: ProcessHarness) -> None:
        runners = [process.another() for _ in range(5)]
        threads = [threading.Thread(target=runner.check) for runner in runners]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)

        def roots() -> list[int]:
            servers = process.servers()
            return [pid for pid in servers if parent_of(pid) not in servers]

        wait_for(lambda: len(roots()) == 1)

    def test_servers_of_two_versions_run_side_by_side(
        self, process: ProcessHarness, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        handle = process.runner.start(process.spec("sleep 1000"), None)
        monkeypatch.setattr(keeper_server, "VERSION", 999)
        newer = process.another()
        wait_for(lambda: isinstance(process.state(handle, newer), Running))
        newer.stop(handle, force=True)
        process.end(handle, newer)

    @pytest.mark.parametrize(("command", "state"), [("sleep 1000", Running), ("true", Exited)])
    def test_job_whose_news_are_lost_is_found_by_its_files(
        self, process: ProcessHarness, monkeypatch: pytest.MonkeyPatch, command: str, state: type[State]
    ) -> None:
        process.runner.check()
        monkeypatch.setattr(process.runner._client, "_on_news", lambda event, uuid: None)
        handle = process.runner.start(process.spec(command), None)
        assert isinstance(process.state(handle), Pending)
        wait_for(lambda: isinstance(process.state(handle), state))

    def test_server_survives_invalid_requests(self, process: ProcessHarness) -> None:
        process.runner.check()
        server = server_of(process)
        folder = os.open(process.data / "process", os.O_RDONLY)
        try:
            for line in (
                b"nonsense\n",
                b"{}\n",
                b"[1]\n",
                b'{"uuid": 3}\n',
                b'{"uuid": "../../x"}\n',
                b"\xff\n",
                b"half",
            ):
                with socket.socket(socket.AF_UNIX) as connection:
                    connection.settimeout(5)
                    connection.connect(f"/proc/self/fd/{folder}/server-{keeper_server.VERSION}")
                    connection.recv(4096)
                    connection.sendall(line)
                    if line.endswith(b"\n"):
                        connection.recv(4096)
        finally:
            os.close(folder)
        assert process.run("exit 6")[0].code == 6
        assert server_of(process) == server

    def test_server_has_no_open_file_of_the_engine(self, process: ProcessHarness, tmp_path: Path) -> None:
        with (tmp_path / "secret").open("w") as file:
            os.set_inheritable(file.fileno(), True)
            process.runner.check()
            pid = server_of(process)
            targets = []
            for number in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(FileNotFoundError):  # a connection that has ended meanwhile
                    targets.append(os.readlink(f"/proc/{pid}/fd/{number}"))
        assert not [target for target in targets if "secret" in target]
        assert os.getsid(pid) == pid
        assert os.readlink(f"/proc/{pid}/cwd") == "/"


class TestStrangers:
    @pytest.mark.parametrize(
        "handle",
        [
            "",
            "nonsense",
            "[]",
            "3",
            "null",
            '{"v": 1}',
            '{"v": 1, "uuid": "../../../../../../tmp", "boot": ""}',
            '{"v": 2, "uuid": "' + "0" * 32 + '", "boot": ""}',
            '{"v": 1, "uuid": "' + "/" * 32 + '", "boot": ""}',
        ],
    )
    def test_invalid_handles_change_nothing(self, process: ProcessHarness, handle: str) -> None:
        """Their states cannot be determined: `poll` leaves them out, and the other methods raise."""
        spec = process.spec("sleep 1000")
        mine = process.runner.start(spec, None)
        wait_for(lambda: isinstance(process.state(mine), Running))
        assert list(process.runner.poll([handle, mine])) == [mine]
        for verb in (lambda: process.runner.stop(handle, True), lambda: process.runner.clean(handle)):
            with pytest.raises(RunnerUnavailable):
                verb()
        assert isinstance(process.state(mine), Running)

    def test_handle_without_a_job_is_missing(self, process: ProcessHarness) -> None:
        mine = json.loads(process.runner.start(process.spec("sleep 1000"), None))
        other = json.dumps(mine | {"uuid": "0" * 32})
        assert process.state(other) == Missing()
        process.runner.stop(other, force=True)
        process.runner.clean(other)
        assert isinstance(process.state(json.dumps(mine)), Running) or wait_for(
            lambda: isinstance(process.state(json.dumps(mine)), Running)
        )

    def test_no_process_is_signalled_after_a_reboot(
        self, process: ProcessHarness, make_process: Callable[..., ProcessHarness], tmp_path: Path
    ) -> None:
        handle = process.runner.start(process.spec("sleep 1000"), None)
        ended = process.runner.start(process.spec("exit 3"), None)
        process.end(ended)
        wait_for(lambda: isinstance(process.state(handle), Running))
        boot_id = tmp_path / "boot_id"
        boot_id.write_text("another boot\n")
        rebooted = make_process(options={"boot_id": str(boot_id)})
        assert rebooted.runner.poll([handle]) == {handle: Missing()}
        for force in (False, True):
            rebooted.runner.stop(handle, force)
        assert rebooted.end(ended).code == 3, "what has ended before is known"
        rebooted.runner.close()
        assert isinstance(process.state(handle), Running)

    def test_forged_keeper_is_not_signalled(self, process: ProcessHarness) -> None:
        spec = process.spec("sleep 1000")
        handle = process.runner.start(spec, None)
        wait_for(lambda: isinstance(process.state(handle), Running))
        path = process.data / "process" / "jobs" / spec.uuid / "keeper.json"
        true = path.read_text()
        time.sleep(0.05)  # the kernel tells start times in steps of 10 ms
        with subprocess.Popen(["sleep", "1000"]) as stranger:
            path.write_text(json.dumps(json.loads(true) | {"pid": stranger.pid}))
            other = process.another()
            with pytest.raises(RunnerUnavailable):
                other.stop(handle, True)
            assert stranger.poll() is None
            stranger.kill()
        path.write_text(true)
        assert isinstance(process.state(handle), Running)

    def test_keeper_of_another_boot_is_not_signalled(self, process: ProcessHarness) -> None:
        """Even where the process with its number began at the same time after that boot."""
        spec = process.spec("sleep 1000")
        handle = process.runner.start(spec, None)
        wait_for(lambda: isinstance(process.state(handle), Running))
        path = process.data / "process" / "jobs" / spec.uuid / "keeper.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"boot_id": "another boot"}))
        with pytest.raises(RunnerUnavailable):
            process.another().stop(handle, True)
        assert isinstance(process.state(handle), Running)

    def test_only_processes_with_the_marker_are_killed(self) -> None:
        uuid = "b" * 31
        with (
            subprocess.Popen(["sleep", "1000"], env={"POLYJOB_UUID": uuid}) as marked,
            subprocess.Popen(["sleep", "1000"], env={"POLYJOB_UUID": f"{uuid}b", "X_POLYJOB_UUID": uuid}) as other,
        ):
            kill_marked(uuid)
            assert marked.wait(10) == -signal.SIGKILL
            assert other.poll() is None
            other.kill()

    def test_process_is_killed_even_if_its_first_thread_has_ended(self) -> None:
        program = (
            "import ctypes, threading, time\n"
            "threading.Thread(target=time.sleep, args=(1000,)).start()\n"
            "ctypes.CDLL(None).pthread_exit(None)\n"
        )
        uuid = "c" * 31
        with subprocess.Popen([sys.executable, "-S", "-c", program], env={"POLYJOB_UUID": uuid}) as process:
            wait_for(lambda: state_of(process.pid) == "Z")
            kill_marked(uuid)
            assert process.wait(10) == -signal.SIGKILL

    def test_unreadable_exit_is_lost(self, process: ProcessHarness) -> None:
        spec = process.spec("exit 0")
        handle = process.runner.start(spec, None)
        process.end(handle)
        ending = process.data / "process" / "jobs" / spec.uuid / "exit.json"
        for text in ('{"reason": "exi', "", "[]", "3", '{"reason": "nonsense"}', '{"reason": "exited", "more": 1}'):
            ending.write_text(text)
            assert process.end(handle, process.another()).reason is Reason.LOST


class TestOtherAccounts:
    """A command that became another account, as under sudo, may not be killed by an ordinary server."""

    @pytest.fixture
    def sudo(self, public: Path) -> str:
        """A command line that runs what follows it as root, whoever calls it."""
        require_root()
        require("python3", Path(EXECUTABLE_BY_ALL).exists(), "no Python that every account can execute")
        program = public / "sudo"
        shutil.copy(EXECUTABLE_BY_ALL, program)
        program.chmod(0o4755)
        code = "import os, sys; os.setgid(0); os.setuid(0); os.execvp(sys.argv[1], sys.argv[1:])"
        return f"{program} -I -S -c '{code}'"

    def test_unkillable_process_is_named_as_such(
        self, public: Path, sudo: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "executable", EXECUTABLE_BY_ALL)

        def run() -> None:
            process = ProcessHarness(public / "own")
            try:
                spec = process.spec(f"{sudo} sleep 3 & setsid tail -f /dev/null & sleep 0.5; exit 3", grace=0.1)
                handle = process.runner.start(spec, None)
                note = wait_for(lambda: getattr(process.state(handle), "note", None))
                assert "sleep" in note
                assert "another account" in note
                end = process.end(handle)
                assert (end.code, end.stragglers) == (3, ("tail",))
                assert "could not be killed" in (end.message or "")
            finally:
                process.close()

        (public / "own").mkdir()
        as_nobody(run, public / "own")

    def test_unkillable_process_delays_a_build_and_is_logged(self, public: Path, sudo: str) -> None:
        request = {
            "argv": ["/bin/sh", "-c", f"{sudo} sleep 2 & sleep 0.4"],
            "env": {"PATH": "/usr/bin:/bin"},
            "folder": str(public),
            "grace": 0.1,
            "account": None,
        }
        command = [EXECUTABLE_BY_ALL, "-I", "-S", launch.__file__, "build_step_supervisor"]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, user=65534, group=65534, extra_groups=[]
        ) as supervisor:
            assert supervisor.stdin
            assert supervisor.stdout
            supervisor.stdin.write(json.dumps(request).encode() + b"\n")
            supervisor.stdin.flush()
            assert b"another account: sleep" in supervisor.stdout.readline()
            assert supervisor.wait(20) == 0
