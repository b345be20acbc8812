"""Logs over WebSocket: the messages, and the paths of old clients."""

from __future__ import annotations

import json

import pytest

from polyjob.api import log_websocket
from polyjob.logs.follow import Idle

from .conftest import JOBS, pointers
from .run_event_samples import events_of


class TestWebSocketMessages:
    def read(self, pieces, skipped=0):
        return [json.loads(message) for message in log_websocket.messages(events_of(pieces), skipped)]

    def lines(self, pieces, skipped=0):
        return [line for message in self.read(pieces, skipped) for line in message["log_lines"]]

    def test_messages_begin_and_end_with_a_status(self):
        messages = self.read([b"one\ntw", b"o\nend"])
        assert messages == [
            {"status": "running", "log_lines": []}, {"log_lines": ["one"]}, {"log_lines": ["two"]},
            {"log_lines": ["end"]}, {"status": "succeeded", "log_lines": []},
        ]  # fmt: skip

    @pytest.mark.parametrize("sign", ["x", "é", "한", "😀", "\x01", '"'])
    def test_messages_stay_small(self, sign):
        pieces = [sign.encode() * 100_000, b"\n" + b"y\n" * 50_000, sign.encode() * 40_000]
        messages = list(log_websocket.messages(events_of(pieces)))
        assert max(len(message.encode()) for message in messages) < 64 << 10
        assert "".join(self.lines(pieces)) == sign * 100_000 + "y" * 50_000 + sign * 40_000
        assert self.lines([b"y\n" * 50_000]) == ["y"] * 50_000

    def test_skipped_lines_are_left_out(self):
        assert self.lines([b"1\n2\n", b"3\n4\n5"], 3) == ["4", "5"]
        assert self.lines([b"1\n2"], 7) == []

    def test_characters_are_not_divided(self):
        assert self.lines(["é\n".encode()[:1], "é\n".encode()[1:], b"\xff"]) == ["é", "\ufffd"]

    def test_idle_asks_for_a_ping(self):
        assert list(log_websocket.messages([Idle()])) == [None]


class TestOldPaths:
    PATHS = ("/api/v1/ana/demo/jobs/1/logs/stream/", "/ws/v1/ana/demo/jobs/1/logs/", "/v1/ana/demo/jobs/1/logs")

    def test_upgrade_and_a_capable_server_are_required(self, client):
        client.submit()
        for path in self.PATHS:
            response = client.get(path)
            assert (response.status_code, response.headers["Upgrade"]) == (426, "websocket")
            assert response.mimetype == "application/problem+json"
            assert client.get(path, headers={"Upgrade": "websocket"}).status_code == 503
        assert pointers(client.get(f"{self.PATHS[0]}?since_line=x")) == ["since_line"]

    def test_paths_require_credentials_and_access(self, client, anonymous, other):
        client.submit()
        for path in self.PATHS:
            assert anonymous.get(path).status_code == 401
            assert other.get(path).status_code == 404
            assert client.get(path.replace("jobs/1", "jobs/7")).status_code == 404
        for path in ("/ws/v1/ana/demo/jobs/1/resources/", "/v1/ana/demo/builds/1/resources"):
            assert client.get(path).status_code == 404
            assert anonymous.get(path).status_code == 401

    def test_token_parameter_is_for_websockets_only(self, client, anonymous):
        client.submit()
        token = client.headers["Authorization"].split()[1]
        path = f"{self.PATHS[1]}?token={token}"
        assert anonymous.get(path).status_code == 401
        assert anonymous.get(path, headers={"Upgrade": "websocket"}).status_code == 503
        assert anonymous.get(f"{JOBS}/1?token={token}").status_code == 401
