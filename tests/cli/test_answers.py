"""The command line against a server that answers late, never, or nonsense."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from click.testing import CliRunner

from polyjob.cli import FAILED, LOST_SERVER, log_follower, main, outputs, run
from polyjob.cli import client as clients
from polyjob.cli.client import Client, NoServer, exit_on_error
from polyjob.cli.log_follower import Follower

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
    monkeypatch.setattr(log_follower, "BROKEN", 0.1)
    monkeypatch.setattr(log_follower, "AGAIN", 0.01)
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
    with serving(answers) as address, pytest.raises(NoServer, match="is no polyjob"):
        Client(address, None, True).get("/x")


def waiting_job(text: str | None) -> dict[str, Any]:
    return JOB | {"last_status": "created", "waiting": text}


def test_reason_of_waiting_is_said_once_and_again_when_it_changes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(log_follower, "SAY_WAITING_AFTER", 0.0)
    monkeypatch.setattr(log_follower, "LAST_LOOK", 0.01)
    looks = iter(["3 ahead", "3 ahead", None, "2 ahead", "2 ahead"])

    def look(handler: BaseHTTPRequestHandler) -> Any:
        text = next(looks, "end")
        if text is None:
            handler.send_response(304)
            handler.end_headers()
            return None
        return STOPPED if text == "end" else waiting_job(text)

    answers: dict[str, Answering] = {f"GET {AT}": look, f"GET {AT}/logs": lambda handler: send(handler, b"")}
    with serving(answers) as address:
        Follower(Client(address, "k", True), "/ana/demo/jobs/1", io.BytesIO()).follow()
    assert capsys.readouterr().err == "3 ahead\n2 ahead\n"


def refuse(handler: BaseHTTPRequestHandler, status: int) -> None:
    handler.send_response(status)
    handler.send_header("Content-Length", "0")
    handler.end_headers()


@pytest.mark.parametrize("status", [502, 503, 504])
def test_proxy_that_answers_for_a_server_that_is_away_is_waited_for(
    status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    looks, logs = iter([JOB]), iter([status, None])

    def look(handler: BaseHTTPRequestHandler) -> Any:
        return next(looks, STOPPED)

    def log(handler: BaseHTTPRequestHandler) -> None:
        number = next(logs)
        refuse(handler, number) if number else send(handler, b"all\n")

    with serving({f"GET {AT}": look, f"GET {AT}/logs": log}) as address:
        out = io.BytesIO()
        assert Follower(Client(address, "k", True), "/ana/demo/jobs/1", out).follow() == STOPPED
    assert out.getvalue() == b"all\n"
    said = capsys.readouterr().err
    assert "No answer from" in said
    assert "answers again" in said


def test_proxy_that_waits_less_long_is_asked_for_less() -> None:
    asked: list[float] = []

    def look(handler: BaseHTTPRequestHandler) -> Any:
        wait = float(handler.path.partition("wait=")[2])
        asked.append(wait)
        return refuse(handler, 504) if wait > 10 else STOPPED

    with serving({f"GET {AT}": look}) as address:
        assert Follower(Client(address, "k", True), "/ana/demo/jobs/1", io.BytesIO()).until_done() == STOPPED
    assert asked == [30, 15, 7.5]


def test_compressed_log_is_refused() -> None:
    def log(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Encoding", "gzip")
        handler.end_headers()

    accepted: list[str | None] = []

    def look(handler: BaseHTTPRequestHandler) -> Any:
        accepted.append(handler.headers["Accept-Encoding"])
        return JOB

    with serving({f"GET {AT}": look, f"GET {AT}/logs": log}) as address, pytest.raises(NoServer, match="compresses"):
        Follower(Client(address, "k", True), "/ana/demo/jobs/1", io.BytesIO()).follow()
    assert accepted == ["identity"]


def test_lost_server_has_an_exit_code_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_follower, "BROKEN", 0.3)
    with serving({f"GET {AT}": lambda _: JOB, f"GET {AT}/logs": lambda handler: send(handler, b"")}) as address:
        client = Client(address, "k", True)
        follower = Follower(client, "/ana/demo/jobs/1", io.BytesIO())
        assert client.get("/ana/demo/jobs/1") == JOB
    client.http.close()
    said: list[str] = []
    client.on_outage = said.append
    with pytest.raises(SystemExit) as ended, exit_on_error(FAILED):
        follower.until_done()
    assert ended.value.code == LOST_SERVER
    assert len(said) == 1


@pytest.mark.parametrize("words", [["logs", "-f"], ["wait"], ["stop", "--wait"]])
def test_commands_that_follow_report_a_lost_server_alike(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    for module in (log_follower, run):
        monkeypatch.setattr(module, "BROKEN", 0.3)
    looks = iter([JOB])

    def look(handler: BaseHTTPRequestHandler) -> Any:
        handler.close_connection = True
        return next(looks, None)  # then no answer

    answers: dict[str, Answering] = {
        f"GET {AT}": look,
        f"GET {AT}/logs": lambda handler: setattr(handler, "close_connection", True),
        f"POST {AT}/stop": lambda _: {},
    }
    with serving(answers) as address:
        monkeypatch.setenv("POLYJOB_URL", address)
        monkeypatch.setenv("POLYJOB_TOKEN", "k")
        with pytest.raises(SystemExit) as ended:
            main([*words, "ana.demo.jobs.1"])
    assert ended.value.code == LOST_SERVER
    assert "Jobs are not affected. Give the same command again to come back." in capfd.readouterr().err


def test_waiting_for_a_lost_server_ends_with_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter([JOB])

    def look(handler: BaseHTTPRequestHandler) -> Any:
        handler.close_connection = True
        return next(looks, None)

    with serving({f"GET {AT}": look}) as address:
        monkeypatch.setenv("POLYJOB_URL", address)
        monkeypatch.setenv("POLYJOB_TOKEN", "k")
        begun = time.monotonic()
        done = CliRunner().invoke(main, ["wait", "--timeout", "1", "ana.demo.jobs.1"])
    assert done.exit_code == LOST_SERVER
    assert time.monotonic() - begun < 20


def test_tree_is_listed_in_order_while_folders_are_asked_for() -> None:
    tree = {
        "": {"files": [["a.txt", 1], ["b", 2]], "dirs": ["a", "c"]},
        "a": {"files": [["x", 3]], "dirs": ["d"]},
        "a/d": {"files": [["y", 4], ["y", 5]], "dirs": []},
    }
    asked: list[str] = []

    def answer(handler: BaseHTTPRequestHandler) -> Any:
        asked.append(parse_qs(urlsplit(handler.path).query).get("path", [""])[0])
        return tree[asked[-1]]

    with serving({f"GET {AT}/outputs/tree": answer}) as address:
        listed = outputs._below(Client(address, "k", True), "/ana/demo/jobs/1", "")
        found = [next(listed) for _ in range(5)]
    assert found == [("a.txt", 1), ("a/d/y", 4), ("a/d/y", 5), ("a/x", 3), ("b", 2)]
    assert asked == ["", "a", "a/d"]


def test_certificate_that_is_not_trusted_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1024)
                connection.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        client = Client(f"https://127.0.0.1:{listener.getsockname()[1]}", "k", False)
        with pytest.raises(NoServer, match="REQUESTS_CA_BUNDLE"):
            client.get("/x")
        thread.join()


def test_missing_file_of_certificates_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/missing/bundle.pem")
    with pytest.raises(NoServer, match=r"/missing/bundle\.pem"):
        Client("https://127.0.0.1:1", "k", False).get("/x")
