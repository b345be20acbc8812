"""A run's story: as Server-Sent Events, and as the messages of old clients."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyjob.api import log_sse, log_websocket
from polyjob.clock import now
from polyjob.db.models import Job
from polyjob.logs.follow import Idle, LogChunk, StatusChange
from polyjob.statuses import Status
from polyjob.storage.store import Store

from ..beside import soon
from .conftest import BASE, JOBS, bring, pointers


def changed(status, message=None):
    return StatusChange(SimpleNamespace(status=Status(status), message=message, created_at=now()))


def told(pieces, end="succeeded"):
    """The story of a log that came in these pieces."""
    offset, parts = 0, [changed("running")]
    for piece in pieces:
        offset += len(piece)
        parts.append(LogChunk(piece, offset))
    return [*parts, changed(end)]


def read(events):
    """(kind, id, data) of each event, as a browser reads them; data is parsed."""
    found = []
    for block in b"".join(events).decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if line and not line.startswith(":"))
        if "data" in fields:
            found.append(
                (fields.get("event"), int(fields["id"]) if "id" in fields else None, json.loads(fields["data"]))
            )
    return found


class TestEvents:
    def test_say_status_log_and_end(self):
        found = read(log_sse.encode_events(told([b"one\n", b"two\r\n"])))
        assert [(kind, id) for kind, id, _ in found] == [
            ("status", None),
            (None, 4),
            (None, 9),
            ("status", None),
            ("end", None),
        ]
        assert [data for kind, _, data in found if kind is None] == ["one\n", "two\r\n"]
        assert found[0][2]["status"] == "running"
        assert found[-1][2] == {"status": "succeeded"}

    @given(st.lists(st.binary(max_size=9), max_size=9))
    @settings(max_examples=200)
    def test_hold_the_whole_text_however_it_came(self, pieces):
        found = read(log_sse.encode_events(told(pieces)))
        data = b"".join(pieces)
        assert "".join(text for kind, _, text in found if kind is None) == data.decode(errors="replace")
        ids = [id for kind, id, _ in found if kind is None]
        assert ids == sorted(set(ids))
        assert all(id <= len(data) for id in ids)
        assert not ids or ids[-1] == len(data)

    @given(st.text(max_size=30), st.data())
    @settings(max_examples=100)
    def test_never_begin_within_a_character(self, text, data):
        whole = text.encode(errors="replace")
        cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=4)))
        pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
        for _, id, _ in (event for event in read(log_sse.encode_events(told(pieces))) if event[0] is None):
            whole[id:].decode()

    def test_say_that_they_live(self):
        pieces = list(log_sse.encode_events([Idle(), Idle()]))
        assert pieces[0].startswith(b"retry: ")
        assert pieces[1:] == [b": nothing new\n\n"] * 2


class TestMessages:
    def read(self, pieces, skipped=0):
        return [json.loads(message) for message in log_websocket.messages(told(pieces), skipped)]

    def lines(self, pieces, skipped=0):
        return [line for message in self.read(pieces, skipped) for line in message["log_lines"]]

    def test_all_have_lines_and_begin_and_end_with_a_status(self):
        found = self.read([b"one\ntw", b"o\nend"])
        assert found == [
            {"status": "running", "log_lines": []}, {"log_lines": ["one"]}, {"log_lines": ["two"]},
            {"log_lines": ["end"]}, {"status": "succeeded", "log_lines": []},
        ]  # fmt: skip

    @pytest.mark.parametrize("sign", ["x", "é", "한", "😀", "\x01", '"'])
    def test_stay_small(self, sign):
        pieces = [sign.encode() * 100_000, b"\n" + b"y\n" * 50_000, sign.encode() * 40_000]
        found = list(log_websocket.messages(told(pieces)))
        assert max(len(message.encode()) for message in found) < 64 << 10
        assert "".join(self.lines(pieces)) == sign * 100_000 + "y" * 50_000 + sign * 40_000
        assert self.lines([b"y\n" * 50_000]) == ["y"] * 50_000

    def test_leave_out_what_the_client_has(self):
        assert self.lines([b"1\n2\n", b"3\n4\n5"], 3) == ["4", "5"]
        assert self.lines([b"1\n2"], 7) == []

    def test_cut_no_character(self):
        assert self.lines(["é\n".encode()[:1], "é\n".encode()[1:], b"\xff"]) == ["é", "\ufffd"]

    def test_say_where_a_ping_is_due(self):
        assert list(log_websocket.messages([Idle()])) == [None]


class TestOverHttp:
    def story(self, client, path=f"{JOBS}/1/logs", **headers):
        answer = client.get(path, headers={"Accept": "text/event-stream"} | headers)
        assert answer.status_code == 200, answer.text
        assert answer.mimetype == "text/event-stream"
        return read([answer.data])

    @pytest.fixture
    def log(self, client, settings):
        client.submit()
        store = Store(settings.data_dir)
        uuid = Job.get_by_id(1).uuid
        store.make_job_folder(uuid)
        return store.job_log(uuid)

    def test_a_job_that_is_done_tells_its_whole_log_and_its_end(self, client, log):
        log.write_bytes(b"one\ntwo\n")
        bring(1, Status.SCHEDULED, Status.RUNNING, Status.SUCCEEDED)
        assert [(kind, id) for kind, id, _ in self.story(client)] == [(None, 8), ("status", None), ("end", None)]
        by_name = client.get(f"{JOBS}/1/logs?follow=sse&tail=1")
        assert [data for kind, _, data in read([by_name.data]) if kind is None] == ["two\n"]

    def test_goes_on_behind_the_last_event(self, client, log):
        log.write_bytes(b"one\ntwo\n")
        bring(1, Status.STOPPED)
        assert [data for kind, _, data in self.story(client, **{"Last-Event-ID": "4"}) if kind is None] == ["two\n"]
        assert [kind for kind, _, _ in self.story(client, **{"Last-Event-ID": "8"})] == ["status", "end"]
        assert pointers(client.get(f"{JOBS}/1/logs?follow=sse", headers={"Last-Event-ID": "x"})) == ["Last-Event-ID"]

    def test_tells_what_happens_while_it_is_watched(self, client, log, watcher):
        def live():
            bring(1, Status.SCHEDULED)
            log.write_bytes(b"one\n")
            bring(1, Status.RUNNING)
            with log.open("ab") as file:
                file.write(b"two\n")
            bring(1, Status.SUCCEEDED)

        with soon(live):
            found = self.story(client)
        assert [data["status"] for kind, _, data in found if kind == "status"] == [
            "created", "scheduled", "running", "succeeded",
        ]  # fmt: skip
        assert "".join(data for kind, _, data in found if kind is None) == "one\ntwo\n"
        assert [kind for kind, _, _ in found][-2:] == ["status", "end"]
        assert len(watcher) == 0

    def test_ends_when_the_job_is_deleted(self, client, log, watcher):
        with soon(lambda: client.delete(f"{JOBS}/1")):
            found = self.story(client)
        assert [(kind, data["status"]) for kind, _, data in found] == [("status", "created"), ("end", None)]
        assert len(watcher) == 0

    def test_of_a_build(self, client):
        client.post(f"{BASE}/builds", {"build": {"image": "a"}})
        from polyjob.db.database import write
        from polyjob.db.models import Build
        from polyjob.services.transitions import transition

        with write("test"):
            transition(Build.get_by_id(1), Status.STOPPED)
        assert [kind for kind, _, _ in self.story(client, f"{BASE}/builds/1/logs")] == ["status", "end"]

    def test_a_head_takes_no_place(self, client, log):
        answer = client.call("HEAD", f"{JOBS}/1/logs?follow=sse")
        assert (answer.status_code, answer.mimetype) == (200, "text/event-stream")

    def test_past_the_limit_it_is_a_503(self, client, log, watcher):
        watcher.limit = 0
        try:
            answer = client.get(f"{JOBS}/1/logs?follow=sse")
        finally:
            watcher.limit = 112
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")


class TestOldAddresses:
    PATHS = ("/api/v1/ana/demo/jobs/1/logs/stream/", "/ws/v1/ana/demo/jobs/1/logs/", "/v1/ana/demo/jobs/1/logs")

    def test_want_an_upgrade_and_a_server_that_can(self, client):
        client.submit()
        for path in self.PATHS:
            answer = client.get(path)
            assert (answer.status_code, answer.headers["Upgrade"]) == (426, "websocket")
            assert answer.mimetype == "application/problem+json"
            assert client.get(path, headers={"Upgrade": "websocket"}).status_code == 503
        assert pointers(client.get(f"{self.PATHS[0]}?since_line=x")) == ["since_line"]

    def test_ask_who_one_is_and_what_one_may(self, client, nobody, other):
        client.submit()
        for path in self.PATHS:
            assert nobody.get(path).status_code == 401
            assert other.get(path).status_code == 404
            assert client.get(path.replace("jobs/1", "jobs/7")).status_code == 404
        for path in ("/ws/v1/ana/demo/jobs/1/resources/", "/v1/ana/demo/builds/1/resources"):
            assert client.get(path).status_code == 404
            assert nobody.get(path).status_code == 401

    def test_take_the_key_in_the_address_from_a_websocket_only(self, client, nobody):
        client.submit()
        key = client.headers["Authorization"].split()[1]
        path = f"{self.PATHS[1]}?token={key}"
        assert nobody.get(path).status_code == 401
        assert nobody.get(path, headers={"Upgrade": "websocket"}).status_code == 503
        assert nobody.get(f"{JOBS}/1?token={key}").status_code == 401
