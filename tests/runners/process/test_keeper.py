"""Keepers: stops and ends of jobs, and processes that are not theirs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from polyjob.logs.times import LineTimes
from runners.base import Missing, Reason, RunnerUnavailable, Running
from runners.process import launch
from runners.process.markers import kill_marked
from tests.require import require, require_root
from tests.runners.harness import (
    EXECUTABLE_BY_ALL,
    ProcessHarness,
    as_nobody,
    cmdline,
    processes_of,
    state_of,
    wait_for,
)
from tests.runners.process.helpers import TREE, start_tree


class TestSecrets:
    SECRETS = {"TOKEN": "correct horse", "KEY": "first line\nab\nsecond line"}

    def test_secret_is_masked_in_the_log_while_it_is_written(self, process: ProcessHarness) -> None:
        cmd = (
            'printf "%s, %s" "$TOKEN" "corr"; sleep 0.05; echo "ect horse"; echo "$KEY"; printf corr; read never < fifo'
        )
        spec = process.spec(f"mkfifo fifo; {cmd}", secrets=self.SECRETS)
        handle = process.runner.start(spec, None)
        log = Path(spec.folder) / "log"
        wait_for(lambda: log.exists() and log.read_bytes() == b"***, ***\n***\nab\n***\n")
        process.runner.stop(handle, force=True)
        process.end(handle)
        assert log.read_bytes() == b"***, ***\n***\nab\n***\ncorr"

    def test_limit_of_the_log_counts_masked_bytes(self, process: ProcessHarness) -> None:
        _, log = process.run('echo "$TOKEN"; echo "$TOKEN"', secrets=self.SECRETS, log_limit=8)
        assert log == b"***\n***\n"

    def test_secret_is_in_no_file_and_no_argument(self, process: ProcessHarness) -> None:
        spec = process.spec("echo $TOKEN; read never < fifo", secrets=self.SECRETS)
        (Path(spec.folder) / "work").mkdir()
        os.mkfifo(Path(spec.folder) / "work/fifo")
        handle = process.runner.start(spec, None)
        wait_for(lambda: (Path(spec.folder) / "log").exists() and (Path(spec.folder) / "log").read_bytes())
        files = [path for path in process.data.rglob("*") if path.is_file()]
        assert not [path for path in files if b"horse" in path.read_bytes()]
        assert not [pid for pid in processes_of(spec.uuid) if b"horse" in cmdline(pid)]
        process.runner.stop(handle, force=True)
        process.end(handle)


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


class TestLog:
    def test_keeper_records_when_lines_were_written(self, process: ProcessHarness) -> None:
        spec = process.spec("echo one; sleep 0.3; echo two")
        begin = time.time()
        process.end(process.runner.start(spec, None))
        with LineTimes(Path(spec.folder) / "log") as times:
            first, second = times.at(0), times.at(4)
        assert first and second
        assert begin - 0.01 <= first.timestamp() <= second.timestamp() - 0.2 <= time.time()

    def test_silent_job_has_no_index(self, process: ProcessHarness) -> None:
        spec = process.spec("true")
        process.end(process.runner.start(spec, None))
        assert not (Path(spec.folder) / "log.times").exists()


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
