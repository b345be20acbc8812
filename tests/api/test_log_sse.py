"""The events of a run as Server-Sent Events."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyjob.api import log_sse
from polyjob.db.models import Job
from polyjob.logs.follow import Idle
from polyjob.statuses import Status
from polyjob.storage.store import Store
from tests.sampling import examples

from ..background import soon
from .conftest import BASE, JOBS, move_job, pointers
from .run_event_samples import events_of


def read(encoded):
    """Return (kind, id, data) of each event, as a browser reads them; data is parsed."""
    events = []
    for block in b"".join(encoded).decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if line and not line.startswith(":"))
        if "data" in fields:
            events.append(
                (fields.get("event"), int(fields["id"]) if "id" in fields else None, json.loads(fields["data"]))
            )
    return events


class TestEvents:
    def test_status_log_and_end_are_encoded_in_order(self):
        events = read(log_sse.encode_events(events_of([b"one\n", b"two\r\n"])))
        assert [(kind, id) for kind, id, _ in events] == [
            ("status", None),
            (None, 4),
            (None, 9),
            ("status", None),
            ("end", None),
        ]
        assert [data for kind, _, data in events if kind is None] == ["one\n", "two\r\n"]
        assert events[0][2]["status"] == "running"
        assert events[-1][2] == {"status": "succeeded"}

    @given(st.lists(st.binary(max_size=9), max_size=9))
    @settings(max_examples=examples(200))
    def test_text_is_complete_for_any_chunks(self, pieces):
        events = read(log_sse.encode_events(events_of(pieces)))
        data = b"".join(pieces)
        assert "".join(text for kind, _, text in events if kind is None) == data.decode(errors="replace")
        ids = [id for kind, id, _ in events if kind is None]
        assert ids == sorted(set(ids))
        assert all(id <= len(data) for id in ids)
        assert not ids or ids[-1] == len(data)

    @given(st.text(max_size=30), st.data())
    @settings(max_examples=examples(100))
    def test_ids_are_at_character_boundaries(self, text, data):
        whole = text.encode(errors="replace")
        cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=4)))
        pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
        for _, id, _ in (event for event in read(log_sse.encode_events(events_of(pieces))) if event[0] is None):
            whole[id:].decode()

    def test_idle_is_encoded_as_a_comment(self):
        pieces = list(log_sse.encode_events([Idle(), Idle()]))
        assert pieces[0].startswith(b"retry: ")
        assert pieces[1:] == [b": nothing new\n\n"] * 2


class TestStream:
    def stream(self, client, path=f"{JOBS}/1/logs", **headers):
        response = client.get(path, headers={"Accept": "text/event-stream"} | headers)
        assert response.status_code == 200, response.text
        assert response.mimetype == "text/event-stream"
        return read([response.data])

    @pytest.fixture
    def log(self, client, settings):
        client.submit()
        store = Store(settings.data_dir)
        uuid = Job.get_by_id(1).uuid
        store.make_job_folder(uuid)
        return store.job_log(uuid)

    def test_done_job_sends_its_log_and_end(self, client, log):
        log.write_bytes(b"one\ntwo\n")
        move_job(1, Status.SCHEDULED, Status.RUNNING, Status.SUCCEEDED)
        assert [(kind, id) for kind, id, _ in self.stream(client)] == [(None, 8), ("status", None), ("end", None)]
        by_name = client.get(f"{JOBS}/1/logs?follow=sse&tail=1")
        assert [data for kind, _, data in read([by_name.data]) if kind is None] == ["two\n"]

    def test_stream_continues_after_the_last_event_id(self, client, log):
        log.write_bytes(b"one\ntwo\n")
        move_job(1, Status.STOPPED)
        assert [data for kind, _, data in self.stream(client, **{"Last-Event-ID": "4"}) if kind is None] == ["two\n"]
        assert [kind for kind, _, _ in self.stream(client, **{"Last-Event-ID": "8"})] == ["status", "end"]
        assert pointers(client.get(f"{JOBS}/1/logs?follow=sse", headers={"Last-Event-ID": "x"})) == ["Last-Event-ID"]

    def test_statuses_and_log_arrive_as_they_happen(self, client, log, watcher):
        def live():
            move_job(1, Status.SCHEDULED)
            log.write_bytes(b"one\n")
            move_job(1, Status.RUNNING)
            with log.open("ab") as file:
                file.write(b"two\n")
            move_job(1, Status.SUCCEEDED)

        with soon(live):
            events = self.stream(client)
        assert [data["status"] for kind, _, data in events if kind == "status"] == [
            "created", "scheduled", "running", "succeeded",
        ]  # fmt: skip
        assert "".join(data for kind, _, data in events if kind is None) == "one\ntwo\n"
        assert [kind for kind, _, _ in events][-2:] == ["status", "end"]
        assert len(watcher) == 0

    def test_deleted_job_ends_the_stream_without_a_status(self, client, log, watcher):
        with soon(lambda: client.delete(f"{JOBS}/1")):
            events = self.stream(client)
        assert [(kind, data["status"]) for kind, _, data in events] == [("status", "created"), ("end", None)]
        assert len(watcher) == 0

    def test_build_is_streamed(self, client):
        client.post(f"{BASE}/builds", {"build": {"image": "a"}})
        from polyjob.db.database import write
        from polyjob.db.models import Build
        from polyjob.services.transitions import transition

        with write("test"):
            transition(Build.get_by_id(1), Status.STOPPED)
        assert [kind for kind, _, _ in self.stream(client, f"{BASE}/builds/1/logs")] == ["status", "end"]

    def test_head_takes_no_slot(self, client, log):
        response = client.call("HEAD", f"{JOBS}/1/logs?follow=sse")
        assert (response.status_code, response.mimetype) == (200, "text/event-stream")

    def test_stream_needs_a_free_slot(self, client, log, watcher):
        watcher.limit = 0
        try:
            response = client.get(f"{JOBS}/1/logs?follow=sse")
        finally:
            watcher.limit = 112
        assert (response.status_code, response.headers["Retry-After"]) == (503, "5")
