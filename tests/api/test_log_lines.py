"""Routes for lines of a log, waiting for more of them, and searches."""

from __future__ import annotations

import re
import time

import pytest

from polyjob.db.models import Job
from polyjob.statuses import Status
from polyjob.storage.store import Store
from runners.common.log_times import append_times

from ..background import soon
from .conftest import BASE, JOBS, Client, move_job, pointers, publish


@pytest.fixture
def log(client, settings, watcher):
    """The log of a running job."""
    client.submit()
    move_job(1, Status.SCHEDULED, Status.RUNNING)
    store = Store(settings.data_dir)
    store.make_job_folder(Job.get().uuid)
    yield store.job_log(Job.get().uuid)
    watcher.close()


class TestLines:
    def test_lines_are_returned_as_text_or_spans(self, client, log):
        log.write_bytes(b"one\n\x1b[32mtwo\x1b[0m\ncaf\xe9 <b>")
        response = client.get(f"{JOBS}/1/logs/lines").json
        assert response == {
            "total": 3,
            "bytes": 25,
            "status": "running",
            "is_done": False,
            "lines": [
                {"number": 1, "offset": 0, "bytes": 3, "is_cut": False, "text": "one"},
                {"number": 2, "offset": 4, "bytes": 12, "is_cut": False, "text": "two"},
                {"number": 3, "offset": 17, "bytes": 8, "is_cut": False, "text": "caf\ufffd <b>"},
            ],
        }
        (line,) = client.get(f"{JOBS}/1/logs/lines?from=2&count=1&styled=true").json["lines"]
        assert line == {"number": 2, "offset": 4, "bytes": 12, "is_cut": False, "spans": [["fg-2", "two"]]}
        assert client.get(f"{JOBS}/1/logs/lines?from=-2").json["lines"][0]["text"] == "two"
        assert client.get(f"{JOBS}/1/logs/lines?from=4").json["lines"] == []

    def test_lines_have_their_times(self, client, log):
        log.write_bytes(b"one\ntwo\nthree")
        append_times(str(log), 4, [(0, 1_795_435_200_123)])
        lines = client.get(f"{JOBS}/1/logs/lines?times=true").json["lines"]
        times = [None, "2026-11-23T12:00:00.123000+00:00", "2026-11-23T12:00:00.123000+00:00"]
        assert [line["time"] for line in lines] == times

    def test_empty_log_has_no_lines(self, client, log):
        response = client.get(f"{JOBS}/1/logs/lines?from=-10").json
        assert (response["total"], response["bytes"], response["lines"]) == (0, 0, [])
        assert client.get(f"{JOBS}/1/logs/search?find=x").json == {
            "lines": [],
            "searched_to": 0,
            "is_cut": False,
            "total": 0,
        }

    def test_search_returns_line_numbers(self, client, log):
        log.write_bytes(b"Error 1\nfine\nerror 2\nERROR 3\n")
        ask = f"{JOBS}/1/logs/search?find=error"
        assert client.get(ask).json == {"lines": [1, 3, 4], "searched_to": 4, "is_cut": False, "total": 4}
        assert client.get(f"{ask}&count=1").json == {"lines": [1], "searched_to": 1, "is_cut": True, "total": 4}
        assert client.get(f"{ask}&after=1").json["lines"] == [3, 4]

    def test_lines_of_builds_are_returned(self, client, settings):
        response = client.post(f"{BASE}/builds", {"config": {"build": {"image": "a"}}})
        assert response.status_code == 201
        store = Store(settings.data_dir)
        path = store.build_log(response.json["uuid"])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"step 1\nstep 2\n")
        assert client.get(f"{BASE}/builds/1/logs/lines?from=-1").json["lines"][0]["text"] == "step 2"
        assert client.get(f"{BASE}/builds/1/logs/search?find=step").json["lines"] == [1, 2]

    @pytest.mark.parametrize(
        ("query", "wrong"),
        [
            ("from=0", ["from"]),
            ("from=x&count=-1&styled=perhaps&wait=nan&after=-1", ["from", "count", "styled", "wait", "after"]),
            ("from=" + "9" * 30, ["from"]),
            ("from=--1", ["from"]),
            ("wait=-1", ["wait"]),
        ],
    )
    def test_invalid_line_parameters_are_refused(self, client, log, query, wrong):
        assert pointers(client.get(f"{JOBS}/1/logs/lines?{query}")) == wrong

    @pytest.mark.parametrize(
        ("query", "wrong"),
        [
            ("", ["find"]),
            ("find=", ["find"]),
            ("find=a%0Ab", ["find"]),
            ("find=" + "x" * 501, ["find"]),
            ("find=x&after=-1&count=0", ["after", "count"]),
        ],
    )
    def test_invalid_search_parameters_are_refused(self, client, log, query, wrong):
        assert pointers(client.get(f"{JOBS}/1/logs/search?{query}")) == wrong

    def test_number_of_lines_is_bounded(self, client, log):
        log.write_bytes(b"x\n" * 3000)
        assert len(client.get(f"{JOBS}/1/logs/lines?count=99999").json["lines"]) == 1000


class TestWaiting:
    def test_wait_ends_when_the_log_grows(self, client, log, watcher):
        log.write_bytes(b"one\n")
        with soon(lambda: log.write_bytes(b"one\ntwo\n")):
            response = client.get(f"{JOBS}/1/logs/lines?from=-1&after=4&wait=30").json
        assert (response["bytes"], response["lines"][0]["text"]) == (8, "two")
        assert len(watcher) == 0

    def test_longer_log_is_returned_without_waiting(self, client, log):
        log.write_bytes(b"one\n")
        begun = time.monotonic()
        assert client.get(f"{JOBS}/1/logs/lines?after=3&wait=30").json["bytes"] == 4
        assert time.monotonic() - begun < 15

    def test_wait_ends_when_the_job_is_done(self, client, log):
        log.write_bytes(b"one\n")
        with soon(lambda: move_job(1, Status.SUCCEEDED)):
            response = client.get(f"{JOBS}/1/logs/lines?after=4&wait=30").json
        assert (response["is_done"], response["status"]) == (True, "succeeded")

    def test_wait_ends_after_its_time(self, client, log):
        response = client.get(f"{JOBS}/1/logs/lines?wait=0.2").json
        assert (response["is_done"], response["bytes"]) == (False, 0)

    def test_wait_for_a_deleted_job_is_not_found(self, client, log):
        with soon(lambda: client.delete(f"{JOBS}/1")):
            assert client.get(f"{JOBS}/1/logs/lines?wait=30").status_code == 404

    def test_revoked_access_is_noticed_after_the_wait(self, client, other: Client, log):
        publish()
        log.write_bytes(b"one\n")

        def end():
            log.write_bytes(b"one\nsecret\n")

        with soon(lambda: [other.post("/api/v1/users/logout"), make_private(), end()]):
            response = other.get(f"{JOBS}/1/logs/lines?after=4&wait=30")
        assert response.status_code in (401, 404)
        assert "secret" not in response.text

    def test_wait_needs_a_free_slot(self, client, log, watcher):
        watcher.limit = 0
        try:
            response = client.get(f"{JOBS}/1/logs/lines?wait=30")
        finally:
            watcher.limit = 112
        assert (response.status_code, bool(re.fullmatch(r"\d+", response.headers["Retry-After"]))) == (503, True)


def make_private():
    from polyjob.db.models import Project

    from .conftest import write

    with write("test"):
        Project.update(is_public=False).execute()
