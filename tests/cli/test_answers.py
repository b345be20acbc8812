"""The command line against a server that answers late, never, or nonsense."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from polyjob.cli import client as clients
from polyjob.cli import following
from polyjob.cli.client import Client, NoServer
from polyjob.cli.following import Follower

AT = "/api/v1/ana/demo/jobs/1"
JOB = {
    "id": 1, "unique_name": "ana.demo.jobs.1", "last_status": "running", "finished_at": None, "started_at": None,
    "build_job": None, "notes": [], "urls": {"page": "http://x/1"}, "exit": None, "exit_code": None,
}  # fmt: skip
STOPPED = JOB | {"last_status": "stopped", "finished_at": "2026-01-01T00:00:00+00:00"}
Answering = Callable[[BaseHTTPRequestHandler], Any]


@contextlib.contextmanager
def serving(answers: dict[str, Answering]) -> Iterator[str]:
    """The address of a server that gives each `METHOD /path` its answer: a document, or None where it wrote itself."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            self.rfile.read(length)
            found = answers[f"{self.command} {self.path.partition('?')[0]}"](self)
            if found is not None:
                send(self, json.dumps(found).encode())

        do_GET = do_POST = answer

        def log_message(self, *words: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def send(handler: BaseHTTPRequestHandler, body: bytes | None) -> None:
    handler.send_response(200)
    if body is not None:
        handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body or b"")


def test_a_silent_job_is_followed_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "READ", 0.2)
    monkeypatch.setattr(following, "BROKEN", 0.1)
    monkeypatch.setattr(following, "AGAIN", 0.01)
    asked: list[str] = []

    def log(handler: BaseHTTPRequestHandler) -> None:
        asked.append(handler.path)
        if len(asked) > 3:
            send(handler, b"late\n")
            return
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.flush()
        time.sleep(0.4)

    looks = iter([JOB])
    answers: dict[str, Answering] = {f"GET {AT}": lambda _: next(looks, STOPPED), f"GET {AT}/logs": log}
    with serving(answers) as address:
        out = io.BytesIO()
        assert Follower(Client(address, "k", True), "/ana/demo/jobs/1", out).follow() == STOPPED
    assert out.getvalue() == b"late\n"
    assert len(asked) == 4


@pytest.mark.parametrize(("count", "options"), [(1, []), (2, []), (1, ["--detach"])])
def test_a_signal_while_the_job_is_submitted_waits_for_its_name(count: int, options: list[str]) -> None:
    arrived, may_answer, stops = threading.Event(), threading.Event(), []

    def submit(handler: BaseHTTPRequestHandler) -> dict[str, Any]:
        arrived.set()
        may_answer.wait(30)
        return JOB

    answers: dict[str, Answering] = {
        "GET /api/v1/ana/demo": lambda _: {},
        "POST /api/v1/ana/demo/jobs": submit,
        f"POST {AT}/stop": lambda _: stops.append(1) or {},
        f"GET {AT}": lambda _: STOPPED if stops else JOB,
        f"GET {AT}/logs": lambda handler: send(handler, b""),
        f"GET {AT}/statuses": lambda _: {"results": [], "next": None},
    }
    with serving(answers) as address:
        process = subprocess.Popen(
            [sys.executable, "-m", "polyjob", "run", "-p", "ana/demo", *options, "--", "x"],
            env=os.environ | {"POLYJOB_URL": address, "POLYJOB_TOKEN": "k"}, stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )  # fmt: skip
        assert process.stderr is not None
        with process.stderr:
            assert arrived.wait(30)
            process.send_signal(signal.SIGTERM)
            said = process.stderr.readline()
            if count == 2:
                process.send_signal(signal.SIGTERM)
                assert process.wait(30) == 130
            may_answer.set()
            said += process.stderr.read()
        assert process.wait(30) == 130
    assert b"Waiting for the server's answer" in said
    assert b"Traceback" not in said
    assert len(stops) == (1 if count == 1 else 0)


def test_the_key_is_sent_and_no_password_of_the_machine(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1\nlogin a\npassword b\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    seen: list[str | None] = []
    answers: dict[str, Answering] = {
        "GET /api/v1/x": lambda handler: seen.append(handler.headers["Authorization"]) or {}
    }
    with serving(answers) as address:
        Client(address, "the-key", False).get("/x")
        Client(address, None, False).get("/x")
    assert seen == ["token the-key", None]


def test_what_is_no_polyjob_is_said() -> None:
    answers: dict[str, Answering] = {"GET /api/v1/x": lambda handler: send(handler, b"<html>")}
    with serving(answers) as address, pytest.raises(NoServer, match="no polyjob"):
        Client(address, None, True).get("/x")
