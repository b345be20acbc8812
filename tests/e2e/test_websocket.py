"""Logs over WebSocket from a real server, by the library that old clients use."""

from __future__ import annotations

import contextlib
import json
import time
from typing import Any

import pytest
import websocket

from tests.e2e.conftest import JOBS, Server, eventually

FORMS = (
    "/api/v1/root/quick-start/jobs/{}/logs/stream/",
    "/ws/v1/root/quick-start/jobs/{}/logs/",
)


def connect(server: Server, path: str, **options: Any) -> websocket.WebSocket:
    options.setdefault("header", {"Authorization": f"Token {server.token}"})
    return websocket.create_connection(f"ws://127.0.0.1:{server.port}{path}", timeout=30, **options)


def read(client: websocket.WebSocket) -> list[dict[str, Any]]:
    """The messages until the server says goodbye."""
    messages = []
    with contextlib.ExitStack() as stack:
        stack.callback(client.shutdown)  # `close` leaves the socket open where the server has closed
        while text := client.recv():
            message = json.loads(text)
            assert isinstance(message["log_lines"], list)
            assert message["log_lines"] or message.get("status")
            messages.append(message)
        assert not client.connected
    return messages


def lines(messages: list[dict[str, Any]]) -> list[str]:
    return [line for message in messages for line in message["log_lines"]]


@pytest.mark.parametrize("form", FORMS)
def test_running_job_is_followed_by_every_address(server: Server, form: str) -> None:
    number = server.submit("for i in 1 2 3; do echo line $i; sleep 0.2; done; printf 'no end'; exit 3")["id"]
    messages = read(connect(server, form.format(number)))
    assert lines(messages) == ["line 1", "line 2", "line 3", "no end"]
    statuses = [message["status"] for message in messages if "status" in message]
    assert statuses[-1] == "failed"
    assert statuses == sorted(statuses, key=["created", "scheduled", "running", "failed"].index)


def test_finished_job_is_replayed(server: Server) -> None:
    number = server.submit("seq 20000")["id"]
    server.until_done(number)
    messages = read(connect(server, FORMS[0].format(number)))
    assert lines(messages) == [str(line) for line in range(1, 20001)]
    assert messages[-1] == {"status": "succeeded", "log_lines": []}
    since = connect(server, f"{FORMS[0].format(number)}?since_line=19998")
    assert lines(read(since)) == ["19999", "20000"]


def test_browser_passes_its_token_in_the_address(server: Server) -> None:
    number = server.submit("echo x")["id"]
    server.until_done(number)
    assert lines(read(connect(server, f"{FORMS[1].format(number)}?token={server.token}", header={}))) == ["x"]


def test_refusals_come_before_the_upgrade(server: Server) -> None:
    number = server.submit("true")["id"]
    for path, header, status in (
        (FORMS[0].format(number), {}, 401),
        (FORMS[1].format(number), {"Authorization": "token x"}, 401),
        (FORMS[0].format(987654), {"Authorization": f"token {server.token}"}, 404),
        ("/ws/v1/root/quick-start/jobs/1/resources/", {"Authorization": f"token {server.token}"}, 404),
    ):
        with pytest.raises(websocket.WebSocketBadStatusException) as refused:
            connect(server, path, header=header)
        assert refused.value.status_code == status


def test_pings_are_answered_and_slots_are_released(make_server: Any) -> None:
    server = make_server(workers="1", followers="1")
    server.start()
    number = server.submit("echo begun; sleep 600")["id"]
    server.until(number, "running")
    client = connect(server, FORMS[0].format(number))
    eventually(lambda: json.loads(client.recv())["log_lines"] == ["begun"], what="the first line")
    client.ping("hello")
    opcode, data = client.recv_data(control_frame=True)
    assert (opcode, data) == (websocket.ABNF.OPCODE_PONG, b"hello")
    with pytest.raises(websocket.WebSocketBadStatusException) as refused:
        connect(server, FORMS[0].format(number))
    assert refused.value.status_code == 503
    client.close()
    client.shutdown()
    broken = eventually(lambda: try_to_connect(server, number), 5, "the freed place")
    broken.sock.close()
    still = eventually(lambda: try_to_connect(server, number), 5, "the freed place")
    begun = time.monotonic()
    assert server.interrupt() == 0
    assert time.monotonic() - begun < 10
    still.shutdown()
    server.start()  # its end is the end of the job, too


def try_to_connect(server: Server, number: int) -> websocket.WebSocket | None:
    try:
        return connect(server, FORMS[0].format(number))
    except websocket.WebSocketBadStatusException:
        return None


def test_events_arrive_as_they_happen(server: Server) -> None:
    number = server.submit("echo one; sleep 0.3; echo two")["id"]
    answer = server.call("GET", f"{JOBS}/{number}/logs", Accept="text/event-stream")
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    text = answer.body.decode()
    assert text.index('"one\\n"') < text.index('"two\\n"') < text.index("event: end")
    assert text.endswith('event: end\ndata: {"status": "succeeded"}\n\n')
