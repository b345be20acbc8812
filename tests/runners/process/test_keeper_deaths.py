"""Deaths during a start, and of keepers and servers: no job runs twice or is lost unnoticed."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runners.base import Exited, JobSpec, Missing, Pending, RunnerUnavailable, Running, State
from runners.process import attempts, keeper_server, launch, private_folder
from runners.process.attempts import FENCED
from runners.process.linux import BOOT_ID_PATH
from tests.runners.harness import (
    ProcessHarness,
    kill,
    lives,
    parent_of,
    processes_of,
    wait_for,
)
from tests.runners.process.helpers import TREE, TREE_SIZE, start_tree

BOOT_ID = Path(BOOT_ID_PATH).read_text().strip()


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


def die_in_start(
    process: ProcessHarness, spec: JobSpec, at: str, has_links: bool = True, is_prepared: bool = False
) -> None:
    """Kill a keeper server while it gives a job to a keeper: at the first call of the function `at`.

    A number after the name selects a later call. If `is_prepared`, a folder was prepared for the job.
    """
    request = request_of(process, spec)
    name, _, number = at.partition(" ")
    calls = int(number or 1)
    pid = os.fork()
    if pid == 0:
        try:
            owner, _, name = name.rpartition(".")
            keeper_process = keeper_server.KeeperProcess
            targets = {
                "os": os,
                "KeeperProcess": keeper_process,
                "attempts": attempts,
                "private_folder": private_folder,
            }
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
            if is_prepared:
                server._prepare()
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
    "private_folder.replace_file",
    "KeeperProcess.give_job",
]


@pytest.mark.parametrize("has_links", [True, False], ids=["links", "no-links"])
class TestDeathInStart:
    @pytest.mark.parametrize("at", DEATHS)
    def test_untaken_job_is_started_by_the_next_server(self, process: ProcessHarness, at: str, has_links: bool) -> None:
        spec = process.printing_job("x")
        die_in_start(process, spec, at, has_links)
        handle = process.runner.start(spec, None)
        assert process.end(handle).succeeded
        assert process.log(spec, handle) == b"x"
        assert process.runs(spec) == 1

    @pytest.mark.parametrize("at", DEATHS)
    def test_start_of_an_untaken_job_can_be_prevented(self, process: ProcessHarness, at: str, has_links: bool) -> None:
        spec = process.printing_job("x")
        die_in_start(process, spec, at, has_links)
        assert process.runner.prevent_start(spec.uuid) is None
        assert process.runner.inventory() == {}
        handle = process.runner.start(spec, None)
        assert is_lost(process, handle)
        assert not (Path(spec.folder) / "outputs").exists()

    @pytest.mark.parametrize("at", ["os.pwrite", "os.unlink 2", "KeeperProcess.give_job"])
    def test_job_whose_second_keeper_was_killed_is_lost(
        self, process: ProcessHarness, at: str, has_links: bool
    ) -> None:
        spec = process.endless_job()
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
        spec = process.printing_job("x")
        die_in_start(process, spec, at, has_links)
        for file in (process.data / "process" / "jobs" / spec.uuid).glob("attempt*"):
            if file.read_bytes():
                file.write_text("boot-id-of-another-boot")
        handle = process.runner.start(spec, None)
        assert is_lost(process, handle)
        assert not (Path(spec.folder) / "outputs").exists()


@pytest.mark.parametrize("at", ["os.rename", "KeeperProcess.give_job"])
class TestDeathWithPreparedFolder:
    def test_untaken_job_is_started_by_the_next_server(self, process: ProcessHarness, at: str) -> None:
        spec = process.printing_job("x")
        die_in_start(process, spec, at, is_prepared=True)
        handle = process.runner.start(spec, None)
        assert process.end(handle).succeeded
        assert process.runs(spec) == 1

    def test_start_of_an_untaken_job_can_be_prevented(self, process: ProcessHarness, at: str) -> None:
        spec = process.printing_job("x")
        die_in_start(process, spec, at, is_prepared=True)
        assert process.runner.prevent_start(spec.uuid) is None
        assert process.runner.inventory() == {}
        assert is_lost(process, process.runner.start(spec, None))
        assert not (Path(spec.folder) / "outputs").exists()

    def test_next_server_removes_prepared_folders(self, process: ProcessHarness, at: str) -> None:
        die_in_start(process, process.printing_job("x"), at, is_prepared=True)
        left = set(prepared_folders(process))
        process.end(process.runner.start(process.printing_job("y"), None))
        assert left.isdisjoint(prepared_folders(process))


def prepared_folders(process: ProcessHarness) -> list[str]:
    """Return the names of the folders that keeper servers have prepared: the pids of keepers."""
    return os.listdir(process.data / "process" / f"prepared-{keeper_server.VERSION}")


def new_attempt(process: ProcessHarness) -> Path:
    """Return the path of the attempt of a job that was never started; its folder exists."""
    folder = process.data / "process" / "jobs" / process.spec().uuid
    folder.mkdir(parents=True)
    return folder / "attempt"


class TestAttempt:
    @pytest.mark.parametrize("content", ["", "boot-id-of-another-boot"])
    def test_possibly_taken_job_is_not_started_again(self, process: ProcessHarness, content: str) -> None:
        spec = process.printing_job("x")
        die_in_start(process, spec, "KeeperProcess.give_job")
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
        spec = process.printing_job("x")
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
        spec = process.printing_job("x")
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
        spec = process.printing_job("x")
        die_in_start(process, spec, "KeeperProcess.give_job")
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
        wait_for(lambda: is_lost(process, handle))
        assert not [pid for pid in stopped if lives(pid)]

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
