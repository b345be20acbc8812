"""Follow a job through waiting, silence, proxies and lost servers."""

from __future__ import annotations

import errno
import io
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler
from typing import Any

import click
import pytest
import urllib3

from polyjob.cli import EXIT_FAILED, EXIT_LOST_SERVER, client, log_follower, main, run
from polyjob.cli.client import Client
from polyjob.cli.errors import NoServer, exit_on_error
from polyjob.cli.log_follower import Follower, describe_end, exit_code_of
from polyjob.formatting import LOG_FRAMES
from tests.cli.helpers import JOB_PATH, JOB_URL, RUNNING_JOB, STOPPED_JOB, Responder, invoke, scripted_server, send


def follower(url: str, out: io.BytesIO | None = None) -> Follower:
    return Follower(Client(url, "k", is_local=True), JOB_PATH, out or io.BytesIO())


def test_silent_job_is_followed_to_its_end(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(client, "READ_TIMEOUT_SECONDS", 0.2)
    monkeypatch.setattr(log_follower, "RECONNECT_SECONDS", 0.1)
    monkeypatch.setattr(log_follower, "RECONNECT_PAUSE_SECONDS", 0.01)
    requests: list[str] = []

    def log(handler: BaseHTTPRequestHandler) -> None:
        requests.append(handler.path)
        if len(requests) > 3:
            send(handler, b"late\n")
            return
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.flush()
        time.sleep(0.4)

    views = iter([RUNNING_JOB])
    responders: dict[str, Responder] = {
        f"GET {JOB_URL}": lambda _: next(views, STOPPED_JOB),
        f"GET {JOB_URL}/logs": log,
    }
    with scripted_server(responders) as url:
        out = io.BytesIO()
        assert follower(url, out).follow() == STOPPED_JOB
    assert out.getvalue() == b"late\n"
    assert len(requests) == 4
    assert capsys.readouterr().err == ""


def test_waiting_reason_of_a_job_behind_others_is_shown_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    queued = RUNNING_JOB | {"last_status": "created", "waiting": "2 jobs are ahead.", "queue_position": 3}
    views = iter([queued, STOPPED_JOB])
    responders: dict[str, Responder] = {
        f"GET {JOB_URL}": lambda _: next(views, STOPPED_JOB),
        f"GET {JOB_URL}/logs": lambda handler: send(handler, b""),
    }
    with scripted_server(responders) as url:
        follower(url).follow()
    assert capsys.readouterr().err == "2 jobs are ahead.\n"


def test_waiting_reason_is_shown_once_until_it_changes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(log_follower, "SHOW_WAITING_AFTER_SECONDS", 0.0)
    monkeypatch.setattr(log_follower, "LAST_POLL_SECONDS", 0.01)
    reasons = iter(["3 ahead", "3 ahead", None, "2 ahead", "2 ahead"])

    def view(handler: BaseHTTPRequestHandler) -> Any:
        reason = next(reasons, "end")
        if reason is None:
            handler.send_response(304)
            handler.end_headers()
            return None
        return STOPPED_JOB if reason == "end" else RUNNING_JOB | {"last_status": "created", "waiting": reason}

    responders: dict[str, Responder] = {
        f"GET {JOB_URL}": view,
        f"GET {JOB_URL}/logs": lambda handler: send(handler, b""),
    }
    with scripted_server(responders) as url:
        follower(url).follow()
    assert capsys.readouterr().err == "3 ahead\n2 ahead\n"


@pytest.mark.parametrize("status", [502, 503, 504])
def test_error_of_a_proxy_is_retried(status: int, capsys: pytest.CaptureFixture[str]) -> None:
    views, log_statuses = iter([RUNNING_JOB]), iter([status, 200])

    def log(handler: BaseHTTPRequestHandler) -> None:
        log_status = next(log_statuses)
        send(handler, b"all\n" if log_status == 200 else b"", log_status)

    responders: dict[str, Responder] = {
        f"GET {JOB_URL}": lambda _: next(views, STOPPED_JOB),
        f"GET {JOB_URL}/logs": log,
    }
    with scripted_server(responders) as url:
        out = io.BytesIO()
        assert follower(url, out).follow() == STOPPED_JOB
    assert out.getvalue() == b"all\n"
    message = capsys.readouterr().err
    assert "No answer from" in message
    assert "answers again" in message


def test_short_timeout_of_a_proxy_shortens_the_poll() -> None:
    waits: list[float] = []

    def view(handler: BaseHTTPRequestHandler) -> Any:
        wait = float(handler.path.partition("wait=")[2])
        waits.append(wait)
        return send(handler, b"", 504) if wait > 10 else STOPPED_JOB

    with scripted_server({f"GET {JOB_URL}": view}) as url:
        assert follower(url).wait_for_end() == STOPPED_JOB
    assert waits == [30, 15, 7.5]


def test_compressed_log_is_refused() -> None:
    def log(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Encoding", "gzip")
        handler.end_headers()

    encodings: list[str | None] = []

    def view(handler: BaseHTTPRequestHandler) -> Any:
        encodings.append(handler.headers["Accept-Encoding"])
        return RUNNING_JOB

    with (
        scripted_server({f"GET {JOB_URL}": view, f"GET {JOB_URL}/logs": log}) as url,
        pytest.raises(NoServer, match="compresses"),
    ):
        follower(url).follow()
    assert encodings == ["identity"]


class TestLostServer:
    def test_exit_code_is_its_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(log_follower, "RECONNECT_SECONDS", 0.3)
        with scripted_server({f"GET {JOB_URL}": lambda _: RUNNING_JOB}) as url:
            follower_of_lost_server = follower(url)
            http_client = follower_of_lost_server.client
            assert http_client.get(JOB_PATH) == RUNNING_JOB
        http_client.http.close()
        messages: list[str] = []
        http_client.on_outage = messages.append
        with pytest.raises(SystemExit) as ended, exit_on_error(EXIT_FAILED):
            follower_of_lost_server.wait_for_end()
        assert ended.value.code == EXIT_LOST_SERVER
        assert len(messages) == 1

    @pytest.mark.parametrize("words", [["logs", "-f"], ["wait"], ["stop", "--wait"]])
    def test_commands_that_follow_report_it(
        self, words: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(signal, "signal", lambda number, handler: None)
        for module in (log_follower, run):
            monkeypatch.setattr(module, "RECONNECT_SECONDS", 0.3)
        views = iter([RUNNING_JOB])

        def view_once(handler: BaseHTTPRequestHandler) -> Any:
            handler.close_connection = True
            return next(views, None)  # after the first one, no response

        responders: dict[str, Responder] = {
            f"GET {JOB_URL}": view_once,
            f"GET {JOB_URL}/logs": lambda handler: setattr(handler, "close_connection", True),
            f"POST {JOB_URL}/stop": lambda _: {},
        }
        with scripted_server(responders) as url:
            monkeypatch.setenv("POLYJOB_URL", url)
            monkeypatch.setenv("POLYJOB_TOKEN", "k")
            with pytest.raises(SystemExit) as ended:
                main([*words, "ana.demo.jobs.1"])
        assert ended.value.code == EXIT_LOST_SERVER
        assert "Jobs are not affected. Run the same command again to continue." in capfd.readouterr().err

    def test_unplugged_machine_is_reported_before_the_next_try(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        messages_at_try: list[str] = []
        views = iter([RUNNING_JOB])

        def log(handler: BaseHTTPRequestHandler) -> None:
            messages_at_try.append(capsys.readouterr().err)
            if len(messages_at_try) > 1:
                send(handler, b"rest\n")
                return
            handler.send_response(200)
            handler.end_headers()
            handler.wfile.flush()

        real_read = urllib3.HTTPResponse.read1

        def read1(response: urllib3.HTTPResponse, *arguments: Any) -> bytes:
            if len(messages_at_try) == 1:
                try:
                    raise TimeoutError(errno.ETIMEDOUT, "Connection timed out")
                except TimeoutError as error:
                    raise urllib3.exceptions.ProtocolError("Connection broken") from error
            return real_read(response, *arguments)

        monkeypatch.setattr(urllib3.HTTPResponse, "read1", read1)
        responders: dict[str, Responder] = {
            f"GET {JOB_URL}": lambda _: next(views, STOPPED_JOB),
            f"GET {JOB_URL}/logs": log,
        }
        with scripted_server(responders) as url:
            out = io.BytesIO()
            assert follower(url, out).follow() == STOPPED_JOB
        assert "No answer from" in messages_at_try[1]
        assert out.getvalue() == b"rest\n"
        assert "answers again" in capsys.readouterr().err

    def test_silence_of_a_server_with_frames_is_reported(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(log_follower, "SILENCE_SECONDS", 0.1)
        offsets: list[str] = []
        is_reported = threading.Event()
        views = iter([RUNNING_JOB])

        def log(handler: BaseHTTPRequestHandler) -> None:
            assert LOG_FRAMES in handler.headers["Accept"]
            offsets.append(handler.path.partition("offset=")[2])
            handler.protocol_version = "HTTP/1.1"
            handler.send_response(200)
            handler.send_header("Content-Type", LOG_FRAMES)
            handler.send_header("Transfer-Encoding", "chunked")
            handler.end_headers()
            first = len(offsets) == 1
            data = b"\0\0\0\0\0\0\0\5one\n2" if first else b"\0\0\0\0\0\0\0\1\n"
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            if first:
                is_reported.wait(20)
            handler.wfile.write(b"0\r\n\r\n")

        responders: dict[str, Responder] = {
            f"GET {JOB_URL}": lambda _: next(views, STOPPED_JOB),
            f"GET {JOB_URL}/logs": log,
        }
        with scripted_server(responders) as url:
            out = io.BytesIO()
            following = follower(url, out)
            following.client.on_outage = lambda text: (click.echo(text, err=True), is_reported.set())[0]
            assert following.follow() == STOPPED_JOB
        assert (offsets, out.getvalue()) == (["0", "5"], b"one\n2\n")
        message = capsys.readouterr().err
        assert message.startswith("No answer from")
        assert "answers again" in message

    def test_overdue_response_is_reported_and_awaited(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(client, "RESPONSE_SECONDS", 0.05)
        is_reported = threading.Event()

        def view(handler: BaseHTTPRequestHandler) -> Any:
            requests.append(handler.path)
            is_reported.wait(20)
            return STOPPED_JOB

        requests: list[str] = []
        responders: dict[str, Responder] = {
            f"GET {JOB_URL}": view,
            f"GET {JOB_URL}/logs": lambda handler: send(handler, b""),
        }
        with scripted_server(responders) as url:
            following = follower(url)
            following.client.on_outage = lambda text: (click.echo(text, err=True), is_reported.set())[0]
            assert following.follow() == STOPPED_JOB
        message = capsys.readouterr().err
        assert message.startswith("No answer from")
        assert "answers again" in message
        assert requests[0] == JOB_URL and "wait=" in requests[1]

    def test_wait_timeout_ends_the_retries(self) -> None:
        views = iter([RUNNING_JOB])

        def view_once(handler: BaseHTTPRequestHandler) -> Any:
            handler.close_connection = True
            return next(views, None)

        with scripted_server({f"GET {JOB_URL}": view_once}) as url:
            began_at = time.monotonic()
            done = invoke("wait", "--timeout", "1", "ana.demo.jobs.1", POLYJOB_URL=url, POLYJOB_TOKEN="k")
        assert done.exit_code == EXIT_LOST_SERVER
        assert time.monotonic() - began_at < 20


@pytest.mark.parametrize("size", [1, 3, 4, 5, 100])
def test_frames_may_arrive_in_any_parts(size: int) -> None:
    data = b"".join(len(part).to_bytes(4) + part for part in (b"", b"a" * 300, b"", b"b", b"c" * 7))
    frames = log_follower._Frames()
    parts = [frames.content(data[start : start + size]) for start in range(0, len(data), size)]
    assert b"".join(parts) == b"a" * 300 + b"b" + b"c" * 7


@pytest.mark.parametrize(
    ("status", "end", "code", "expected"),
    [("succeeded", {"reason": "exited"}, 0, 0), ("failed", {"reason": "exited"}, 7, 7),
     ("failed", {"signal": 9}, None, 137), ("failed", {"reason": "oom", "signal": 9}, 137, 137),
     ("failed", {"reason": "lost"}, None, 125), ("failed", {"reason": "build"}, None, 125),
     ("stopped", {"signal": 15}, 143, 143), ("stopped", None, None, 125),
     ("stopped", {"reason": "exited"}, 0, 125), ("stopped", {"reason": "exited"}, 7, 7),
     ("failed", {"reason": "timeout"}, 0, 125), ("failed", {"reason": "timeout", "signal": 15}, 143, 143),
     ("skipped", None, None, 125), ("upstream_failed", None, None, 125)],
)  # fmt: skip
def test_job_has_an_exit_code(status: str, end: Any, code: int | None, expected: int) -> None:
    assert exit_code_of({"last_status": status, "exit": end, "exit_code": code}) == expected


def test_end_is_described_in_one_line() -> None:
    job = {"unique_name": "a.b.jobs.1", "last_status": "failed", "started_at": None}
    assert click.unstyle(describe_end(job, {"message": "exit-code(7)"})) == "a.b.jobs.1 failed: exit code 7"
    job |= {"started_at": "2026-11-23T12:00:00+00:00", "finished_at": "2026-11-23T12:00:05+00:00"}
    assert click.unstyle(describe_end(job, {"message": "oom"})) == "a.b.jobs.1 failed after 5.0 s: oom"


def test_times_are_not_counted_when_a_connection_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_follower, "RECONNECT_PAUSE_SECONDS", 0.0)
    stamp, requests = b"2026-11-23T12:00:00.000Z ", []

    def log(handler: BaseHTTPRequestHandler) -> None:
        requests.append(handler.path.partition("?")[2])
        if len(requests) > 1:
            send(handler, b"wo\n")
            return
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(stamp + b"one\n" + stamp + b"t")

    responders: dict[str, Responder] = {f"GET {JOB_URL}": lambda _: STOPPED_JOB, f"GET {JOB_URL}/logs": log}
    with scripted_server(responders) as url:
        out = io.BytesIO()
        Follower(Client(url, "k", is_local=True), JOB_PATH, out, has_times=True).follow()
    assert out.getvalue() == stamp + b"one\n" + stamp + b"two\n"
    assert requests == ["follow=true&offset=0&times=true", "follow=true&offset=5&times=true"]
