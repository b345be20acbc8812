"""Signals, Ctrl-C on a terminal, and lost connections of `polyjob run`."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from tests.cli.helpers import (
    JOB_URL,
    RUNNING_JOB,
    STOPPED_JOB,
    Responder,
    Terminal,
    command,
    polyjob,
    popen,
    scripted_server,
    send,
)
from tests.e2e.conftest import Server

JOBS_BY_AGE = "/api/v1/root/quick-start/jobs?limit=1&sort=-created_at"


@pytest.mark.parametrize(("count", "options"), [(1, []), (2, []), (1, ["--detach"])])
def test_signal_during_submission_waits_for_the_answer(count: int, options: list[str]) -> None:
    has_arrived, may_answer, stops = threading.Event(), threading.Event(), []

    def create(handler: BaseHTTPRequestHandler) -> dict[str, Any]:
        has_arrived.set()
        may_answer.wait(30)
        return RUNNING_JOB

    responders: dict[str, Responder] = {
        "GET /api/v1/ana/demo": lambda _: {},
        "POST /api/v1/ana/demo/jobs": create,
        f"POST {JOB_URL}/stop": lambda _: stops.append(1) or {},
        f"GET {JOB_URL}": lambda _: STOPPED_JOB if stops else RUNNING_JOB,
        f"GET {JOB_URL}/logs": lambda handler: send(handler, b""),
        f"GET {JOB_URL}/statuses": lambda _: {"results": [], "next": None},
    }
    with scripted_server(responders) as url:
        process = subprocess.Popen(
            command("run", "-p", "ana/demo", *options, "--", "x"),
            env=os.environ | {"POLYJOB_URL": url, "POLYJOB_TOKEN": "k"},
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        assert process.stderr is not None
        with process.stderr:
            assert has_arrived.wait(30)
            process.send_signal(signal.SIGTERM)
            message = b""
            while b"Waiting" not in message:  # two pending signals of the same number are one
                line = process.stderr.readline()
                assert line
                message += line
            if count == 2:
                process.send_signal(signal.SIGTERM)
                assert process.wait(30) == 130
            may_answer.set()
            message += process.stderr.read()
        assert process.wait(30) == 130
    assert b"Waiting for the server's answer" in message
    assert b"Traceback" not in message
    assert len(stops) == (1 if count == 1 else 0)


class TestWithoutTerminal:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_signal_stops_the_job(self, server: Server, number: int) -> None:
        process = popen(server, "run", "--", "trap 'echo bye; exit 5' TERM; echo begun; while :; do sleep 0.1; done")
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
        assert process.returncode == 130, err
        assert out.endswith(b"bye\n")
        assert b"begun" not in out
        assert b"stopped" in err

    @pytest.mark.parametrize("pause", [0.0, 0.005, 0.02, 0.1])
    def test_many_signals_stop_the_job_once(self, server: Server, pause: float) -> None:
        process = popen(server, "run", "--", "trap 'sleep 0.5; exit 5' TERM; echo begun; while :; do sleep 0.1; done")
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        for number in [signal.SIGTERM, signal.SIGINT] * 4:
            process.send_signal(number)
            time.sleep(pause)
        _, err = process.communicate(timeout=30)
        assert process.returncode == 130, err
        assert b"Traceback" not in err
        assert err.count(b"Stopping") == 1

    def test_closed_output_does_not_stop_the_job(self, server: Server) -> None:
        process = popen(server, "run", "--", "echo begun; while sleep 0.1; do echo more; done")
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == b"begun\n"
        process.stdout.close()
        err = process.stderr.read().decode()
        process.stderr.close()
        assert process.wait(30) == 1
        name = err.rpartition("polyjob attach ")[2].strip()
        assert name.startswith("root.quick-start.jobs."), err
        assert polyjob(server, "stop", name).returncode == 0

    def test_run_continues_after_a_server_crash(self, tmp_path: Path) -> None:
        with Server(tmp_path) as server:
            process = popen(server, "run", "--", "echo one; sleep 4; echo two; exit 3")
            assert process.stdout is not None
            assert process.stdout.readline() == b"one\n"
            server.kill()
            server.start()
            out, err = process.communicate(timeout=60)
            assert (process.returncode, out) == (3, b"two\n"), err


class TestAttach:
    def test_job_is_shown_from_its_beginning(self, server: Server) -> None:
        number = str(server.submit("echo one; sleep 0.5; echo two; exit 6")["id"])
        done = polyjob(server, "attach", number)
        assert (done.returncode, done.stdout) == (6, b"one\ntwo\n")
        assert b"exit code 6" in done.stderr

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_signal_leaves_the_job_running(self, server: Server, number: int) -> None:
        job = server.submit("echo begun; sleep 600")["id"]
        process = popen(server, "attach", str(job))
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
        assert (process.returncode, f"polyjob attach root.quick-start.jobs.{job}" in err.decode()) == (130, True)
        assert server.job(job)["last_status"] == "running"
        assert polyjob(server, "stop", str(job)).returncode == 0

    def test_ctrl_c_on_a_terminal_asks(self, server: Server) -> None:
        job = server.submit("echo begun; sleep 600")["id"]
        with Terminal(server, "attach", str(job)) as terminal:
            terminal.read_until(b"begun\r\n")
            terminal.type(b"\x03")
            terminal.read_until(b"watching? ")
            terminal.type(b"s\n")
            terminal.read_until(b"stopped")
        assert terminal.exit_code == 130


class TestOnTerminal:
    @pytest.fixture
    def terminal(self, server: Server) -> Terminal:
        """A terminal that shows a running job and asks what to do with it."""
        terminal = Terminal(server, "run", "--", "echo begun; sleep 600")
        terminal.read_until(b"begun\r\n")
        terminal.type(b"\x03")
        terminal.read_until(b"watching? ")
        return terminal

    @staticmethod
    def newest_job(server: Server) -> Any:
        return server.call("GET", JOBS_BY_AGE).json["results"][0]

    def stop_newest_job(self, server: Server) -> None:
        server.call("POST", f"/api/v1/root/quick-start/jobs/{self.newest_job(server)['id']}/stop")

    @pytest.mark.parametrize(
        ("reply", "code", "status"),
        [(b"d\n", 0, "running"), (b"s\n", 130, "stopped"), (b"\x03", 130, "stopped"), (b"stop\n", 130, "stopped")],
    )
    def test_ctrl_c_asks(self, server: Server, terminal: Terminal, reply: bytes, code: int, status: str) -> None:
        with terminal:
            terminal.type(reply)
            terminal.read_until(b"continues" if code == 0 else b"stopped")
        assert terminal.exit_code == code
        assert self.newest_job(server)["last_status"] == status
        self.stop_newest_job(server)

    @pytest.mark.parametrize("reply", [b"n\n", b"no\n", b"x\n", b"\n", b"stopp\n", b"yes\n"])
    def test_unknown_answer_repeats_the_question(self, server: Server, terminal: Terminal, reply: bytes) -> None:
        with terminal:
            terminal.type(reply)
            terminal.read_until(b"watching? ")
            terminal.type(b"d\n")
            terminal.read_until(b"continues")
        assert self.newest_job(server)["last_status"] == "running"
        self.stop_newest_job(server)

    def test_kept_job_is_shown_to_its_end(self, server: Server, tmp_path: Path) -> None:
        gate = tmp_path / "gate"
        script = f"echo begun; while [ ! -e {gate} ]; do sleep 0.05; done; echo last; exit 4"
        with Terminal(server, "run", "--", script) as terminal:
            terminal.read_until(b"begun\r\n")
            terminal.type(b"\x03")
            terminal.read_until(b"watching? ")
            terminal.type(b"k\n")
            gate.touch()
            terminal.read_until(b"last\r\n")
            terminal.read_until(b"exit code 4")
        assert terminal.exit_code == 4

    def test_third_ctrl_c_leaves_a_slow_job(self, server: Server) -> None:
        script = "trap 'sleep 5' TERM; echo begun; while :; do sleep 0.1; done"
        with Terminal(server, "run", "--", script) as terminal:
            terminal.read_until(b"begun\r\n")
            for message in (b"watching? ", b"Stopping", b"Leaving"):
                terminal.type(b"\x03")
                terminal.read_until(message)
        assert terminal.exit_code == 130
        assert polyjob(server, "stop", "--wait", str(self.newest_job(server)["id"])).returncode == 0
